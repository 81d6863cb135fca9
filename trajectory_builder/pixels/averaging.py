"""Exact means of nested windows in one pass; arrays in, arrays out, no files.

The windows of a trajectory are nested, so its longest window contains all of them: the sum starts
at the centre frame, grows outwards by one frame on each side, and is divided wherever a wanted
window is complete. Each frame is added once, however many windows need it.

Sums are integers, hence exact and independent of the order of frames. In the domain `srgb` the
mean is that of the stored values, rounded to nearest, bit-exact with GoPro's `blur` folders (n is
odd, so no tie exists). In `gamma2.2` frames are raised to the power 2.2, averaged and brought back
by 1/2.2, as for `blur_gamma`; nobody can reproduce those official files bit for bit
(DeepDeblur_release#65), and one or two grey levels of tolerance are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
"""Pixels of one frame, (H, W, 3) or any other shape, uint8 or uint16."""

Domain = Literal["srgb", "gamma2.2"]

GAMMA = 2.2
LINEAR_SCALE = (1 << 24) - 1
"""Linear light is stored in steps of 1 / LINEAR_SCALE; the darkest grey level is 85 of them."""
GAMMA_BINS = 1 << 20
"""Mean linear light is resolved in at least this many steps on the way back to 8 bits."""


class WindowMean(NamedTuple):
    """The blur of one window: rank of its centre frame, n_frames, and the mean's pixels."""

    center_index: int
    n_frames: int
    pixels: Pixels


def mean_of_window(frames: Sequence[Pixels], domain: Domain = "srgb") -> Pixels:
    """Mean of an odd number of frames, in their dtype, rounded to nearest.

    Raises:
        ValueError: as `nested_means`.
    """
    return nested_means(frames, (len(frames),), domain)[len(frames)]


def nested_means(
    frames: Sequence[Pixels], n_frames: Sequence[int], domain: Domain = "srgb"
) -> dict[int, Pixels]:
    """Means of windows that are nested round the middle one of `frames`.

    Args:
        frames: the longest window, in time order: an odd number of uint8 (or, in `srgb` only,
            uint16) arrays of one shape; not modified.
        n_frames: the wanted windows, odd, none longer than `frames`.
        domain: where values are averaged.

    Returns:
        n_frames to mean, ascending; same shape and dtype as the frames. In `srgb` equal to the
        float64 mean rounded to nearest; in `gamma2.2` within one grey level of it, and equal
        where the mean is not within 1e-6 of full linear light of a rounding border.

    Raises:
        ValueError: an even or too long window, another dtype, or frames of different shapes.
    """
    if len(frames) % 2 == 0 or any(n > len(frames) for n in n_frames):
        raise ValueError(f"windows {tuple(n_frames)} do not nest in {len(frames)} frames")
    center = len(frames) // 2
    grown = _Growth(center, n_frames, domain)
    means: dict[int, Pixels] = {}
    for radius in range(grown.reach + 1):
        mean = grown.add(frames[center - radius], frames[center + radius])
        if mean is not None:
            means[mean.n_frames] = mean.pixels
    return means


def in_one_pass(
    frames: Iterable[tuple[int, Pixels | None]],
    trajectories: Iterable[tuple[int, Sequence[int]]],
    domain: Domain = "srgb",
) -> Iterator[WindowMean]:
    """Means of all windows of many trajectories, reading the frames of a clip once.

    Keeps only frames that an open window still needs, so memory is bounded by the longest window
    (its earlier half, and one sum per trajectory that is open at the same time).

    Args:
        frames: (rank, pixels) with ascending ranks; None for an unusable frame. A rank that never
            comes counts as one. The arrays must not change afterwards.
        trajectories: (center_index, n_frames of its windows), in any order.
        domain: where values are averaged.

    Yields:
        Each window as soon as its last frame has come. A window that needs a missing frame is
        skipped; smaller windows of the same trajectory that do not need it are not.

    Raises:
        ValueError: ranks that do not ascend, an even window, another dtype, different shapes.
    """
    waiting = [_Growth(center, n_frames, domain) for center, n_frames in trajectories]
    waiting.sort(key=lambda grown: (grown.center_index - grown.reach, grown.center_index))
    waiting.reverse()  # the next to open is last, where pop() is O(1)
    opened: list[_Growth] = []
    kept: dict[int, Pixels] = {}
    last_rank: int | None = None
    for rank, pixels in frames:
        if last_rank is not None and rank <= last_rank:
            raise ValueError(f"frame {rank} came after frame {last_rank}")
        last_rank = rank
        while waiting and waiting[-1].center_index - waiting[-1].reach <= rank:
            opened.append(waiting.pop())
        if pixels is not None:
            kept[rank] = pixels
        for grown in opened:
            mean = grown.step(rank, kept)
            if mean is not None:
                yield mean
        opened = [grown for grown in opened if grown.is_open]
        kept = {r: kept[r] for r in kept if any(grown.needs(r) for grown in opened)}


