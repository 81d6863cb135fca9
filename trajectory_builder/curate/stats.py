"""Counts of a manifest, grouped by columns: a table, or a picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trajectory_builder.curate.rows import (
    codes,
    column_expected,
    hashes_of_few,
    joint_codes,
    scan,
    schema_of,
    whole_numbers,
)
from trajectory_builder.disk import atomic
from trajectory_builder.errors import DataError, ExitCode, UserError

DEFAULT_BY = ("split", "n_frames")
PLOTS = (".png", ".svg", ".pdf")
MOST_BARS = 60
"""Ours: more bars than this cannot be read; the longest are shown."""


@dataclass(frozen=True)
class Stats:
    """Counts of the pairs of some manifests.

    Attributes:
        by: the columns that were grouped by.
        groups: one dictionary a group: the columns of `by`, `pairs`, `trajectories`,
            `bytes` (a sharp image that several pairs of a group share counts once),
            `motion_px` (the mean, None where unknown).
        total: the same over all rows.
    """

    by: tuple[str, ...]
    groups: list[dict[str, Any]]
    total: dict[str, Any]

    def as_data(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {"by": list(self.by), "groups": self.groups, "total": self.total}

    def lines(self) -> list[str]:
        """The table as aligned text, one line a group, heads first and the total last."""
        numbers = ["pairs", "trajectories", "MB", "motion_px"]
        rows = [[*self.by, *numbers]]
        for group in self.groups:
            names = [_text(group[name]) for name in self.by]
            rows.append([*names, *_numbers(group)])
        if self.by:
            rows.append(["total", *[""] * (len(self.by) - 1), *_numbers(self.total)])
        else:
            rows[1:] = [_numbers(self.total)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return ["  ".join(_aligned(row, widths, len(self.by))).rstrip() for row in rows]


def stats(sources: Sequence[Path], by: Sequence[str] = DEFAULT_BY) -> Stats:
    """Count pairs, trajectories and bytes a group; opens no image.

    Args:
        sources: manifest files, folders of splits or data sets.
        by: columns of single values; empty for the total alone.

    Raises:
        DataError: a column is unknown or holds lists.
    """
    schema = schema_of(sources)
    for name in by:
        if pa.types.is_nested(column_expected(schema, name).type):
            raise DataError(
                f"column {name!r} holds lists; group by single values",
                where="--by",
                cure="choose another column, such as n_frames",
                exit_code=ExitCode.WRONG_USE,
            )
    needed = {*by, "blur_bytes", "sharp_bytes", "motion_px"}
    reduced = {"#trajectory": ("trajectory_id", hashes_of_few)}
    table = scan(sources, sorted(needed), reduced=reduced).table
    columns = _Columns(
        trajectories=codes(table["#trajectory"]),
        blur_bytes=whole_numbers(table["blur_bytes"]),
        sharp_bytes=whole_numbers(table["sharp_bytes"]),
        motion=np.asarray(table["motion_px"].to_numpy(), dtype=np.float64),
    )
    groups = _grouped(table, columns, list(dict.fromkeys(by)))
    total = _grouped(table, columns, [])[0]
    return Stats(tuple(dict.fromkeys(by)), groups if by else [], total)


@dataclass(frozen=True)
class _Columns:
    """What is counted and summed, one entry a row (N,).

    Attributes:
        trajectories: a number a trajectory, from 0 on.
        motion: NaN where it is unknown.
    """

    trajectories: npt.NDArray[np.int64]
    blur_bytes: npt.NDArray[np.int64]
    sharp_bytes: npt.NDArray[np.int64]
    motion: npt.NDArray[np.float64]


def _grouped(table: pa.Table, columns: _Columns, by: list[str]) -> list[dict[str, Any]]:
    """One dictionary a group, in ascending order of the group's values, unknown ones last."""
    groups = joint_codes([np.zeros(table.num_rows, np.int64), *(codes(table[c]) for c in by)])
    count = int(groups.max(initial=0)) + 1
    many = int(columns.trajectories.max(initial=0)) + 1
    # One row a trajectory of a group.
    first = _first_of_each(groups * many + columns.trajectories, count * many)
    known = np.isfinite(columns.motion)
    sums = {
        "pairs": np.bincount(groups, minlength=count),
        "trajectories": np.bincount(groups[first], minlength=count),
        "bytes": _summed(groups, columns.blur_bytes, count)
        + _summed(groups[first], columns.sharp_bytes[first], count),
        "motion": _summed(groups[known], columns.motion[known], count),
        "known": np.bincount(groups[known], minlength=count),
    }
    example = np.zeros(count, np.int64)
    example[groups[::-1]] = np.arange(table.num_rows)[::-1]
    values = table.select(by).take(pa.array(example)).to_pylist() if by else [{}]
    rows = [
        names | _numbers_of({key: value[index].item() for key, value in sums.items()})
        for index, names in enumerate(values)
    ]
    return sorted(rows, key=lambda row: [(row[name] is None, row[name] or 0) for name in by])


