"""`trajbuild explain`: where one pair comes from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import say


@click.command(name="explain", short_help="Which frames, rule, timestep and files make a pair.")
@click.argument("words", metavar="DATASET SAMPLE_ID", nargs=-1, required=True)
@click.option("--src", type=paths.PATH, metavar="DATASET", help="DATASET as an option.")
@options.as_json
def command(words: tuple[str, ...], src: Path | None, as_json: bool) -> None:
    """Print which frames, rule, timestep and files make the pair SAMPLE_ID, and
    the files of its backward trajectory.

    \b
    Example:
      trajbuild explain GOPRO_Large_trajectories GOPR0372_07_00/000047/n07
    """
    from trajectory_builder.verify import explain

    if len(words) != (2 if src is None else 1):
        raise click.UsageError("Give one DATASET and one SAMPLE_ID.")
    folder = Path(words[0]).expanduser() if src is None else src
    explained = explain.explain_pair(folder, words[-1])
    if as_json:
        say(json.dumps(explained.as_data()))
        return
    row = explained.row
    n, t = (row[name] if row[name] is not None else "unknown" for name in ("n_frames", "timestep"))
    say(f"{row['sample_id']}: n = {n}, t = {t}")
    say(f"rule:   {explained.rule()}")
    for name in explained.frames:
        mark = "  <- sharp" if name.rsplit("/", 1)[-1] == row["center_frame"] else ""
        unit = " s" if name.replace(".", "", 1).isdecimal() else ""  # a time in a video
        say(f"frame:  {name}{unit}{mark}")
    say(f"blur:   {row['split']}/{row['blur_file_name']}")
    for n, timestep, file in explained.backward:
        say(f"n = {n:2d}  t = {timestep:3d}  {file}")
