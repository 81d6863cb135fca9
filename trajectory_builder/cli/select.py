"""`trajbuild select`: take a part of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import say

if TYPE_CHECKING:
    from trajectory_builder.curate.links import FileMode


@click.command(name="select", short_help="Take a part of a data set.")
@paths.one()
@click.option("--out", type=options.FOLDER, help="New data set. [default: print sample_ids]")
@click.option("--where", default="", metavar="CONDITION",
              help="A pandas query on columns: and or &, or or |, not or ~, == != < <= > >=, in"
                   " [...], + - * /, .between(a, b), .isin([...]), .isna(), .notna(),"
                   " .str.contains/startswith/endswith/match(text), len, abs.")  # fmt: skip
@click.option("--min-motion", type=click.FloatRange(0), metavar="PX",
              help="Least motion_px; pairs of unknown motion are left out.")  # fmt: skip
@click.option("--max-step", type=click.FloatRange(0), metavar="PX",
              help="Largest step_px; above 2 to 3 a blur shows copies. Pairs of unknown steps are"
                   " left out.")  # fmt: skip
@click.option("--max-per-trajectory", type=click.IntRange(1), metavar="K",
              help="Up to K pairs per trajectory, chosen at random.")  # fmt: skip
@click.option("--balance", metavar="COLUMN",
              help="Keep as many pairs of every value as of the rarest, per split.")  # fmt: skip
@click.option("--sample", type=click.IntRange(1), metavar="N", help="N pairs, chosen at random.")
@options.seed
@options.files_of_set
@options.allow_links
@options.as_json  # fmt: skip
def command(  # noqa: PLR0913  # one parameter an option
    source: Path,
    out: Path | None,
    where: str,
    min_motion: float | None,
    max_step: float | None,
    max_per_trajectory: int | None,
    balance: str | None,
    sample: int | None,
    seed: int,
    files: FileMode,
    allow_links: bool,
    as_json: bool,
) -> None:
    """Write the pairs of DATASET that meet all conditions as a data set of
    their own, or print their sample_ids, one per line.

    Conditions apply in the order of the options below. Random choices depend
    on seed and sample_id alone, not on order. Backward points that are left
    out disappear from backward_n_frames.

    \b
    Example:
      trajbuild select GOPRO_Large_trajectories --out hard \\
        --where 'n_frames >= 9 and clip_id.str.startswith("GOPR03")' --sample 500
    """
    from trajectory_builder.curate import select

    criteria = select.Criteria(
        where, min_motion, max_per_trajectory, balance, sample, seed, max_step=max_step
    )
    if out is None:
        choice = select.choose([source], criteria)
        names = choice.sample_ids()
        if as_json:
            say(json.dumps({"sample_ids": names, "dropped": choice.dropped}))
        elif names:
            say(*names)
        options.print_dropped(choice.dropped)
        if choice.note:
            say(f"note: {choice.note}", err=True)
        _print_missing(sample, len(names))
        return
    report = select.select(
        [source], out, criteria,
        files=files, allow_links=allow_links, progress=True,
    )  # fmt: skip
    options.print_derived(report, as_json=as_json, linked=files in options.SYMLINKS)
    _print_missing(sample, sum(report.pairs.values()))


def _print_missing(sample: int | None, count: int) -> None:
    if sample is not None and count < sample:
        say(f"note: --sample {sample}, but there are only {count:,} such pairs", err=True)
