"""`trajbuild verify`: compare a data set with its manifest."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import counted, say


@click.command(name="verify", short_help="Compare a data set with its manifest.")
@paths.one()
@click.option("--level", type=click.Choice(["quick", "full", "deep"]), default="quick",
              show_default=True,
              help="Names and sizes; hashes and decoding; averaging from the frames.")  # fmt: skip
@options.jobs
@click.option("--frames", type=options.FOLDER, help="For deep: where the frames are now.")
@options.allow_links
@options.as_json
def command(
    source: Path,
    level: str,
    jobs: int,
    frames: Path | None,
    allow_links: bool,
    as_json: bool,
) -> int:
    """Compare a data set with its manifest; changes nothing.

    Exits with 0 if everything matches, with 3 if not.

    \b
    Example:
      trajbuild verify GOPRO_Large_trajectories --level full
    """
    from trajectory_builder import verify

    report = verify.verify_folder(
        source, level, jobs=jobs, frames=frames, allow_links=allow_links,
        progress=True,
    )  # fmt: skip
    if as_json:
        say(json.dumps(report.as_data()))
        return int(report.exit_code)
    for finding in report.findings:
        say(f"{finding.reason}: {finding.what}", f"  cure:  {finding.cure}")
    findings = counted(len(report.findings), "finding")
    state = findings if report.findings else "all as it should be"
    pairs, files = counted(report.rows, "pair"), counted(report.files, "file")
    say(f"{pairs}, {files}, level {level}: {state}")
    if report.level == "deep":
        left = report.rows - report.rebuilt
        say(f"{counted(report.rebuilt, 'blur')} rendered again and compared;"
            f" {counted(left, 'blur')} taken over as they are: only the files are checked",
            err=True)  # fmt: skip
    if report.problems:
        verb = "is" if report.problems == 1 else "are"
        say(f"{counted(report.problems, 'problem')} of the build {verb} in problems.parquet")
    return int(report.exit_code)
