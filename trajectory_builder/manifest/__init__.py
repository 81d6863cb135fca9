"""The manifest: one Parquet table per split, one row per pair; the only door to the model half.

`SCHEMA` is the one list of columns. `to_bytes` writes them so that equal tables give equal files,
`read` takes one file, a split's folder, a whole data set or several of these, and refuses what it
cannot trust. A manifest is untrusted input: a path that is absolute, climbs out of its folder or
is a link out of it is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_builder.disk import atomic
from trajectory_builder.disk.regular import open_regular, read_regular, read_regular_json
from trajectory_builder.disk.store import how_to_go_on
from trajectory_builder.errors import ExitCode, ManifestError, shorten
from trajectory_builder.manifest.bounds import check_bounds
from trajectory_builder.manifest.check import check
from trajectory_builder.manifest.paths import hostile_paths, is_hostile, resolve
from trajectory_builder.manifest.schema import (
    FILE_COLUMNS,
    FILE_NAME,
    FORMAT_VERSION,
    FURTHER,
    ORIGINS,
    SCHEMA,
    conform,
)
from trajectory_builder.trajectory import BUILD_FILE, SPLITS

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FILE_COLUMNS", "FILE_NAME", "FORMAT_VERSION", "FURTHER", "ORIGINS", "ROWS_A_GROUP",
    "SCHEMA", "WRITER_OPTIONS", "Manifest", "ManifestError", "check", "check_bounds", "conform",
    "content_sha256", "file_sha256", "files", "hostile_paths", "is_hostile", "open_file", "read",
    "recorded_sha256", "resolve", "schema_metadata", "to_bytes", "write",
]  # fmt: skip

ROWS_A_GROUP = 10_000
# Columns of few values; on columns of hashes a dictionary costs 40 % more bytes.
DICTIONARY_COLUMNS = ["split", "clip_id", "origin", "average_domain"]
MAX_FILE_BYTES = 4 << 30
_PREFIX = b"trajbuild."
WRITER_OPTIONS: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": DICTIONARY_COLUMNS,
    "write_statistics": True,
    "write_page_checksum": True,
    "store_schema": True,
}
"""How Parquet is written; any change changes the bytes of every manifest."""


@dataclass(frozen=True)
class Manifest:
    """Rows of one or more manifest files, and the folder that each row's paths start from.

    Attributes:
        table: the rows, columns of `SCHEMA` first, then further ones.
        folders: one folder per group of rows: (first row, folder), ascending.
        metadata: the `trajbuild.` entries of the files' schema metadata, prefix removed.
        allow_links: whether `file` may follow symbolic links out of the folder.
    """

    table: pa.Table
    folders: tuple[tuple[int, Path], ...]
    metadata: dict[str, str]
    allow_links: bool = False

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def folder(self, row: int) -> Path:
        """The folder that the paths of row `row` are relative to."""
        found = self.folders[0][1]
        for start, folder in self.folders:
            if start > row:
                break
            found = folder
        return found

    def file(self, row: int, column: str) -> Path:
        """The file that `column` (`blur_file_name`, `sharp_file_name`) of row `row` names.

        Raises:
            ManifestError: it is absent, or a link leads out of the manifest's folder.
        """
        name = self.table.column(column)[row].as_py()
        return resolve(self.folder(row), name, allow_links=self.allow_links)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries, batch by batch."""
        for batch in self.table.to_batches(max_chunksize=ROWS_A_GROUP):
            yield from batch.to_pylist()

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a DataFrame of Arrow types: nothing is copied, and null stays null."""
        import pandas as pd

        frame: pd.DataFrame = self.table.to_pandas(types_mapper=pd.ArrowDtype)
        return frame


def to_bytes(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """A manifest file's content: the same bytes for the same rows and the same pyarrow.

    Args:
        table: the rows in the order in which they shall stand; all columns of `SCHEMA`.
        metadata: entries such as `recipe` and `config_sha256`; the format version is added.
    """
    table = conform(table).replace_schema_metadata(schema_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROWS_A_GROUP, **WRITER_OPTIONS)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def schema_metadata(metadata: Mapping[str, str]) -> dict[bytes, bytes]:
    """The entries of a manifest file's schema: prefixed, the format version added, sorted."""
    entries = {b"trajbuild.format_version": str(FORMAT_VERSION).encode()}
    entries |= {_PREFIX + key.encode(): value.encode() for key, value in metadata.items()}
    # The order of metadata keys changes the file's bytes.
    return dict(sorted(entries.items()))


