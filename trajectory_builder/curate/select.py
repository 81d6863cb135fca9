"""Taking a part of data sets: by condition, by motion, so many a trajectory, balanced, sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.curate import derive, expression
from trajectory_builder.curate.derive import Derivation, DerivedReport
from trajectory_builder.curate.links import FileMode
from trajectory_builder.curate.rows import (
    DROPPED,
    Mask,
    Rows,
    chance,
    codes,
    column_expected,
    joint_codes,
    place_in_group,
    scan,
    schema_of,
    texts,
    trajectory_codes,
)
from trajectory_builder.errors import ManifestError


@dataclass(frozen=True)
class Criteria:
    """Which pairs are wanted; applied in this order, each to what the ones before have left.

    Attributes:
        where: a condition on columns, as `expression.parse` reads it; "" for all.
        min_motion: least `motion_px`; rows of unknown motion are left out.
        max_per_trajectory: at most so many pairs a trajectory, drawn by identity.
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


@dataclass(frozen=True)
class Choice:
    """Which rows are kept.

    Attributes:
        rows: the key columns of all rows.
        keep: (R,) whether a row is kept.
        dropped: criterion -> rows that it left out.
    """

    rows: Rows
    keep: Mask
    dropped: dict[str, int]

    def sample_ids(self) -> list[str]:
        """The kept pairs' names, in the manifests' order."""
        names = self.rows.table["sample_id"]
        if pa.types.is_integer(names.type):
            return texts(self.rows, "sample_id", np.flatnonzero(self.keep))
        kept: list[str] = names.filter(pa.array(self.keep)).to_pylist()
        return kept


def choose(sources: Sequence[Path], criteria: Criteria, *, to_write: bool = False) -> Choice:
    """Decide by the columns that the criteria need; opens no image.

    Every draw is a hash of (seed, sample_id): it depends neither on the order of rows nor on what
    other rows there are, so a grown data set keeps its earlier choices as far as they still fit.

    Args:
        sources: as `select` takes them.
        criteria: which pairs.
        to_write: read what `derive.write` needs of the rows, rather than their names.

    Raises:
        DataError: a condition or a column that does not fit the manifest.
        ManifestError: a manifest that cannot be trusted.
    """
    schema = schema_of(sources)
    draws = {criteria.max_per_trajectory, criteria.balance, criteria.sample} != {None}
    columns = {"split", "n_frames"} if to_write else {"sample_id"}
    columns |= {"split"} if draws else set()
    computed: dict[str, pc.Expression] = {}
    if criteria.where:
        condition, _ = expression.parse(criteria.where, schema)
        computed["where"] = condition
    if criteria.min_motion is not None:
        computed["min_motion"] = pc.field("motion_px") >= criteria.min_motion
    if criteria.balance is not None:
        columns.add(column_expected(schema, criteria.balance).name)
    reduced = dict(derive.REDUCED_NAMES) if to_write else {}
    if criteria.max_per_trajectory is not None:
        reduced["trajectory_id"] = derive.REDUCED_NAMES["trajectory_id"]
    if draws:
        reduced["#draw"] = ("sample_id", lambda ids: chance(ids.to_pylist(), criteria.seed))
    first = next(iter(computed.values()), None)
    rows = scan(sources, sorted(columns), computed, reduced=reduced, skip=first)
    keep = np.ones(len(rows), np.bool_)
    dropped: dict[str, int] = {}
    for name in computed:
        passed = pc.fill_null(rows.table[name].combine_chunks(), False)
        keep = _narrowed(keep, np.asarray(passed.to_numpy(zero_copy_only=False)), name, dropped)
    if computed:
        dropped[next(iter(computed))] += sum(rows.totals) - len(rows)  # of groups that were skipped
    return _draw(rows, keep, criteria, dropped)


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
    """
    choice = choose(sources, criteria, to_write=True)
    splits = split_indices(choice.rows)
    splits[~choice.keep] = DROPPED
    options = {k: v for k, v in asdict(criteria).items() if v not in (None, "")}
    derivation = Derivation("select", options, files, allow_links)
    return derive.write(
        choice.rows, splits, out, derivation, dropped=choice.dropped, progress=progress
    )


def split_indices(rows: Rows) -> npt.NDArray[np.int8]:
    """(R,) each row's split as its index in `manifest.SPLITS`.

    Raises:
        ManifestError: a row is of a split that there is not.
    """
    found = pc.index_in(rows.table["split"].combine_chunks(), value_set=pa.array(manifest.SPLITS))
    if found.null_count:
        raise ManifestError(
            "a manifest has rows of an unknown split",
            where=str(rows.files[0]),
            cure=f"known are {', '.join(manifest.SPLITS)}",
        )
    return np.asarray(found.to_numpy(), dtype=np.int8).copy()


def _draw(rows: Rows, keep: Mask, criteria: Criteria, dropped: dict[str, int]) -> Choice:
    """Apply the criteria that count rows against each other."""
    if "#draw" not in rows.table.column_names:
        return Choice(rows, keep, dropped)
    draws = rows.table["#draw"].to_numpy()
    if criteria.max_per_trajectory is not None:
        places = _places(trajectory_codes(rows.table), draws, keep)
        keep = _narrowed(keep, places < criteria.max_per_trajectory, "max_per_trajectory", dropped)
    if criteria.balance is not None:
        fits = _balanced(rows.table, criteria.balance, draws, keep)
        keep = _narrowed(keep, fits, "balance", dropped)
    if criteria.sample is not None:
        places = _places(np.zeros(len(rows), np.int64), draws, keep)
        keep = _narrowed(keep, places < criteria.sample, "sample", dropped)
    return Choice(rows, keep, dropped)


def _narrowed(keep: Mask, fits: Mask, name: str, dropped: dict[str, int]) -> Mask:
    narrower: Mask = keep & fits
    dropped[name] = int(keep.sum() - narrower.sum())
    return narrower


def _places(
    groups: npt.NDArray[np.int64], draws: npt.NDArray[np.uint64], keep: Mask
) -> npt.NDArray[np.int64]:
    """Each kept row's rank in its group by draw; of the others, beyond any limit."""
    places = np.full(len(keep), np.iinfo(np.int64).max)
    places[keep] = place_in_group(groups[keep], draws[keep])
    return places


def _balanced(table: pa.Table, column: str, draws: npt.NDArray[np.uint64], keep: Mask) -> Mask:
    """Whether a row is among the first of its value, as many as its split's rarest value has."""
    splits = codes(table["split"])
    groups = joint_codes([splits, codes(table[column])])
    sizes = np.bincount(groups[keep], minlength=int(groups.max(initial=0)) + 1)
    least = np.full(int(splits.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, splits[keep], sizes[groups[keep]])
    fits: Mask = _places(groups, draws, keep) < least[splits]
    return fits
