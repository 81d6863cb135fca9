"""The page itself, in Gradio: what is on it, and what its buttons call."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from fidediff_model.app import view
from fidediff_model.app.photo import (
    MAX_BYTES,
    MAX_PIXELS,
    RestoredPhoto,
    Shown,
    read_photo,
    restore_photo,
)
from fidediff_model.app.results import KEPT_SECONDS, Answer, Cancelled, Results
from fidediff_model.app.trajectories import TrajectorySet, restored_steps, steps_of
from fidediff_model.model.diffusion import LAST_TIMESTEP
from fidediff_model.model.engine import ReadyModel
from trajectory_builder.errors import UserError
from trajectory_builder.images.picture import Picture

TITLE = "FideDiff: a blurry photo in, a sharp one out"
WAITING = 8
"""Requests that may wait; the next one is refused (ours)."""
START_TIMESTEP = 200
"""Where the slider starts (our choice): 11 frames, GoPro's commonest blur."""
CANCELLED = "Cancelled."


@dataclass(frozen=True)
class Page:
    """What the page works with.

    Attributes:
        ready: the model.
        model_name: as the page names it.
        results: where its files live.
        data: a trajbuild set to walk through, or None.
        shared: whether others can reach it, for its own words.
    """

    ready: ReadyModel
    model_name: str
    results: Results
    data: TrajectorySet | None = None
    shared: bool = False

    def restore(
        self, photo: str, problem: str, estimate: bool, timestep: float, strength: float,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio's way
    ) -> tuple[str, Any]:  # fmt: skip
        """The answer's HTML, and the slider at the timestep that was used.

        Args:
            photo: the path of the upload.
            problem: why there is none, as the browser found.
            estimate: let the model estimate the timestep.
            timestep: the slider's, for when it does not.
            strength: share of the restoration.
            request: whose it is.
            progress: the page's bar.
        """
        if not photo:
            return view.message(problem or "Choose a photo first."), gr.skip()
        try:
            name, picture = self._read(photo)
        except UserError as error:
            return view.message(error), gr.skip()
        with self.results.running(str(request.session_hash)) as kept:
            try:
                answer = restore_photo(
                    self.ready, picture, name, timestep=None if estimate else timestep,
                    strength=strength, report=partial(_report, kept, progress),
                )  # fmt: skip
                shown = self._photo(answer, kept, estimated=estimate)
            except Cancelled:
                return view.message(CANCELLED), gr.skip()
            except UserError as error:
                return view.message(error), gr.skip()
        return shown, gr.Slider(value=round(answer.t)) if estimate else gr.skip()

    def _read(self, upload: str) -> tuple[str, Picture]:
        """Name and content of an upload, which is deleted."""
        file = self.results.take(upload)
        try:
            return file.name, read_photo(file)
        finally:
            shutil.rmtree(file.parent)

    def _photo(self, answer: RestoredPhoto, kept: Answer, *, estimated: bool) -> str:
        kernels = self._url(kept, "kernels", answer.kernels) if answer.kernels else None
        urls = view.Urls(
            self._url(kept, "before", answer.before),
            self._url(kept, "after", answer.after),
            kernels,
        )
        # A folder of its own: browsers save under the name in the address.
        (kept.folder / "file").mkdir()
        name = Path("file", answer.file_name)
        file = self._url(kept, str(name.with_suffix("")), Shown(answer.file, name.suffix))
        return view.photo(answer, urls, file, estimated=estimated)

    def show_trajectory(self, name: str, request: gr.Request) -> str:
        """The blurs of a trajectory beside its sharp image."""
        if self.data is None:
            return view.message("Start with --data to look at a data set.")
        with self.results.running(str(request.session_hash)) as kept:
            try:
                steps = steps_of(self.data.open(name), partial(self._url, kept))
            except UserError as error:
                return view.message(error)
            return view.walk(name, steps, None)

    def restore_trajectory(
        self, name: str, request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # Gradio's way
    ) -> str:  # fmt: skip
        """Every point of a trajectory restored, and the gap between the restorations."""
        if self.data is None:
            return view.message("Start with --data to look at a data set.")
        with self.results.running(str(request.session_hash)) as kept:
            try:
                steps, gap = restored_steps(
                    self.ready, self.data.open(name), partial(self._url, kept),
                    report=partial(_report, kept, progress),
                )  # fmt: skip
            except Cancelled:
                return view.message(CANCELLED)
            except UserError as error:
                return view.message(error)
            return view.walk(name, steps, gap)

    def cancel(self, request: gr.Request) -> None:
        """End what runs for this visitor."""
        self.results.cancel(str(request.session_hash))

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.results.leave(str(request.session_hash))

    def _url(self, kept: Answer, name: str, shown: Shown) -> str:
        """Write a picture of the answer; where the browser finds it."""
        kept.stop_if_cancelled()
        path = kept.folder / f"{name}{shown.ending}"
        path.write_bytes(shown.content)
        return f"gradio_api/file={quote(str(path))}"


def _report(kept: Answer, progress: Callable[..., Any], done: int, total: int) -> None:
    """Move the bar, and end the work where the visitor cancelled it."""
    kept.stop_if_cancelled()
    progress((done, total), desc="Restoring", unit="parts")


