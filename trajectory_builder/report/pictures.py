"""The report's images: trajectories to walk, small and at full size, as data URIs.

Every file is read once through `Manifest.file`, which refuses paths out of the data set. A file
that cannot be read costs its picture, not the report: it is listed by name and cause.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np

from trajectory_builder.errors import UserError
from trajectory_builder.images.pictures import read_rgb8
from trajectory_builder.images.png import Pixels
from trajectory_builder.manifest import Manifest
from trajectory_builder.report import sampling
from trajectory_builder.report.measures import Look, grey_of, look_at, reduced, sharpness

OVERVIEW_WIDTH = 440
"""Our choice: pixels; a complete frame of 720p in about 10 kB."""

DETAIL = 192
"""Our choice: side of the crop at full size that shows what an overview hides: ghosts and noise;
half the frame's height where that is less."""
CROP = 160
"""Our choice: side of the crops of single pairs at full size."""

SMALLEST_DETAIL = 48
THUMBNAIL_WIDTH = 200
QUALITY = 70
CROP_QUALITY = 80
"""Our choice: of crops at full size, where JPEG's own traces must not look like the blur's."""
PICTURE_BYTES = 2_900_000
"""Our choice: bytes of base64 for the viewer; the page of 4,000 pairs stays below 4 MB."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Point:
    """One point of a shown trajectory.

    Attributes:
        row: of its pair in the manifest; for the sharp one, of the strongest blur.
        n_frames, timestep: None where unknown; 1 and 0 for the sharp one.
        sample_id: of the pair; "" for the sharp point.
        file: relative to the data set.
        origin: official, averaged, ...; "sharp" for the sharp point.
        first_index: rank of the window's first frame, None where unknown.
        motion_px: of the pair.
        overview, detail: data URIs; detail is "" for images too small to crop.
        sharpness: variance of the Laplacian, grey levels squared.
    """

    row: int
    n_frames: int | None
    timestep: int | None
    sample_id: str
    file: str
    origin: str
    first_index: int | None
    motion_px: float | None
    overview: str
    detail: str
    sharpness: float


@dataclass(frozen=True)
class Walk:
    """A trajectory as the viewer shows it.

    Attributes:
        width, height: of its frames, pixels.
        detail_box: left, top, side of the crop in pixels; None without one.
        center_index, center_frame: as in the manifest.
        points: sharp first, then ascending n.
    """

    split: str
    clip: str
    trajectory_id: str
    width: int
    height: int
    detail_box: tuple[int, int, int] | None
    center_index: int | None
    center_frame: str | None
    points: tuple[Point, ...]

    @property
    def bytes(self) -> int:
        """Bytes of its pictures in the page."""
        return sum(len(p.overview) + len(p.detail) for p in self.points)


@dataclass(frozen=True)
class Unread:
    """A file that could not be shown, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Gallery:
    """Every image that was opened.

    Attributes:
        walks: the trajectories of the viewer.
        looks: row -> measures of its sharp image.
        unread: files that could not be read.
        left_out: walks that no longer fitted into the page.
    """

    walks: tuple[Walk, ...]
    looks: Mapping[int, Look]
    unread: tuple[Unread, ...]
    left_out: int = 0


@dataclass(frozen=True)
class _Opened:
    """One trajectory's images: the walk and the sharp image's look, where they could be read."""

    walk: Walk | None = None
    look: Look | None = None
    unread: tuple[Unread, ...] = ()


def gather(rows: Manifest) -> Gallery:
    """Open what `sampling` chooses, with as many threads as cores (four at most)."""
    chosen = sampling.trajectories(rows.table)
    opened = _parallel(lambda one: _open_walk(rows, one), chosen)
    walks = [one.walk for one in opened if one.walk is not None]
    # The walks come in the order in which they are shown; what does not fit is the end of it.
    filled = np.cumsum([walk.bytes for walk in walks])
    fitting = max(1, int((filled <= PICTURE_BYTES).sum()))
    seen = {c.trajectory_id for c in chosen}
    sample = sampling.sharp_sample(rows.table, chosen)
    fresh = [row for row in sample if rows.table["trajectory_id"][row].as_py() not in seen]
    sharps = dict(zip(fresh, _parallel(lambda row: _sharp_look(rows, row), fresh), strict=True))
    looks = {c.rows[-1]: o.look for c, o in zip(chosen, opened, strict=True) if o.look is not None}
    looks |= {row: look for row, look in sharps.items() if isinstance(look, Look)}
    unread = [u for one in opened for u in one.unread]
    unread += [one for one in sharps.values() if isinstance(one, Unread)]
    return Gallery(tuple(walks[:fitting]), looks, tuple(unread), len(walks[fitting:]))


def read_pixels(rows: Manifest, row: int, column: str) -> Pixels:
    """The image of a row as (H, W, 3) uint8 RGB; of any common format.

    Raises:
        UserError: it is absent, leaves the data set, or is no image.
    """
    return read_rgb8(rows.file(row, column))