def write(table: pa.Table, path: Path, metadata: Mapping[str, str]) -> str:
    """Write a manifest file atomically and return its SHA-256."""
    content = to_bytes(table, metadata)
    atomic.write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def content_sha256(table: pa.Table) -> str:
    """SHA-256 over the rows' values in canonical JSON: the same whatever wrote them."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=ROWS_A_GROUP):
        for row in batch.to_pylist():
            exact = {k: v.hex() if isinstance(v, float) else v for k, v in row.items()}
            digest.update(json.dumps(exact, sort_keys=True, ensure_ascii=True).encode())
    return digest.hexdigest()


def files(source: Path, *, allow_links: bool = False) -> list[Path]:
    """The manifest files of a data set's folder, a split's folder or a file; train first.

    Args:
        source: what the caller named, which may be a link itself.
        allow_links: accept splits that are links out of a data set's folder.

    Raises:
        ManifestError: there is none, or a split is a link out of the folder.
    """
    if source.is_file():
        return [source]
    if (source / FILE_NAME).is_file():
        return [source / FILE_NAME]
    found = [path for path in source.glob(f"*/{FILE_NAME}") if path.is_file()]
    if not found and (go_on := how_to_go_on(source)) is not None:
        raise ManifestError(
            f"{source} is an unfinished build: it has no manifest yet",
            where=f"no {FILE_NAME} in its folders",
            cure=go_on,
        )
    if not found:
        raise ManifestError(
            f"no manifest in {source}" if source.is_dir() else f"{source} does not exist",
            where=f"looked for {FILE_NAME} in it and in its folders",
            cure="give the folder that `trajbuild expand --out` wrote, or make one first",
            exit_code=ExitCode.FAILED if source.is_dir() else ExitCode.WRONG_USE,
        )
    home = source.resolve()
    outside = [path for path in found if not path.resolve().is_relative_to(home)]
    if outside and not allow_links:
        raise ManifestError(
            f"a split is a link out of the data set: {outside[0].parent.name}",
            where=f"{outside[0]} -> {outside[0].resolve()}",
            cure=f"give the folder that you mean: {outside[0].parent.resolve()}",
        )
    order = {split: rank for rank, split in enumerate(SPLITS)}
    return sorted(found, key=lambda p: (order.get(p.parent.name, len(order)), p.parent.name))


def read(source: Path | str | Sequence[Path | str], *, allow_links: bool = False) -> Manifest:
    """Read and check manifests.

    Args:
        source: a manifest file, a split's folder, a data set's folder, or several of these.
        allow_links: let `Manifest.file` follow symbolic links out of the folder; only for data
            sets of one's own that were built with `--files symlink`.

    Raises:
        ManifestError: absent, damaged, of another version, with columns missing or of another
            type, with a sample_id twice, a backward point that is not there, or a hostile path.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    paths = [path for one in sources for path in files(Path(one), allow_links=allow_links)]
    tables: list[pa.Table] = []
    folders: list[tuple[int, Path]] = []
    metadata: dict[str, str] = {}
    start = 0
    for path in paths:
        table = _read_file(path)
        metadata |= _metadata_of(table.schema)
        folders.append((start, path.parent))
        start += table.num_rows
        tables.append(table.replace_schema_metadata(None))
    where = shorten([str(p) for p in paths])
    try:
        whole = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise ManifestError(
            f"the manifests do not fit together: {error}",
            where=where,
            cure="read them one by one, or leave the further column out of one of them",
        ) from error
    check(whole, where=where, metadata=metadata)
    return Manifest(whole, tuple(folders), metadata, allow_links)


