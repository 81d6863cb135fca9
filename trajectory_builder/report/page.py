"""The report as one HTML file: a Jinja2 template with autoescape, style and script inside.

The page's policy allows its own style and script by their digests, images from data URIs, and
nothing else: a file name that looks like a tag or a link is text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trajectory_builder.errors import shorten
from trajectory_builder.manifest import SCHEMA, Manifest
from trajectory_builder.report import charts, extremes, measures
from trajectory_builder.report.counts import POINTS_WANTED, Numbers
from trajectory_builder.report.links import Links
from trajectory_builder.report.pairs import MAX_ROWS, pair_table
from trajectory_builder.report.pictures import Gallery
from trajectory_builder.report.records import agreement
from trajectory_builder.report.rejected import Rejected
from trajectory_builder.report.sampling import MAX_POINTS
from trajectory_builder.report.summary import findings
from trajectory_builder.version import __version__

HERE = Path(__file__).parent
GENERATOR = "trajbuild report"
CLIPS_LISTED = 400
LEVELS_LISTED = 60
SHOWN = 12
"""Our choice: pairs of look-alikes, outliers and same files that are shown with thumbnails."""

MAX_BRANCHES = 60
MAX_DEPTH = 5


@dataclass(frozen=True)
class Thumb:
    """A small image and where it is from."""

    picture: str
    split: str
    name: str


@dataclass(frozen=True)
class Alike:
    """Two thumbnails side by side and what joins them."""

    first: Thumb
    second: Thumb
    text: str
    across: bool


@dataclass(frozen=True)
class Strange:
    """An outlier's thumbnail and why it is one."""

    thumb: Thumb
    text: str


