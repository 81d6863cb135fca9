"""`fidediff scan`: scores over timesteps given by hand, trajectories, t_hat against t."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fidediff_model.cli.evaluate import DEFAULT_METRICS, read_metrics
from fidediff_model.cli.model_options import FOLDER, model_options, progress_bar, settings_of


@click.command("scan")
@click.option("--data", required=True, type=FOLDER, help="trajbuild folder.")
@click.option("--out", required=True, type=FOLDER, help="Folder of tables and plots.")
@click.option(
    "--timesteps", default="0:400:40", show_default=True, help="0,100,200 or FIRST:LAST:STEP."
)
@click.option("--metrics", default=DEFAULT_METRICS, show_default=True, callback=read_metrics)
@click.option("--vgg16", help="VGG16 file for LPIPS and DISTS, or `download`.")
@click.option("--split", default="test", show_default=True, help="Of the manifest, or `all`.")
@click.option("--limit", type=click.IntRange(min=1), help="The first so many native pairs only.")
@click.option(
    "--trajectories",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Pictures of so many trajectories.",
)
@model_options()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(data: Path, out: Path, **values: Any) -> int:
    """Score over timesteps.

    OUT gets scan.parquet and scan.png (a curve for each native number of
    frames), trajectory_NN.png (all points of a trajectory restored),
    t_hat.parquet and t_hat.png. Run the same command again to resume.

    \b
    Example:
      fidediff scan --model RUN/model --data OUT --vgg16 vgg16.pth --out scan
    """
    from fidediff_model.evaluate import scan_command
    from trajectory_builder.disk.atomic import reporting_disk_errors

    values["data"], values["out"] = (data,), out
    settings = settings_of(values)
    total = len(scan_command.pairs_for(values, points="native"))
    with reporting_disk_errors(out), progress_bar(total, "image") as bar:
        result = scan_command.run(values, settings, bar.update)
    for sample_id, what in result.failures[:5]:
        click.echo(f"failed: {sample_id}: {what}", err=True)
    if values["as_json"]:
        click.echo(json.dumps({"best": result.best, "failures": len(result.failures)}))
    else:
        click.echo(result.markdown)
    if not result.failures:
        return 0
    return 4 if result.scored else 1
