"""Reading some columns of many manifest rows, and what follows from them for a smaller set.

A million rows of all columns are 700 MB, of the columns that a decision needs 60. So every tool
first scans those, decides by row number, and only then streams whole rows. Names that only have to
be told apart are kept as 64-bit hashes: 8 bytes a row however long they are.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.errors import DataError, ExitCode, ManifestError, shorten

DROPPED = -1
"""Where the index of a split would stand: the row is left out."""
READ_AHEAD = 4
"""Batches that a scan of few columns decodes ahead; the default of 16 is no faster."""
BATCHES_AHEAD = 2

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Some columns of the rows of some manifest files, in the files' order.

    Attributes:
        files: the manifest files.
        groups: the row groups that were read, a file.
        counts: rows in those, a file.
        totals: all rows, a file.
        table: the scanned columns, one row a manifest row that was read.
        metadata: one dictionary a file: its `trajbuild.` entries.
        schema: all columns that the files have.
    """

    files: tuple[Path, ...]
    groups: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]
    totals: tuple[int, ...]
    table: pa.Table
    metadata: tuple[dict[str, str], ...]
    schema: pa.Schema

    def __len__(self) -> int:
        return int(self.table.num_rows)


def schema_of(sources: Sequence[Path]) -> pa.Schema:
    """All columns of the manifests in `sources`, those of the contract first."""
    files = [path for source in sources for path in manifest.files(source)]
    return _schema(_open(files)[0])


Reduce = Callable[[pa.Array], npt.NDArray[Any]]
"""What makes a short value of each value of a column, e.g. `hashes`."""


def scan(
    sources: Sequence[Path],
    columns: Iterable[str],
    computed: Mapping[str, pc.Expression] | None = None,
    *,
    reduced: Mapping[str, tuple[str, Reduce]] | None = None,
    skip: pc.Expression | None = None,
) -> Rows:
    """Read `columns` of all rows, and further columns that expressions compute.

    Args:
        sources: manifest files, or folders of splits or data sets.
        columns: names; those that a file lacks are null there.
        computed: name -> expression over the columns of the manifest.
        reduced: name -> a column and what to keep of its values, in their place; where there are
            `computed` conditions only rows that meet all of them have it, others 0.
        skip: a condition; row groups that by their statistics hold no row of it are not read,
            where the build's record of the file's digest vouches for its footer.

    Raises:
        ManifestError: a manifest cannot be trusted or read.
        DataError: an expression does not fit the columns' types.
    """
    files = [path for source in sources for path in manifest.files(source)]
    schemas, metadata = _open(files)
    whole = _schema(schemas)
    wanted = {name: ds.field(name) for name in columns} | dict(computed or {})
    sources_of = {column: ds.field(column) for column, _ in (reduced or {}).values()}
    conditions = list(computed or {})
    tables, groups, totals = [], [], []
    for path in files:
        try:
            dataset = _dataset(path, whole)
            (fragment,) = dataset.get_fragments()
            totals.append(fragment.count_rows())
            if skip is not None and manifest.recorded_sha256(path) is not None:
                fragment = fragment.subset(filter=skip, schema=dataset.schema)
            groups.append(tuple(group.id for group in fragment.row_groups))
            scanner = fragment.scanner(
                schema=dataset.schema, columns=wanted | sources_of, batch_readahead=READ_AHEAD
            )
            # An empty batch gives the columns their types where no group is read.
            empty = _empty_batch(scanner.projected_schema)
            batches = [empty, *(scanner.to_batches() if groups[-1] else ())]
            parts = [_reduced(batch, wanted, reduced or {}, conditions) for batch in batches]
            tables.append(pa.concat_tables(parts))
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"cannot evaluate this on the manifest: {str(error).splitlines()[0]}",
                where=str(path),
                cure="compare numbers with numbers and text with quoted text; "
                "`trajbuild verify` tells whether the manifest is damaged",
                exit_code=ExitCode.WRONG_USE,
            ) from error
    counts = tuple(table.num_rows for table in tables)
    return Rows(
        tuple(files), tuple(groups), counts, tuple(totals), pa.concat_tables(tables),
        tuple(metadata), whole,
    )  # fmt: skip


