"""`trajbuild index`: a manifest for an existing set of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import say
from trajectory_builder.trajectory import SPLITS

if TYPE_CHECKING:
    from trajectory_builder.curate.links import FileMode


@click.command(name="index", short_help="Write a manifest for an existing set of pairs.")
@paths.one("DIR")
@click.option("--layout", required=True,
              type=click.Choice(["hide", "realblur", "reds", "rsblur", "bsd", "pairs"]),
              help="Layout of DIR; pairs: input/ and target/, blur/ and sharp/, ...")  # fmt: skip
@click.option("--out", type=options.FOLDER, required=True, help="New data set.")
@click.option("--split", type=click.Choice(SPLITS),
              help="Split of pairs that are in no split folder and in no list. [default: train if"
                   " there is a test list, else test]")  # fmt: skip
@click.option("--test-list",
              type=click.Path(exists=True, dir_okay=False, path_type=Path, readable=False),
              help="Text file that names the test pairs. [default: RealBlur's own]")  # fmt: skip
@click.option("--files", type=click.Choice(["hardlink", "copy", "symlink", "reference"]),
              default="hardlink", show_default=True,
              help="How images come into OUT; symbolic links (symlink or reference) are read with"
                   " --allow-links only. Originals stay as they are.")  # fmt: skip
@options.jobs
@options.as_json  # fmt: skip
def command(
    source: Path,
    layout: str,
    out: Path,
    split: str | None,
    test_list: Path | None,
    files: FileMode,
    jobs: int,
    as_json: bool,
) -> int:
    """Check every pair in DIR and write OUT: a manifest, and the images
    linked or copied beside it. n and t are unknown (null).

    What is missing or odd is named in OUT/problems.parquet; the command then
    ends with 4.

    \b
    Example:
      trajbuild index HIDE_dataset --layout hide --out hide
    """
    from trajectory_builder.curate import index
    from trajectory_builder.curate.layouts import splitting

    report = index.index(
        source, out, layout, splitting=splitting(source, layout, split, test_list),
        files=files, jobs=jobs, progress=True,
    )  # fmt: skip
    if as_json:
        say(json.dumps(report.as_data()))
        return int(report.exit_code)
    say(f"{out}: {options.pairs_of(report.pairs)}")
    for problem in report.problems[:5]:
        say(f"problem: {options.named(problem)}", err=True)
    if report.problems:
        options.print_problem_count(len(report.problems), out)
    return int(report.exit_code)
