"""Splitting a data set by complete clips or trajectories, with the same share of every n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trajectory_builder.curate import derive
from trajectory_builder.curate.derive import Derivation, DerivedReport
from trajectory_builder.curate.links import FileMode
from trajectory_builder.curate.select import refuse_unknown_splits
from trajectory_builder.curate.table import draws, read_rows
from trajectory_builder.errors import DataError, ExitCode, shorten
from trajectory_builder.trajectory import SPLITS

if TYPE_CHECKING:
    import pandas as pd

GROUPINGS = {"clip": "clip_id", "trajectory": "trajectory_id"}


def split(
    sources: Sequence[Path],
    out: Path,
    shares: Mapping[str, float],
    *,
    by: str = "clip",
    of: str = "train",
    seed: int = 0,
    files: FileMode = "hardlink",
    allow_links: bool = False,
) -> DerivedReport:
    """Write the data set again with the rows of split `of` dealt out anew; other splits stay.

    Args:
        sources: one data set's folder, or manifest files.
        out: the new data set; must not exist.
        shares: split -> its share; scaled to sum 1.
        by: `clip` or `trajectory`: what is never cut.
        of: the split that is dealt out, or `all`.
        seed: another seed gives another split of the same quality.
        files: `hardlink`, `reference` or `copy`.
        allow_links: follow symbolic links out of the sources.

    Raises:
        DataError: shares that make no sense, too few clips for the parts, or files that clash.
    """
    wanted = _checked_shares(shares)
    grouping = GROUPINGS[by]
    rows = read_rows(sources, [*derive.KEY_COLUMNS, grouping])
    refuse_unknown_splits(rows)
    moving = rows.frame if of == "all" else rows.frame[rows.frame["split"] == of]
    if moving.empty:
        raise DataError(
            f"there is no row of split {of} to divide",
            where=", ".join(str(source) for source in sources),
            cure="name another split with --of, or --of all",
            exit_code=ExitCode.WRONG_USE,
        )
    splits = rows.frame["split"].to_numpy(object)
    splits[moving.index] = _new_splits(moving, grouping, wanted, seed)
    new = rows.frame.assign(split=splits)
    _refuse_cut(rows.frame, new, grouping)
    derive.refuse_clashing_files(rows, new)
    options = {"into": dict(wanted), "by": by, "of": of, "seed": seed}
    return derive.write(rows, new, out, Derivation("split", options, files, allow_links))


def deal(
    groups: npt.NDArray[np.int64],
    classes: npt.NDArray[np.int64],
    shares: Sequence[float],
    draws: npt.NDArray[np.uint64],
) -> npt.NDArray[np.int64]:
    """Give each group to one part so that every class comes near its share in each.

    Groups with the rarest class go first, as they have the fewest places to go to; among equals
    the draw decides. Each goes where it leaves the least squared distance from the wanted counts,
    each class weighed by its size (after iterative stratification, Sechidis, Tsoumakas and
    Vlahavas 2011, with complete groups in the place of single examples).

    Args:
        groups: (R,) 0..G-1, a row's group.
        classes: (R,) 0..C-1, a row's class.
        shares: (P,) shares of the parts, sum 1.
        draws: (G,) one draw a group.

    Returns:
        (G,) the part of each group.
    """
    total = np.bincount(classes).astype(float)
    cells, counts = np.unique(groups * len(total) + classes, return_counts=True)
    owner, kind = np.divmod(cells, len(total))
    first = np.searchsorted(owner, np.arange(int(groups.max()) + 2))
    rarest = np.minimum.reduceat(total[kind], first[:-1])
    size = np.add.reduceat(counts, first[:-1])
    order = np.lexsort((draws, -size, rarest))
    kinds, amounts, begins = kind.tolist(), counts.tolist(), first.tolist()
    wanted = [[share * count for count in total] for share in shares]
    weights = [1.0 / count if count else 0.0 for count in total]
    parts = np.empty(len(order), np.int64)
    for group in order.tolist():
        of_group = range(begins[group], begins[group + 1])
        # Adding a to a lack of l changes (l / w)^2 by a (a - 2 l) / w^2, w being the wanted count.
        costs = [
            sum(
                weights[kinds[i]] * amounts[i] * (amounts[i] - 2 * lack[kinds[i]]) / share
                for i in of_group
            )
            for lack, share in zip(wanted, shares, strict=True)
        ]
        part = costs.index(min(costs))
        parts[group] = part
        for i in of_group:
            wanted[part][kinds[i]] -= amounts[i]
    return parts


def _new_splits(
    moving: pd.DataFrame, grouping: str, shares: Mapping[str, float], seed: int
) -> npt.NDArray[np.object_]:
    """(R,) the new split of each row, by complete groups."""
    # A clip's name is unique within its split only, so the split is part of the group.
    groups = np.asarray(moving.groupby(["split", grouping], sort=False).ngroup(), np.int64)
    first = moving.drop_duplicates(["split", grouping])
    finer = " or use --by trajectory" if grouping == "clip_id" else ""
    if len(first) < len(shares):
        raise DataError(
            f"{len(first):,} {'group' if len(first) == 1 else 'groups'} of {grouping} cannot fill"
            f" {len(shares)} parts",
            where=f"grouped by {grouping}",
            cure=f"ask for fewer parts with --into{finer}",
            exit_code=ExitCode.WRONG_USE,
        )
    random = draws((first["split"] + "/" + first[grouping]).tolist(), seed)
    classes = np.asarray(moving["n_frames"].factorize(use_na_sentinel=False)[0], np.int64)
    parts = deal(groups, classes, list(shares.values()), random)
    empty = [name for i, name in enumerate(shares) if not (parts == i).any()]
    if empty:
        raise DataError(
            f"no {grouping} is left for {', '.join(empty)}",
            where=f"{len(first)} groups for shares {dict(shares)}",
            cure=f"give it a larger share with --into{finer}",
        )
    return np.array(list(shares), object)[parts[groups]]


def _checked_shares(shares: Mapping[str, float]) -> dict[str, float]:
    unknown = [name for name in shares if name not in SPLITS]
    total = sum(shares.values())
    positive = all(math.isfinite(share) and share > 0 for share in shares.values())
    if unknown or not shares or not positive:
        near = {"val": "validation", "valid": "validation", "dev": "validation"}
        meant = ", ".join(near.get(name, name) for name in shares)
        raise DataError(
            f"unknown split {', '.join(unknown)}" if unknown else "a share must be above 0",
            where=", ".join(f"{name}={share:g}" for name, share in shares.items()),
            cure=f"did you mean {meant}?"
            if unknown and set(near) & set(unknown)
            else "write for instance --into train=0.9,validation=0.1",
            exit_code=ExitCode.WRONG_USE,
        )
    return {name: shares[name] / total for name in SPLITS if name in shares}


def _refuse_cut(old: pd.DataFrame, new: pd.DataFrame, grouping: str) -> None:
    """Refuse a result with one clip or trajectory in two splits that was not so before.

    That can happen only where the rows that stayed share it with rows that were dealt out.
    """
    before, after = (frame.groupby(grouping)["split"].nunique() for frame in (old, new))
    cut = after.index[after > before].tolist()
    if cut:
        raise DataError(
            f"{len(cut):,} names of column {grouping} would be in more splits than before",
            where=shorten(cut),
            cure="use --of all, so that rows of the same name go together",
        )
