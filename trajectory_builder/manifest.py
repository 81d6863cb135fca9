"""The manifest: one Parquet table per split, one row per pair; the only door to the model half.

`SCHEMA` is the one list of columns. `to_bytes` writes them so that equal tables give equal files,
`read` takes one file, a split's folder, a whole data set or several of these, and refuses what it
cannot trust. A manifest is untrusted input: a path that is absolute, climbs out of its folder or
is a link out of it is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trajectory_builder import store
from trajectory_builder.errors import TrajbuildError, shorten
from trajectory_builder.trajectory import TIMESTEP_STEP

FORMAT_VERSION = 1
FILE_NAME = "metadata.parquet"
SPLITS = ("train", "validation", "test")
ORIGINS = ("official", "averaged", "interpolated", "synthetic")
DOMAINS = ("srgb", "gamma2.2", "camera")
FILE_COLUMNS = {
    "blur_file_name": "blur_bytes",
    "sharp_file_name": "sharp_bytes",
    "kernel_path": "kernel_bytes",
}
"""Columns that name files, with those that tell their sizes; `kernel_path` is an extra one."""
ROWS_A_GROUP = 10_000
# Columns of few values; on columns of hashes a dictionary costs 40 % more bytes.
DICTIONARY_COLUMNS = ["split", "clip", "origin", "average_domain"]
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


def _field(name: str, kind: pa.DataType, meaning: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={b"meaning": meaning.encode()})


SCHEMA = pa.schema(
    [
        _field("sample_id", pa.string(), "name of the pair, unique: `CLIP/PAIR/nNN`"),
        _field("trajectory_id", pa.string(), "name of its trajectory: `CLIP/PAIR`"),
        _field("split", pa.string(), "`train`, `validation` or `test`"),
        _field("clip", pa.string(), "source clip; for GoPro the sequence"),
        _field("n_frames", pa.int16(), "n: frames averaged, odd; null where unknown", null=True),
        _field("timestep", pa.int16(), "t = (n - 1) x 20; null where unknown", null=True),
        _field(
            "native_n_frames",
            pa.int16(),
            "n of the trajectory's official pair, or its largest n",
            null=True,
        ),
        _field(
            "backward_n_frames",
            pa.list_(pa.field("element", pa.int16(), nullable=False)),
            "smaller n on this trajectory in this manifest, the sharp point 1 included, ascending",
        ),
        _field("blur_file_name", pa.string(), "POSIX path, relative to the manifest's folder"),
        _field("sharp_file_name", pa.string(), "POSIX path, relative to the manifest's folder"),
        _field("origin", pa.string(), "`official`, `averaged`, `interpolated` or `synthetic`"),
        _field(
            "average_domain",
            pa.string(),
            "`srgb` (values as stored), `gamma2.2`, or `camera` (light, as column `camera`"
            " tells); null where unknown or photographed",
            null=True,
        ),
        _field(
            "first_index",
            pa.int32(),
            "0-based rank of the window's first frame in its clip; below 0 for the 14 official"
            " GoPro windows that begin before the first published frame",
            null=True,
        ),
        _field("center_index", pa.int32(), "0-based rank of the centre frame", null=True),
        _field("center_frame", pa.string(), "file name or time of the centre frame", null=True),
        _field("width", pa.int32(), "pixels"),
        _field("height", pa.int32(), "pixels"),
        _field("fps", pa.float32(), "frames a second of the clip", null=True),
        _field("exposure_ms", pa.float32(), "n / fps in milliseconds", null=True),
        _field(
            "motion_px",
            pa.float32(),
            "median displacement from the window's first to its last frame, pixels",
            null=True,
        ),
        _field("blur_sha256", pa.string(), "SHA-256 of the blur's file"),
        _field("sharp_sha256", pa.string(), "SHA-256 of the sharp's file"),
        _field(
            "blur_pixel_sha256",
            pa.string(),
            "SHA-256 of the blur's RGB bytes (H, W, 3), whatever the encoder; null for files"
            " that were taken over as they are",
            null=True,
        ),
        _field("blur_bytes", pa.int64(), "size of the blur's file"),
        _field("sharp_bytes", pa.int64(), "size of the sharp's file"),
    ]
)
"""Columns of schema version 1, in order. Further ones may follow; readers take what they know."""

FURTHER = pa.schema(
    [
        _field("camera", pa.string(), "JSON: what the camera did to the blur", null=True),
        _field(
            "kernel_path",
            pa.string(),
            "the true blur kernels of a synthetic trajectory (.npz), relative to the manifest's"
            " folder",
            null=True,
        ),
        _field("kernel_sha256", pa.string(), "SHA-256 of that file", null=True),
        _field("kernel_bytes", pa.int64(), "size of that file", null=True),
    ]
)
"""Columns that `trajbuild generate` adds where they apply."""

# Names of which nothing bad can be said; the few others are looked at closely.
_PLAIN_PATH = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$"
# What a relative POSIX path must not hold: absolute, drive letters, home, backslash, control
# characters, empty or dotted parts.
_HOSTILE_PATH = r"^$|^/|^[A-Za-z]:|^~|\\|[\x00-\x1f\x7f]|(^|/)\.{1,2}(/|$)|//|/$"
# No file system takes a longer name for one folder or file.
_LONG_PART = r"[^/]{256,}"


class ManifestError(TrajbuildError):
    """A manifest that cannot be read or must not be trusted."""


@dataclass(frozen=True)
class Manifest:
    """Rows of one or more manifest files, and the folder that each row's paths start from.

    Attributes:
        table: the rows, columns of `SCHEMA` first, then further ones.
        folders: one folder a row group of rows: (first row, folder), ascending.
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


