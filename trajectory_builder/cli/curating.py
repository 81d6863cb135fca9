"""Options and printing that the manifest tools share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from trajectory_builder.curate.derive import DerivedReport

F = TypeVar("F", bound=Callable[..., Any])
SOURCE = click.Path(path_type=Path, readable=False)
FOLDER = click.Path(path_type=Path, readable=False)

files: Callable[[F], F] = click.option(
    "--files",
    type=click.Choice(["hardlink", "reference", "copy", "none"]),
    default="hardlink",
    show_default=True,
    help="How images come into OUT. A reference is a symbolic link: such a set is read with"
    " --allow-links only. With none, only the manifest is written.",
)
allow_links: Callable[[F], F] = click.option(
    "--allow-links",
    is_flag=True,
    help="Follow symbolic links out of the source; for sets of your own.",
)
seed: Callable[[F], F] = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of all random choices."
)


def print_report(report: DerivedReport, *, as_json: bool, linked: bool) -> None:
    """Print what was written; the next command on stderr."""
    if as_json:
        click.echo(json.dumps(report.as_data()))
        return
    pairs = ", ".join(f"{count:,} {split}" for split, count in report.pairs.items())
    click.echo(f"{report.out}: {pairs} pairs, {report.files:,} files")
    print_dropped(report.dropped)
    links = " --allow-links" if linked else ""
    click.echo(f"next: trajbuild verify {report.out}{links}", err=True)


def print_dropped(dropped: dict[str, int]) -> None:
    """Print on stderr which criterion left out how many rows."""
    for reason, count in dropped.items():
        if count:
            click.echo(f"left out by {reason}: {count:,} pairs", err=True)
