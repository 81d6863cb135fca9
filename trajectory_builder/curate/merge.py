"""Joining data sets: splits are kept, and whatever clashes is named before a file is touched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trajectory_builder import manifest
from trajectory_builder.curate import derive
from trajectory_builder.curate.derive import Derivation, DerivedReport
from trajectory_builder.curate.links import FileMode
from trajectory_builder.curate.select import refuse_unknown_splits
from trajectory_builder.curate.table import Rows, read_rows
from trajectory_builder.errors import DataError, ExitCode, shorten

if TYPE_CHECKING:
    import pandas as pd

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
    rows = read_rows(sources, [*derive.KEY_COLUMNS, *_CONTENT])
    _refuse_other_timesteps(rows)
    refuse_unknown_splits(rows)
    prefixes = _prefixes(sources) if clashes == "prefix" else ()
    frame = _prefixed(rows, prefixes) if prefixes else rows.frame
    repeated = frame["sample_id"].duplicated()
    if repeated.any():
        _refuse_clashes(frame, clashes)
    kept = frame[~repeated]
    _refuse_leak(kept)
    derive.refuse_clashing_files(rows, kept, prefixes)
    dropped = {"same": int(repeated.sum())} if repeated.any() else {}
    derivation = Derivation("merge", {"clashes": clashes}, files, allow_links, prefixes)
    return derive.write(rows, kept, out, derivation, dropped=dropped)


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


def _prefixes(sources: Sequence[Path]) -> tuple[str, ...]:
    """One prefix per manifest file: the name of its data set's folder, made unique and plain."""
    names: list[str] = []
    for source in sources:
        home = source.resolve() if source.is_dir() else source.resolve().parent.parent
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", home.name) or "set"
        again = sum(name == plain or name.startswith(f"{plain}~") for name in names)
        names.append(f"{plain}~{again + 1}" if again else plain)
    counts = [len(manifest.files(source)) for source in sources]
    return tuple(name for name, count in zip(names, counts, strict=True) for _ in range(count))


def _prefixed(rows: Rows, prefixes: Sequence[str]) -> pd.DataFrame:
    before = np.array([f"{prefix}-" for prefix in prefixes])[rows.file_of_row]
    names = ("sample_id", "trajectory_id")
    return rows.frame.assign(**{name: before + rows.frame[name] for name in names})


def _refuse_clashes(frame: pd.DataFrame, clashes: str) -> None:
    """Refuse repeated ids, or under `same` those whose files or splits differ.

    Raises:
        DataError: naming the ids.
    """
    shared = frame[frame["sample_id"].duplicated(keep=False)]
    ids = shared["sample_id"].unique().tolist()
    if clashes == "same":
        contents = shared.groupby("sample_id", sort=False)[[*_CONTENT, "split"]].nunique()
        ids = contents.index[(contents > 1).any(axis=1)].tolist()
    if ids:
        words = "are in several sets with other files" if clashes == "same" else "clash"
        raise DataError(
            f"{len(ids):,} sample_ids {words}",
            where=shorten(ids),
            cure="--clashes same takes equal pairs once, --clashes prefix puts the name of its"
            " folder before each set's clips",
        )


def _refuse_leak(kept: pd.DataFrame) -> None:
    """Refuse a trajectory that would be trained on and tested on, or have two sharp images."""
    counts = kept.groupby("trajectory_id", sort=False)[["split", "sharp_sha256"]].nunique()
    for column, what in (
        ("split", "are in different splits of the sets"),
        ("sharp_sha256", "have different sharp images in the sets"),
    ):
        bad = counts.index[counts[column] > 1].tolist()
        if bad:
            raise DataError(
                f"{len(bad):,} trajectories {what}",
                where=shorten(bad),
                cure="use --clashes prefix, or drop them first with `trajbuild select`",
            )
