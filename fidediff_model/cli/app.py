"""`fidediff app`: a page in the browser to try a photo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fidediff_model.cli.model_options import FOLDER, model_options
from trajectory_builder.cli.app import say

if TYPE_CHECKING:
    from fidediff_model.model.engine import Settings


@click.command("app")
@model_options(batch=False)
@click.option(
    "--data", type=FOLDER, help="A trajbuild set, for the tab that walks along its trajectories."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 lets the network in.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="0: a free one.",
)
@click.option(
    "--share",
    type=click.Choice(["no", "yes"]),
    default="no",
    show_default=True,
    help="yes: also a public address for 72 hours, through Gradio's servers.",
)
@click.option(
    "--export-space",
    type=FOLDER,
    metavar="DIR",
    help="Write a folder for a Hugging Face Space instead, and end.",
)
def command(
    model: Path, base_model: str | None, settings: Settings, data: Path | None, host: str,
    port: int, share: str, export_space: Path | None,
) -> None:  # fmt: skip
    """Open a page on which a photo is dropped, restored and compared.

    The page listens on this machine alone unless --host or --share say
    otherwise, and keeps no upload: it says so itself, with its limits. Ctrl-C
    ends it.

    \b
    Examples:
      fidediff app
      fidediff app --model RUN/model --data GOPRO_Large_trajectories
      fidediff app --export-space space
    """
    from fidediff_model.weights import shipped

    is_small = model == shipped.FOLDER / "model"
    name = click.get_current_context().meta.get("fidediff.model", model.name)
    name = f"{shipped.NAME}, which ships with the package" if is_small else name
    if export_space is not None:
        from fidediff_model.app.space import write_space

        say(str(write_space(export_space, None if is_small else model)))
        say(f"next: read {export_space}/README.md", err=True)
        return
    from fidediff_model.app.serve import AppRequest, serve

    request = AppRequest(
        model,
        name,
        base_model,
        settings,
        host=host,
        port=port,
        share=share == "yes",
        data=data,
    )
    try:
        serve(request, on_ready=lambda address: say(address))
    except KeyboardInterrupt:
        say("stopped", err=True)
