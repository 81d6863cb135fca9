"""`trajbuild report`: one HTML file to look at a data set."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import say


@click.command("report")
@paths.one()
@click.option("--out", type=options.FOLDER,
              help="The file to write.  [default: DATASET/report.html]")  # fmt: skip
@click.option("--allow-links", is_flag=True, help="Follow symbolic links that leave DATASET.")
@options.as_json
def command(source: Path, out: Path | None, allow_links: bool, as_json: bool) -> None:
    """Write one HTML file that shows a data set.

    Trajectories to walk from sharp to the strongest blur, the extremes, a
    table of all pairs to search, sort and filter, counts, motion and sharpness,
    look-alikes, outliers, problems with their cures. The file works offline
    and loads nothing; an earlier report in its place is replaced.

    \b
    Example:
      trajbuild report GOPRO_Large_trajectories
    """
    from trajectory_builder.report import write_report

    page = write_report(source, out, allow_links=allow_links)
    size = page.stat().st_size
    if as_json:
        say(json.dumps({"path": str(page), "bytes": size}))
        return
    say(str(page))
    say(f"{size / 1e6:.1f} MB; open it in a browser", err=True)
