"""`trajbuild export`: what trainers read."""

from __future__ import annotations

import json
from typing import Any

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import counted, say


@click.command(name="export", short_help="Write what trainers read.")
@paths.one()
@click.option("--to", "target", required=True,
              type=click.Choice(["hf", "webdataset", "lmdb", "folders"]),
              help="The format, see above.")  # fmt: skip
@click.option("--out", type=options.FOLDER, required=True, help="Folder to write.")
@click.option("--crop", type=click.IntRange(8), metavar="PX",
              help="Cut square crops. [default: complete images]")  # fmt: skip
@click.option("--overlap", type=click.IntRange(0), metavar="PX",
              help="Pixels that crops share. [default: half of --crop]")  # fmt: skip
@click.option("--rows", type=click.Choice(["pair", "trajectory"]), default="pair",
              show_default=True, help="hf: what a row contains.")  # fmt: skip
@click.option("--layout", type=click.Choice(["mprnet", "hinet", "mimo", "deepdeblur"]),
              default="mprnet", show_default=True,
              help="folders: whose layout; NAFNet and Restormer read MPRNet's.")  # fmt: skip
@click.option("--blur-key", default="blur_gamma", show_default=True, metavar="NAME",
              help="deepdeblur: folder of the blurs; its trainer reads blur_gamma.")  # fmt: skip
@click.option("--files", type=click.Choice(["hardlink", "copy", "symlink", "reference"]),
              default="hardlink", show_default=True,
              help="folders: how complete images get there.")  # fmt: skip
@click.option("--shard-mb", type=click.IntRange(1), default=300, show_default=True,
              help="hf, webdataset: approximate size of a shard.")  # fmt: skip
@options.jobs
@options.allow_links
@options.as_json  # fmt: skip
def command(target: str, as_json: bool, **settings: Any) -> None:
    """Write a data set as its trainers read it: images byte for byte, or cut
    into crops without loss.

    \b
    hf          Parquet shards, card, croissant.json
    webdataset  tar shards, KEY.blur.png KEY.json KEY.sharp.png
    lmdb        BasicSR, NAFNet, HINet: databases and meta_info.txt
    folders     MPRNet, Restormer, NAFNet, HINet, MIMO-UNet, DeepDeblur

    \b
    Example:
      trajbuild export GOPRO_Large_trajectories --to lmdb --crop 512 --out lmdb
    Run the same command again to resume.
    """
    from trajectory_builder.export.request import Request
    from trajectory_builder.export.targets import TARGETS

    settings["shard_bytes"] = settings.pop("shard_mb") * 1_000_000
    if settings["overlap"] is None:
        settings["overlap"] = (settings["crop"] or 0) // 2
    report = TARGETS[target](Request(progress=True, **settings))
    if as_json:
        say(json.dumps(report.as_data()))
        return
    pairs, files = options.pairs_of(report.pairs), counted(report.files, "file")
    state = f"{counted(report.made, 'unit')} made" if report.made else "nothing to do"
    say(f"{report.out}: {pairs} in {files}; {state}")
    if target == "folders" and settings["files"] == "hardlink" and settings["crop"] is None:
        say("files are hard links: editing one edits the data set; --files copy gives files apart")
    say(f"read it: {report.hint}", err=True)
