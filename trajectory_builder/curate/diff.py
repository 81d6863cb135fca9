"""What differs between two manifests or data sets: rows added, removed, changed, and their bytes.

Columns are compared one at a time, so memory holds two columns, not two tables. Damaged digests
are refused as anywhere, but the rows themselves need not be sound: a diff is for finding that out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.curate.rows import CurateError, Mask, Rows, scan, schema_of
from trajectory_builder.errors import ExitCode, shorten


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
        CurateError: a sample_id stands twice in one of them.
        ManifestError: one of them cannot be read.
    """
    keys = [scan([side], ["sample_id"]) for side in (old, new)]
    ids = [_unique_ids(one, side) for one, side in zip(keys, (old, new), strict=True)]
    position = pc.index_in(ids[1], value_set=ids[0])
    common = np.asarray(position.is_valid().to_numpy(zero_copy_only=False))
    at_new = np.flatnonzero(common)
    at_old = np.asarray(position.drop_null().to_numpy(), dtype=np.int64)
    removed = pc.invert(pc.is_in(ids[0], value_set=ids[1]))
    schemas = [schema_of([side]) for side in (old, new)]
    bytes_added, bytes_removed = _payload(old, new)
    return Difference(
        rows=(len(keys[0]), len(keys[1])),
        added=ids[1].filter(pa.array(~common)).to_pylist(),
        removed=ids[0].filter(removed).to_pylist(),
        changed=_changed(old, new, ids[1], (at_old, at_new), schemas),
        bytes_added=bytes_added,
        bytes_removed=bytes_removed,
        columns_added=[n for n in schemas[1].names if n not in schemas[0].names],
        columns_removed=[n for n in schemas[0].names if n not in schemas[1].names],
        metadata=_metadata(keys[0], keys[1]),
        reordered=bool((np.diff(at_old) < 0).any()),
    )


def _unique_ids(rows: Rows, side: Path) -> pa.Array:
    ids = rows.table["sample_id"].combine_chunks()
    counts = ids.value_counts()
    if len(counts) != len(ids):
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        raise CurateError(
            f"{len(twice):,} sample_ids stand twice, so rows cannot be matched",
            where=f"{side}: {shorten([str(name) for name in twice])}",
            cure="build that manifest again",
            exit_code=ExitCode.FAILED,
        )
    return ids


def _changed(
    old: Path,
    new: Path,
    ids: pa.Array,
    at: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    schemas: Sequence[pa.Schema],
) -> dict[str, list[str]]:
    """sample_id -> differing columns, for rows that stand at `at` in both."""
    names = [name for name in schemas[0].names if name in schemas[1].names and name != "sample_id"]
    found: dict[int, list[str]] = {}
    for name in names:
        values = [
            _comparable(scan([side], [name]).table[name].take(pa.array(rows)))
            for side, rows in zip((old, new), at, strict=True)
        ]
        for index in np.flatnonzero(_differ(values[0], values[1])).tolist():
            found.setdefault(index, []).append(name)
    where = ids.take(pa.array(at[1][sorted(found)])).to_pylist()
    return dict(zip(where, (found[index] for index in sorted(found)), strict=True))


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


def _payload(old: Path, new: Path) -> tuple[int, int]:
    """Bytes of files, told apart by their digest, that are only in new, and only in old."""
    sides = [_files(side) for side in (old, new)]
    sizes = []
    for one, other in ((sides[1], sides[0]), (sides[0], sides[1])):
        alone = pc.invert(pc.is_in(one["digest"], value_set=other["digest"].combine_chunks()))
        sizes.append(pc.sum(one["size_max"].filter(alone)).as_py() or 0)
    return sizes[0], sizes[1]


def _files(side: Path) -> pa.Table:
    parts = []
    for kind in ("blur", "sharp"):
        table = scan([side], [f"{kind}_sha256", f"{kind}_bytes"]).table
        parts.append(table.rename_columns(["digest", "size"]))
    return pa.concat_tables(parts).group_by("digest").aggregate([("size", "max")])


def _metadata(old: Rows, new: Rows) -> dict[str, tuple[str, str]]:
    joined = [{k: v for one in rows.metadata for k, v in one.items()} for rows in (old, new)]
    keys = sorted(joined[0].keys() | joined[1].keys())
    return {
        key: (joined[0].get(key, ""), joined[1].get(key, ""))
        for key in keys
        if joined[0].get(key) != joined[1].get(key)
    }