def _metadata_of(schema: pa.Schema) -> dict[str, str]:
    entries = schema.metadata or {}
    return {
        key[len(_PREFIX) :].decode(errors="replace"): value.decode(errors="replace")
        for key, value in entries.items()
        if key.startswith(_PREFIX)
    }


def recorded_sha256(path: Path) -> str | None:
    """The manifest's digest as recorded in build.json beside its split folder, or None."""
    record = path.parent.parent / BUILD_FILE
    try:
        build = read_regular_json(record)
        return str(build["manifests"][f"{path.parent.name}/{path.name}"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _readable(path: Path) -> Path | pa.BufferReader:
    """What pyarrow can open: it takes names in UTF-8 only."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return pa.BufferReader(read_regular(path, at_most=MAX_FILE_BYTES))
    return path


def open_file(path: Path) -> tuple[pq.ParquetFile, dict[str, str]]:
    """Open one manifest file to be read in parts: the open file and its metadata.

    Digest, version and columns are checked, the rows are not; pages are checked as they are read.

    Raises:
        ManifestError: absent, damaged, of another version, or with columns missing.
    """
    damaged = f"run the build again, or `trajbuild verify {path.parent.parent}`"
    expected = recorded_sha256(path)
    try:
        if expected is not None and file_sha256(path) != expected:
            raise ManifestError(
                "the manifest differs from the one that the build wrote",
                where=f"{path}, SHA-256 in build.json",
                cure=damaged,
            )
        open_regular(path, at_most=MAX_FILE_BYTES).close()
        size = path.stat().st_size
        check_bounds(_readable(path), size)
        file = pq.ParquetFile(_readable(path), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(
            f"the manifest is damaged or cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            cure=damaged,
        ) from error
    _check_version(file.schema_arrow, path)
    conform(file.schema_arrow.empty_table())
    return file, _metadata_of(file.schema_arrow)


def file_sha256(path: Path) -> str:
    """SHA-256 of a manifest file, cached while the file on disk is unchanged."""
    status = path.stat()
    return _sha256(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _sha256(path: Path, state: tuple[int, int, int, int]) -> str:
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_file(path: Path) -> pa.Table:
    damaged = f"run the build again, or `trajbuild verify {path.parent.parent}`"
    try:
        content = read_regular(path, at_most=MAX_FILE_BYTES)
    except OSError as error:
        raise ManifestError(
            f"cannot read the manifest: {error.strerror}",
            where=str(path),
            cure="give yourself the right to read it, or check the disk",
        ) from error
    # Footers carry no checksum of their own, so the complete file's digest is compared with the
    # build's record before anything in it is believed.
    expected = recorded_sha256(path)
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise ManifestError(
            "the manifest differs from the one that the build wrote",
            where=f"{path}, SHA-256 in build.json",
            cure=damaged,
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        _check_version(file.schema_arrow, path)
        check_bounds(pa.BufferReader(content), len(content))
        table = file.read()
        # Parquet does not check that its strings are UTF-8, nor its lists' offsets.
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(
            f"the manifest is damaged: {str(error).splitlines()[0]}", where=str(path), cure=damaged
        ) from error
    return conform(table, where=str(path))


def _check_version(schema: pa.Schema, path: Path) -> None:
    version = _metadata_of(schema).get("format_version")
    if version is None:
        raise ManifestError(
            "this Parquet file is not a manifest: it carries no trajbuild.format_version",
            where=str(path),
            cure="give a folder that `trajbuild` wrote, or index your data with `trajbuild index`",
        )
    if version != str(FORMAT_VERSION):
        older = version.isdecimal() and int(version) < FORMAT_VERSION
        raise ManifestError(
            f"the manifest has schema version {version}, this program reads {FORMAT_VERSION}",
            where=str(path),
            cure="build the set again into a new folder (version 1 called `clip_id` `clip`)"
            if older
            else "install the version of fidediff that wrote it, or build it again",
        )