def data_uri(pixels: Pixels, *, width: int | None = None, quality: int = QUALITY) -> str:
    """(H, W, 3) uint8 RGB as a JPEG data URI, reduced to `width` pixels if it is wider.

    WebP would be half the size, and takes 25 times as long: two seconds more for GoPro.
    """
    if width is not None and pixels.shape[1] > width:
        height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
        pixels = reduced(pixels, width, height)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _open_walk(rows: Manifest, chosen: sampling.Chosen) -> _Opened:
    """Decode a trajectory; without its sharp file there is nothing to walk to."""
    last = chosen.rows[-1]
    sharp = _try_read(rows, last, "sharp_file_name")
    if isinstance(sharp, Unread):
        return _Opened(unread=(sharp,))
    look = look_at(sharp, data_uri(sharp, width=THUMBNAIL_WIDTH))
    read = [(row, _try_read(rows, row, "blur_file_name")) for row in chosen.rows]
    unread = tuple(blur for _, blur in read if isinstance(blur, Unread))
    blurs = [(row, blur) for row, blur in read if not isinstance(blur, Unread)]
    if not blurs:
        return _Opened(None, look, unread)
    box = _detail_box(sharp, blurs[-1][1], DETAIL)
    values = _values(rows, last)
    points = [
        Point(
            last, 1, 0, "", _shown_name(rows, last, "sharp_file_name"), "sharp",
            values["center_index"], None, data_uri(sharp, width=OVERVIEW_WIDTH),
            _detail(sharp, box), look.sharpness,
        )
    ]  # fmt: skip
    points += [_blur_point(rows, row, blur, box) for row, blur in blurs]
    walk = Walk(
        chosen.split, chosen.clip, chosen.trajectory_id, sharp.shape[1], sharp.shape[0], box,
        values["center_index"], values["center_frame"], tuple(points),
    )  # fmt: skip
    return _Opened(walk, look, unread)


def _blur_point(
    rows: Manifest, row: int, pixels: Pixels, box: tuple[int, int, int] | None
) -> Point:
    values = _values(rows, row)
    return Point(
        row, values["n_frames"], values["timestep"], values["sample_id"],
        _shown_name(rows, row, "blur_file_name"), values["origin"], values["first_index"],
        values["motion_px"], data_uri(pixels, width=OVERVIEW_WIDTH), _detail(pixels, box),
        sharpness(pixels),
    )  # fmt: skip


def _values(rows: Manifest, row: int) -> dict[str, Any]:
    values: dict[str, Any] = rows.table.slice(row, 1).to_pylist()[0]
    return values


def _shown_name(rows: Manifest, row: int, column: str) -> str:
    return f"{rows.folder(row).name}/{rows.table[column][row].as_py()}"


def _detail(pixels: Pixels, box: tuple[int, int, int] | None) -> str:
    if box is None:
        return ""
    left, top, side = box
    crop = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return data_uri(crop, quality=CROP_QUALITY)


def _detail_box(sharp: Pixels, blur: Pixels, side: int) -> tuple[int, int, int] | None:
    """The square in which the blur differs most from the sharp image."""
    if sharp.shape != blur.shape:
        return None
    return _fullest_square(grey_of(np.asarray(cv2.absdiff(sharp, blur), np.uint8)), side)


def _fullest_square(energy: Pixels, side: int) -> tuple[int, int, int] | None:
    """Left, top and side of the square of an (H, W) image with the largest mean."""
    height, width = energy.shape[:2]
    side = min(side, height // 2, width // 2)
    if side < SMALLEST_DETAIL:
        return None
    cell = side // 12
    coarse = reduced(energy, width // cell, height // cell).astype(np.float32)
    taps = side // cell
    means = cv2.boxFilter(coarse, -1, (taps, taps), anchor=(0, 0))
    inside = means[: (height - side) // cell + 1, : (width - side) // cell + 1]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return min(int(left) * cell, width - side), min(int(top) * cell, height - side), side


@dataclass(frozen=True)
class Crops:
    """The same square of a pair's images at full size, data URIs, and the blur's sharpness."""

    sharp: str
    blur: str
    side: int
    blur_sharpness: float


def crops_of_pairs(rows: Manifest, wanted: Sequence[int]) -> list[Crops | None]:
    """Crops of the pairs of some rows; None where an image cannot be read or is too small."""
    return _parallel(lambda row: _crops(rows, row), list(wanted))


def _crops(rows: Manifest, row: int) -> Crops | None:
    sharp, blur = (_try_read(rows, row, f"{kind}_file_name") for kind in ("sharp", "blur"))
    if isinstance(sharp, Unread) or isinstance(blur, Unread):
        return None
    box = _detail_box(sharp, blur, CROP)
    if box is None:
        return None
    return Crops(_detail(sharp, box), _detail(blur, box), box[2], sharpness(blur))


def _sharp_look(rows: Manifest, row: int) -> Look | Unread:
    pixels = _try_read(rows, row, "sharp_file_name")
    if isinstance(pixels, Unread):
        return pixels
    return look_at(pixels, data_uri(pixels, width=THUMBNAIL_WIDTH))


def _try_read(rows: Manifest, row: int, column: str) -> Pixels | Unread:
    try:
        return read_pixels(rows, row, column)
    except (UserError, OSError) as error:
        what = error.what if isinstance(error, UserError) else str(error)
        return Unread(_shown_name(rows, row, column), what)


def _parallel(work: Callable[[_T], _R], items: list[_T]) -> list[_R]:
    """The results in order; a data set of any size takes the memory of a few frames per thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    with ThreadPoolExecutor(min(4, cores)) as pool:
        return list(pool.map(work, items))
