"""The manifest's rows: the plan's rows that became pairs, with what their markers record."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from trajectory_builder import manifest
from trajectory_builder.build.writer import Record


def with_records(table: pa.Table, pairs: Mapping[str, Record]) -> pa.Table:
    """Manifest rows: the plan's rows that were made, with the records of the markers."""
    ids = table["sample_id"].to_pylist()
    kept = table.filter(pa.array([name in pairs for name in ids]))
    records = [pairs[name] for name in kept["sample_id"].to_pylist()]
    columns = {name: kept[name] for name in kept.column_names if name in manifest.SCHEMA.names}
    # A pair that was not made is no point of its trajectory.
    if kept.num_rows < table.num_rows:
        columns["backward_n_frames"] = _backward(kept)
    further = {key for one in records for key in one} - {"sample_id"}
    for name in sorted(further):
        known = name in manifest.SCHEMA.names
        kind = manifest.SCHEMA.field(name).type if known else None
        columns[name] = pa.array([one.get(name) for one in records], type=kind)
    for field in manifest.SCHEMA:
        if field.name not in columns:
            # All sources share one schema; columns of other sources are null.
            columns[field.name] = pa.nulls(kept.num_rows, field.type)
    return manifest.conform(pa.table(columns))


def _backward(table: pa.Table) -> pa.Array:
    """For each row the smaller n of its trajectory that are rows too, and the sharp point 1."""
    there: dict[str, list[int]] = {}
    names, numbers = table["trajectory_id"].to_pylist(), table["n_frames"].to_pylist()
    for name, n in zip(names, numbers, strict=True):
        there.setdefault(name, []).append(n)
    lists = [
        [1, *sorted(m for m in there[name] if 1 < m < n)]
        for name, n in zip(names, numbers, strict=True)
    ]
    return pa.array(lists, type=manifest.SCHEMA.field("backward_n_frames").type)
