"""Which frame a sharp image shows, when a copy of GoPro was encoded again or differs by a level.

Official sharp images equal a frame. In some copies single pixels differ by one grey level
(DeepDeblur_release#65), and mirrors that were encoded again differ everywhere a little. Such an
image is still nearer to its own frame than to the neighbours, unless nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

NEAR_LEVELS = 2.0
"""Our choice: mean difference, in grey levels, up to which two images may show the same frame."""
TIE_RATIO, TIE_LEVELS = 1.5, 0.1
"""Our choice: up to 1.5 times + 0.1 levels the distance of the nearest frame counts as equal."""
_STRIDE = 4


def sample(pixels: Pixels) -> Pixels:
    """Every fourth pixel each way: enough to compare frames, and a sixteenth of the memory."""
    return np.ascontiguousarray(pixels[::_STRIDE, ::_STRIDE])


def distance(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference of two images of one shape, in grey levels."""
    # int16, since the difference of two uint8 values wraps round below 0.
    return float(np.abs(one.astype(np.int16) - other).mean())


def nearest(sharp: Pixels, frames: Mapping[int, Pixels]) -> tuple[int, ...]:
    """Keys of the frames that the sharp image may show, ascending; empty where none is near.

    Args:
        sharp: (h, w, 3), a `sample`.
        frames: samples of the same shape.
    """
    apart = {key: distance(sharp, frame) for key, frame in frames.items()}
    least = min(apart.values(), default=NEAR_LEVELS + 1)
    if least > NEAR_LEVELS:
        return ()
    return tuple(sorted(key for key, d in apart.items() if d <= TIE_RATIO * least + TIE_LEVELS))
