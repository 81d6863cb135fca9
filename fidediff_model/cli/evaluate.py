"""`fidediff evaluate`: restore a set, score it, print it beside the paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fidediff_model.cli.model_options import (
    FOLDER,
    model_options,
    progress_bar,
    read_timestep,
    settings_of,
)

DEFAULT_METRICS = "psnr,ssim,lpips,dists"
METRICS = (
    *("psnr", "ssim", "ssim-matlab", "lpips", "dists"),
    *("blur-effect", "niqe", "musiq", "maniqa", "clipiqa"),
)
"""`evaluate.METRICS`, written again so that `--help` needs no torch."""


def read_metrics(ctx: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """Names joined by commas, each one of `METRICS`."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    wrong = [name for name in names if name not in METRICS]
    if wrong or not names:
        raise click.BadParameter(f"give some of {','.join(METRICS)}, not {value!r}")
    return list(dict.fromkeys(names))


@click.command("evaluate")
@click.option("--data", multiple=True, type=FOLDER, help="trajbuild folder, or blurs and sharps.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the scores.")
@click.option("--baseline", type=click.Choice(["blurry"]), help="Score the blurs themselves.")
@click.option(
    "--metrics",
    default=DEFAULT_METRICS,
    show_default=True,
    callback=read_metrics,
    help=f"Some of {','.join(METRICS)}.",
)
@click.option("--vgg16", help="VGG16 file for LPIPS and DISTS, or `download`.")
@click.option("--align", is_flag=True, help="Align by ECC first, as RealBlur asks for.")
@click.option("--split", default="test", show_default=True, help="Of a manifest; `all` takes all.")
@click.option(
    "--points",
    type=click.Choice(["native", "all"]),
    default="native",
    show_default=True,
    help="Official blurs, or all points of the trajectories.",
)
@click.option("--limit", type=click.IntRange(min=1), help="The first so many pairs only.")
@click.option("--save-images", is_flag=True, help="Also write the restorations.")
@click.option("--name", help="Name of the result.  [default: of the model's folder]")
@click.option(
    "--paper",
    type=click.Choice(["gopro", "realblur-j", "realblur-r", "none"]),
    default="gopro",
    show_default=True,
    help="Whose rows of the paper to print beside.",
)
@click.option("--compare", multiple=True, type=FOLDER, help="Further results for table and plot.")
@click.option(
    "--timestep",
    default="auto",
    callback=read_timestep,
    help="auto, or a number from 0 to 999.  [default: auto]",
)
@model_options(required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(data: tuple[Path, ...], out: Path, **values: Any) -> int:
    """Score restorations of a data set.

    OUT gets scores.parquet (a row a pair), summary.json, summary.md with the
    paper's rows, and perception_distortion.png. Run the same command again to
    resume. --data is one trajbuild folder, or given twice: blurs, then sharps.
    With --compare alone, results are only put side by side.

    \b
    fidediff evaluate --model RUN/model --data OUT --vgg16 vgg16.pth --out scores
    fidediff evaluate --baseline blurry --data OUT --metrics psnr,ssim --out blurry
    fidediff evaluate --compare scores --compare blurry --out both
    """
    from fidediff_model.evaluate import command
    from trajectory_builder.disk.atomic import reporting_disk_errors

    values["data"], values["out"] = data, out
    settings = settings_of(values) if values["model"] else None
    total = command.count(values)
    with reporting_disk_errors(out), progress_bar(total, "image") as bar:
        result = command.run(values, settings, bar.update)
    for sample_id, what in result.failures[:5]:
        click.echo(f"failed: {sample_id}: {what}", err=True)
    if values["as_json"]:
        click.echo(json.dumps(result.summary))
    else:
        click.echo(result.markdown)
    if not result.failures:
        return 0
    return 4 if result.scored else 1
