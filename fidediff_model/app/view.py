"""The HTML of the page's own parts; whatever comes from a file is text in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fidediff_model.app.photo import RestoredPhoto
from trajectory_builder.errors import UserError

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
"""Blurred pictures of ours; docs/images/app_examples.py draws them."""
_PAGES = Environment(
    loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True)
class Urls:
    """Where the browser finds the pictures of a view."""

    before: str
    after: str
    kernels: str | None = None


@dataclass(frozen=True)
class Step:
    """One point of a trajectory: n, its t, the t used, PSNR in words, and its view."""

    n: int
    t: int
    blur: str
    view: Markup
    used: float | None = None
    restored: str | None = None


@dataclass(frozen=True)
class _Example:
    name: str
    title: str
    source: str


def view(urls: Urls, size: tuple[int, int], *, before: str, after: str) -> Markup:
    """Two pictures of one size with the slider between them.

    Args:
        urls: the pictures.
        size: width and height in pixels.
        before: what the first one shows, in words.
        after: what the second one shows.
    """
    return _render(
        "view.html",
        before=urls.before,
        after=urls.after,
        kernels=urls.kernels,
        width=size[0],
        height=size[1],
        before_alt=before,
        after_alt=after,
    )


def photo(answer: RestoredPhoto, urls: Urls, file: str, *, estimated: bool) -> str:
    """A restored photo with what was kept and a link that saves it.

    Args:
        answer: the photo.
        urls: its pictures.
        file: where the browser finds the restored file.
        estimated: whether the model chose the timestep.
    """
    return _render(
        "photo.html",
        view=view(urls, answer.size, before="The photo before", after="The photo after"),
        file=file,
        file_name=answer.file_name,
        t=answer.t,
        estimated=estimated,
        seconds=answer.seconds,
        facts=answer.facts,
        notes=answer.notes,
    )


def walk(name: str, steps: Sequence[Step], gap: float | None) -> str:
    """A trajectory with a slider along its points, and the gap between their restorations."""
    is_restored = steps[0].used is not None
    return _render("walk.html", name=name, points=steps, gap=gap, is_restored=is_restored)


def choose() -> str:
    """Where a photo is dropped, pasted or chosen, and the examples."""
    examples = [
        _Example(path.name, path.stem.replace("-", " "), _data_url(path))
        for path in sorted(EXAMPLES.glob("*.jpg"))
    ]
    return _render("choose.html", examples=examples)


def message(error: UserError | str) -> str:
    """An error as the page says it: what happened and the cure; no path of this machine."""
    if isinstance(error, str):
        return _render("message.html", what=error, cure="")
    # A page has no command that could be run again.
    cure = error.cure.removesuffix(" and run the same command again")
    sentence = f"{cure[:1].upper()}{cure[1:]}." if cure else ""
    return _render("message.html", what=f"{error.what[:1].upper()}{error.what[1:]}.", cure=sentence)


def _data_url(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _render(template: str, **values: object) -> Markup:
    return Markup(_PAGES.get_template(template).render(values))  # autoescaped