def _empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def _reduced(
    batch: pa.RecordBatch,
    wanted: Iterable[str],
    reduced: Mapping[str, tuple[str, Reduce]],
    conditions: Sequence[str],
) -> pa.Table:
    """The wanted columns of a batch, and the short values of others."""
    table = pa.table({name: batch[name] for name in wanted})
    met = np.ones(batch.num_rows, np.bool_)
    for name in conditions:
        passed = pc.fill_null(batch[name], False)
        met &= np.asarray(passed.to_numpy(zero_copy_only=False))
    for name, (column, reduce) in reduced.items():
        values = batch[column] if met.all() else batch[column].filter(pa.array(met))
        short = reduce(values)
        full = np.zeros(len(met), short.dtype)
        full[met] = short
        table = table.append_column(name, pa.array(full))
    return table


def hashes(values: pa.Array) -> npt.NDArray[np.int64]:
    """A 64-bit hash a value, equal for equal texts of this process, null being one too.

    Two of a million names share one with a probability of 3e-8.
    """
    return np.fromiter(map(hash, values.to_pylist()), np.int64, len(values))


def hashes_of_few(values: pa.Array) -> npt.NDArray[np.int64]:
    """The same for a column in which values repeat."""
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    return np.asarray(hashes(encoded.dictionary)[np.asarray(encoded.indices)], np.int64)


def texts(rows: Rows, column: str, which: npt.NDArray[np.int64]) -> list[str]:
    """The values of a column of some rows, read again."""
    found: list[str] = []
    first = 0
    order = np.sort(which)
    for path, groups in zip(rows.files, rows.groups, strict=True):
        for batch in stream(path, groups, [column]):
            inside = order[np.searchsorted(order, first) :]
            inside = inside[: np.searchsorted(inside, first + batch.num_rows)] - first
            found += batch[column].take(pa.array(inside)).to_pylist()
            first += batch.num_rows
    return found


def _open(files: Sequence[Path]) -> tuple[list[pa.Schema], list[dict[str, str]]]:
    opened = [manifest.open_file(path) for path in files]
    schemas = [file.schema_arrow for file, _ in opened]
    for file, _ in opened:
        file.close()
    return schemas, [metadata for _, metadata in opened]


def _schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of version 1 as the contract types them, then all others."""
    extra: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            if field.name not in manifest.SCHEMA.names:
                known = extra.setdefault(field.name, field.with_nullable(True))
                if not known.type.equals(field.type):
                    raise DataError(
                        f"column {field.name} is {known.type} in one manifest"
                        f" and {field.type} in another",
                        cure="give the column one type, or drop it, before they are put together",
                    )
    return pa.schema([*manifest.SCHEMA, *extra.values()])


def stream(
    path: Path, groups: Sequence[int], columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups of a manifest file, in order, read a little ahead by a thread.

    pyarrow's own scanner reads ahead without end where the rows are written slower than read.

    Raises:
        ManifestError: a page is damaged.
    """
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
                batches = file.iter_batches(manifest.ROWS_A_GROUP, list(groups), columns)
                ahead = deque(thread.submit(next, batches, None) for _ in range(BATCHES_AHEAD))
                while (batch := ahead.popleft().result()) is not None:
                    ahead.append(thread.submit(next, batches, None))
                    yield batch
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(
                f"the manifest is damaged: {str(error).splitlines()[0]}",
                where=str(path),
                cure=f"run the build again, or `trajbuild verify {path.parent.parent}`",
            ) from error


def _dataset(path: Path, schema: pa.Schema) -> ds.Dataset:
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    layout = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    # Nullability is the file's own affair: Acero refuses a scan where the two differ.
    loose = pa.schema([field.with_nullable(True) for field in schema])
    return ds.dataset(path, format=layout, schema=loose)


