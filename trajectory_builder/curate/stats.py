"""Counts of a manifest, grouped by columns: a table, or a picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.curate.table import column_expected, read_rows, schema_of
from trajectory_builder.disk import atomic
from trajectory_builder.errors import DataError, ExitCode, UserError

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_BY = ("split", "n_frames")
PLOTS = (".png", ".svg", ".pdf")
MOST_BARS = 60
"""Our choice: more bars than this cannot be read; the longest are shown."""


@dataclass(frozen=True)
class Stats:
    """Counts of the pairs of some manifests.

    Attributes:
        by: the columns that were grouped by.
        table: one line per group, ascending: the columns of `by`, `pairs`, `trajectories`,
            `bytes` (a sharp image that several pairs of a group share counts once),
            `motion_px` (the mean, null where unknown). No line where `by` is empty.
        total: the same over all rows, one line.
    """

    by: tuple[str, ...]
    table: pd.DataFrame
    total: pd.DataFrame

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        groups = _records(self.table)
        return {"by": list(self.by), "groups": groups, "total": _records(self.total)[0]}

    def lines(self) -> list[str]:
        """The table as aligned text, one line per group, heads first and the total last."""
        total = _records(self.total)[0]
        cells = [[*self.by, "pairs", "trajectories", "MB", "motion_px"]]
        cells += [[*(_text(g[name]) for name in self.by), *_numbers(g)]
                  for g in _records(self.table)]  # fmt: skip
        cells.append([*["total", *[""] * len(self.by)][: len(self.by)], *_numbers(total)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return ["  ".join(_aligned(row, widths, len(self.by))).rstrip() for row in cells]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Plain Python values, None for null."""
    plain = table.astype(object).where(table.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in plain.to_dict("records")]


def stats(sources: Sequence[Path], by: Sequence[str] = DEFAULT_BY) -> Stats:
    """Count pairs, trajectories and bytes per group; opens no image.

    Args:
        sources: manifest files, folders of splits or data sets.
        by: columns of single values; empty for the total alone.

    Raises:
        DataError: a column is unknown or contains lists.
    """
    columns = tuple(dict.fromkeys(by))
    schema = schema_of(sources)
    for name in columns:
        if pa.types.is_nested(column_expected(schema, name).type):
            raise DataError(
                f"column {name!r} contains lists; group by single values",
                where="--by",
                cure="choose another column, such as n_frames",
                exit_code=ExitCode.WRONG_USE,
            )
    needed = ["trajectory_id", "blur_bytes", "sharp_bytes", "motion_px"]
    frame = read_rows(sources, [*columns, *needed]).frame
    table = pa.Table.from_pandas(frame, preserve_index=False)
    groups = _counted(table, columns)
    return Stats(columns, groups if columns else groups.head(0), _counted(table, ()))


def _counted(table: pa.Table, by: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    motion = table["motion_px"].cast(pa.float64())
    values = pa.table(
        {f"by {name}": table[name] for name in by}
        | {name: table[name] for name in ("trajectory_id", "blur_bytes", "sharp_bytes")}
        | {"motion": pc.if_else(pc.is_finite(motion), motion, None)}
    )
    keys = [f"by {name}" for name in by]
    # Per trajectory of a group first: its sharp image counts once.
    each = values.group_by([*keys, "trajectory_id"]).aggregate([
        ("blur_bytes", "count"), ("blur_bytes", "sum"), ("sharp_bytes", "max"),
        ("motion", "sum"), ("motion", "count"),
    ])  # fmt: skip
    counted = each.group_by(keys).aggregate([
        ("trajectory_id", "count"), ("blur_bytes_count", "sum"), ("blur_bytes_sum", "sum"),
        ("sharp_bytes_max", "sum"), ("motion_sum", "sum"), ("motion_count", "sum"),
    ]).sort_by([(key, "ascending") for key in keys] or "blur_bytes_sum_sum")  # fmt: skip
    sums = counted.to_pandas(types_mapper=pd.ArrowDtype)
    sums = sums.fillna({name: 0 for name in sums.columns if name.endswith("_sum")})
    known = sums["motion_count_sum"].where(sums["motion_count_sum"] > 0)
    return pd.DataFrame(
        {name: sums[key] for name, key in zip(by, keys, strict=True)}
        | {
            "pairs": sums["blur_bytes_count_sum"],
            "trajectories": sums["trajectory_id_count"],
            "bytes": (sums["blur_bytes_sum_sum"] + sums["sharp_bytes_max_sum"]).astype("int64"),
            "motion_px": (sums["motion_sum_sum"] / known).round(3),
        }
    )


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)


def _numbers(group: dict[str, Any]) -> list[str]:
    motion = "-" if group["motion_px"] is None else f"{group['motion_px']:.1f}"
    counts = f"{group['pairs']:,}", f"{group['trajectories']:,}"
    return [*counts, f"{group['bytes'] / 1e6:,.1f}", motion]


def _aligned(row: list[str], widths: list[int], left: int) -> list[str]:
    return [
        value.ljust(width) if index < left else value.rjust(width)
        for index, (value, width) in enumerate(zip(row, widths, strict=True))
    ]


def plot(counted: Stats, path: Path) -> None:
    """Draw pairs per group as bars; the last column of `by` runs along, the others are colours.

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
    groups = _records(counted.table)
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
    if others and series:
        axes.legend(title=", ".join(reversed(others)), fontsize="small")
    rest = f" (the {MOST_BARS} largest of {len(counted.table):,})"
    more = rest if len(counted.table) > MOST_BARS else ""
    axes.set_title(f"{counted.total['pairs'].iloc[0]:,} pairs{more}")
