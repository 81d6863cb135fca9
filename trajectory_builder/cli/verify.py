"""`trajbuild verify`: does the folder hold what its manifest says?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import options


@click.command(name="verify", short_help="Does the folder hold what its manifest says?")
@click.argument("folder", metavar="DATASET", type=options.FOLDER)
@click.option("--level", type=click.Choice(["quick", "full", "deep"]), default="quick",
              show_default=True,
              help="Names and sizes; hashes and decoding; averaging from the frames.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Workers. [default: all cores]")
@click.option("--frames", type=options.FOLDER, help="For deep: where the frames are now.")
@click.option("--allow-links", is_flag=True, help="The set was built with --link symlink.")
@options.as_json
def command(
    folder: Path,
    level: str,
    jobs: int | None,
    frames: Path | None,
    allow_links: bool,
    as_json: bool,
) -> int:
    """Hold a data set against its manifest; changes nothing.

    Ends with 0 if all is as it should be, with 3 if not.

    \b
    Example:
      trajbuild verify GOPRO_Large_trajectories --level full
    """
    from trajectory_builder import verify
    from trajectory_builder.build.workers import default_jobs

    report = verify.verify_folder(
        folder, level, jobs=jobs or default_jobs(), frames=frames, allow_links=allow_links,
        progress=True,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.as_data()))
        return int(report.exit_code)
    for finding in report.findings:
        click.echo(f"{finding.reason}: {finding.what}\n  cure:  {finding.cure}")
    state = f"{len(report.findings):,} findings" if report.findings else "all as it should be"
    click.echo(f"{report.rows:,} pairs, {report.files:,} files, level {level}: {state}")
    return int(report.exit_code)
