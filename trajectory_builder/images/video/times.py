"""When frames were taken: rates, gaps and duplicates, from times alone.

A window is on time, not on count: a frame that the camera dropped leaves a gap which would make
the average jump, and one that it repeated adds nothing. Containers lie about rates, so the rate
is measured on the frames.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

TOLERANCE = 0.25
"""Ours: an interval may differ from the clip's median by a quarter of it."""

GAP = "time-gap"
DUPLICATE = "time-duplicate"

Times = npt.NDArray[np.int64]


def median_interval(pts: Times) -> float:
    """Median time between neighbouring frames, in the unit of `pts`; 0 for fewer than two."""
    return float(np.median(np.diff(pts))) if len(pts) > 1 else 0.0


def measured_fps(pts: Times, time_base: Fraction) -> float:
    """Frames a second by the median interval; 0 where that says nothing.

    Where the unit is too coarse for the rate (1 ms at 240 fps), the mean over the intervals that
    are near the median is taken, which the rounding of single times cannot move.
    """
    median = median_interval(pts)
    if median <= 0:
        return 0.0
    intervals = np.diff(pts)
    near = intervals[np.abs(intervals - median) <= max(TOLERANCE * median, 1)]
    return float(1 / (Fraction(float(near.mean())).limit_denominator(10**6) * time_base))


def irregular(pts: Times) -> dict[int, str]:
    """Intervals that no window may cross: rank of the frame before -> `GAP` or `DUPLICATE`.

    An interval is irregular when it differs from the median by more than `TOLERANCE` of it, and
    by more than one unit, which is how far rounding alone can move it.
    """
    median = median_interval(pts)
    if median <= 0:
        return dict.fromkeys(range(len(pts) - 1), DUPLICATE)
    intervals = np.diff(pts)
    off = np.abs(intervals - median) > max(TOLERANCE * median, 1.0)
    return {
        int(rank): GAP if intervals[rank] > median else DUPLICATE for rank in np.flatnonzero(off)
    }
