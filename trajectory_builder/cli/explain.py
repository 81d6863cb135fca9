"""`trajbuild explain`: where one pair comes from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import options
from trajectory_builder.cli.app import say


@click.command(name="explain", short_help="Which frames, rule, timestep and files make a pair.")
@click.argument("folder", metavar="DATASET", type=options.FOLDER)
@click.argument("sample_id")
@options.as_json
def command(folder: Path, sample_id: str, as_json: bool) -> None:
    """Print which frames, rule, timestep and files make the pair SAMPLE_ID, and
    the files of its backward trajectory.

    \b
    Example:
      trajbuild explain GOPRO_Large_trajectories GOPR0372_07_00/000047/n07
    """
    from trajectory_builder.verify import explain

    explained = explain.explain_pair(folder, sample_id)
    if as_json:
        say(json.dumps(explained.as_data()))
        return
    row = explained.row
    say(f"{row['sample_id']}: n = {row['n_frames']}, t = {row['timestep']}")
    say(f"rule:   {explained.rule()}")
    for name in explained.frames:
        mark = "  <- sharp" if name.rsplit("/", 1)[-1] == row["center_frame"] else ""
        say(f"frame:  {name}{mark}")
    say(f"blur:   {row['split']}/{row['blur_file_name']}")
    for n, timestep, file in explained.backward:
        say(f"n = {n:2d}  t = {timestep:3d}  {file}")
