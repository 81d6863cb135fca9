"""`trajbuild diff`: what differs between two manifests or data sets."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import options
from trajectory_builder.cli.app import say
from trajectory_builder.errors import ExitCode


@click.command(
    name="diff", short_help="List what differs between two manifests; exit 3 if anything."
)
@click.argument("old", type=options.FOLDER)
@click.argument("new", type=options.FOLDER)
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True,
              help="Lines per kind; 0 for all.")  # fmt: skip
@options.as_json
def command(old: Path, new: Path, limit: int, as_json: bool) -> int:
    """List rows only in NEW (+), only in OLD (-) and changed (~), and the bytes
    of files that only one of them has.

    Exits with 0 if all rows are equal, with 3 if not. --json lists all rows.

    \b
    Example:
      trajbuild diff build_a build_b
    """
    from trajectory_builder.curate import diff

    difference = diff.diff(old, new)
    lines = difference.lines(limit)
    say(*([json.dumps(difference.as_data())] if as_json else lines))
    return int(ExitCode.PROBLEMS_FOUND if difference.differs else ExitCode.DONE)
