"""Joining data sets: splits are kept, and whatever clashes is named before a file is touched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.curate import derive
from trajectory_builder.curate.clashes import refuse_files
from trajectory_builder.curate.derive import Derivation, DerivedReport
from trajectory_builder.curate.links import FileMode
from trajectory_builder.curate.rows import DROPPED, Mask, Rows, scan
from trajectory_builder.curate.select import split_indices
from trajectory_builder.errors import DataError, ExitCode, shorten

_CONTENT = ("blur_sha256", "sharp_sha256")
_MEANING = {"timestep_map": "frames", "timestep_step": "20"}


def merge(
    sources: Sequence[Path],
    out: Path,
    *,
    clashes: str = "refuse",
    files: FileMode = "hardlink",
    allow_links: bool = False,
) -> DerivedReport:
    """Join data sets into one.

    Args:
        sources: two or more folders of data sets, or manifest files.
        out: the new data set; must not exist.
        clashes: what to do where two sets have the same sample_id: `refuse`; `same` takes pairs
            whose files are equal once and refuses the others; `prefix` puts each set's folder
            name before its clips, ids and file names.
        files: `hardlink`, `reference` or `copy`.
        allow_links: follow symbolic links out of the sources.

    Raises:
        DataError: ids, files or a trajectory's splits clash, or the sets count t differently.
    """
    _refuse_few(sources)
    rows = scan(sources, [*derive.KEY_COLUMNS, *_CONTENT])
    _refuse_other_timesteps(rows)
    splits = split_indices(rows)
    prefixes = _prefixes(sources, rows) if clashes == "prefix" else ()
    if prefixes:
        rows = _prefixed(rows, prefixes)
    dropped: dict[str, int] = {}
    repeated = _repeated(rows)
    if repeated.any():
        _refuse_clashes(rows, repeated, clashes)
        splits[repeated] = DROPPED
        dropped["same"] = int(repeated.sum())
    _refuse_leak(rows, splits)
    refuse_files(rows, splits, prefixes)
    derivation = Derivation("merge", {"clashes": clashes}, files, allow_links, prefixes)
    return derive.write(rows, splits, out, derivation, dropped=dropped)


def _refuse_few(sources: Sequence[Path]) -> None:
    places = [source.resolve() for source in sources]
    if len(places) < 2 or len(set(places)) < len(places):
        raise DataError(
            "merge takes two or more different data sets",
            where=", ".join(str(source) for source in sources),
            cure="name each folder once",
            exit_code=ExitCode.WRONG_USE,
        )


def _refuse_other_timesteps(rows: Rows) -> None:
    for key, usual in _MEANING.items():
        there = {metadata.get(key, usual) for metadata in rows.metadata}
        if len(there) > 1:
            raise DataError(
                f"the data sets count timesteps differently: {key} is {', '.join(sorted(there))}",
                where=shorten([str(path) for path in rows.files]),
                cure="build them with the same timestep settings",
            )


def _prefixes(sources: Sequence[Path], rows: Rows) -> tuple[str, ...]:
    """One prefix a manifest file: the name of its data set's folder, made unique and plain."""
    names: list[str] = []
    for source in sources:
        home = source.resolve() if source.is_dir() else source.resolve().parent.parent
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", home.name) or "set"
        again = sum(name == plain or name.startswith(f"{plain}~") for name in names)
        names.append(f"{plain}~{again + 1}" if again else plain)
    counts = [len(manifest.files(source)) for source in sources]
    return tuple(name for name, count in zip(names, counts, strict=True) for _ in range(count))


def _prefixed(rows: Rows, prefixes: Sequence[str]) -> Rows:
    owner = np.repeat(np.arange(len(rows.files)), rows.counts)
    before = pa.array([f"{prefix}-" for prefix in prefixes]).take(pa.array(owner))
    table = rows.table
    for name in ("sample_id", "trajectory_id"):
        changed = pc.binary_join_element_wise(before, table[name], "")
        table = table.set_column(table.schema.get_field_index(name), name, changed)
    return replace(rows, table=table)


def _repeated(rows: Rows) -> Mask:
    """(R,) whether a row's sample_id stands in an earlier row."""
    ids = rows.table["sample_id"].combine_chunks()
    first = pc.index_in(ids, value_set=pc.unique(ids)).to_numpy()
    repeated = np.ones(len(rows), np.bool_)
    repeated[np.unique(first, return_index=True)[1]] = False
    return repeated


def _refuse_clashes(rows: Rows, repeated: Mask, clashes: str) -> None:
    """Refuse repeated ids, or under `same` those whose files or splits differ.

    Raises:
        DataError: naming the ids.
    """
    ids = pc.unique(rows.table["sample_id"].filter(pa.array(repeated)))
    if clashes == "same":
        table = rows.table.filter(pc.is_in(rows.table["sample_id"], value_set=ids))
        columns = ["blur_sha256", "sharp_sha256", "split"]
        counts = table.group_by("sample_id").aggregate([(c, "count_distinct") for c in columns])
        differs = pc.greater(counts[f"{columns[0]}_count_distinct"], 1)
        for column in columns[1:]:
            differs = pc.or_(differs, pc.greater(counts[f"{column}_count_distinct"], 1))
        ids = counts.filter(differs)["sample_id"]
    if len(ids):
        words = "stand in several sets with other files" if clashes == "same" else "clash"
        raise DataError(
            f"{len(ids):,} sample_ids {words}",
            where=shorten(ids.to_pylist()),
            cure="--clashes same takes equal pairs once, --clashes prefix puts the name of its"
            " folder before each set's clips",
        )


def _refuse_leak(rows: Rows, splits: npt.NDArray[np.int8]) -> None:
    """Refuse a trajectory that would be trained on and tested on, or have two sharp images."""
    kept = pa.array(splits != DROPPED)
    table = pa.table(
        {
            "id": rows.table["trajectory_id"],
            "split": splits,
            "sharp": rows.table["sharp_sha256"],
        }
    ).filter(kept)
    counts = table.group_by("id").aggregate(
        [("split", "count_distinct"), ("sharp", "count_distinct")]
    )
    for column, what in (
        ("split", "stand in different splits of the sets"),
        ("sharp", "have different sharp images in the sets"),
    ):
        bad = counts.filter(pc.greater(counts[f"{column}_count_distinct"], 1))["id"].to_pylist()
        if bad:
            raise DataError(
                f"{len(bad):,} trajectories {what}",
                where=shorten(bad),
                cure="use --clashes prefix, or drop them first with `trajbuild select`",
            )
