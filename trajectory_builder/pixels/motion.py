"""How far the picture moves: between neighbouring frames, and over a window.

Optical flow (OpenCV's DIS) on small copies of the frames, in pixels of the full frame. The same
copies reveal cuts, static scenes and frames stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.images.video.colour import widened
from trajectory_builder.images.video.orientation import upright

Gray = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]

SMALL_SIDE = 400
"""Our choice: frames are halved until no side is longer; 1280 x 720 becomes 320 x 180."""

GHOSTING_PX = 3.0
"""Our choice: beyond 2 to 3 pixels between neighbours an average shows separate copies."""

STATIC_PX = 0.5
"""Our choice: a window that moves less is as sharp as its centre frame, and t means nothing."""

CUT_DIFFERENCE = 10.0
CUT_RATIO = 2.5
"""Our choice: a step of 10 levels that is 2.5 times the window's median step may be a cut ..."""

CUT_UNEXPLAINED = 0.5
"""Our choice: ... and is one if optical flow leaves half the difference, as motion never does."""

REPEATED_RATIO = 0.02
"""Our choice: a frame stored twice differs by less than 2 % of the window's median step."""

_MOST_SHIFT = 48  # pixels of a small copy
_EXPLAINED = 0.1  # a shift explains two pictures if it leaves a tenth of the squared difference

SCENE_CUT = "scene-cut"
STATIC = "static"
REPEATED = "frame-repeated"
_THUMB = (48, 27)


@dataclass(frozen=True, slots=True)
class Small:
    """A frame's small copies.

    Attributes:
        gray: (h, w) uint8, longer side at most `SMALL_SIDE`.
        thumb: (27, 48) float32 gray.
        scale: full-size pixels per pixel of `gray`.
    """

    gray: Gray
    thumb: npt.NDArray[np.float32]
    scale: float


def small(pixels: npt.NDArray[Any]) -> Small:
    """Small copies of a frame (H, W, 3) RGB, uint8 or uint16."""
    import cv2

    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    reduced, scale = _halved(pixels)
    return _small(np.asarray(cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY), dtype=np.uint8), scale)


def small_of_luma(luma: Gray, *, full_range: bool, orientation: int) -> Small:
    """Small copies of a frame from its stored luma, at half the cost of RGB.

    Args:
        luma: (h, w) as the file stores it.
        full_range: whether it runs from 0 to 255, not from 16 to 235.
        orientation: of the stored picture, see `images.video.orientation`.
    """
    gray, scale = _halved(luma)
    if not full_range:
        gray = widened(gray)
    return _small(upright(gray, orientation), scale)


