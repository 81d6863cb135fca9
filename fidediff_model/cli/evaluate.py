"""`fidediff evaluate`: restore a set, score it, print it beside the paper."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from fidediff_model.cli.model_options import (
    FOLDER,
    fields_from,
    model_options,
    progress_bar,
    read_timestep,
    settings_of,
)
from fidediff_model.scores.definitions import METRICS
from trajectory_builder.cli.app import say
from trajectory_builder.errors import LISTED_AT_MOST

if TYPE_CHECKING:
    from fidediff_model.evaluate.scoring import Evaluation

DEFAULT_METRICS = "psnr,ssim,lpips,dists"


def read_metrics(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Names joined by commas, each one of `METRICS`."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    wrong = [name for name in names if name not in METRICS]
    if wrong or not names:
        raise click.BadParameter(f"give some of {','.join(METRICS)}, not {value!r}")
    return tuple(dict.fromkeys(names))


def report_failures(evaluation: Evaluation) -> int:
    """Print the first failures on stderr; returns the exit code."""
    for failure in evaluation.failures[:LISTED_AT_MOST]:
        say(f"failed: {failure.sample_id}: {failure.what}", err=True)
    rest = len(evaluation.failures) - LISTED_AT_MOST
    if rest > 0:
        say(f"failed: {rest:,} more", err=True)
    return int(evaluation.exit_code)


@click.command("evaluate")
@click.option(
    "--data", multiple=True, type=FOLDER, help="trajbuild folder; or twice: blurs, sharps."
)
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
@click.option("--align", is_flag=True, help="Align by ECC first, as for RealBlur.")
@click.option("--split", default="test", show_default=True, help="Split of a manifest, or `all`.")
@click.option(
    "--points",
    type=click.Choice(["native", "all"]),
    default="native",
    show_default=True,
    help="Official blurs only, or all points of the trajectories.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N pairs.")
@click.option("--save-images", is_flag=True, help="Also write the restorations.")
@click.option("--name", help="Name of the result.  [default: that of the model's folder]")
@click.option(
    "--paper",
    type=click.Choice(["gopro", "realblur-j", "realblur-r", "none"]),
    default="gopro",
    show_default=True,
    help="The set whose rows of the paper to print.",
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
def command(as_json: bool, **values: Any) -> int:
    """Score restorations of a data set.

    OUT gets scores.parquet (one row per pair), summary.json, summary.md with the
    paper's rows, and perception_distortion.png. Run the same command again to
    resume. --data is one trajbuild folder, or given twice: blurs, then sharps.
    With --compare alone, results are only put side by side.

    \b
    Examples:
      fidediff evaluate --model RUN/model --data OUT --vgg16 vgg16.pth --out scores
      fidediff evaluate --baseline blurry --data OUT --metrics psnr,ssim --out blurry
      fidediff evaluate --compare scores --compare blurry --out both
    """
    from fidediff_model.evaluate.run import EvaluateRequest, run
    from trajectory_builder.disk.atomic import reporting_disk_errors

    settings = settings_of(values)
    request = EvaluateRequest(settings=settings, **fields_from(EvaluateRequest, values))
    total = len(request.pairs())
    with reporting_disk_errors(request.out), progress_bar(total, "image") as bar:
        result = run(request, bar.update)
    say(json.dumps(result.to_json()) if as_json else result.markdown)
    return report_failures(result.evaluation)