def resolve(folder: Path, name: str, *, allow_links: bool = False) -> Path:
    """The file `name` below `folder`, refused when it is hostile, absent or a link out of it."""
    if is_hostile(name):
        raise ManifestError(
            "a manifest names a path that leaves its folder",
            where=f"{folder}: {name!r}",
            cure="do not use this manifest; rebuild it from a source you trust",
        )
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ManifestError(
            f"a file of the manifest is not there: {name}",
            where=str(path),
            cure=f"run `trajbuild verify {folder.parent}` to see all that is missing",
        ) from error
    if not allow_links and not real.is_relative_to(folder.resolve()):
        raise ManifestError(
            f"a file of the manifest is a link out of its folder: {name}",
            where=f"{path} -> {real}",
            cure="allow links only for a data set that you made yourself with --link symlink",
        )
    return path


def is_hostile(path: str) -> bool:
    """Whether `hostile_paths` would refuse this one path; a table of one costs a millisecond."""
    return (
        re.search(_HOSTILE_PATH, path) is not None
        or re.search(_LONG_PART, path) is not None
        or not unicodedata.is_normalized("NFC", path)
    )


def hostile_paths(table: pa.Table, columns: Iterable[str]) -> list[str]:
    """The values of path columns that a manifest must not hold; empty when all are sound."""
    hostile: set[str] = set()
    for column in columns:
        # Nearly all names are plain; one pass over them spares the other checks and their copies.
        plain = pc.match_substring_regex(table.column(column), _PLAIN_PATH)
        short = pc.less(pc.binary_length(table.column(column)), 256)
        doubtful = pc.invert(pc.and_(plain, short))
        values = pc.unique(table.column(column).filter(doubtful)).drop_null()
        bad = values.filter(pc.match_substring_regex(values, _HOSTILE_PATH))
        hostile.update(bad.to_pylist())
        odd = values.filter(pc.invert(pc.string_is_ascii(values)))
        hostile.update(v for v in odd.to_pylist() if not unicodedata.is_normalized("NFC", v))
        long = values.filter(pc.match_substring_regex(values, _LONG_PART))
        hostile.update(long.to_pylist())
    return sorted(hostile)


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
    store.write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def conform(table: pa.Table, *, where: str = "the table in memory") -> pa.Table:
    """The table with the columns of `SCHEMA` first, in order and type, further ones after.

    Args:
        table: rows with at least the columns of `SCHEMA`, in any order.
        where: what to name in an error.

    Raises:
        ManifestError: a column is missing, stands twice or cannot be cast.
    """
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if missing or twice:
        raise ManifestError(
            f"a manifest lacks columns: {shorten(missing)}"
            if missing
            else f"a manifest has columns twice: {shorten(twice)}",
            where=where,
            cure="see manifests/README.md for the columns of version 1",
        )
    extra = [table.schema.field(n) for n in table.column_names if n not in SCHEMA.names]
    schema = pa.schema([*SCHEMA, *extra], metadata=table.schema.metadata)
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise ManifestError(
            f"a manifest's column has the wrong type: {error}",
            where=where,
            cure="see manifests/README.md for the columns of version 1",
        ) from error