def codes(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number a distinct value (null is one too), in the order of first appearance."""
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = pc.dictionary_encode(whole, null_encoding="encode")
    return np.asarray(encoded.indices, dtype=np.int64)


def joint_codes(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """A number a distinct combination of codes, from 0 on, without gaps."""
    joint = parts[0]
    for part in parts[1:]:
        joint = dense(joint * (int(part.max(initial=0)) + 1) + part)
    return joint


def dense(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers' ranks among their distinct values: 0 on, in their order, without gaps."""
    largest = int(numbers.max(initial=0))
    if largest > 4 * len(numbers) + 1024:
        return np.asarray(np.unique(numbers, return_inverse=True)[1], dtype=np.int64)
    there = np.bincount(numbers, minlength=largest + 1) > 0
    ranks = np.cumsum(there) - 1
    return np.asarray(ranks[numbers], dtype=np.int64)


def trajectory_codes(table: pa.Table) -> npt.NDArray[np.int64]:
    """A number a trajectory; a trajectory that stands in two splits counts as two."""
    return joint_codes([codes(table["trajectory_id"]), codes(table["split"])])


def whole_numbers(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A column of integers with 0 for null."""
    return np.asarray(pc.fill_null(values.cast(pa.int64()), 0).to_numpy(), dtype=np.int64)


def chance(ids: Iterable[str], seed: int) -> npt.NDArray[np.uint64]:
    """One draw an identity from (seed, id): the same wherever and in whatever order it stands."""
    key = str(seed).encode()
    draws = [hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids]
    return np.frombuffer(b"".join(draws), dtype=">u8").astype(np.uint64)


def place_in_group(
    groups: npt.NDArray[np.int64], draws: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Each row's rank within its group by ascending draw, from 0."""
    order = np.lexsort((draws, groups))
    sorted_groups = groups[order]
    first = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    sizes = np.diff(np.r_[first, len(groups)])
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(first, sizes)
    return ranks


class BackwardPoints:
    """The column `backward_n_frames` for rows which are all the pairs that there are.

    Lists are made for some rows at a time; until then a row costs two numbers.

    Args:
        trajectories: (R,) a number a trajectory.
        n_frames: (R,) n, 0 where unknown.
    """

    def __init__(
        self, trajectories: npt.NDArray[np.int64], n_frames: npt.NDArray[np.int64]
    ) -> None:
        order = np.lexsort((n_frames, trajectories))
        group, n = trajectories[order], n_frames[order].astype(np.int32)
        new_group = np.r_[True, group[1:] != group[:-1]][: len(n)]
        distinct = (new_group | np.r_[True, n[1:] != n[:-1]][: len(n)]) & (n > 1)
        del group
        seen = np.cumsum(distinct, dtype=np.int32)
        start = np.maximum.accumulate(np.where(new_group, np.arange(len(n), dtype=np.int32), 0))
        begin = (seen - distinct)[start]  # of the trajectory's n in `values`
        smaller = np.where(n > 1, seen - begin - 1, 0)
        self._values = n[distinct] if distinct.any() else np.zeros(1, np.int32)
        self._begin = np.empty(len(n), np.int32)
        self._begin[order] = begin
        self._size = np.empty(len(n), np.int32)
        self._size[order] = np.where(n == 1, 0, smaller + 1)

    def __len__(self) -> int:
        return len(self._size)

    def lists(self, first: int, count: int) -> pa.Array:
        """The column of `count` rows from `first` on.

        Returns:
            (count,) lists, ascending: the sharp point 1, then each smaller n of the row's
            trajectory. Of a row with unknown n, 1 alone; of a row with n = 1, nothing.
        """
        begin, size = (part[first : first + count] for part in (self._begin, self._size))
        offsets = np.r_[0, np.cumsum(size)]
        owner = np.repeat(np.arange(len(size)), size)
        position = np.arange(offsets[-1]) - offsets[owner]
        index = np.clip(begin[owner] + position - 1, 0, len(self._values) - 1)
        points = np.where(position == 0, 1, self._values[index])
        kind = manifest.SCHEMA.field("backward_n_frames").type
        flat = pa.array(points.astype(np.int16), pa.int16())
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat).cast(kind)


def column_expected(schema: pa.Schema, name: str) -> pa.Field:
    """The column `name`, or an error that lists what there is."""
    if name not in schema.names:
        raise DataError(
            f"there is no column {name!r}",
            where=f"columns: {shorten(schema.names, at_most=40)}",
            cure="use one of these",
            exit_code=ExitCode.WRONG_USE,
        )
    return schema.field(name)
