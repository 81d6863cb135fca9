"""`trajbuild stats`: count a manifest's pairs by columns."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import say


@click.command(name="stats", short_help="Count a manifest's pairs by columns.")
@paths.several()
@click.option("--by", default="split,n_frames", show_default=True, metavar="COLUMN,...",
              help="Columns to group by.")  # fmt: skip
@click.option("--plot", type=options.FOLDER, metavar="FILE",
              help="Also draw the counts as bars: .png, .svg or .pdf.")  # fmt: skip
@options.as_json
def command(sources: tuple[Path, ...], by: str, plot: Path | None, as_json: bool) -> None:
    """Count pairs, trajectories, bytes and mean motion in data sets or
    manifest files. Opens no image.

    \b
    Example:
      trajbuild stats GOPRO_Large_trajectories --by clip_id,n_frames
    """
    from trajectory_builder.curate import stats

    columns = [name.strip() for name in by.split(",") if name.strip()]
    counted = stats.stats(sources, columns)
    if plot is not None:
        stats.plot(counted, plot)
    say(*([json.dumps(counted.as_data())] if as_json else counted.lines()))
