"""What a draw takes from a trajectory, and the manifest's rows that it can take."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.errors import DataError, shorten

Rows = npt.NDArray[np.int64]
PointsOf = Literal["all", "native"]
TimestepOf = Literal["given", "fixed"]


@dataclass(frozen=True)
class DrawRules:
    """What a draw takes from a trajectory.

    Consistency training is `points_of="all"` with `timestep_of="given"`; the paper's ablation
    without it is `native` with `fixed`. The other two combinations tell the causes apart.

    Attributes:
        crop: side of the square crop, in pixels of the images (our choice: 256, which is 512 at
            the network's input for latent_stride 4).
        points: k, points of one trajectory in a draw. Where it has fewer blurs the sharp image
            itself with t = 0 joins them, and only then they repeat.
        identity: probability that a point is replaced by the sharp image with t = 0, so that
            f(z_0, 0) = z_0 is learnt (our choice: 0).
        points_of: draw from all blurs of a trajectory, or from its native one alone.
        timestep_of: the manifest's t, or `fixed_timestep` for every blur.
        fixed_timestep: our choice: 200, which is 11 frames, the commonest blur of GoPro.
        augment: flip and turn each crop into one of its eight orientations.
        seed: of everything that is drawn.

    Raises:
        DataError: a value out of range, or an identity point where t is fixed.
    """

    crop: int = 256
    points: int = 1
    identity: float = 0.0
    points_of: PointsOf = "all"
    timestep_of: TimestepOf = "given"
    fixed_timestep: float = 200.0
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop < 1 or self.points < 1 or not 0 <= self.identity <= 1:
            raise DataError(
                f"crop {self.crop}, points {self.points} or identity {self.identity} is out of"
                " range",
                where="crop, points, identity",
                cure="give crop and points of at least 1, identity from 0 to 1",
            )
        if self.points_of == "native" and self.points > 1:
            raise DataError(
                "a trajectory has one native blur",
                where=f"points {self.points}",
                cure="give points 1, or draw from all blurs",
            )
        if self.timestep_of == "fixed" and self.identity > 0:
            raise DataError(
                "an identity point has t = 0, which a fixed timestep denies",
                where=f"identity {self.identity}",
                cure="give identity 0, or take the timesteps of the manifest",
            )


class Chosen(NamedTuple):
    """The rows of a manifest that draws can take, those of a trajectory adjacent.

    Trajectories keep the order of their first row, and rows that of the manifest.
    """

    rows: Rows
    starts: Rows  # where in `rows` each trajectory starts, with the end at the end
    left_out: int  # rows that no draw can take


def choose(
    table: pa.Table,
    rules: DrawRules,
    *,
    split: str | None,
    clips: Collection[str] | None,
    without: Collection[str],
) -> Chosen:
    """Choose the rows that draws can take; `TrajectoryDataset` explains the arguments.

    Raises:
        DataError: no row is left, an image is smaller than the crop, or the rows of one
            trajectory name different sharp images.
    """
    selected = _select(table, split, clips, without)
    usable = _usable(table, selected, rules)
    if not len(usable):
        raise _nothing_left(split, len(selected), rules)
    _check_sizes(table, usable, rules.crop)
    _check_sharp(table, usable)
    rows, starts = _group(table, usable)
    return Chosen(rows, starts, len(selected) - len(usable))


def _select(
    table: pa.Table, split: str | None, clips: Collection[str] | None, without: Collection[str]
) -> Rows:
    """Indices of the rows of a split and of some clips."""
    mask = np.ones(table.num_rows, dtype=bool)
    if split is not None:
        mask &= pc.equal(table.column("split"), split).to_numpy()
    clip_ids = table.column("clip_id")
    if clips is not None:
        mask &= pc.is_in(clip_ids, pa.array(sorted(clips), pa.string())).to_numpy()
    if without:
        mask &= ~pc.is_in(clip_ids, pa.array(sorted(without), pa.string())).to_numpy()
    return np.flatnonzero(mask)


def _usable(table: pa.Table, rows: Rows, rules: DrawRules) -> Rows:
    """The rows that a draw may take: with a timestep where it is given, native ones if asked."""
    mask = np.ones(table.num_rows, dtype=bool)
    if rules.timestep_of == "given":
        mask &= pc.is_valid(table.column("timestep")).to_numpy()
    if rules.points_of == "native":
        is_native = pc.equal(table.column("n_frames"), table.column("native_n_frames"))
        # A pair of unknown n is all that its trajectory has.
        mask &= pc.fill_null(is_native, True).to_numpy()
    return rows[mask[rows]]


def _nothing_left(split: str | None, rows: int, rules: DrawRules) -> DataError:
    if not rows:
        return DataError(
            f"the manifest has no rows of the split {split}",
            where="column split",
            cure="give another data set or split",
        )
    if rules.timestep_of == "given":
        return DataError(
            f"none of the manifest's {rows:,} rows states a timestep",
            where="column timestep",
            cure="train with --timestep-of fixed, or index the data with a timestep",
        )
    return DataError(
        f"none of the manifest's {rows:,} rows is the native blur of its trajectory",
        where="columns n_frames, native_n_frames",
        cure="train with --points-of all, or take a recipe that keeps the official pairs",
    )


def _check_sizes(table: pa.Table, rows: Rows, crop: int) -> None:
    sizes = pc.min_element_wise(table.column("width"), table.column("height")).to_numpy()
    small = rows[sizes[rows] < crop]
    if len(small):
        names = table.column("sample_id").take(small[:100]).to_pylist()
        raise DataError(
            f"{len(small):,} images are smaller than the crop of {crop} pixels",
            where=f"smallest side {sizes[small].min()}; {shorten(names)}",
            cure=f"give --crop {sizes[rows].min()} or less, or select larger images",
        )


def _check_sharp(table: pa.Table, rows: Rows) -> None:
    """Refuse a trajectory whose points have different sharp images."""
    kept = table.select(["trajectory_id", "sharp_sha256"]).take(rows)
    kinds = kept.group_by("trajectory_id").aggregate([("sharp_sha256", "count_distinct")])
    split = kinds.filter(pc.greater(kinds.column("sharp_sha256_count_distinct"), 1))
    if split.num_rows:
        raise DataError(
            f"{split.num_rows:,} trajectories name several sharp images:"
            f" {shorten(split.column('trajectory_id').to_pylist())}",
            where="column sharp_sha256",
            cure="do not mix data sets that use the same trajectory_id for different images",
        )


def _group(table: pa.Table, rows: Rows) -> tuple[Rows, Rows]:
    """Rows ordered by trajectory, and where each trajectory starts."""
    ids = table.column("trajectory_id").take(rows).combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()  # numbered by first appearance
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes))])
    return rows[order], starts
