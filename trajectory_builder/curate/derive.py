"""Writing a data set made from rows of others: manifests, files, card, build.json.

select, split and merge all end here. Only rows that are kept are read again, row group by row
group; the set is filled under a temporary name and appears complete or not at all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.build import record
from trajectory_builder.curate import card
from trajectory_builder.curate.links import (
    LINK_OF_MODE,
    FileMode,
    FileTransfer,
    fresh_folder,
    path_columns,
)
from trajectory_builder.curate.table import Rows, backward_points, damaged, read_rows
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import DataError, ExitCode, ManifestError, shorten
from trajectory_builder.trajectory import SPLITS
from trajectory_builder.version import __version__

if TYPE_CHECKING:
    import pandas as pd

KEY_COLUMNS = ("sample_id", "trajectory_id", "split", "n_frames")


@dataclass(frozen=True)
class Derivation:
    """How one data set comes from others, as its build.json and card describe it.

    Attributes:
        command: the tool: select, split or merge.
        options: its options; plain values.
        files: how the images come into the new set.
        allow_links: follow symbolic links out of the sources; for data sets of one's own.
        prefixes: one text per manifest file that is put before its clips, ids and file names.
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
        pairs: pairs per split.
        files: image files linked or copied.
        dropped: reason -> rows left out.
    """

    out: Path
    pairs: dict[str, int]
    files: int
    dropped: dict[str, int]

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "out": str(self.out),
            "pairs": self.pairs,
            "files": self.files,
            "dropped": self.dropped,
        }


def write(
    rows: Rows,
    kept: pd.DataFrame,
    out: Path,
    derivation: Derivation,
    *,
    dropped: Mapping[str, int] | None = None,
    progress: bool = False,
) -> DerivedReport:
    """Write the data set `out` from rows of others.

    Args:
        rows: the rows of the sources.
        kept: `KEY_COLUMNS` of the rows to write, with the ids and the splits of the new set; its
            index says which of `rows` they are, ascending.
        out: must not exist, or be an empty folder.
        derivation: where the set comes from, and how files come into it.
        dropped: reason -> rows, for the report.
        progress: show progress on stderr.

    Raises:
        DataError: an id would occur twice.
        ManifestError: a path leaves its folder, or a file is absent.
        OutputError: `out` exists already, or the file system refuses a link.
    """
    _refuse_repeated_ids(kept)
    metadata = _metadata(rows, derivation)
    with fresh_folder(out) as folder:
        transfer = FileTransfer(derivation.files, allow_links=derivation.allow_links)
        parts: dict[str, list[pa.Table]] = {}
        with Progress(len(kept), "pairs", shown=progress) as bar:
            for split, table, source, prefix in _parts(rows, kept, derivation.prefixes):
                parts.setdefault(split, []).append(table)
                for column in path_columns(table.schema) if derivation.files != "none" else ():
                    names = pc.unique(table[column].drop_null()).to_pylist()
                    transfer.add_all(source, folder / split, names, prefix)
                bar.advance(table.num_rows)
        transfer.flush()
        manifests = {}
        for split in (split for split in SPLITS if split in parts):
            (folder / split).mkdir(exist_ok=True)
            table = pa.concat_tables(parts.pop(split))
            name = f"{split}/{manifest.FILE_NAME}"
            digest = manifest.write(table, folder / name, metadata)
            manifests[name] = {"sha256": digest, "rows": table.num_rows}
        if derivation.files == "copy":
            os.sync()
        _describe(folder, rows, manifests, derivation)
    pairs = {name.split("/")[0]: int(entry["rows"]) for name, entry in manifests.items()}
    return DerivedReport(out, pairs, transfer.count, dict(dropped or {}))


def _refuse_repeated_ids(kept: pd.DataFrame) -> None:
    ids = kept["sample_id"]
    twice = ids[ids.duplicated()].unique().tolist()
    if twice:
        raise DataError(
            f"{len(twice):,} sample_ids would occur twice",
            where=shorten(twice),
            cure="`trajbuild merge --clashes` offers ways round it",
        )


def _parts(
    rows: Rows, kept: pd.DataFrame, prefixes: Sequence[str]
) -> Iterator[tuple[str, pa.Table, Path, str]]:
    """(split, its complete new rows, their old folder, prefix of file names), part by part."""
    backward = backward_points(kept)
    splits = kept["split"].to_numpy(object)
    is_kept = np.zeros(len(rows.frame), np.bool_)
    is_kept[kept.index.to_numpy()] = True
    empty = pa.schema(list(rows.schema)).empty_table()
    ends = np.cumsum(rows.counts)
    done = 0
    for path, end, count, prefix in zip(
        rows.files, ends, rows.counts, prefixes or [""] * len(rows.files), strict=True
    ):
        for table in _kept_rows(path, is_kept[end - count : end]):
            here = slice(done, done + table.num_rows)
            done += table.num_rows
            _refuse_hostile(table, path)
            changed = _changed(table, splits[here], backward[here], prefix)
            complete = pa.concat_tables([empty, changed], promote_options="permissive")
            for split in dict.fromkeys(splits[here].tolist()):
                part = complete.filter(pa.array(splits[here] == split))
                yield split, part, path.parent, f"{prefix}/" if prefix else ""


def _kept_rows(path: Path, keep: npt.NDArray[np.bool_]) -> Iterator[pa.Table]:
    """The rows of a manifest file that (R,) `keep` keeps, one table per row group that has any."""
    file, _ = manifest.open_file(path)
    start = 0
    with file:
        for group in range(file.num_row_groups):
            part = keep[start : start + file.metadata.row_group(group).num_rows]
            start += len(part)
            if not part.any():
                continue
            try:
                table = file.read_row_group(group)
            except (pa.ArrowException, OSError) as error:
                raise damaged(path, error) from error
            yield table.filter(pa.array(part))


def _refuse_hostile(table: pa.Table, path: Path) -> None:
    hostile = manifest.hostile_paths(table, path_columns(table.schema))
    if hostile:
        raise ManifestError(
            f"hostile path: {shorten(hostile)}",
            where=str(path),
            cure="do not use this manifest; rebuild it from a source you trust",
        )


def _changed(
    table: pa.Table, splits: npt.NDArray[np.object_], backward: pa.Array, prefix: str
) -> pa.Table:
    """Rows with their new split, backward points and prefix."""
    columns = {name: table[name] for name in table.column_names}
    columns["split"] = pa.array(splits, pa.string())
    columns["backward_n_frames"] = backward
    if prefix:
        for name in ("sample_id", "trajectory_id", "clip_id"):
            columns[name] = pc.binary_join_element_wise(f"{prefix}-", columns[name], "")
        for name in path_columns(table.schema):
            columns[name] = pc.binary_join_element_wise(f"{prefix}/", columns[name], "")
    return pa.table(columns)


def refuse_clashing_files(rows: Rows, kept: pd.DataFrame, prefixes: Sequence[str] = ()) -> None:
    """Refuse rows of different content that would land in one file.

    Args:
        rows: the rows of the sources.
        kept: as `write` takes it.
        prefixes: as in `Derivation`.

    Raises:
        DataError: naming the files.
    """
    owner = rows.file_of_row[kept.index.to_numpy()]
    homes = kept[["split"]].assign(owner=owner).drop_duplicates()
    if homes["split"].is_unique:
        return  # every new split takes from one manifest alone, in which a name is one file
    columns = [f"{kind}_{what}" for kind in ("blur", "sharp") for what in ("file_name", "sha256")]
    files = read_rows(rows.files, columns).frame.loc[kept.index]
    before = np.array([f"{prefix}/" if prefix else "" for prefix in prefixes or [""]])
    home = kept["split"] + "/" + before[owner if prefixes else np.zeros(len(kept), np.int64)]
    for kind in ("blur", "sharp"):
        names = home + files[f"{kind}_file_name"]
        contents = files[f"{kind}_sha256"].groupby(names, sort=False).nunique()
        clashing = contents.index[contents > 1].tolist()
        if clashing:
            raise DataError(
                f"{len(clashing):,} files of the same name have different content",
                where=shorten(clashing),
                cure="use `trajbuild merge --clashes prefix`",
                exit_code=ExitCode.FAILED,
            )


def _metadata(rows: Rows, derivation: Derivation) -> dict[str, str]:
    """The new manifests' metadata: what all sources agree on, and a digest of the derivation."""
    common = dict(rows.metadata[0])
    for other in rows.metadata[1:]:
        common = {key: value for key, value in common.items() if other.get(key) == value}
    common.pop("format_version", None)
    text = repr((derivation.command, sorted(derivation.options.items()), _sources(rows)))
    common["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return common | {"derived_by": derivation.command}


def _sources(rows: Rows) -> list[dict[str, object]]:
    """Per manifest that rows came from: its data set's name, its own, digest and rows."""
    sources = []
    for path, count in zip(rows.files, rows.counts, strict=True):
        digest = manifest.file_sha256(path)
        home = path.absolute().parent
        name = f"{home.name}/{path.name}"
        sources.append({"set": home.parent.name, "manifest": name, "sha256": digest, "rows": count})
    return sources


def _describe(
    folder: Path, rows: Rows, manifests: Mapping[str, Any], derivation: Derivation
) -> None:
    """Write the card and build.json."""
    sources = _sources(rows)
    cards = _source_cards(rows.files)
    text = card.text(folder, derivation.command, derivation.options, sources, cards)
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


def _source_cards(files: Sequence[Path]) -> list[str]:
    """The cards of the sources that have one, each once."""
    homes = dict.fromkeys(path.absolute().parent.parent for path in files)
    return [text for home in homes if (text := card.read_card(home))]
