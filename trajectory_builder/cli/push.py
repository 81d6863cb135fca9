"""`trajbuild push`: a data set exported as hf, to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from trajectory_builder.cli import options
from trajectory_builder.cli.app import say


@click.command("push", short_help="Push an export as hf to the Hugging Face Hub.")
@click.argument("folder", type=options.FOLDER, metavar="DIR")
@click.argument("name", metavar="OWNER/NAME[@BRANCH]")
@click.option("--public", is_flag=True, help="Let everybody read it. [default: private]")
@click.option(
    "--licence",
    "--license",
    "licence",
    metavar="ID",
    help="The hub's identifier, such as cc-by-4.0. [default: the card's]",
)
def command(folder: Path, name: str, public: bool, licence: str | None) -> None:
    """Push what `trajbuild export --to hf` wrote to the Hugging Face Hub.

    Shards, card and licence are checked first. It arrives in one commit or not
    at all; the repository is private unless --public is given. Log in once
    with `hf auth login`.

    \b
    Example:
      trajbuild export GOPRO_Large_trajectories --to hf --out hf
      trajbuild push hf me/gopro-trajectories --licence cc-by-4.0
    """
    from trajectory_builder.export.push import push

    say(push(folder, name, private=not public, licence=licence))
    say(f'next: datasets.load_dataset("{name.partition("@")[0]}")', err=True)