def build(page: Page) -> gr.Blocks:
    """The page with its two tabs; `launch_options` go with it."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as blocks:
        gr.Markdown(f"# {TITLE}\nModel **{_plain(page.model_name)}** on {page.ready.device}.")
        with gr.Tab("Photo"):
            _photo_tab(page)
        with gr.Tab("Trajectory"):
            _trajectory_tab(page)
        gr.Markdown(_about(page), elem_classes="fd-about")
        blocks.unload(page.leave)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    return blocks


def _photo_tab(page: Page) -> None:
    parts = page.ready.model.parts
    can_estimate = {"kernel_estimator", "timestep_regressor"} <= set(parts)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            gr.HTML(view.choose(), padding=False)
            estimate = gr.Checkbox(can_estimate, label="Let the model estimate the timestep",
                                   interactive=can_estimate, elem_id="fd-estimate")  # fmt: skip
            timestep = gr.Slider(
                0, LAST_TIMESTEP, START_TIMESTEP, step=1, label="Timestep", elem_id="fd-timestep",
                info="How blurry the photo is: (frames averaged - 1) x 20 at 240 fps.",
            )  # fmt: skip
            strength = gr.Slider(
                0, 1, 1, step=0.05, label="Strength", elem_id="fd-strength",
                info="0: the photo as it is, 1: the whole restoration.",
            )  # fmt: skip
            with gr.Row():
                restore = gr.Button("Restore", variant="primary", elem_id="fd-restore")
                cancel = gr.Button("Cancel", elem_id="fd-cancel")
        with gr.Column(scale=2, min_width=320):
            answer = gr.HTML(elem_id="fd-answer", padding=False, min_height=120)
    # The browser sends the photo on each press and fills both with what came of it.
    photo, problem = gr.Textbox(visible=False), gr.Textbox(visible=False)
    timestep.release(lambda: False, outputs=estimate, queue=False, api_visibility="private")
    inputs = [photo, problem, estimate, timestep, strength]
    run = restore.click(
        page.restore, inputs, [answer, timestep], concurrency_id="model",
        api_visibility="private", show_progress_on=answer, trigger_mode="always_last",
        js="async (photo, problem, ...rest) => [...await window.fidediff.send(), ...rest]",
    )  # fmt: skip
    cancel.click(page.cancel, None, None, queue=False, api_visibility="private")
    cancel.click(lambda: view.message(CANCELLED), None, answer, cancels=[run], queue=False,
                 api_visibility="private")  # fmt: skip


def _trajectory_tab(page: Page) -> None:
    if page.data is None:
        gr.Markdown("Start the page with a data set to walk along its trajectories:\n\n"
                    "```\nfidediff app --data GOPRO_Large_trajectories\n```")  # fmt: skip
        return
    names = page.data.names
    with gr.Row():
        name = gr.Dropdown(names, value=None, label=f"Trajectory, one of {len(names):,}",
                           elem_id="fd-trajectory", filterable=True)  # fmt: skip
        restore = gr.Button("Restore every point", elem_id="fd-restore-points")
        cancel = gr.Button("Cancel", elem_id="fd-cancel-points")
    answer = gr.HTML(elem_id="fd-walk", padding=False, min_height=120)
    settings = {"concurrency_id": "model", "api_visibility": "private"}
    name.input(page.show_trajectory, name, answer, **settings)
    run = restore.click(page.restore_trajectory, name, answer, **settings)
    cancel.click(page.cancel, None, None, queue=False, api_visibility="private")
    cancel.click(lambda: view.message(CANCELLED), None, answer, cancels=[run], queue=False,
                 api_visibility="private")  # fmt: skip


def _about(page: Page) -> str:
    reach = (
        "Others can reach this page: it sends their photos to this machine."
        if page.shared
        else "This page is served to this machine alone; a photo does not leave it."
    )
    return (
        f"{reach} An upload is deleted as soon as it is read; the answer's files are deleted with"
        " the second answer after it, when the page is closed, or after"
        f" {KEPT_SECONDS // 60} minutes."
        f" Photos of at most {MAX_PIXELS // 1_000_000} megapixels and {MAX_BYTES >> 20} MB; one is"
        f" restored at a time, at most {WAITING} wait."
    )


def _plain(name: str) -> str:
    """A name without what Markdown would obey."""
    return "".join(c for c in name if c.isalnum() or c in " .,_-/@")


def launch_options(page: Page) -> dict[str, Any]:
    """What Gradio is launched with: our style and script, our folder, nothing from elsewhere."""
    script = (view.HERE / "page.js").read_text(encoding="utf-8")
    script = script.replace("__MAX_BYTES__", str(MAX_BYTES))
    return {
        # Fonts of the system: the default theme would fetch others from a server.
        "theme": gr.themes.Default(
            primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        "css": (view.HERE / "page.css").read_text(encoding="utf-8"),
        "head": f"<script>{script}</script>",
        "allowed_paths": [str(page.results.answers)],
        "max_file_size": MAX_BYTES,
        "footer_links": [],
        "quiet": True,
        "show_error": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "run_history": False,
    }
