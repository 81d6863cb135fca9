"""`fidediff evaluate`: restore a set, score it beside other methods and the paper."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fidediff_model.cli.model_options import (
    FOLDER,
    model_options,
    read_timestep,
    shipped_model,
)
from fidediff_model.scores.definitions import LPIPS_NETS, OFFERED
from trajectory_builder.cli.app import Command, pack, say
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import LISTED_AT_MOST

if TYPE_CHECKING:
    from fidediff_model.evaluate import EvaluateRequest
    from fidediff_model.evaluate.scoring import Evaluation

DEFAULT_METRICS = "psnr,ssim,ssim-matlab,lpips,dists"


def read_metrics(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Names joined by commas, each one of `OFFERED`."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    wrong = [name for name in names if name not in OFFERED]
    if wrong or not names:
        raise click.BadParameter(f"give some of {','.join(OFFERED)}, not {value!r}")
    return tuple(dict.fromkeys(names))


def read_restored(
    ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, Path], ...]:
    """Split each NAME=DIR into name and folder."""
    split = [text.partition("=") for text in value]
    wrong = [text for text, (name, _, folder) in zip(value, split, strict=True)
             if not name or not folder]  # fmt: skip
    if wrong:
        raise click.BadParameter(f"give NAME=DIR such as NAFNet=results/nafnet, not {wrong[0]!r}")
    return tuple((name, Path(folder).expanduser()) for name, _, folder in split)


def report_failures(evaluation: Evaluation) -> int:
    """Print the first failures on stderr; returns the exit code."""
    for failure in evaluation.failures[:LISTED_AT_MOST]:
        say(f"failed: {failure.sample_id}: {failure.what}", err=True)
    rest = len(evaluation.failures) - LISTED_AT_MOST
    if rest > 0:
        say(f"failed: {rest:,} more", err=True)
    return int(evaluation.exit_code)


METRIC_OPTIONS = [
    click.option("--metrics", default=DEFAULT_METRICS, show_default=True, callback=read_metrics,
                 help=f"Some of {','.join(OFFERED)}."),
    click.option("--lpips-net", multiple=True, type=click.Choice(LPIPS_NETS), default=["vgg"],
                 show_default=True, help="Network of LPIPS; give it twice for a column of each."),
    click.option("--vgg16", help="VGG16 file for LPIPS (VGG) and DISTS, or `download`."),
    click.option("--alexnet", help="AlexNet file for LPIPS (Alex), or `download`."),
    pack("metrics", "fidediff_model.scores.definitions:columns"),
]  # fmt: skip


def metric_options(command: Command) -> Command:
    """Add the options that choose scores and their networks; `metrics` is the columns to score."""
    for option in reversed(METRIC_OPTIONS):
        command = option(command)
    return command


@click.command("evaluate")
@click.option(
    "--data", multiple=True, type=FOLDER, help="trajbuild folder; or twice: blurs, sharps."
)
@click.option("--out", required=True, type=FOLDER, help="Folder of the scores.")
@click.option("--restored", multiple=True, metavar="NAME=DIR", callback=read_restored,
              help="Results of another method; repeatable.")  # fmt: skip
@click.option("--baseline", type=click.Choice(["blurry"]), help="Also score the blurs themselves.")
@click.option("--partial", is_flag=True, help="Score the pairs that every method has.")
@metric_options
@click.option("--align", is_flag=True, help="Align by ECC first, as for RealBlur.")
@click.option("--split", default="test", show_default=True, help="Split of a manifest, or `all`.")
@click.option("--points", type=click.Choice(["native", "all"]), default="native", show_default=True,
              help="Official blurs only, or all points of the trajectories.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N pairs.")
@click.option("--save-images", is_flag=True, help="Also write the model's restorations.")
@click.option("--name", help="Name of the model's result.  [default: its folder's]")
@click.option("--paper", type=click.Choice(["auto", "gopro", "realblur-j", "realblur-r", "none"]),
              default="auto", show_default=True,
              help="Set whose rows of the paper are printed; auto: GoPro's.")  # fmt: skip
@click.option("--compare", multiple=True, type=FOLDER,
              help="Folder of further results for table and plot; repeatable.")  # fmt: skip
@click.option("--timestep", default="auto", callback=read_timestep,
              help="auto, or a number from 0 to 999.  [default: auto]")  # fmt: skip
@model_options(always=False)
@click.option("--format", "layout", type=click.Choice(["md", "csv", "latex"]), default="md",
              show_default=True,
              help="Layout of the printed table; OUT gets all three.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@pack("request", "fidediff_model.evaluate:EvaluateRequest")
def command(request: EvaluateRequest, layout: str, as_json: bool) -> int:
    """Score restorations of a data set.

    OUT gets scores.parquet (one row per method and pair), summary.json, the table
    as summary.md, .csv and .tex, perception_distortion.png, and pictures.png with
    the worst and the median image of each method. Run the same command again to
    resume. --data is one trajbuild folder, or given twice: blurs, then sharps.
    With --compare alone, results are only compared.

    \b
    Examples:
      fidediff evaluate --model RUN/model --data OUT --vgg16 vgg.pth --out scores
      fidediff evaluate --restored NAF=DIR --data OUT --metrics psnr --out scores
      fidediff evaluate --compare scores --compare others --out both
    """
    from fidediff_model.evaluate import make_plan, run
    from trajectory_builder.disk.atomic import reporting_disk_errors

    nothing = not (request.model or request.baseline or request.restored)
    if nothing and request.data and not request.compare:
        request = replace(request, model=shipped_model())
    plan = make_plan(request)
    with reporting_disk_errors(plan.request.out), Progress(plan.total, "images") as bar:
        result = run(plan, bar.advance)
    for note in plan.notes:
        say(f"note: {note}", err=True)
    tables: dict[Any, str] = result.tables
    if as_json:
        say(json.dumps(result.summary))
    else:
        say(*tables[layout].splitlines())
    return report_failures(result.evaluation)
