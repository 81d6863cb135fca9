"""What differs between two manifests or data sets: rows added, removed, changed, and their bytes.

Columns are compared one at a time, so two columns are in memory, not two tables. Damaged digests
are refused as anywhere, but the rows themselves need not be sound: a diff is for finding that out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.curate.table import Rows, read_rows, schema_of
from trajectory_builder.errors import DataError, ExitCode, shorten

if TYPE_CHECKING:
    import pandas as pd

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """How `new` differs from `old`.

    Attributes:
        rows: (old, new) numbers of rows.
        added: sample_ids only in new, in its order.
        removed: sample_ids only in old.
        changed: sample_id -> the columns whose values differ.
        bytes_added, bytes_removed: bytes of files (by content) only in new, only in old.
        columns_added, columns_removed: columns only in new, only in old.
        metadata: entry -> (old, new) where the manifests' metadata differ.
        reordered: the common rows are in another order.
    """

    rows: tuple[int, int]
    added: list[str]
    removed: list[str]
    changed: dict[str, list[str]]
    bytes_added: int
    bytes_removed: int
    columns_added: list[str]
    columns_removed: list[str]
    metadata: dict[str, tuple[str, str]]
    reordered: bool

    @property
    def differs(self) -> bool:
        """Whether a row, a column or the rows' order differs; other metadata alone does not."""
        parts = (self.added, self.removed, self.changed, self.columns_added, self.columns_removed)
        return any(parts) or self.reordered

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "differs": self.differs,
            "rows": {"old": self.rows[0], "new": self.rows[1]},
            "counts": {
                "added": len(self.added),
                "removed": len(self.removed),
                "changed": len(self.changed),
            },
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "bytes": {"added": self.bytes_added, "removed": self.bytes_removed},
            "columns": {"added": self.columns_added, "removed": self.columns_removed},
            "metadata": {key: list(values) for key, values in self.metadata.items()},
            "reordered": self.reordered,
        }

    def lines(self, limit: int) -> list[str]:
        """The difference as text: at most `limit` rows of each kind (0 for all), then counts."""
        changed = [f"{name}: {', '.join(columns)}" for name, columns in self.changed.items()]
        lines = []
        for sign, rows in (("+", self.added), ("-", self.removed), ("~", changed)):
            shown = rows[:limit] if limit else rows
            lines += [f"{sign} {row}" for row in shown]
            if len(rows) > len(shown):
                lines.append(f"{sign} and {len(rows) - len(shown):,} more")
        lines += [f"+ column {name}" for name in self.columns_added]
        lines += [f"- column {name}" for name in self.columns_removed]
        lines += [f"~ {key}: {was} -> {now}" for key, (was, now) in self.metadata.items()]
        if self.reordered:
            lines.append("~ rows are in another order")
        return [*lines, self._summary()]

    def _summary(self) -> str:
        return (
            f"{self.rows[0]:,} -> {self.rows[1]:,} rows: {len(self.added):,} added,"
            f" {len(self.removed):,} removed, {len(self.changed):,} changed;"
            f" files: {self.bytes_added:,} bytes added, {self.bytes_removed:,} removed"
        )


def diff(old: Path, new: Path) -> Difference:
    """Compare two manifests by sample_id.

    Args:
        old: a manifest file, a split's folder or a data set's folder.
        new: the same.

    Raises:
        DataError: a sample_id occurs twice in one of them.
        ManifestError: one of them cannot be read.
    """
    import pandas as pd

    keys = [read_rows([side], ["sample_id"]) for side in (old, new)]
    ids = [_unique_ids(rows, side) for rows, side in zip(keys, (old, new), strict=True)]
    at_old = pd.Index(ids[0]).get_indexer(pd.Index(ids[1]))
    common = at_old >= 0
    sides = (_Side(old, schema_of([old]), at_old[common]),
             _Side(new, schema_of([new]), np.flatnonzero(common)))  # fmt: skip
    alone = [np.setdiff1d(np.arange(len(i)), s.common) for i, s in zip(ids, sides, strict=True)]
    unequal = _unequal(*sides)
    bytes_removed, bytes_added = (
        _bytes_only_here(here, there, rest, unequal)
        for here, there, rest in zip(sides, sides[::-1], alone, strict=True)
    )
    names = [side.schema.names for side in sides]
    return Difference(
        rows=(len(ids[0]), len(ids[1])),
        added=ids[1].iloc[alone[1]].tolist(),
        removed=ids[0].iloc[alone[0]].tolist(),
        changed=_changed(ids[1].iloc[sides[1].common], unequal),
        bytes_added=bytes_added,
        bytes_removed=bytes_removed,
        columns_added=[name for name in names[1] if name not in names[0]],
        columns_removed=[name for name in names[0] if name not in names[1]],
        metadata=_metadata(keys[0], keys[1]),
        reordered=bool((np.diff(sides[0].common) < 0).any()),
    )


