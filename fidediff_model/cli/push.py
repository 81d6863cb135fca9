"""`fidediff push`: a model folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from fidediff_model.cli.model_options import FOLDER
from trajectory_builder.cli.app import say


@click.command("push")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("name", metavar="OWNER/NAME[@BRANCH]")
@click.option("--public", is_flag=True, help="Let everybody read it.  [default: private]")
@click.option(
    "--licence",
    "--license",
    "licence",
    metavar="ID",
    help="The hub's identifier, such as apache-2.0.  [default: the card's]",
)
@click.option(
    "--base-model",
    metavar="OWNER/NAME",
    help="Hub id of the base weights, where the model names a folder of this machine.",
)
def command(
    folder: Path, name: str, public: bool, licence: str | None, base_model: str | None
) -> None:
    """Push a model folder, such as RUN/model, to the Hugging Face Hub.

    The parts, the card and its licence are checked first, and no path of this
    machine goes along. It arrives in one commit or not at all; the repository
    is private unless --public is given. Log in once with `hf auth login`.

    \b
    Example:
      fidediff push RUN/model me/fidediff-gopro --licence apache-2.0
      fidediff restore blurry.jpg --model me/fidediff-gopro --out sharp.jpg
    """
    from fidediff_model.model import hub

    url = hub.push(folder, name, private=not public, licence=licence, base_model=base_model)
    say(url)
    say(f"next: fidediff restore BLURRY --model {name} --out SHARP", err=True)