class _Growth:
    """The sum of one trajectory's frames, growing outwards from its centre."""

    def __init__(self, center_index: int, n_frames: Sequence[int], domain: Domain) -> None:
        if not n_frames or any(n < 1 or n % 2 == 0 for n in n_frames):
            raise ValueError(f"n_frames must be odd and at least 1, not {tuple(n_frames)}")
        if domain not in get_args(Domain):
            raise ValueError(f"unknown domain {domain!r}; known are {', '.join(get_args(Domain))}")
        self.center_index = center_index
        self.wanted = frozenset(n_frames)
        self.reach = max(n_frames) // 2
        self.is_open = True
        self._domain: Domain = domain
        self._radius = 0  # of the ring of frames that comes next
        self._total: Pixels | None = None

    def needs(self, rank: int) -> bool:
        """Whether this frame will be added at a later step."""
        return self.center_index - self.reach <= rank <= self.center_index - self._radius

    def step(self, rank: int, kept: dict[int, Pixels]) -> WindowMean | None:
        """Add a ring when `rank` completes it; close for good when a frame of it is missing."""
        radius = rank - self.center_index
        if radius < self._radius:  # still before the centre
            return None
        early, late = kept.get(self.center_index - radius), kept.get(rank)
        if radius > self._radius or early is None or late is None:
            self.is_open = False
            return None
        return self.add(early, late)

    def add(self, early: Pixels, late: Pixels) -> WindowMean | None:
        """Add the next ring, the frames at the same distance before and after the centre."""
        if self._total is None:
            sum_dtype = _sum_dtype(late.dtype, 2 * self.reach + 1, self._domain)
            total = _linear(late, self._domain).astype(sum_dtype)
            self._dtype = late.dtype
        else:
            total = self._total
            for frame in (early, late):
                if (frame.shape, frame.dtype) != (total.shape, self._dtype):
                    found, others = f"{frame.shape} {frame.dtype}", f"{total.shape} {self._dtype}"
                    raise ValueError(f"a frame is {found}, the others are {others}")
                np.add(total, _linear(frame, self._domain), out=total)
        self._total = total
        n_frames = 2 * self._radius + 1
        self._radius += 1
        self.is_open = self._radius <= self.reach
        if n_frames not in self.wanted:
            return None
        if n_frames == 1:
            return WindowMean(self.center_index, 1, late.copy())
        mean = _mean(total, n_frames, self._dtype, self._domain)
        return WindowMean(self.center_index, n_frames, mean)


def _linear(frame: Pixels, domain: Domain) -> Pixels:
    """The values that are summed: the stored ones, or linear light as uint32."""
    if domain == "srgb":
        return frame
    linear: Pixels = cv2.LUT(np.ascontiguousarray(frame), _linear_light())
    return linear.view(np.uint32)  # never negative; OpenCV 4 has no uint32


def _sum_dtype(frame_dtype: np.dtype[Any], n_frames: int, domain: Domain) -> np.dtype[Any]:
    """The narrowest unsigned integers that hold the sum, rounding included."""
    if frame_dtype == np.uint8 and domain == "gamma2.2":
        return np.dtype(np.uint32 if n_frames * LINEAR_SCALE < 1 << 32 else np.uint64)
    if frame_dtype == np.uint8:
        return np.dtype(np.uint16 if n_frames * 255 < 1 << 16 else np.uint32)
    if frame_dtype == np.uint16 and domain == "srgb":
        return np.dtype(np.uint32 if n_frames * 65536 < 1 << 32 else np.uint64)
    raise ValueError(f"frames of {frame_dtype} cannot be averaged in {domain}")


def _mean(total: Pixels, n_frames: int, dtype: np.dtype[Any], domain: Domain) -> Pixels:
    """Divide a sum by `n_frames`, rounded to nearest, back in the frames' dtype."""
    if domain == "gamma2.2":
        shift, levels = _levels_of_sums(n_frames)
        bins: Pixels = total >> total.dtype.type(shift)
        return levels.take(bins.astype(np.intp))  # older numpy refuses 64 unsigned bits
    if total.dtype == np.uint16:
        # One float32 product per value, rounded once: a sum below 2^16 is off by at most 3e-5, its
        # distance to a tie is at least 1 / (2 n) >= 2e-3, so the result is exact (a test tries
        # every sum). It takes half the time of numpy's integer division.
        mean: Pixels = cv2.convertScaleAbs(total.reshape(1, -1), alpha=1.0 / n_frames)
        return mean.reshape(total.shape)
    half, count = total.dtype.type(n_frames // 2), total.dtype.type(n_frames)
    quotient: Pixels = (total + half) // count  # n is odd: no ties
    return quotient.astype(dtype)


@cache
def _linear_light() -> npt.NDArray[np.int32]:
    """Linear light of the 256 grey levels, in steps of 1 / LINEAR_SCALE."""
    levels = np.arange(256, dtype=np.float64) / 255.0
    return np.rint(levels**GAMMA * LINEAR_SCALE).astype(np.int32)


@cache
def _levels_of_sums(n_frames: int) -> tuple[int, npt.NDArray[np.uint8]]:
    """A right shift and a table: the grey level of `sum >> shift`, for sums of `n_frames`.

    The table has GAMMA_BINS to twice as many bins of equal width; a bin takes the level of its
    middle. The borders of the darkest levels are several bins apart, so the mean of equal frames
    is that frame.
    """
    peak = n_frames * LINEAR_SCALE
    shift = max(0, peak.bit_length() - GAMMA_BINS.bit_length())
    borders = ((np.arange(1, 256) - 0.5) / 255.0) ** GAMMA * peak  # between level v - 1 and v
    middles = (np.arange((peak >> shift) + 1) + 0.5) * (1 << shift)
    first_bins = np.searchsorted(middles, borders)
    edges = np.concatenate(([0], first_bins, [middles.size]))
    return shift, np.repeat(np.arange(256, dtype=np.uint8), np.diff(edges))
