"""`trajbuild split`: divide a split again, by complete clips or trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.trajectory import SPLITS

if TYPE_CHECKING:
    from trajectory_builder.curate.links import FileMode


def _shares(context: click.Context, parameter: click.Parameter, text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            share = float(number)
        except ValueError:
            raise click.BadParameter(f"{part!r} is not SPLIT=SHARE") from None
        if name.strip() in shares:
            raise click.BadParameter(f"{name.strip()} is named twice")
        shares[name.strip()] = share
    return shares


@click.command(name="split", short_help="Divide a split again, by complete clips or trajectories.")
@paths.one()
@click.option("--out", type=options.FOLDER, required=True, help="New data set.")
@click.option("--into", callback=_shares, default="train=0.9,validation=0.1", show_default=True,
              metavar="SPLIT=SHARE,...", help="Shares of train, validation, test.")  # fmt: skip
@click.option("--by", type=click.Choice(["clip", "trajectory"]), default="clip", show_default=True,
              help="What is never divided between parts.")  # fmt: skip
@click.option("--split", "--of", "of", type=click.Choice([*SPLITS, "all"]), default="train",
              show_default=True, help="The split that is divided; the others stay.")  # fmt: skip
@options.seed
@options.files_of_set
@options.allow_links
@options.as_json  # fmt: skip
def command(  # noqa: PLR0913  # one parameter per option
    source: Path,
    out: Path,
    into: dict[str, float],
    by: str,
    of: str,
    seed: int,
    files: FileMode,
    allow_links: bool,
    as_json: bool,
) -> None:
    """Write DATASET again with one split divided: by complete clips or
    trajectories, with the same share of every n_frames in each part.

    \b
    Example:
      trajbuild split GOPRO_Large_trajectories --out with_validation \\
        --into train=0.9,validation=0.1 --by clip
    """
    from trajectory_builder.curate import split

    report = split.split(
        [source], out, into, by=by, of=of, seed=seed, files=files, allow_links=allow_links
    )
    options.print_derived(report, as_json=as_json, linked=files in options.SYMLINKS)
