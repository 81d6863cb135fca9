"""`fidediff scan`: scores over prescribed timesteps, trajectories, t_hat against t."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from fidediff_model.cli.evaluate import metric_options, report_failures
from fidediff_model.cli.model_options import FOLDER, model_options
from trajectory_builder.cli.app import pack, say
from trajectory_builder.disk.progress import Progress

if TYPE_CHECKING:
    from fidediff_model.evaluate.scan import ScanRequest


def _timesteps(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    from fidediff_model.evaluate.scan import read_timesteps

    return read_timesteps(value)


@click.command("scan")
@click.option("--data", required=True, type=FOLDER, help="trajbuild folder.")
@click.option("--out", required=True, type=FOLDER, help="Folder of tables and plots.")
@click.option("--timesteps", default="0:400:40", show_default=True, callback=_timesteps,
              help="Timesteps: 0,100,200 or FIRST:LAST:STEP.")  # fmt: skip
@metric_options
@click.option("--split", default="test", show_default=True, help="Split of the manifest, or `all`.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N native pairs.")
@click.option("--trajectories", type=click.IntRange(min=0), default=3, show_default=True,
              help="Draw the first N trajectories.")  # fmt: skip
@model_options()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@pack("request", "fidediff_model.evaluate.scan:ScanRequest")
def command(request: ScanRequest, as_json: bool) -> int:
    """Score over timesteps.

    OUT gets scan.parquet and scan.png (a curve for each native number of
    frames), trajectory_NN.png (all points of a trajectory restored),
    t_hat.parquet and t_hat.png. Run the same command again to resume.

    \b
    Example:
      fidediff scan --model RUN/model --data OUT --vgg16 vgg16.pth --out scan
    """
    from fidediff_model.evaluate.scan import run
    from trajectory_builder.disk.atomic import reporting_disk_errors

    total = len(request.pairs()) * len(request.timesteps)
    with reporting_disk_errors(request.out), Progress(total, "restorations") as bar:
        result = run(request, bar.advance)
    failed = len(result.evaluation.failures)
    if as_json:
        say(json.dumps({"best": result.best, "failures": failed}))
    else:
        say(*result.markdown.splitlines())
    return report_failures(result.evaluation)