def content_sha256(table: pa.Table) -> str:
    """SHA-256 over the rows' values in canonical JSON: the same whatever wrote them."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=ROWS_A_GROUP):
        for row in batch.to_pylist():
            exact = {k: v.hex() if isinstance(v, float) else v for k, v in row.items()}
            digest.update(json.dumps(exact, sort_keys=True, ensure_ascii=True).encode())
    return digest.hexdigest()


def files(source: Path) -> list[Path]:
    """The manifest files of a data set's folder, a split's folder or a file; train first.

    Raises:
        ManifestError: there is none.
    """
    if source.is_file():
        return [source]
    if (source / FILE_NAME).is_file():
        return [source / FILE_NAME]
    found = [path for path in source.glob(f"*/{FILE_NAME}") if path.is_file()]
    if not found:
        raise ManifestError(
            f"no manifest in {source}" if source.is_dir() else f"{source} does not exist",
            where=f"looked for {FILE_NAME} in it and in its folders",
            cure="give the folder that `trajbuild expand --out` wrote, or make one first",
        )
    order = {split: rank for rank, split in enumerate(SPLITS)}
    return sorted(found, key=lambda p: (order.get(p.parent.name, len(order)), p.parent.name))


def read(source: Path | str | Sequence[Path | str], *, allow_links: bool = False) -> Manifest:
    """Read and check manifests.

    Args:
        source: a manifest file, a split's folder, a data set's folder, or several of these.
        allow_links: let `Manifest.file` follow symbolic links out of the folder; only for data
            sets of one's own that were built with `--link symlink`.

    Raises:
        ManifestError: absent, damaged, of another version, with columns missing or of another
            type, with a sample_id twice, a backward point that is not there, or a hostile path.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    paths = [path for one in sources for path in files(Path(one))]
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
    """The manifest's digest as build.json beside its split folder tells it, or None."""
    record = path.parent.parent / "build.json"
    try:
        build = json.loads(record.read_text())
        return str(build["manifests"][f"{path.parent.name}/{path.name}"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


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
        file = pq.ParquetFile(path, page_checksum_verification=True)
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
    """SHA-256 of a manifest file; not computed again while the file on disk is the same."""
    status = path.stat()
    return _sha256(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=64)
def _sha256(path: Path, state: tuple[int, int, int, int]) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_file(path: Path) -> pa.Table:
    damaged = f"run the build again, or `trajbuild verify {path.parent.parent}`"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError(
                f"a manifest file is larger than {MAX_FILE_BYTES >> 30} GiB",
                where=str(path),
                cure="check that it is a manifest; split it if it truly is one",
            )
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"cannot read the manifest: {error.strerror}",
            where=str(path),
            cure="give yourself the right to read it, or check the disk",
        ) from error
    # Footers carry no checksum of their own, so the whole file's digest is held against the
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
        raise ManifestError(
            f"the manifest has schema version {version}, this program reads {FORMAT_VERSION}",
            where=str(path),
            cure="install the version of fidediff that wrote it, or build it again",
        )


def check(table: pa.Table, *, where: str, metadata: Mapping[str, str] | None = None) -> None:
    """Refuse a table whose rows contradict each other or the schema's meaning.

    Args:
        table: rows with the columns of `SCHEMA`.
        where: what to name in the error.
        metadata: the file's metadata; t is held against n only for the `frames` timestep map.

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
    yield (
        "hostile path",
        hostile_paths(table, [name for name in FILE_COLUMNS if name in table.column_names]),
    )
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