@dataclass(frozen=True)
class _Side:
    """One of the two: where it is, its columns, and which of its rows both have, in new's order."""

    path: Path
    schema: pa.Schema
    common: Indices

    def column(self, name: str, rows: Indices) -> pa.Array:
        values = read_rows([self.path], [name]).frame[name]
        return pa.array(values.iloc[rows])


def _unique_ids(rows: Rows, side: Path) -> pd.Series[str]:
    ids = rows.frame["sample_id"]
    twice = ids[ids.duplicated()].unique().tolist()
    if twice:
        raise DataError(
            f"{len(twice):,} sample_ids occur twice, so rows cannot be matched",
            where=f"{side}: {shorten([str(name) for name in twice])}",
            cure="build that manifest again",
            exit_code=ExitCode.FAILED,
        )
    return ids


def _unequal(old: _Side, new: _Side) -> dict[str, Indices]:
    """Column -> which of the common rows differ in it."""
    unequal: dict[str, Indices] = {}
    for name in old.schema.names:
        if name in new.schema.names and name != "sample_id":
            values = [_comparable(side.column(name, side.common)) for side in (old, new)]
            if not values[0].equals(values[1]):
                unequal[name] = np.flatnonzero(_differ(values[0], values[1]))
    return {name: rows for name, rows in unequal.items() if len(rows)}


def _changed(ids: pd.Series[str], unequal: dict[str, Indices]) -> dict[str, list[str]]:
    """sample_id -> its differing columns, in the order of the rows and of the columns."""
    columns: dict[int, list[str]] = {}
    for name, rows in unequal.items():
        for row in rows.tolist():
            columns.setdefault(row, []).append(name)
    return {ids.iloc[row]: columns[row] for row in sorted(columns)}


def _comparable(values: pa.Array) -> pa.Array:
    """A column as flat values that Arrow can compare: nested ones as text."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_list(values.type) and pa.types.is_primitive(values.type.value_type):
        return pc.binary_join(values.cast(pa.list_(pa.string())), ",")
    if pa.types.is_nested(values.type):
        return pa.array([repr(value) for value in values.to_pylist()])
    return values


def _differ(one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
    """(R,) whether two columns differ; null equals null, and NaN equals NaN."""
    if one.type != other.type:
        one, other = one.cast(pa.string()), other.cast(pa.string())
    same = pc.fill_null(pc.equal(one, other), False)
    same = pc.or_(same, pc.and_(pc.is_null(one), pc.is_null(other)))
    if pa.types.is_floating(one.type):
        both = pc.and_(pc.is_nan(one), pc.is_nan(other))
        same = pc.or_(same, pc.fill_null(both, False))
    return np.asarray(pc.invert(same).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _bytes_only_here(here: _Side, there: _Side, alone: Indices, unequal: dict[str, Indices]) -> int:
    """Bytes of files, distinguished by their digest, that only one side has.

    Only rows that are alone or whose digest differs can have such a file.
    """
    sizes: dict[str, int] = {}
    for kind in ("blur", "sharp"):
        differing = unequal.get(f"{kind}_sha256", np.zeros(0, np.int64))
        rows = np.concatenate([alone, here.common[differing]])
        if len(rows):
            digests = here.column(f"{kind}_sha256", rows).to_pylist()
            sizes.update(zip(digests, here.column(f"{kind}_bytes", rows).to_pylist(), strict=True))
    if not sizes:
        return 0
    others = read_rows([there.path], ["blur_sha256", "sharp_sha256"]).frame
    known = {d for name in others for d in others[name][others[name].isin(list(sizes))]}
    return sum(size or 0 for digest, size in sizes.items() if digest not in known)


def _metadata(old: Rows, new: Rows) -> dict[str, tuple[str, str]]:
    joined = [{k: v for one in rows.metadata for k, v in one.items()} for rows in (old, new)]
    keys = sorted(joined[0].keys() | joined[1].keys())
    return {
        key: (joined[0].get(key, ""), joined[1].get(key, ""))
        for key in keys
        if joined[0].get(key) != joined[1].get(key)
    }
