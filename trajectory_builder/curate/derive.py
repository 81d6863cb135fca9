"""Writing a smaller, re-split or joined data set from others, as a working data set of its own.

Rows are streamed file by file in groups of 10,000; the payload is hardlinked, referenced (symbolic
links) or copied. The folder is written under a temporary name and renamed when it is whole, so a
kill leaves no data set that looks like one, and running the same command again starts afresh.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.build import record
from trajectory_builder.curate import card, clashes
from trajectory_builder.curate.links import (
    LINK_OF_MODE,
    FileMode,
    Placing,
    fresh_folder,
    path_columns,
)
from trajectory_builder.curate.rows import (
    DROPPED,
    BackwardPoints,
    Reduce,
    Rows,
    hashes,
    hashes_of_few,
    stream,
    trajectory_codes,
    whole_numbers,
)
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import DataError, ManifestError, shorten
from trajectory_builder.version import __version__

ROWS_AT_ONCE = 2 * manifest.ROWS_A_GROUP
"""Rows in memory at a time; more is no faster."""
KEY_COLUMNS = ("sample_id", "trajectory_id", "split", "n_frames")
REDUCED_NAMES: dict[str, tuple[str, Reduce]] = {
    "sample_id": ("sample_id", hashes),
    "trajectory_id": ("trajectory_id", hashes_of_few),
}
"""Names as hashes, for tools that need only tell them apart."""


@dataclass(frozen=True)
class Derivation:
    """How one data set comes from others, as its build.json and card tell it.

    Attributes:
        command: the tool: select, split or merge.
        options: what it was asked for; plain values.
        files: how the payload is taken over.
        allow_links: follow symbolic links out of the sources; for data sets of one's own.
        prefixes: one text a manifest file that is put before its clips, ids and file names.
    """

    command: str
    options: Mapping[str, Any]
    files: FileMode = "hardlink"
    allow_links: bool = False
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DerivedReport:
    """What was written.

    Attributes:
        out: the new data set.
        pairs: pairs a split.
        files: payload files placed.
        dropped: reason -> rows left out.
    """

    out: Path
    pairs: dict[str, int]
    files: int
    dropped: dict[str, int]

    def as_data(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "out": str(self.out),
            "pairs": self.pairs,
            "files": self.files,
            "dropped": self.dropped,
        }


def write(
    rows: Rows,
    splits: npt.NDArray[np.int8],
    out: Path,
    derivation: Derivation,
    *,
    dropped: Mapping[str, int] | None = None,
    progress: bool = False,
) -> DerivedReport:
    """Write the data set `out` from rows of others.

    Args:
        rows: `KEY_COLUMNS` of the rows of the sources, `sample_id` and `trajectory_id` already as
            they shall stand in the new set, or as hashes of that.
        splits: (R,) for each row the index of its new split in `manifest.SPLITS`, or `DROPPED`.
        out: must not exist, or be an empty folder.
        derivation: what to tell of where it comes from, and how files are taken over.
        dropped: reason -> rows, for the report.
        progress: show progress on stderr.

    Raises:
        DataError: nothing is left, or an id would stand twice.
        ManifestError: a path leaves its folder, or a file is absent.
        OutputError: `out` is there already, or the file system refuses a link.
    """
    kept = np.flatnonzero(splits != DROPPED)
    if not len(kept):
        raise _no_row(sum(rows.totals), derivation.options, dropped or {})
    keys = rows.table.select(list(KEY_COLUMNS))
    if len(kept) < len(rows):
        keys = keys.take(pa.array(kept))
    clashes.refuse_ids(keys, rows, kept)
    names = pa.array(manifest.SPLITS).take(pa.array(splits[kept]))
    keys = keys.set_column(keys.schema.get_field_index("split"), "split", names)
    backward = BackwardPoints(trajectory_codes(keys), whole_numbers(keys["n_frames"]))
    del keys
    with fresh_folder(out) as folder:
        writer = _Writer(rows, splits, folder, derivation)
        placed = writer.run(backward, progress=progress)
        if derivation.files == "copy":
            os.sync()
        pairs = _describe(folder, rows, writer.manifests, derivation)
    return DerivedReport(out, pairs, placed, dict(dropped or {}))


def _no_row(count: int, options: Mapping[str, Any], dropped: Mapping[str, int]) -> DataError:
    """The error where all of `count` rows were left out, with who left out how many."""
    told = []
    for reason, rows in dropped.items():
        asked = f"--{reason.replace('_', '-')} {options.get(reason, '')}".strip()
        if reason == "where":
            asked = f"the condition {options.get(reason, '')}"
        if rows:
            told.append(f"{asked} leaves out {'all ' if rows == count else ''}{rows:,} rows")
    return DataError(
        "no row is left",
        where=", ".join(told) or f"of {count:,} rows",
        cure="loosen the conditions",
    )


class _Writer:
    """The manifests of a new data set while its rows stream through."""

    def __init__(
        self, rows: Rows, splits: npt.NDArray[np.int8], folder: Path, derivation: Derivation
    ) -> None:
        self.rows = rows
        self.splits = splits
        self.folder = folder
        self.derivation = derivation
        self.schema = pa.schema(
            list(rows.schema), metadata=manifest.schema_metadata(_metadata(rows, derivation))
        )
        self.placing = Placing(derivation.files, allow_links=derivation.allow_links)
        self.manifests: dict[str, dict[str, Any]] = {}
        self._files: dict[int, pq.ParquetWriter] = {}
        self._waiting: dict[int, list[pa.Table]] = {}
        self._counts: dict[int, int] = {}
        self._thread: ThreadPoolExecutor
        self._writing: Future[None] | None = None

    def run(self, backward: BackwardPoints, *, progress: bool) -> int:
        """Stream all kept rows; payload files placed."""
        start = done = 0
        with (
            ThreadPoolExecutor(1, "write") as self._thread,
            Progress(len(backward), "pairs", shown=progress) as bar,
        ):
            for index, (path, groups, count) in enumerate(
                zip(self.rows.files, self.rows.groups, self.rows.counts, strict=True)
            ):
                targets = self.splits[start : start + count]
                start += count
                for table, split in _kept_rows(path, groups, targets):
                    points = backward.lists(done, table.num_rows)
                    done += table.num_rows
                    self._take(self._renamed(table, split, points, index), split, index)
                    bar.advance(table.num_rows)
            for index in sorted(self._counts):
                self._finish(index)
        self.placing.flush()
        return self.placing.placed

    def _renamed(
        self, table: pa.Table, split: npt.NDArray[np.int8], backward: pa.Array, index: int
    ) -> pa.Table:
        """The rows with their new split and backward points, and the file's prefix."""
        hostile = manifest.hostile_paths(table, path_columns(table.schema))
        if hostile:
            raise ManifestError(
                f"hostile path: {shorten(hostile)}",
                where=str(self.rows.files[index]),
                cure="do not use this manifest; rebuild it from a source you trust",
            )
        columns = {name: table[name] for name in table.column_names}
        columns["split"] = pa.array(manifest.SPLITS).take(pa.array(split))
        columns["backward_n_frames"] = backward
        prefix = self._prefix(index)
        if prefix:
            for name in ("sample_id", "trajectory_id", "clip_id"):
                columns[name] = joined(f"{prefix}-", columns[name])
            for name in path_columns(table.schema):
                columns[name] = joined(f"{prefix}/", columns[name])
        empty = self.schema.remove_metadata().empty_table()
        return pa.concat_tables([empty, pa.table(columns)], promote_options="permissive")

    def _prefix(self, index: int) -> str:
        return self.derivation.prefixes[index] if self.derivation.prefixes else ""

    def _take(self, table: pa.Table, splits: npt.NDArray[np.int8], index: int) -> None:
        source = self.rows.files[index].parent
        prefix = f"{self._prefix(index)}/" if self._prefix(index) else ""
        for split in np.unique(splits).tolist():
            chosen = table.filter(pa.array(splits == split))
            home = self.folder / manifest.SPLITS[split]
            home.mkdir(exist_ok=True)
            for column in path_columns(chosen.schema) if self.derivation.files != "none" else ():
                names = pc.unique(chosen[column].drop_null()).to_pylist()
                self.placing.add_all(source, home, names, prefix)
            self._waiting.setdefault(split, []).append(chosen)
            self._counts[split] = self._counts.get(split, 0) + chosen.num_rows
            self._write_full_groups(split)

    def _write_full_groups(self, split: int) -> None:
        """Write while a whole row group waits, so that groups are cut as `manifest.write` does."""
        size = manifest.ROWS_A_GROUP
        if sum(table.num_rows for table in self._waiting[split]) >= size:
            waiting = pa.concat_tables(self._waiting[split])
            whole = waiting.num_rows // size * size
            self._write(split, waiting.slice(0, whole))
            self._waiting[split] = [waiting.slice(whole)]

    def _write(self, split: int, rows: pa.Table) -> None:
        """Encode rows in a thread of its own, while the next ones are read and looked at."""
        if self._writing is not None:
            self._writing.result()  # one at a time: rows in memory stay few
        file, table = self._file(split), self._conformed(rows)
        self._writing = self._thread.submit(file.write_table, table, manifest.ROWS_A_GROUP)

    def _conformed(self, table: pa.Table) -> pa.Table:
        return manifest.conform(table).replace_schema_metadata(self.schema.metadata)

    def _file(self, split: int) -> pq.ParquetWriter:
        if split not in self._files:
            path = self.folder / manifest.SPLITS[split] / manifest.FILE_NAME
            self._files[split] = pq.ParquetWriter(path, self.schema, **manifest.WRITER_OPTIONS)
        return self._files[split]

    def _finish(self, split: int) -> None:
        rest = pa.concat_tables(self._waiting[split])
        if rest.num_rows:
            self._write(split, rest)
        if self._writing is not None:
            self._writing.result()
        self._file(split).close()
        name = f"{manifest.SPLITS[split]}/{manifest.FILE_NAME}"
        with open(self.folder / name, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        self.manifests[name] = {"sha256": digest, "rows": self._counts[split]}


def joined(prefix: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """`prefix` before each text of a column of texts; null stays null."""
    return pc.binary_join_element_wise(prefix, values, "")


def _kept_rows(
    path: Path, groups: Sequence[int], targets: npt.NDArray[np.int8]
) -> Iterator[tuple[pa.Table, npt.NDArray[np.int8]]]:
    """The kept rows of some groups of a manifest file with their split; (R,) `targets` is theirs.

    Groups without a kept row are not read.
    """
    file, _ = manifest.open_file(path)
    with file:
        sizes = [file.metadata.row_group(group).num_rows for group in groups]
    ends = np.cumsum(sizes).astype(np.int64)
    parts = [
        (group, targets[end - size : end])
        for group, size, end in zip(groups, sizes, ends, strict=True)
    ]
    wanted = [group for group, part in parts if (part != DROPPED).any()]
    there = [part for _, part in parts if (part != DROPPED).any()]
    part = np.concatenate(there) if there else targets[:0]
    waiting: list[pa.RecordBatch] = []
    begin = at = held = 0
    for batch in stream(path, wanted):
        keep = part[at : at + batch.num_rows] != DROPPED
        waiting.append(batch if keep.all() else batch.filter(pa.array(keep)))
        at += batch.num_rows
        held += waiting[-1].num_rows
        if held >= ROWS_AT_ONCE or at == len(part):
            targeted = part[begin:at]
            yield pa.Table.from_batches(waiting), targeted[targeted != DROPPED]
            begin, held, waiting = at, 0, []


def _metadata(rows: Rows, derivation: Derivation) -> dict[str, str]:
    """The new manifests' metadata: what all sources agree on, and a digest of the derivation."""
    common = dict(rows.metadata[0])
    for other in rows.metadata[1:]:
        common = {key: value for key, value in common.items() if other.get(key) == value}
    common.pop("format_version", None)
    text = repr((derivation.command, sorted(derivation.options.items()), _sources(rows)))
    common["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return common | {"derived_by": derivation.command}


def _sources(rows: Rows) -> list[dict[str, Any]]:
    """Each manifest that rows came from: its data set's name, its own, digest and rows."""
    found = []
    for path, count in zip(rows.files, rows.totals, strict=True):
        digest = manifest.file_sha256(path)
        home = path.absolute().parent
        name = f"{home.name}/{path.name}"
        found.append({"set": home.parent.name, "manifest": name, "sha256": digest, "rows": count})
    return found


def _describe(
    folder: Path, rows: Rows, manifests: dict[str, dict[str, Any]], derivation: Derivation
) -> dict[str, int]:
    """Write the card and build.json; pairs a split."""
    sources = _sources(rows)
    text = card.text(folder, derivation.command, derivation.options, sources, source_cards(rows))
    (folder / "README.md").write_text(text, encoding="utf-8")
    build = {
        "format_version": manifest.FORMAT_VERSION,
        "tool_version": __version__,
        "config": {
            "command": derivation.command,
            "options": dict(derivation.options),
            "link": LINK_OF_MODE[derivation.files],
        },
        "derived_from": sources,
        "manifests": manifests,
        "files": {"README.md": hashlib.sha256(text.encode()).hexdigest()},
        "versions": record.versions(),
    }
    record.write_build(folder, build)
    return {name.split("/")[0]: entry["rows"] for name, entry in manifests.items()}


def source_cards(rows: Rows) -> list[str]:
    """The cards of the sources that have one, each once."""
    found: dict[Path, str] = {}
    for path in rows.files:
        place = path.absolute().parent.parent / "README.md"
        if place not in found and place.is_file():
            found[place] = place.read_text(encoding="utf-8", errors="replace")
    return list(found.values())
