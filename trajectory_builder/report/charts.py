"""Geometry of the report's charts; the template draws it.

Horizontal places are percentages and vertical ones pixels, so that a chart fills a phone's width
and its text keeps its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trajectory_builder.report.pictures import Walk

PLOT_HEIGHT = 180
"""Pixels from the base line to the top of the highest bar."""

BINS = 28
LONG_TAIL = 6
"""Our choice: an axis is logarithmic where one value in a hundred is this many times the median."""


@dataclass(frozen=True)
class Tick:
    """A place on the axis in percent of the width, its text, and how that is anchored there."""

    x: float
    text: str
    anchor: str


@dataclass(frozen=True)
class Bar:
    """One bin: place and width in percent, height in pixels, and what it says when pointed at."""

    x: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """One or two distributions over the same bins.

    Attributes:
        series: (name, bars) of each.
        ticks: along the horizontal axis.
        summary: the distribution in a sentence, for those who do not see the chart.
        highest: the count of the highest bar.
        log: whether the horizontal axis is logarithmic.
    """

    series: tuple[tuple[str, tuple[Bar, ...]], ...]
    ticks: tuple[Tick, ...]
    summary: str
    highest: int
    log: bool


@dataclass(frozen=True)
class Segment:
    """A line from (x1, y1) to (x2, y2): x in percent, y in pixels from the top."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Fall:
    """How sharpness falls along the shown trajectories.

    Attributes:
        segments: of every trajectory.
        median: of the median over trajectories at each n.
        dots: (x, y, text) of the median's points.
        ticks: n along the horizontal axis.
        rising: names of trajectories on which a longer blur is sharper than a shorter one.
        summary: the medians in a sentence.
    """

    segments: tuple[Segment, ...]
    median: tuple[Segment, ...]
    dots: tuple[tuple[float, float, str], ...]
    ticks: tuple[Tick, ...]
    rising: tuple[str, ...]
    summary: str


def histogram(
    series: Sequence[tuple[str, npt.ArrayLike]], *, unit: str, log: bool | None = False
) -> Histogram | None:
    """Bin distributions over common bins.

    Args:
        series: (name, finite values) of each.
        unit: for texts, e.g. "px".
        log: bins of equal width in the logarithm; None where the values have a long tail.

    Returns:
        None where there is no value at all.
    """
    arrays = [(name, np.asarray(values, np.float64)) for name, values in series]
    arrays = [(name, values) for name, values in arrays if len(values)]
    if not arrays:
        return None
    together = np.concatenate([values for _, values in arrays])
    if log is None:
        middle, far = np.quantile(together, [0.5, 0.99])
        log = bool(far > LONG_TAIL * middle > 0)
    floor = _axis_floor(together) if log else -np.inf  # smaller values go into the first bin
    edges = _edges(np.maximum(together, floor), log)
    counts = [np.histogram(np.maximum(values, floor), edges)[0] for _, values in arrays]
    highest = max(int(count.max()) for count in counts)
    drawn = tuple(
        (name, _bars(count, edges, highest, unit))
        for (name, _), count in zip(arrays, counts, strict=True)
    )
    parts = [_sentence(name, values, unit) for name, values in arrays]
    return Histogram(drawn, _axis(edges), " ".join(parts), highest, log)


def _axis_floor(values: npt.NDArray[np.float64]) -> float:
    """The smallest value that a logarithmic axis shows: a thousandth of the largest at most."""
    positive = values[values > 0]
    return max(float(positive.min()), float(values.max()) / 1000) if len(positive) else 1.0


def fall(walks: Sequence[Walk]) -> Fall | None:
    """Sharpness of every point over that of the trajectory's sharp image, by n.

    Sharpness is the variance of the Laplacian; the vertical axis is its ratio, 1 at the top and
    0 at the base line. Returns None without a trajectory of known n.
    """
    curves = {f"{w.split} {w.trajectory_id}": _ratios(w) for w in walks}
    curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    levels = sorted({n for curve in curves.values() for n, _ in curve})
    medians = [
        (n, float(np.median([y for curve in curves.values() for m, y in curve if m == n])))
        for n in levels
    ]
    longest = levels[-1]
    rising = [
        name for name, curve in curves.items()
        if any(later[1] > 1.02 * sooner[1] for sooner, later in pairwise(curve))
    ]  # fmt: skip
    percents = ", ".join(f"{100 * y:.0f} % at n = {n}" for n, y in medians)
    return Fall(
        tuple(s for curve in curves.values() for s in _segments(curve, longest)),
        tuple(_segments(medians, longest)),
        tuple((*_place(n, y, longest), f"n = {n}: {100 * y:.0f} %") for n, y in medians),
        tuple(Tick(_place(n, 1, longest)[0], str(n), _anchor_of(n, longest)) for n in levels),
        tuple(sorted(rising)),
        f"Median sharpness of {len(curves)} trajectories, the sharp image being 100 %: {percents}.",
    )


def _ratios(walk: Walk) -> list[tuple[int, float]]:
    sharp = max(walk.points[0].sharpness, 1e-6)
    return [
        (p.n_frames, min(p.sharpness / sharp, 1.2)) for p in walk.points if p.n_frames is not None
    ]


def _place(n: int, ratio: float, longest: int) -> tuple[float, float]:
    """Place of a point: a margin of 4 % left and right, 1.2 being the top."""
    x = 4 + 92 * (n - 1) / max(longest - 1, 1)
    return round(x, 2), round(PLOT_HEIGHT * (1 - ratio / 1.2), 1)


def _anchor_of(n: int, longest: int) -> str:
    return "start" if n == 1 else "end" if n == longest else "middle"


def _segments(curve: Sequence[tuple[int, float]], longest: int) -> list[Segment]:
    places = [_place(n, ratio, longest) for n, ratio in curve]
    return [Segment(*a, *b) for a, b in pairwise(places)]


def _edges(values: npt.NDArray[np.float64], log: bool) -> npt.NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if not log:
        low = min(low, 0.0)
    high = max(high, low * 1.01, low + 1e-3)
    edges: npt.NDArray[np.float64] = (
        np.geomspace(low, high, BINS + 1) if log else np.linspace(low, high, BINS + 1)
    )
    edges[0], edges[-1] = low, high  # rounding must not drop the smallest or largest value
    return edges


def _bars(
    counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], highest: int, unit: str
) -> tuple[Bar, ...]:
    step = 100 / len(counts)
    return tuple(
        Bar(
            round(i * step + 0.1 * step, 2),
            round(0.8 * step, 2),
            round(max(1.5, PLOT_HEIGHT * count / highest), 1),
            f"{short(edges[i])} to {short(edges[i + 1])} {unit}: {count:,}",
        )
        for i, count in enumerate(counts)
        if count
    )


def _axis(edges: npt.NDArray[np.float64]) -> tuple[Tick, ...]:
    quarters = [0, BINS // 4, BINS // 2, 3 * BINS // 4, BINS]
    anchors = ["start", "middle", "middle", "middle", "end"]
    return tuple(
        Tick(100 * i / BINS, short(edges[i]), anchor)
        for i, anchor in zip(quarters, anchors, strict=True)
    )


def _sentence(name: str, values: npt.NDArray[np.float64], unit: str) -> str:
    low, middle, high = (short(q) for q in np.quantile(values, [0, 0.5, 1]))
    return f"{name}: {len(values):,} values from {low} to {high} {unit}, median {middle}."


def short(value: float) -> str:
    """A number in three digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")