@dataclass(frozen=True)
class Tree:
    """A JSON value made ready to show: text, named branches, or a table.

    Attributes:
        text: of a plain value; "" otherwise.
        branches: (name, tree) of an object or list.
        header, rows: of a list of flat objects.
        more: how many entries are not shown.
    """

    text: str = ""
    branches: tuple[tuple[str, Tree], ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    more: int = 0


def render(
    name: str,
    rows: Manifest,
    numbers: Numbers,
    gallery: Gallery,
    links: Links,
    rejected: Mapping[str, Sequence[Rejected]],
) -> str:
    """The complete page.

    Args:
        name: of the data set, for the title.
        rows: its manifests.
        numbers: from `counts`.
        gallery: from `pictures`.
        links: from the page to the data set's files.
        rejected: reason -> pictures of windows that make no pair.
    """
    soft = measures.soft_limit(gallery.looks)
    strips = extremes.strips(rows, gallery.looks)
    blurs = {p.row: p.sharpness for walk in gallery.walks for p in walk.points[1:]}
    blurs |= {pair.row: pair.crops.blur_sharpness for strip in strips for pair in strip.pairs}
    style, script = ((HERE / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    alike = measures.near_duplicates(gallery.looks)
    strange = measures.outliers(gallery.looks)
    return _environment().get_template("report.html").render(
        name=name,
        version=__version__,
        generator=GENERATOR,
        policy=content_policy(style, script),
        style=Markup(style),  # package data, no input
        script=Markup(script),
        n=numbers,
        rejected=rejected,
        gallery=gallery,
        strips=strips,
        pairs=Markup(pair_table(rows, gallery.looks, blurs, links, soft)),
        pair=lambda row: {k: rows.table[k][row].as_py() for k in ("split", "sample_id")},
        link=lambda row, kind: links.of(rows, row, f"{kind}_file_name"),
        soft=soft,
        steps=charts.histogram([("Largest step", _known(rows, "step_px"))], unit="px", log=None),
        meanings={k: _meaning(k) for k in ("motion_px", "step_px")},
        glance=findings(numbers, gallery, alike, strange, rows),
        motion=charts.histogram([("Motion", numbers.motion)], unit="px", log=None),
        sharpness=_sharpness(gallery),
        fall=charts.fall(gallery.walks),
        same=[_same(gallery, rows, s.rows) for s in numbers.same_sharp[:SHOWN]],
        alike=[_alike(rows, gallery, near) for near in alike[:SHOWN]],
        alike_count=len(alike),
        strange=[_strange(rows, gallery, outlier) for outlier in strange[:SHOWN]],
        strange_count=len(strange),
        agreement=agreement(numbers.build),
        alignment=tree(numbers.build["alignment"]) if numbers.build.get("alignment") else None,
        record=tree({k: v for k, v in numbers.build.items() if k not in ("alignment",)}),
        metadata=numbers.metadata,
        limits={
            "clips": CLIPS_LISTED, "levels": LEVELS_LISTED, "points": MAX_POINTS, "shown": SHOWN,
            "near": measures.NEAR_BITS, "far": measures.FAR_SIGMAS, "wanted": POINTS_WANTED,
            "plot": charts.PLOT_HEIGHT, "rows": MAX_ROWS,
        },
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"count": _count, "size": _size, "short": charts.short}
    return environment


def _known(rows: Manifest, column: str) -> npt.NDArray[np.float64]:
    values = rows.table[column].drop_null().to_numpy().astype(np.float64)
    known: npt.NDArray[np.float64] = values[np.isfinite(values)]
    return known


def _meaning(column: str) -> str:
    """What the manifest's schema says of a column, as a sentence."""
    text = (SCHEMA.field(column).metadata or {})[b"meaning"].decode()
    return f"{text[0].upper()}{text[1:]}"


def content_policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this style, this script, data URIs as images, nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _count(value: int) -> str:
    return f"{value:,}"


def _size(value: int) -> str:
    """Bytes in decimal units, as disks are sold."""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _sharpness(gallery: Gallery) -> charts.Histogram | None:
    sharp = [max(look.sharpness, 0.01) for look in gallery.looks.values()]
    blurs = [max(p.sharpness, 0.01) for w in gallery.walks for p in w.points[1:]]
    return charts.histogram(
        [("Sharp images", sharp), ("Blurs", blurs)], unit="grey levels²", log=True
    )


def _thumb(rows: Manifest, gallery: Gallery, row: int) -> Thumb:
    look = gallery.looks.get(row)
    table = rows.table
    return Thumb(
        look.thumbnail if look else "",
        table["split"][row].as_py(),
        table["trajectory_id"][row].as_py(),
    )


def _alike(rows: Manifest, gallery: Gallery, near: measures.Near) -> Alike:
    first, second = (_thumb(rows, gallery, row) for row in (near.first, near.second))
    return Alike(first, second, f"{near.bits} of 256 bits differ", first.split != second.split)


def _same(gallery: Gallery, rows: Manifest, same: tuple[int, ...]) -> Alike:
    first, second = (_thumb(rows, gallery, row) for row in same[:2])
    more = f", in {len(same)} trajectories" if len(same) > 2 else ""
    return Alike(first, second, f"the same file{more}", first.split != second.split)


def _strange(rows: Manifest, gallery: Gallery, outlier: measures.Outlier) -> Strange:
    look = gallery.looks[outlier.key]
    value = look.sharpness if outlier.measure == "sharpness" else look.brightness
    side = "above" if outlier.sigmas > 0 else "below"
    text = f"{outlier.measure} {charts.short(value)}, {abs(outlier.sigmas):.1f} sigma {side}"
    return Strange(_thumb(rows, gallery, outlier.key), text)


def tree(value: Any, depth: int = 0) -> Tree:
    """A JSON value as a `Tree`, cut at `MAX_BRANCHES` entries and `MAX_DEPTH` levels."""
    if depth >= MAX_DEPTH and isinstance(value, dict | list):
        return Tree(text=f"{len(value):,} entries")
    if isinstance(value, dict):
        items = [(str(key), part) for key, part in value.items()]
        branches = [(key, tree(part, depth + 1)) for key, part in items[:MAX_BRANCHES]]
        return Tree(branches=tuple(branches), more=max(0, len(items) - MAX_BRANCHES))
    if isinstance(value, list):
        return _list(value, depth)
    return Tree(text=_plain(value))


def _list(values: list[Any], depth: int) -> Tree:
    more = max(0, len(values) - MAX_BRANCHES)
    listed = values[:MAX_BRANCHES]
    if listed and all(isinstance(one, Mapping) and _is_flat(one) for one in listed):
        header = list(dict.fromkeys(str(key) for one in listed for key in one))
        cells = [tuple(_plain(one.get(key, "")) for key in header) for one in listed]
        return Tree(header=tuple(header), rows=tuple(cells), more=more)
    if not any(isinstance(one, dict | list) for one in listed):
        ending = f" and {more:,} more" if more else ""
        return Tree(text=", ".join(map(_plain, listed)) + ending or "none")
    numbered = [(str(i + 1), tree(one, depth + 1)) for i, one in enumerate(listed)]
    return Tree(branches=tuple(numbered), more=more)


def _is_flat(one: Mapping[str, Any]) -> bool:
    """Whether each value fits into a cell: plain, or a list or object of plain values."""
    parts = [list(p.values()) if isinstance(p, dict) else p for p in one.values()]
    return not any(
        isinstance(inner, dict | list) for p in parts if isinstance(p, list) for inner in p
    )


def _plain(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict | list):
        named = value.items() if isinstance(value, dict) else [("", one) for one in value]
        return shorten([f"{key}: {one}" if key != "" else str(one) for key, one in named])
    return charts.short(value) if isinstance(value, float) else str(value)
