"""Frames between two frames, by optical flow: for footage whose frame rate is too low.

Each in-between frame is drawn from both neighbours. Where forward and backward flow disagree, the
pixel is hidden in one neighbour and is taken from the other. This smooths an average; it cannot
show what neither frame shows, so rows made with it have `origin = interpolated`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
Flow = npt.NDArray[np.float32]

CONSISTENT_PX = 1.0
"""Our choice: forward and backward flow must cancel to a pixel plus 5 % of their length."""

_CONSISTENT_SHARE = 0.05
_INVERSIONS = 4
_LEAST_TRUST = 1e-3


def between(first: Pixels, last: Pixels, count: int) -> list[Pixels]:
    """`count` frames at equal steps between two frames.

    Args:
        first: (H, W, 3) RGB, uint8 or uint16.
        last: the next frame, of the same shape and type.
        count: how many, at least 1.

    Returns:
        Frames of the same shape and type, in time order.
    """
    # DIS computes its flow on half of the pixels and enlarges it, so nothing is lost by searching
    # origins there, at a quarter of the cost.
    forward, backward = _halved(optical_flow(first, last)), _halved(optical_flow(last, first))
    trusts = agreement(forward, backward), agreement(backward, forward)
    return [
        _at((first, last), (forward, backward), trusts, (k + 1) / (count + 1)) for k in range(count)
    ]


def optical_flow(first: Pixels, last: Pixels) -> Flow:
    """Displacement (H, W, 2) in pixels, x then y, of each pixel of `first` to its place in `last`.

    OpenCV's DIS at its medium preset (Kroeger et al., ECCV 2016), on full-size luma.
    """
    import cv2

    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    field = flow.calc(_luma(first), _luma(last), None)  # type: ignore[call-overload]  # may be None
    return np.asarray(field, dtype=np.float32)


def agreement(there: Flow, back: Flow) -> npt.NDArray[np.float32]:
    """How well forward and backward flow cancel: (H, W) from 1 (exactly) towards 0.

    exp(-|there + back|^2 / (CONSISTENT_PX^2 + 0.05^2 (|there|^2 + |back|^2))): the check of
    Sundaram et al. (ECCV 2010, eq. 5) as a soft weight. It is low where a pixel is hidden in the
    other frame.
    """
    back_there = _sample(back, there)
    lost = np.sum((there + back_there) ** 2, axis=2)
    way = np.sum(there**2, axis=2) + np.sum(back_there**2, axis=2)
    allowed = CONSISTENT_PX**2 + _CONSISTENT_SHARE**2 * way
    return np.asarray(np.exp(-lost / allowed), dtype=np.float32)


def _at(
    frames: tuple[Pixels, Pixels],
    flows: tuple[Flow, Flow],
    trusts: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    time: float,
) -> Pixels:
    """The frame at `time` between 0 (first) and 1 (last); flows and trusts are halved."""
    import cv2

    height, width = frames[0].shape[:2]
    to_first, landed_first = _origin(flows[0] * np.float32(time))
    to_last, landed_last = _origin(flows[1] * np.float32(1 - time))
    # A neighbour counts by how near in time it is, by its flow's agreement at the pixel, and by
    # whether the search for the pixel's origin converged.
    weight_first = (1 - time) * _sample(trusts[0], to_first) * landed_first + _LEAST_TRUST
    weight_last = time * _sample(trusts[1], to_last) * landed_last + _LEAST_TRUST
    share = _enlarged(weight_last / (weight_first + weight_last), width, height)
    # (h, w, 2) offsets in halved pixels -> (H, W, 2) in pixels.
    rows, columns = to_first.shape[:2]
    scale = np.array([width / columns, height / rows], np.float32)
    one = _sample(frames[0], scale * _enlarged(to_first, width, height))
    other = _sample(frames[1], scale * _enlarged(to_last, width, height))
    if frames[0].dtype == np.uint8:
        return np.asarray(cv2.blendLinear(one, other, 1 - share, share), np.uint8)
    low = one.astype(np.float32)
    # A mean of two values of the type stays within its range.
    return np.asarray(np.rint(low + (other - low) * share[..., None]), frames[0].dtype)


def _halved(flow: Flow) -> Flow:
    """A flow on half as many rows and columns, in pixels of that size."""
    import cv2

    height, width = flow.shape[:2]
    columns, rows = (width + 1) // 2, (height + 1) // 2
    halved = cv2.resize(flow, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(halved * np.array([columns / width, rows / height]), np.float32)


def _enlarged(field: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[np.float32]:
    """A field of halved pixels at each pixel of the frame; its values stay as they are."""
    import cv2

    return np.asarray(
        cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    )


def _origin(flow: Flow) -> tuple[Flow, npt.NDArray[np.float32]]:
    """The origin of each pixel of the new frame: offset (H, W, 2), and trust (H, W).

    Solves y + flow(y) = x for y by fixed-point iteration from y = x - flow(x). Where several y
    end at x (something passes in front) or none does, it does not converge and trust is low.
    """
    offset = -flow
    for _ in range(_INVERSIONS):
        offset = -_sample(flow, offset)
    residual = np.sum((offset + _sample(flow, offset)) ** 2, axis=2)
    return offset, np.asarray(np.exp(-residual / 0.5), dtype=np.float32)


def _sample(array: npt.NDArray[Any], offset: Flow) -> npt.NDArray[Any]:
    """`array` (H, W[, C]) read bilinearly at each pixel plus `offset`; edges are repeated."""
    import cv2

    height, width = offset.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :] + offset[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + offset[..., 1]
    sampled = cv2.remap(array, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled)


def _luma(pixels: Pixels) -> npt.NDArray[np.uint8]:
    import cv2

    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def upsampled(
    frames: Iterable[tuple[int, Pixels | None]], count: int, wanted: Iterable[range]
) -> Iterator[tuple[int, Pixels | None]]:
    """A stream of frames with `count` new ones between neighbours.

    Args:
        frames: (rank, pixels or None where the frame is lost), ascending.
        count: in-between frames per pair of neighbours.
        wanted: runs of new ranks that are needed; others are not drawn.

    Yields:
        (rank x (count + 1) + k, pixels): k = 0 is the frame itself. None where a neighbour is lost.
    """
    needed = {rank for run in wanted for rank in run}
    factor = count + 1
    before: tuple[int, Pixels | None] | None = None
    for rank, pixels in frames:
        if before is not None and rank == before[0] + 1:
            inner = range(before[0] * factor + 1, rank * factor)
            if not needed.isdisjoint(inner):
                yield from zip(inner, _drawn(before[1], pixels, count), strict=True)
        yield rank * factor, pixels
        before = rank, pixels


def _drawn(first: Pixels | None, last: Pixels | None, count: int) -> list[Pixels | None]:
    if first is None or last is None:
        return [None] * count
    return list(between(first, last, count))