def _first_of_each(cells: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """The first row of each number that occurs in `cells`, all of which lie below `size`."""
    if size > 8 * cells.size:  # ours: a table of all numbers would be larger than what it saves
        return np.unique(cells, return_index=True)[1]
    first = np.full(size, -1, np.int64)
    first[cells[::-1]] = np.arange(cells.size)[::-1]
    return first[first >= 0]


def _summed(
    groups: npt.NDArray[np.int64], values: npt.NDArray[Any], count: int
) -> npt.NDArray[np.float64]:
    """Sums a group in float64: exact for bytes up to 2^53, nine thousand terabytes."""
    return np.bincount(groups, weights=values, minlength=count).astype(np.float64)


def _numbers_of(sums: dict[str, Any]) -> dict[str, Any]:
    motion = round(sums["motion"] / sums["known"], 3) if sums["known"] else None
    plain = {name: int(sums[name]) for name in ("pairs", "trajectories", "bytes")}
    return plain | {"motion_px": motion}


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)


def _numbers(group: dict[str, Any]) -> list[str]:
    motion = "-" if group["motion_px"] is None else f"{group['motion_px']:.1f}"
    return [
        f"{group['pairs']:,}",
        f"{group['trajectories']:,}",
        f"{group['bytes'] / 1e6:,.1f}",
        motion,
    ]


def _aligned(row: list[str], widths: list[int], left: int) -> list[str]:
    return [
        value.ljust(width) if index < left else value.rjust(width)
        for index, (value, width) in enumerate(zip(row, widths, strict=True))
    ]


def plot(counted: Stats, path: Path) -> None:
    """Draw pairs a group as bars; the last column of `by` runs along, the others are colours.

    Args:
        counted: with at least one column in `by`.
        path: .png, .svg or .pdf.

    Raises:
        UserError: matplotlib is not installed, or the suffix is another.
    """
    if path.suffix.lower() not in PLOTS or not counted.by:
        raise DataError(
            f"cannot draw into {path.name}" if counted.by else "there is nothing to draw",
            where=str(path),
            cure=f"give --by a column and --plot a name that ends in {', '.join(PLOTS)}",
            exit_code=ExitCode.WRONG_USE,
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "matplotlib is not installed, so nothing can be drawn",
            where=f"--plot {path}",
            cure="pip install 'fidediff[export]'",
        ) from error
    import io

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    _bars(figure, counted)
    sink = io.BytesIO()
    clockless = {"Date": None} if path.suffix.lower() == ".svg" else {}
    figure.savefig(sink, format=path.suffix[1:].lower(), dpi=150, metadata=clockless)
    atomic.write_atomic(path, sink.getvalue())


def _bars(figure: Any, counted: Stats) -> None:
    axes = figure.add_subplot()
    along, *others = reversed(counted.by)
    groups = counted.groups
    if len(groups) > MOST_BARS:
        groups = sorted(groups, key=lambda group: -group["pairs"])[:MOST_BARS]
    series: dict[str, dict[str, int]] = {}
    for group in groups:
        name = ", ".join(_text(group[other]) for other in reversed(others))
        series.setdefault(name, {})[_text(group[along])] = group["pairs"]
    places = list(dict.fromkeys(_text(group[along]) for group in groups))
    floor = [0] * len(places)
    for name, counts in series.items():
        heights = [counts.get(place, 0) for place in places]
        axes.bar(places, heights, bottom=floor, label=name)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    axes.set_xlabel(along)
    axes.set_ylabel("pairs")
    if len(places) > 12:
        axes.tick_params(axis="x", rotation=90, labelsize=7)
    if others:
        axes.legend(title=", ".join(reversed(others)), fontsize="small")
    rest = f" (the {MOST_BARS} largest of {len(counted.groups):,})"
    more = rest if len(counted.groups) > MOST_BARS else ""
    axes.set_title(f"{counted.total['pairs']:,} pairs{more}")
