"""What differs between two manifests or data sets: rows added, removed, changed, and their bytes.

Columns are compared one at a time, so memory holds two columns, not two tables. Damaged digests
are refused as anywhere, but the rows themselves need not be sound: a diff is for finding that out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.curate.rows import Mask, Rows, scan, schema_of
from trajectory_builder.errors import DataError, ExitCode, shorten

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """How `new` differs from `old`.

    Attributes:
        rows: (old, new) numbers of rows.
        added: sample_ids only in new, in its order.
        removed: sample_ids only in old.
        changed: sample_id -> the columns whose values differ.
        bytes_added, bytes_removed: payload of files (by content) only in the one or the other.
        columns_added, columns_removed: columns only in the one or the other.
        metadata: entry -> (old, new) where the manifests' metadata differ.
        reordered: the common rows stand in another order.
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

    def as_data(self) -> dict[str, Any]:
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
            lines.append("~ rows stand in another order")
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
        DataError: a sample_id stands twice in one of them.
        ManifestError: one of them cannot be read.
    """
    keys = [scan([side], ["sample_id"]) for side in (old, new)]
    ids = [_unique_ids(one, side) for one, side in zip(keys, (old, new), strict=True)]
    at = _matched(ids[0], ids[1])
    sides = tuple(
        _Side(path, schema_of([path]), rows) for path, rows in zip((old, new), at, strict=True)
    )
    alone = [_others(len(one), rows) for one, rows in zip(ids, at, strict=True)]
    unequal = _unequal(*sides)
    bytes_removed, bytes_added = (
        _bytes_only_here(here, there, rest, unequal)
        for here, there, rest in zip(sides, sides[::-1], alone, strict=True)
    )
    names = [side.schema.names for side in sides]
    return Difference(
        rows=(len(ids[0]), len(ids[1])),
        added=ids[1].take(pa.array(alone[1])).to_pylist(),
        removed=ids[0].take(pa.array(alone[0])).to_pylist(),
        changed=_changed(ids[1].take(pa.array(at[1])), unequal),
        bytes_added=bytes_added,
        bytes_removed=bytes_removed,
        columns_added=[name for name in names[1] if name not in names[0]],
        columns_removed=[name for name in names[0] if name not in names[1]],
        metadata=_metadata(keys[0], keys[1]),
        reordered=bool((np.diff(at[0]) < 0).any()),
    )


@dataclass(frozen=True)
class _Side:
    """One of the two: where it is, its columns, and where its rows are that both have."""

    path: Path
    schema: pa.Schema
    common: Indices

    def column(self, name: str, rows: Indices) -> pa.ChunkedArray:
        values = scan([self.path], [name]).table[name]
        return values if len(rows) == len(values) and _is_range(rows) else values.take(rows)


def _matched(old: pa.Array, new: pa.Array) -> tuple[Indices, Indices]:
    """The rows of old and of new that have the same sample_id, in the order of new."""
    if old.equals(new):
        return np.arange(len(old)), np.arange(len(old))
    position = pc.index_in(new, value_set=old)
    common = np.asarray(position.is_valid().to_numpy(zero_copy_only=False))
    at_old = np.asarray(position.drop_null().to_numpy(), dtype=np.int64)
    return at_old, np.flatnonzero(common)


def _is_range(rows: Indices) -> bool:
    return bool((rows == np.arange(len(rows))).all())


def _others(count: int, rows: Indices) -> Indices:
    rest = np.ones(count, np.bool_)
    rest[rows] = False
    return np.flatnonzero(rest)


def _unique_ids(rows: Rows, side: Path) -> pa.Array:
    ids = rows.table["sample_id"].combine_chunks()
    counts = ids.value_counts()
    if len(counts) != len(ids):
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        raise DataError(
            f"{len(twice):,} sample_ids stand twice, so rows cannot be matched",
            where=f"{side}: {shorten([str(name) for name in twice])}",
            cure="build that manifest again",
            exit_code=ExitCode.FAILED,
        )
    return ids


def _unequal(old: _Side, new: _Side) -> dict[str, Indices]:
    """Column -> which of the common rows differ in it."""
    found: dict[str, Indices] = {}
    for name in old.schema.names:
        if name in new.schema.names and name != "sample_id":
            values = [_comparable(side.column(name, side.common)) for side in (old, new)]
            if not values[0].equals(values[1]):
                found[name] = np.flatnonzero(_differ(values[0], values[1]))
    return {name: rows for name, rows in found.items() if len(rows)}


def _changed(ids: pa.Array, unequal: dict[str, Indices]) -> dict[str, list[str]]:
    """sample_id -> its differing columns, in the order of the rows and of the columns."""
    found: dict[int, list[str]] = {}
    for name, rows in unequal.items():
        for row in rows.tolist():
            found.setdefault(row, []).append(name)
    where = ids.take(pa.array(sorted(found), pa.int64())).to_pylist()
    return dict(zip(where, (found[row] for row in sorted(found)), strict=True))


def _comparable(values: pa.ChunkedArray) -> pa.Array:
    """A column as flat values that Arrow can compare: nested ones as text."""
    whole = values.combine_chunks()
    if pa.types.is_list(whole.type) and pa.types.is_primitive(whole.type.value_type):
        return pc.binary_join(whole.cast(pa.list_(pa.string())), ",")
    if pa.types.is_nested(whole.type):
        return pa.array([repr(value) for value in whole.to_pylist()])
    return whole


def _differ(one: pa.Array, other: pa.Array) -> Mask:
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
    """Bytes of files, told apart by their digest, that only one side has.

    Only rows that are alone or whose digest differs can hold such a file.
    """
    sizes: dict[str, int] = {}
    for kind in ("blur", "sharp"):
        differing = unequal.get(f"{kind}_sha256", np.zeros(0, np.int64))
        rows = np.concatenate([alone, here.common[differing]])
        if len(rows):
            digests = here.column(f"{kind}_sha256", rows).to_pylist()
            sizes.update(zip(digests, here.column(f"{kind}_bytes", rows).to_pylist(), strict=True))
    candidates = pa.array(list(sizes), pa.string())
    for kind in ("blur", "sharp") if sizes else ():
        others = scan([there.path], [f"{kind}_sha256"]).table[f"{kind}_sha256"]
        known = pc.unique(others.filter(pc.is_in(others, value_set=candidates)))
        for digest in known.to_pylist():
            sizes.pop(digest, None)
    return sum(size or 0 for size in sizes.values())


def _metadata(old: Rows, new: Rows) -> dict[str, tuple[str, str]]:
    joined = [{k: v for one in rows.metadata for k, v in one.items()} for rows in (old, new)]
    keys = sorted(joined[0].keys() | joined[1].keys())
    return {
        key: (joined[0].get(key, ""), joined[1].get(key, ""))
        for key in keys
        if joined[0].get(key) != joined[1].get(key)
    }
