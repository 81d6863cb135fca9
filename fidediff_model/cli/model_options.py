"""Options of all commands that run a trained model, packed into `Settings`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from trajectory_builder.cli.app import Command, pack

FOLDER = click.Path(path_type=Path, readable=False)
_OPTIONS = [
    click.option("--base-model", help="Folder or hub id of the base weights, if they were moved."),
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
    click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True,
                 help="Images of equal size restored together."),
    pack("settings", "fidediff_model.model.engine:Settings"),
]  # fmt: skip


def shipped_model() -> Path:
    """Return the folder of the shipped model `small`, and say on stderr that it is used."""
    from fidediff_model.weights import shipped

    click.echo("model: small, which ships with the package; --model takes another", err=True)
    return shipped.model_folder()


def _or_shipped(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    return shipped_model() if value is None else value


def model_options(*, always: bool = True) -> Callable[[Command], Command]:
    """Add `--model` and the options of the table to a command, which gets them as `settings`.

    Put the command's own `--timestep` and `--strength` above, so that they are packed too.

    Args:
        always: the command needs a model, so the shipped one is the default.
    """
    help_text = "Model folder, such as RUN/model.  [default: small, which ships with the package]"
    callback = _or_shipped if always else None
    model = click.option("--model", type=FOLDER, callback=callback, help=help_text)

    def add(command: Command) -> Command:
        for option in reversed([model, *_OPTIONS]):
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
