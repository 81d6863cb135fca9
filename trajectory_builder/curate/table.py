"""Some columns of the rows of several manifests as one DataFrame, and what is computed from them.

The tools read the columns that their decision needs, decide with pandas, and then copy complete
rows. A million rows of the key columns take some 200 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.errors import DataError, ExitCode, ManifestError, shorten

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rows:
    """Some columns of the rows of some manifest files, in the files' order.

    Attributes:
        files: the manifest files.
        counts: rows per file.
        frame: one line per manifest row, numbered from 0; Arrow types, so null stays null.
        metadata: one dictionary per file: its `trajbuild.` entries.
        schema: all columns that the files have.
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    frame: pd.DataFrame
    metadata: tuple[dict[str, str], ...]
    schema: pa.Schema

    @property
    def file_of_row(self) -> npt.NDArray[np.int64]:
        """(R,) index into `files` of each row."""
        return np.repeat(np.arange(len(self.files)), self.counts)


def schema_of(sources: Sequence[Path]) -> pa.Schema:
    """All columns of the manifests in `sources`, those of `manifest.SCHEMA` first."""
    schemas = []
    for path in (path for source in sources for path in manifest.files(source)):
        file, _ = manifest.open_file(path)
        with file:
            schemas.append(file.schema_arrow)
    return _joint_schema(schemas)


def read_rows(sources: Sequence[Path], columns: Iterable[str]) -> Rows:
    """Read `columns` of all rows.

    Args:
        sources: manifest files, or folders of splits or data sets.
        columns: names; those that a file lacks are null there.

    Raises:
        ManifestError: a manifest cannot be trusted or read.
        DataError: a further column has different types in two manifests.
    """
    import pandas as pd

    names = list(dict.fromkeys(columns))
    paths = tuple(path for source in sources for path in manifest.files(source))
    schemas, tables, metadata = [], [], []
    for path in paths:
        file, entries = manifest.open_file(path)
        with file:
            there = [name for name in names if name in file.schema_arrow.names]
            tables.append(_read(file, path, there))
            schemas.append(file.schema_arrow)
        metadata.append(entries)
    schema = _joint_schema(schemas)
    wanted = pa.schema([schema.field(name).with_nullable(True) for name in names])
    table = pa.concat_tables([_with_columns(table, wanted) for table in tables])
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    counts = tuple(table.num_rows for table in tables)
    return Rows(paths, counts, frame, tuple(metadata), schema)


def _read(file: pq.ParquetFile, path: Path, names: list[str]) -> pa.Table:
    try:
        table = file.read(names)
        table.validate(full=True)  # Parquet does not check that its strings are UTF-8
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from error
    return table if names else pa.table({"": pa.nulls(file.metadata.num_rows)})


def damaged(path: Path, error: Exception) -> ManifestError:
    """The error for a manifest file that pyarrow cannot read."""
    return ManifestError(
        f"the manifest is damaged: {str(error).splitlines()[0]}",
        where=str(path),
        cure=f"run the build again, or `trajbuild verify {path.parent.parent}`",
    )


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _joint_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of `manifest.SCHEMA` as it types them, then all others."""
    further: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            if field.name not in manifest.SCHEMA.names:
                known = further.setdefault(field.name, field.with_nullable(True))
                if not known.type.equals(field.type):
                    raise DataError(
                        f"column {field.name} is {known.type} in one manifest"
                        f" and {field.type} in another",
                        where=f"column {field.name}",
                        cure="give the column one type, or drop it, before they are put together",
                    )
    return pa.schema([*manifest.SCHEMA, *further.values()])


def column_expected(schema: pa.Schema, name: str) -> pa.Field:
    """The column `name`, or an error that lists the columns."""
    if name not in schema.names:
        raise DataError(
            f"there is no column {name!r}",
            where=f"columns: {shorten(schema.names, at_most=40)}",
            cure="use one of these",
            exit_code=ExitCode.WRONG_USE,
        )
    return schema.field(name)


def draws(ids: Iterable[str], seed: int) -> npt.NDArray[np.uint64]:
    """One random number per identity, from (seed, id) alone: the order of rows does not matter."""
    key = str(seed).encode()
    digests = [hashlib.blake2b(i.encode(), digest_size=8, key=key).digest() for i in ids]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def backward_points(frame: pd.DataFrame) -> pa.Array:
    """The column `backward_n_frames` for rows which are all the pairs that there are.

    Args:
        frame: columns `split`, `trajectory_id`, `n_frames`; a trajectory in two splits counts as
            two.

    Returns:
        (R,) lists, ascending: the sharp point 1, then each smaller n of the row's trajectory. Of a
        row with unknown n, 1 alone; of a row with n = 1, nothing.
    """
    trajectories = frame.groupby(["split", "trajectory_id"], sort=False).ngroup().to_numpy()
    n = frame["n_frames"].fillna(0).to_numpy(np.int64)
    order = np.lexsort((n, trajectories))
    group, n_sorted = trajectories[order], n[order]
    new_group = np.r_[True, group[1:] != group[:-1]][: len(n)]
    distinct = (new_group | np.r_[True, n_sorted[1:] != n_sorted[:-1]][: len(n)]) & (n_sorted > 1)
    # `values` lists the distinct n > 1 of all trajectories one after the other; a row's points are
    # a run of it that begins with its trajectory's first.
    values = n_sorted[distinct] if distinct.any() else np.zeros(1, np.int64)
    seen = np.cumsum(distinct)
    first_row = np.maximum.accumulate(np.where(new_group, np.arange(len(n)), 0))
    begin, size = np.empty(len(n), np.int64), np.empty(len(n), np.int64)
    begin[order] = (seen - distinct)[first_row]
    size[order] = np.where(n_sorted > 1, seen - (seen - distinct)[first_row], 1)
    size[n == 1] = 0
    offsets = np.r_[0, np.cumsum(size)]
    owner = np.repeat(np.arange(len(n)), size)
    position = np.arange(offsets[-1]) - offsets[owner]
    index = np.clip(begin[owner] + position - 1, 0, len(values) - 1)
    points = np.where(position == 0, 1, values[index]).astype(np.int16)
    kind = manifest.SCHEMA.field("backward_n_frames").type
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(points)).cast(kind)
