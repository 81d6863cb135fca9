"""Taking a part of data sets: by condition, motion, pairs per trajectory, balance, sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trajectory_builder.curate import condition, derive
from trajectory_builder.curate.derive import Derivation, DerivedReport
from trajectory_builder.curate.links import FileMode
from trajectory_builder.curate.table import Rows, column_expected, draws, read_rows, schema_of
from trajectory_builder.errors import DataError, ManifestError, shorten
from trajectory_builder.trajectory import SPLITS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Criteria:
    """Which pairs are wanted; applied in this order, each to what the ones before have left.

    Attributes:
        where: a condition on columns, as `condition.parse` reads it; "" for all.
        min_motion: least `motion_px`; rows of unknown motion are left out.
        max_step: largest `step_px`; rows of unknown steps are left out.
        max_per_trajectory: up to so many pairs per trajectory, drawn by identity.
        balance: a column; within each split every value of it keeps as many pairs as the rarest.
        sample: so many pairs in all, drawn by identity.
        seed: of all draws.
    """

    where: str = ""
    min_motion: float | None = None
    max_per_trajectory: int | None = None
    balance: str | None = None
    sample: int | None = None
    seed: int = 0
    max_step: float | None = None


@dataclass(frozen=True)
class Choice:
    """Which rows are kept.

    Attributes:
        rows: the key columns of all rows.
        kept: those of the kept rows.
        dropped: criterion -> rows that it left out.
        note: values that the condition asks for and no row has; "" where it leaves rows.
    """

    rows: Rows
    kept: pd.DataFrame
    dropped: dict[str, int]
    note: str = ""

    def sample_ids(self) -> list[str]:
        """The kept pairs' names, in the manifests' order."""
        ids: list[str] = self.kept["sample_id"].tolist()
        return ids


def choose(sources: Sequence[Path], criteria: Criteria) -> Choice:
    """Decide by the columns that the criteria need; opens no image.

    Every draw is a hash of (seed, sample_id): it depends neither on the order of rows nor on what
    other rows there are, so a grown data set keeps its earlier choices as far as they still fit.

    Args:
        sources: as `select` takes them.
        criteria: which pairs.

    Raises:
        DataError: a condition or a column that does not fit the manifest.
        ManifestError: a manifest that cannot be trusted.
    """
    schema = schema_of(sources)
    columns = list(derive.KEY_COLUMNS)
    wanted = condition.parse(criteria.where, schema) if criteria.where else None
    columns += sorted(wanted.columns) if wanted else []
    limits = _limits(criteria)
    columns += [column for column, _ in limits.values()]
    if criteria.balance is not None:
        columns.append(column_expected(schema, criteria.balance).name)
    rows = read_rows(sources, columns)
    kept, note = rows.frame, ""
    counts = {}
    if wanted is not None:
        kept = kept[wanted.is_met(kept)]
        counts["where"] = len(kept)
        note = "" if len(kept) else wanted.absent_values(rows.frame)
    for name, (column, (least, most)) in limits.items():
        if rows.frame[column].isna().all():
            note = note or f"{column} is null in all rows"
        kept = kept[kept[column].between(least, most).fillna(False)]
        counts[name] = len(kept)
    if {criteria.max_per_trajectory, criteria.balance, criteria.sample} != {None}:
        # From here on in the order of the draws, so that the first rows of a group are its draw.
        kept = kept.iloc[np.argsort(draws(kept["sample_id"], criteria.seed), kind="stable")]
    if criteria.max_per_trajectory is not None:
        place = kept.groupby(["split", "trajectory_id"], sort=False).cumcount()
        kept = kept[place < criteria.max_per_trajectory]
        counts["max_per_trajectory"] = len(kept)
    if criteria.balance is not None:
        kept = _balanced(kept, criteria.balance)
        counts["balance"] = len(kept)
    if criteria.sample is not None:
        kept = kept.head(criteria.sample)
        counts["sample"] = len(kept)
    before = [len(rows.frame), *counts.values()]
    dropped = {name: before[i] - count for i, (name, count) in enumerate(counts.items())}
    return Choice(rows, kept.sort_index(), dropped, note)


def _limits(criteria: Criteria) -> dict[str, tuple[str, tuple[float, float]]]:
    """Criterion -> its column of motion, and the least and largest value."""
    limits = {
        "min_motion": ("motion_px", (criteria.min_motion, math.inf)),
        "max_step": ("step_px", (0.0, criteria.max_step)),
    }
    return {
        name: (column, (least, most))
        for name, (column, (least, most)) in limits.items()
        if least is not None and most is not None
    }


def _balanced(kept: pd.DataFrame, column: str) -> pd.DataFrame:
    """The first rows of each value, as many as the rarest value of the split has."""
    groups = kept.groupby(["split", column], sort=False, dropna=False)
    sizes = groups["sample_id"].transform("size")
    least = sizes.groupby(kept["split"], sort=False).transform("min")
    return kept[groups.cumcount() < least]


def select(
    sources: Sequence[Path],
    out: Path,
    criteria: Criteria,
    *,
    files: FileMode = "hardlink",
    allow_links: bool = False,
    progress: bool = False,
) -> DerivedReport:
    """Write the pairs that meet `criteria` as a data set of their own.

    Points on a trajectory that were left out disappear from `backward_n_frames` as well.

    Args:
        sources: one data set's folder, a split's folder, manifest files.
        out: the new data set; must not exist.
        criteria: which pairs.
        files: `hardlink`, `reference` or `copy`.
        allow_links: follow symbolic links out of the sources.
        progress: show progress on stderr.

    Raises:
        DataError: as `choose`, or no row is left.
    """
    choice = choose(sources, criteria)
    if choice.kept.empty:
        raise _no_row(choice, criteria)
    refuse_unknown_splits(choice.rows)
    options = {k: v for k, v in asdict(criteria).items() if v not in (None, "")}
    derivation = Derivation("select", options, files, allow_links)
    return derive.write(
        choice.rows, choice.kept, out, derivation, dropped=choice.dropped, progress=progress
    )


def refuse_unknown_splits(rows: Rows) -> None:
    """Refuse rows of a split that a data set cannot have.

    Raises:
        ManifestError: there is one.
    """
    if not rows.frame["split"].isin(SPLITS).all():
        raise ManifestError(
            "a manifest has rows of an unknown split",
            where=str(rows.files[0]),
            cure=f"known are {', '.join(SPLITS)}",
        )


def _no_row(choice: Choice, criteria: Criteria) -> DataError:
    """The error where all rows were left out, with what left out how many."""
    count = len(choice.rows.frame)
    if count == 0:
        return DataError(
            "the data set has no pairs, so there is nothing to select",
            where=shorten([str(path) for path in choice.rows.files]),
            cure="build it again, or give another data set",
        )
    options = asdict(criteria)
    reasons = []
    for reason, rows in choice.dropped.items():
        option = f"--{reason.replace('_', '-')} {options[reason]}"
        option = f"the condition {criteria.where}" if reason == "where" else option
        if rows:
            reasons.append(f"{option} leaves out {'all ' if rows == count else ''}{rows:,} rows")
    return DataError(
        "no row is left",
        where=", ".join(reasons) or f"of {count:,} rows",
        cure=choice.note or "loosen the conditions",
    )
