"""How large an untrusted Parquet file becomes in memory, known before its rows are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_LEAST_BYTES_PER_ROW = 1
_MOST_GROWTH = 500
_ALWAYS_ALLOWED = 1 << 24
_MOST_COLUMNS = 1000
_DICTIONARIES = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}


def check_bounds(source: Any, size: int) -> None:
    """Refuse a file that would grow beyond measure when it is read.

    Every real row has two SHA-256 digests, which do not compress; millions of equal rows do.

    Args:
        source: what `pq.ParquetFile` takes.
        size: bytes of the file.

    Raises:
        ValueError: in words for an error.
        pa.ArrowException: the file is damaged.
    """
    file = pq.ParquetFile(source, page_checksum_verification=True)
    rows, columns = file.metadata.num_rows, file.metadata.num_columns
    if rows > size // _LEAST_BYTES_PER_ROW:
        raise ValueError(f"{rows:,} rows in {size:,} bytes are no real rows")
    if columns > _MOST_COLUMNS:
        raise ValueError(f"it has {columns:,} columns, more than {_MOST_COLUMNS:,}")
    most = _MOST_GROWTH * size + _ALWAYS_ALLOWED
    groups = range(file.metadata.num_row_groups)
    unpacked = sum(file.metadata.row_group(index).total_byte_size for index in groups)
    for texts in _repeated_texts(source, file, most) if unpacked <= most else ():
        unpacked += texts
        if unpacked > most:
            break
    if unpacked > most:
        raise ValueError(f"{size:,} bytes would become {unpacked:,} or more")


def _repeated_texts(source: Any, file: pq.ParquetFile, limit: int) -> Iterator[int]:
    """Bytes of texts that the file contains once, in a dictionary, and means in many rows.

    A text of a megabyte in a dictionary stands for a megabyte in each row.
    """
    for index in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(index)
        for at in range(group.num_columns):
            column = group.column(at)
            # All bytes of the column in each of its rows is the most that it can mean.
            most = column.total_uncompressed_size * column.num_values
            if _DICTIONARIES.isdisjoint(column.encodings) or most <= limit // group.num_columns:
                continue
            name = column.path_in_schema
            apart = pq.ParquetFile(source, read_dictionary=[name], page_checksum_verification=True)
            values = apart.read_row_group(index, columns=[name], use_threads=False).column(0)
            yield sum(_text_bytes(chunk) for chunk in values.chunks)


def _text_bytes(values: pa.Array) -> int:
    while not pa.types.is_dictionary(values.type):
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            return 0  # numbers, or texts that were not in a dictionary after all
        values = values.flatten()
    lengths = pc.binary_length(values.dictionary)
    return int(pc.sum(pc.take(lengths, values.indices)).as_py() or 0)
