"""Frame rates, gaps and duplicates, from frame times alone.

A window is defined by time, not by count: a frame that the camera dropped leaves a gap, which would
make the average jump, and a repeated one adds nothing. Containers may state a wrong rate, so it is
measured on the frames.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

TOLERANCE = 0.25
"""Our choice: an interval may differ from the clip's median by a quarter of it."""

GAP = "time-gap"
DUPLICATE = "time-duplicate"

Times = npt.NDArray[np.int64]


def median_interval(pts: Times) -> float:
    """Median time between neighbouring frames, in the unit of `pts`; 0 for fewer than two."""
    return float(np.median(np.diff(pts))) if len(pts) > 1 else 0.0


def measured_fps(pts: Times, time_base: Fraction) -> float:
    """Frames per second by the median interval; 0 for fewer than two frames.

    The rate is that of the mean over the intervals near the median: where the unit is too coarse
    (1 ms at 240 fps), the rounding of single times averages out.
    """
    median = median_interval(pts)
    if median <= 0:
        return 0.0
    intervals = np.diff(pts)
    near = intervals[np.abs(intervals - median) <= max(TOLERANCE * median, 1)]
    return float(1 / (Fraction(float(near.mean())).limit_denominator(10**6) * time_base))


def irregular(pts: Times) -> dict[int, str]:
    """Intervals that no window may cross: rank of the frame before it -> `GAP` or `DUPLICATE`.

    An interval is irregular when it differs from the median by more than `TOLERANCE` of it, and
    by more than one unit, the most that rounding can cause.
    """
    median = median_interval(pts)
    if median <= 0:
        return dict.fromkeys(range(len(pts) - 1), DUPLICATE)
    intervals = np.diff(pts)
    off = np.abs(intervals - median) > max(TOLERANCE * median, 1.0)
    return {
        int(rank): GAP if intervals[rank] > median else DUPLICATE for rank in np.flatnonzero(off)
    }
