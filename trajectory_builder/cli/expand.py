"""`trajbuild expand`: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajectory_builder.cli import options
from trajectory_builder.cli.app import pack, say

if TYPE_CHECKING:
    from trajectory_builder.build.expand import ExpandOptions


@click.command(name="expand", short_help="Expand GoPro into trajectories.")
@options.gopro
@click.option("--out", type=options.FOLDER, help="Output folder. [default: SRC_trajectories]")
@options.build
@click.option("--check", type=click.Choice(["quick", "full", "off"]), default="quick",
              show_default=True,
              help="Compare a few or all official pairs with the frames.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan, the bytes needed and free; stop.")
@options.as_json
@pack("chosen", "trajectory_builder.build.expand:ExpandOptions")
def command(
    source: Path, out: Path | None, chosen: ExpandOptions, dry_run: bool, as_json: bool
) -> int | None:
    """Expand GoPro: keep the official pairs, average further windows round
    each sharp frame, write a Parquet manifest. SRC is GOPRO_Large, or
    GOPRO_Large_all, or the folder that contains both.

    OUT then contains train/ and test/ with metadata.parquet, blur/ and
    sharp/, a card, build.json, and problems.parquet if anything could not
    be made.

    \b
    Example:
      trajbuild expand GOPRO_Large --frames GOPRO_Large_all --jobs 8
    Run the same command again to resume.
    """
    from trajectory_builder.build.expand import default_out, expand_gopro

    target = out or default_out(source)
    if dry_run:
        options.print_plan(chosen.plan(source), target, as_json=as_json)
        return None
    report = expand_gopro(source, target, chosen, on_plan=options.print_notes)
    if as_json:
        say(json.dumps(report.as_data()))
    else:
        options.print_report(report)
    return int(report.exit_code)
