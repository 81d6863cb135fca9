"""Whether a manifest's rows agree with each other and with what the columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.errors import ManifestError, shorten
from trajectory_builder.manifest.paths import hostile_paths
from trajectory_builder.manifest.schema import FILE_COLUMNS, ORIGINS, SCHEMA
from trajectory_builder.trajectory import DOMAINS, SPLITS, TIMESTEP_STEP


def check(table: pa.Table, *, where: str, metadata: Mapping[str, str] | None = None) -> None:
    """Refuse a table whose rows contradict each other or the schema's meaning.

    Args:
        table: rows with the columns of `SCHEMA`.
        where: what to name in the error.
        metadata: the file's metadata; t is checked against n only for the `frames` timestep map.

    Raises:
        ManifestError: naming the first rows that are wrong.
    """
    for problem, rows in _contradictions(table, metadata or {}):
        if rows:
            raise ManifestError(
                f"{problem}: {shorten(rows)}",
                where=where,
                cure="do not use this manifest; build or export it again",
            )


def _contradictions(
    table: pa.Table, metadata: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    ids = table.column("sample_id")
    for name in SCHEMA.names:
        if not SCHEMA.field(name).nullable and table.column(name).null_count:
            yield f"column {name} has rows without a value", _where(ids, table[name].is_null())
    named = [name for name in FILE_COLUMNS if name in table.column_names]
    yield "hostile path", hostile_paths(table, named)
    counts = ids.value_counts()
    if len(counts) != len(ids):
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        yield "sample_id more than once", twice.to_pylist()
    for name, allowed in (("split", SPLITS), ("origin", ORIGINS), ("average_domain", DOMAINS)):
        known = pc.is_in(table.column(name), value_set=pa.array(allowed))
        unknown = pc.and_(pc.invert(known), pc.is_valid(table.column(name)))
        yield f"unknown {name}", _where(ids, unknown)
    n = table.column("n_frames").cast(pa.int32())
    even = pc.equal(pc.bit_wise_and(n, 1), 0)
    yield "n_frames is even or below 1", _where(ids, pc.or_(even, pc.less(n, 1)))
    if metadata.get("timestep_map", "frames") == "frames":
        given = metadata.get("timestep_step", str(TIMESTEP_STEP))
        if not given.isdecimal():
            yield f"timestep_step in the metadata is no number but {given!r}", ["all rows"]
        step = int(given)
        expected = pc.multiply(pc.subtract(n, 1), step)
        differs = pc.not_equal(table.column("timestep").cast(pa.int32()), expected)
        yield f"timestep is not (n_frames - 1) x {step}", _where(ids, differs)
    yield "a backward point is not in the manifest", _lost_backward_points(table)


def _where(ids: pa.ChunkedArray, mask: pa.ChunkedArray) -> list[str]:
    found: list[str] = ids.filter(pc.fill_null(mask, False)).slice(0, 1000).to_pylist()
    return found


def _lost_backward_points(table: pa.Table) -> list[str]:
    """Rows that name a backward point which is neither 1 nor a row of the same trajectory."""
    lists = table.column("backward_n_frames").combine_chunks()
    parents = pc.list_parent_indices(lists)
    points = pc.list_flatten(lists)
    keys = _points(table.column("trajectory_id"), table.column("n_frames"))
    owners = pc.take(table.column("trajectory_id"), parents)
    named = _points(owners, points)
    there = pc.or_(pc.is_in(named, value_set=keys), pc.equal(points, 1))
    n_of_owner = pc.take(table.column("n_frames"), parents)
    smaller = pc.fill_null(pc.less(points, n_of_owner), True)
    bad = parents.filter(pc.invert(pc.and_(there, smaller)))
    found: list[str] = pc.take(table.column("sample_id"), pc.unique(bad)).to_pylist()
    return found


def _points(trajectories: pa.ChunkedArray, n_frames: pa.ChunkedArray) -> pa.Array:
    joined = pc.binary_join_element_wise(trajectories, pc.cast(n_frames, pa.string()), "/n")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
