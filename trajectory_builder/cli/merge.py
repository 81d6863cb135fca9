"""`trajbuild merge`: join data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajectory_builder.cli import options, paths

if TYPE_CHECKING:
    from trajectory_builder.curate.links import FileMode


@click.command(name="merge", short_help="Join data sets into one; splits are kept.")
@paths.several()
@click.option("--out", type=options.FOLDER, required=True, help="New data set.")
@click.option("--clashes", type=click.Choice(["refuse", "same", "prefix"]), default="refuse",
              show_default=True,
              help="Where sample_ids clash: refuse; same takes pairs with equal files once; prefix"
                   " puts the name of its folder before each set's clips.")  # fmt: skip
@options.files_of_set
@options.allow_links
@options.as_json  # fmt: skip
def command(
    sources: tuple[Path, ...],
    out: Path,
    clashes: str,
    files: FileMode,
    allow_links: bool,
    as_json: bool,
) -> None:
    """Join data sets into one. Splits are kept; ids and files that clash, and
    trajectories that would be in two splits, are named before anything is
    written.

    \b
    Example:
      trajbuild merge GOPRO_Large_trajectories my_footage --out both
    """
    from trajectory_builder.curate import merge

    report = merge.merge(
        sources, out, clashes=clashes, files=files, allow_links=allow_links,
    )  # fmt: skip
    options.print_derived(report, as_json=as_json, linked=files in options.SYMLINKS)
