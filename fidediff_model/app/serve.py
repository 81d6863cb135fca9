"""The page's server: the model loaded, a folder of its own, one address, and a clean end."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fidediff_model.app.results import Results
from fidediff_model.app.trajectories import TrajectorySet
from fidediff_model.model.engine import Settings
from fidediff_model.model.fidediff import open_model
from trajectory_builder.errors import ExitCode, UsageError, UserError

LOCAL = "127.0.0.1"
PORT = 7860
"""The port that Gradio's pages and Spaces have."""
_SWEEP_SECONDS = 60


@dataclass(frozen=True)
class AppRequest:
    """One `app` command.

    Attributes:
        model: model folder.
        model_name: as the page names it.
        base_model: folder or hub id of the base weights; None takes the name it remembers.
        settings: device and precision; timestep and strength are the page's.
        host: address to listen on.
        port: 0 takes a free one.
        share: also make a public address, through Gradio's servers.
        data: a trajbuild set for the second tab.
    """

    model: Path
    model_name: str
    base_model: str | None = None
    settings: Settings = field(default_factory=Settings)
    host: str = LOCAL
    port: int = PORT
    share: bool = False
    data: Path | None = None


def serve(
    request: AppRequest,
    *,
    on_ready: Callable[[str], None],
    until: threading.Event | None = None,
) -> None:
    """Serve the page until `until` is set, or the process is interrupted.

    Args:
        request: what to serve.
        on_ready: called once with the address.
        until: ends it; None waits for an interrupt.

    Raises:
        UserError: the model, the data set or the address cannot be used.
    """
    data = TrajectorySet(request.data) if request.data is not None else None
    ready = open_model(request.model, request.settings, base_model=request.base_model)
    with tempfile.TemporaryDirectory(prefix="fidediff-app-") as root:
        results = Results(Path(root))
        _prepare_gradio(results)
        # Imported only now: Gradio reads its environment once, as it is imported.
        from fidediff_model.app import page

        others = request.share or request.host not in (LOCAL, "localhost", "::1")
        shown = page.Page(ready, request.model_name, results, data, shared=others)
        blocks = page.build(shown)
        try:
            _, local, public = blocks.launch(
                server_name=request.host,
                server_port=request.port or free_port(request.host),
                share=request.share,
                prevent_thread_lock=True,
                **page.launch_options(shown),
            )
        except OSError as error:
            raise _no_address(request, error) from error
        try:
            on_ready(public or local)
            _wait(results, until or threading.Event())
        finally:
            blocks.close(verbose=False)


def _prepare_gradio(results: Results) -> None:
    """Uploads into our folder, and no word to anybody about this program's use."""
    os.environ["GRADIO_TEMP_DIR"] = str(results.uploads)
    # Otherwise Gradio reports each launch and looks for newer versions of itself.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed",
            where="the page in the browser needs it",
            cure='pip install "fidediff[app]"',
            exit_code=ExitCode.WRONG_USE,
        ) from error


def _wait(results: Results, until: threading.Event) -> None:
    swept = time.monotonic()
    while not until.wait(0.5):
        if time.monotonic() - swept > _SWEEP_SECONDS:
            results.sweep()
            swept = time.monotonic()


def free_port(host: str) -> int:
    """A port that nothing listens on."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise UsageError(
                f"this machine has no address {host}",
                where="--host",
                cure=f"give {LOCAL} for this machine alone, or 0.0.0.0 for all its addresses",
            ) from error
        return int(probe.getsockname()[1])


def _no_address(request: AppRequest, error: OSError) -> UsageError:
    return UsageError(
        f"the page cannot be served at {request.host}:{request.port}: {error}",
        where="--host, --port",
        cure="give another --port, or --port 0 for a free one",
    )
