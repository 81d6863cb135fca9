"""Options of all commands that run a trained model, packed into `Settings`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from trajectory_builder.cli.app import Command, pack
from trajectory_builder.errors import UserError, printable

FOLDER = click.Path(path_type=Path, readable=False)


def agreed_base(function: Command) -> Command:
    """Pass a command the base weights that may be used; see `base_to_use`."""

    @functools.wraps(function)
    def command(*, allow_download: bool, **options: Any) -> Any:
        base = base_to_use(options["base_model"], options["model"], allow_download)
        return function(**(options | {"base_model": base}))

    return command  # type: ignore[return-value]


_OPTIONS = [
    click.option("--base-model", help="Folder or hub id of the base weights, if they were moved."),
    click.option("--allow-download", is_flag=True,
                 help="Download the base weights that the model names from the hub."),
    click.option("--latent-stride", type=click.Choice([4, 8]),
                 help="Image pixels per latent cell. [default: as trained]"),
    click.option("--control", type=click.Choice(["none", "filter"]),
                 help="none: run without the kernel control; filter: require it. [default: as"
                      " trained]"),
    click.option("--tile", type=click.IntRange(min=0),
                 help="Side of a UNet tile in pixels; 0: complete images. [default: by the"
                      " image's size]"),
    click.option("--overlap", type=click.IntRange(min=0), default=128, show_default=True,
                 help="Pixels that neighbouring tiles share."),
    click.option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto",
                 show_default=True, help="auto: bf16 on CUDA, fp32 elsewhere."),
    click.option("--device", help="cuda, cuda:1, mps or cpu. [default: the best available]"),
    click.option(
        "--compile", is_flag=True, help="Compile the model; pays off after a few hundred images."
    ),
]  # fmt: skip
_BATCH = click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True,
                      help="Images of equal size restored together.")  # fmt: skip
_MADE_OF_THEM = (agreed_base, pack("settings", "fidediff_model.model.engine:Settings"))


def shipped_model() -> Path:
    """Return the folder of the shipped model `small`, and say on stderr that it is used."""
    from fidediff_model.weights import shipped

    click.echo("model: small, which ships with the package; --model takes another", err=True)
    return shipped.model_folder()


def _or_shipped(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    return shipped_model() if value is None else model_folder(value)


def _if_named(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    return None if value is None else model_folder(value)


def model_folder(name: Path) -> Path:
    """The local folder of the model that `--model` names, fetched from the hub where it must be.

    Raises:
        ModelError: the hub does not give it.
    """
    from fidediff_model.model import hub
    from fidediff_model.weights import shipped

    folder = hub.find(name)
    if folder != name and str(name) != shipped.NAME:
        # A snapshot's folder is named after its commit, which means nothing to a reader.
        click.get_current_context().meta["fidediff.model"] = str(name)
        click.echo(f"model: {printable(name)}, from the hub", err=True)
    return folder


def model_options(*, always: bool = True, batch: bool = True) -> Callable[[Command], Command]:
    """Add `--model` and the options of the table to a command, which gets them as `settings`.

    Put the command's own `--timestep` and `--strength` above, so that they are packed too.

    Args:
        always: the command needs a model, so the shipped one is the default.
        batch: the command restores many images, so `--batch` makes sense.
    """
    help_text = (
        "Model folder, such as RUN/model, small, or OWNER/NAME[@REVISION] on the hub."
        "  [default: small, which ships with the package]"
    )
    callback = _or_shipped if always else _if_named
    model = click.option("--model", type=FOLDER, callback=callback, help=help_text)

    def add(command: Command) -> Command:
        for option in reversed([model, *_OPTIONS, *([_BATCH] if batch else []), *_MADE_OF_THEM]):
            command = option(command)
        return command

    return add


def read_timestep(ctx: click.Context, parameter: click.Parameter, value: str) -> float | None:
    """`auto` as None, anything else as a number."""
    if value == "auto":
        return None
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value} is neither auto nor a number from 0 to 999") from None


def base_to_use(base_model: str | None, model: Path | None, allow_download: bool) -> str | None:
    """`--base-model`, or the hub id that the model names, where the user agrees to fetch it.

    A person at a terminal is asked; anywhere else `--allow-download` is needed.
    """
    if base_model is not None or model is None:
        return base_model
    from fidediff_model.model.folder import read_config
    from fidediff_model.weights.base_folder import in_hub_cache, is_hub_id

    try:
        name = str(read_config(model)["base_model"])
    except UserError:
        return None  # loading reports it
    if not is_hub_id(name) or Path(name).is_dir() or in_hub_cache(name):
        return None
    question = f"fetch the base weights {printable(name)} from huggingface.co?"
    agrees = allow_download or (
        sys.stdin.isatty() and sys.stderr.isatty() and click.confirm(question, err=True)
    )
    return name if agrees else None
