"""The rule of at least three points on the backward trajectory, held against every row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

POINTS_WANTED = 3
"""Backward points that each blur should have (FideDiff: "at least 3 points")."""


@dataclass(frozen=True)
class LevelPoints:
    """Backward points of the pairs of one n.

    Attributes:
        n_frames: n of the pairs.
        pairs: how many there are.
        on_disk: backward points standing as files (the sharp one included) -> pairs.
        renderable: points that the same frames can give (the sharp one included) -> pairs.
    """

    n_frames: int
    pairs: int
    on_disk: dict[int, int]
    renderable: dict[int, int]


@dataclass(frozen=True)
class Points:
    """The "at least three backward points" rule, held against every row.

    Attributes:
        levels: per n, ascending.
        pairs: rows of known n; `unknown` rows have none and are left out.
        on_disk: rows with at least three points standing as files.
        renderable: rows whose frames can give at least three.
        longest: trajectories; `longest_on_disk` of them have three points below their longest blur.
        short: rows of n below 7, where three smaller odd n do not exist.
    """

    levels: tuple[LevelPoints, ...]
    pairs: int
    unknown: int
    on_disk: int
    renderable: int
    longest: int
    longest_on_disk: int
    short: int


def points(table: pa.Table) -> Points:
    """Hold every row against the rule of at least three backward points.

    On disk are the row's `backward_n_frames`. Renderable is every odd n below the row's n, since
    windows round one centre are nested; only a window that begins before the clip's first frame
    is not, and rows whose frames are not known (or were not averaged) have none.
    """
    known = table.filter(pc.is_valid(table["n_frames"]))
    n = known["n_frames"].to_numpy().astype(np.int64)
    on_disk = pc.list_value_length(known["backward_n_frames"]).to_numpy().astype(np.int64)
    renderable = np.maximum(_renderable(known, n), on_disk)
    levels = tuple(
        LevelPoints(
            int(level),
            int((n == level).sum()),
            _tally(on_disk[n == level]),
            _tally(renderable[n == level]),
        )
        for level in np.unique(n)
    )
    longest = _longest_rows(known, n)
    return Points(
        levels=levels,
        pairs=len(n),
        unknown=table.num_rows - len(n),
        on_disk=int((on_disk >= POINTS_WANTED).sum()),
        renderable=int((renderable >= POINTS_WANTED).sum()),
        longest=len(longest),
        longest_on_disk=int((on_disk[longest] >= POINTS_WANTED).sum()),
        short=int((n < 2 * POINTS_WANTED + 1).sum()),
    )


def _renderable(known: pa.Table, n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Odd numbers below each row's n whose window lies in the clip."""
    center = pc.fill_null(known["center_index"], -1).to_numpy().astype(np.int64)
    synthetic = pc.equal(known["origin"], "synthetic").to_numpy(zero_copy_only=False)
    inside = 2 * center + 1  # the largest centred window that does not begin below rank 0
    largest = np.minimum(n - 2, inside)
    counted: npt.NDArray[np.int64] = np.where((center < 0) | synthetic, 0, (largest + 1) // 2)
    return counted


def _longest_rows(known: pa.Table, n: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """One row number a trajectory: that of its largest n."""
    names = known["trajectory_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((n, names))
    last = np.ones(len(order), bool)
    last[:-1] = names[order][1:] != names[order][:-1]
    rows: npt.NDArray[np.intp] = order[last]
    return rows


def _tally(values: npt.NDArray[np.int64]) -> dict[int, int]:
    return {int(k): int(v) for k, v in zip(*np.unique(values, return_counts=True), strict=True)}