def _halved(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], float]:
    """A picture halved until its longer side is at most `SMALL_SIDE`, and the total factor."""
    import cv2

    reduced, scale = pixels, 1.0
    while max(reduced.shape[:2]) > SMALL_SIDE and min(reduced.shape[:2]) > 1:
        # OpenCV has a fast path for 2 x 2 means; other factors are five times slower.
        size = (max(reduced.shape[1] // 2, 1), max(reduced.shape[0] // 2, 1))
        reduced = np.asarray(cv2.resize(reduced, size, interpolation=cv2.INTER_AREA), np.uint8)
        scale *= 2
    return reduced, scale


def _small(gray: Gray, scale: float) -> Small:
    import cv2

    thumb = cv2.resize(gray, _THUMB, interpolation=cv2.INTER_AREA).astype(np.float32)
    return Small(gray, thumb, scale)


def displacement(first: Small, last: Small) -> tuple[float, float]:
    """How far the picture moves from one frame to its neighbour, in full-size pixels.

    Returns:
        (median, 95th percentile) over the pixels with texture.
    """
    return _lengths(_flow(first.gray, last.gray), _followed(first), first.scale)


def step(first: Small, last: Small) -> tuple[float, float] | None:
    """`displacement` between neighbouring frames; None where the picture is too small for it.

    Flow that spans half of the picture is a wrong match: nothing is left in view to follow.
    """
    median, fast = displacement(first, last)
    return (median, fast) if fast <= max(first.gray.shape) * first.scale / 2 else None


def coarse(pixels: npt.NDArray[np.uint8]) -> Small:
    """A small copy of an 8-bit frame (H, W, 3) from every other green pixel: cheaper than `small`.

    For builds in which motion is a by-product.
    """
    gray, scale = _halved(np.ascontiguousarray(pixels[::2, ::2, 1]))
    return _small(gray, 2 * scale)


def growing_displacement(
    frames: Sequence[Small], reaches: Sequence[int]
) -> list[tuple[float, float]]:
    """How far the picture moves over windows that are nested round the middle frame.

    Flow is computed from the middle to both ends, and each window starts from the flow of the
    smaller one, so that long displacements are found too.

    Args:
        frames: the longest window, an odd number of frames.
        reaches: frames on each side of the middle one, ascending, from 1.

    Returns:
        For each reach (median, 95th percentile) of the displacement from the window's first frame
        to its last, in full-size pixels.
    """
    middle = len(frames) // 2
    center = frames[middle]
    followed = _followed(center)
    found: list[tuple[float, float]] = []
    forth: Flow | None = None
    back: Flow | None = None
    before = 1
    for reach in reaches:
        growth = np.float32(reach / before)
        forth = _flow(center.gray, frames[middle + reach].gray, forth, growth)
        back = _flow(center.gray, frames[middle - reach].gray, back, growth)
        found.append(_lengths(forth - back, followed, center.scale))
        before = reach
    return found


def _flow(first: Gray, last: Gray, start: Flow | None = None, growth: Any = 1) -> Flow:
    """Displacement (h, w, 2) in pixels of the small copies; `start` x `growth` is a first guess."""
    import cv2

    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    guess = None if start is None else start * growth
    field = method.calc(first, last, guess)  # type: ignore[arg-type]  # may be None
    flow = np.asarray(field, dtype=np.float32)
    return flow if flow.any() else flow + _shift_of_stripes(first, last)


def _shift_of_stripes(first: Gray, last: Gray) -> Flow:
    """The shift (2,) along rows or columns that explains how two pictures differ; 0 without one.

    DIS leaves a patch where it is when its texture has one direction (the aperture problem), so a
    picture of parallel stripes has no flow at all.
    """
    before = _squared_difference(first, last)
    best, shift = _EXPLAINED * before, np.zeros(2, np.float32)
    if not before:
        return shift
    for axis, (one, other) in enumerate([(first, last), (first.T, last.T)]):
        most = min(_MOST_SHIFT, one.shape[1] // 4)
        costs = [_shifted_difference(one, other, by) for by in range(-most - 1, most + 2)]
        place = int(np.argmin(costs[1:-1])) + 1
        left, least, right = costs[place - 1 : place + 2]
        # A parabola through three squared differences has its vertex at the shift between pixels.
        curve = left - 2 * least + right
        part = (left - right) / (2 * curve) if curve > 0 else 0.0
        if least - curve * part**2 / 2 < best:
            best, shift = least - curve * part**2 / 2, np.zeros(2, np.float32)
            shift[axis] = place - most - 1 + part
    return shift


def _shifted_difference(first: Gray, last: Gray, by: int) -> float:
    """Mean squared difference where `last` is `first` moved `by` columns to the right."""
    width = first.shape[1]
    here = first[:, max(-by, 0) : width - max(by, 0)]
    return _squared_difference(here, last[:, max(by, 0) : width - max(-by, 0)])


def _squared_difference(first: Gray, last: Gray) -> float:
    return float(np.square(first.astype(np.float32) - last).mean())


def _followed(of: Small) -> npt.NDArray[np.intp]:
    """Flat indices, among every other pixel in both directions, of pixels with texture.

    Flow in flat areas is a guess drawn towards its neighbours, so only texture counts.
    """
    import cv2

    edges = cv2.convertScaleAbs(cv2.Laplacian(of.gray, cv2.CV_16S))
    texture = cv2.blur(edges, (9, 9))[::2, ::2]
    places = np.flatnonzero(texture > max(float(np.median(texture)), 1.0))
    return places if places.size else np.arange(texture.size)


def _lengths(field: Flow, followed: npt.NDArray[np.intp], scale: float) -> tuple[float, float]:
    """(median, 95th percentile) of a flow's length where it counts, in full-size pixels."""
    vectors = field[::2, ::2].reshape(-1, 2).take(followed, axis=0)
    length = np.hypot(vectors[:, 0], vectors[:, 1]) * scale
    median, most = np.percentile(length, (50, 95))
    return float(median), float(most)


def steps(frames: Sequence[Small]) -> npt.NDArray[np.float64]:
    """Mean absolute difference of each thumbnail to the one before, in grey levels: (N - 1,)."""
    return np.array([np.abs(b.thumb - a.thumb).mean() for a, b in pairwise(frames)])


def interruption(frames: Sequence[Small]) -> str | None:
    """What breaks a window: a cut or a repeated frame in it, or None.

    A cut is one step far above the others that motion does not explain, so neither a fast pan nor
    a jerk is one. A repeated frame is one step far below the others, so a static scene has none.
    """
    differences = steps(frames)
    if len(differences) < 2:
        return None
    usual, place = float(np.median(differences)), int(differences.argmax())
    # Among two or three steps a cut raises the median itself: compare with the smallest.
    reference = usual if len(differences) > 3 else float(differences.min())
    if (
        differences[place] > max(CUT_DIFFERENCE, CUT_RATIO * reference)
        and _unexplained(frames[place], frames[place + 1]) > CUT_UNEXPLAINED
    ):
        return SCENE_CUT
    if usual > 0.25 and float(differences.min()) <= REPEATED_RATIO * usual:
        return REPEATED
    return None


def is_unexplained(first: Small, last: Small) -> bool:
    """Whether two neighbours differ clearly and motion does not explain how: no film does that."""
    apart = float(np.abs(last.thumb - first.thumb).mean())
    return apart > CUT_DIFFERENCE and _unexplained(first, last) > CUT_UNEXPLAINED


def _unexplained(first: Small, last: Small) -> float:
    """Share of the difference between two frames that optical flow does not explain."""
    import cv2

    field = _flow(first.gray, last.gray)
    height, width = first.gray.shape
    x = field[..., 0] + np.arange(width, dtype=np.float32)[None, :]
    y = field[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    back = cv2.remap(last.gray, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    before = float(cv2.absdiff(first.gray, last.gray).mean())
    return float(cv2.absdiff(first.gray, back).mean()) / max(before, 1e-6)
