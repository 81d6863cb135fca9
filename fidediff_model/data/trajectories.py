"""From the manifest to batches of trajectories: what is drawn, how it is cut, what was skipped.

The unit is the trajectory, not the pair: a draw takes one trajectory, k of its points and one
sharp crop that all of them are to be restored to (FideDiff's consistency training).
Which points, where the crop lies and how it is turned depend on (seed, epoch, trajectory_id)
alone, so workers, batch size and resuming change nothing. `sampler.TrajectorySampler` gives the
order. t comes from the manifest, never from a file's name.
"""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import DataLoader, Dataset

from fidediff_model.data.batches import UNKNOWN, Item, Skipped, collate
from fidediff_model.data.image_files import Image, read_image
from fidediff_model.data.sampler import Draw, TrajectorySampler
from trajectory_builder.errors import DataError, ImageError, ManifestError, shorten
from trajectory_builder.manifest import Manifest

MAX_SUBSTITUTES = 20
"""Unreadable trajectories in a row after which a draw gives up: the data set is broken."""


@dataclass(frozen=True)
class DrawRules:
    """What a draw takes from a trajectory.

    Attributes:
        crop: side of the square crop, in pixels of the images (ours: 256, which is 512 at the
            network's input for latent_stride 4).
        points: k, blurs of one trajectory in a draw; where it has fewer, they repeat (ours: 1).
        identity: probability that a point is the sharp image itself with t = 0, so that
            f(z_0, 0) = z_0 is learnt (ours: 0).
        consistency: False is the paper's ablation: every trajectory gives its native blur only,
            always with `fixed_timestep`.
        fixed_timestep: t when consistency is off (ours: 200, 11 frames, GoPro's commonest).
        augment: flip and turn each crop into one of its eight orientations.
        seed: of everything that is drawn.

    Raises:
        DataError: a value out of range, or points or identity that need consistency.
    """

    crop: int = 256
    points: int = 1
    identity: float = 0.0
    consistency: bool = True
    fixed_timestep: float = 200.0
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop < 1 or self.points < 1 or not 0 <= self.identity <= 1:
            raise DataError(
                f"crop {self.crop}, points {self.points} or identity {self.identity} is out of"
                " range",
                cure="give crop and points of at least 1, identity from 0 to 1",
            )
        if not self.consistency and (self.points > 1 or self.identity > 0):
            raise DataError(
                "without consistency a trajectory has one point with a fixed timestep",
                where=f"points {self.points}, identity {self.identity}",
                cure="give points 1 and identity 0, or switch consistency on",
            )


class TrajectoryDataset(Dataset[Item]):
    """The trajectories of a manifest; `dataset[Draw(epoch, trajectory)]` is one draw.

    Args:
        manifest: as `trajectory_builder.manifest.read` gives it.
        rules: what a draw takes.
        split: rows of this split only; None takes all.

    Attributes:
        left_out: rows of the split that no draw can take, because the manifest states no
            timestep (consistency on) or they are not native (off).

    Raises:
        DataError: no row is left, an image is smaller than the crop, or the rows of one
            trajectory name different sharp images.
    """

    def __init__(
        self, manifest: Manifest, rules: DrawRules, *, split: str | None = "train"
    ) -> None:
        self.manifest = manifest
        self.rules = rules
        rows = _rows_of(manifest.table, split)
        kept = _usable(manifest.table, rows, rules)
        self.left_out = len(rows) - len(kept)
        if not len(kept):
            raise _nothing_left(split, len(rows), rules)
        _check_sizes(manifest.table, kept, rules.crop)
        _check_sharp(manifest.table, kept)
        self._rows, self._starts = _group(manifest.table, kept)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, draw: Draw | int) -> Item:
        """One draw of a trajectory, or of a substitute where a file of it cannot be used.

        Args:
            draw: epoch and trajectory; a bare number is a trajectory in epoch 0.

        Raises:
            DataError: `MAX_SUBSTITUTES` trajectories in a row cannot be read.
        """
        epoch, index = draw if isinstance(draw, tuple) else Draw(0, draw)
        skipped: list[Skipped] = []
        substitutes = _generator(self.rules.seed, epoch, f"{self._id(index)}/substitutes")
        for _ in range(MAX_SUBSTITUTES):
            try:
                item = self._draw(epoch, index)
            except (ImageError, ManifestError) as error:
                skipped.append(Skipped(error.where, error.what))
                index = int(substitutes.integers(len(self)))
            else:
                item["skipped"] = skipped
                return item
        raise DataError(
            f"{MAX_SUBSTITUTES} trajectories in a row have files that cannot be used",
            where=shorten(sorted({one.file for one in skipped})),
            cure="run `trajbuild verify` on the data set",
        )

    def _id(self, index: int) -> str:
        return str(self._value("trajectory_id", self._rows[self._starts[index]]))

    def _value(self, column: str, row: int) -> Any:
        return self.manifest.table.column(column)[int(row)].as_py()

    def _draw(self, epoch: int, index: int) -> Item:
        rules = self.rules
        rows = self._rows[self._starts[index] : self._starts[index + 1]]
        trajectory_id = self._id(index)
        generator = _generator(rules.seed, epoch, trajectory_id)
        # Shuffled, then repeated if need be: no point twice before each was taken once.
        chosen = np.resize(generator.permutation(rows), rules.points)
        is_sharp = generator.random(rules.points) < rules.identity
        cut = _Cut.draw(self._size(rows[0]), rules, generator)
        sharp = cut(self._read(rows[0], "sharp_file_name"))
        blurs = {
            row: cut(self._read(row, "blur_file_name"))
            for row in dict.fromkeys(chosen[~is_sharp].tolist())
        }
        points = [
            (f"{trajectory_id}/n01", 0.0, 1, sharp)
            if identity
            else (self._value("sample_id", row), *self._time(row), blurs[row])
            for row, identity in zip(chosen.tolist(), is_sharp, strict=True)
        ]
        names, timesteps, n_frames, images = zip(*points, strict=True)
        return Item(
            blur=torch.from_numpy(np.stack(images)),
            sharp=torch.from_numpy(sharp),
            timestep=torch.tensor(timesteps, dtype=torch.float32),
            n_frames=torch.tensor(n_frames, dtype=torch.int64),
            trajectory_id=trajectory_id,
            sample_id=list(names),
            skipped=[],
        )

    def _time(self, row: int) -> tuple[float, int]:
        """(t, n_frames) of a row."""
        n_frames = self._value("n_frames", row)
        t = self._value("timestep", row) if self.rules.consistency else self.rules.fixed_timestep
        return float(t), UNKNOWN if n_frames is None else int(n_frames)

    def _size(self, row: int) -> tuple[int, int]:
        return self._value("height", row), self._value("width", row)

    def _read(self, row: int, column: str) -> Image:
        """The image of a row, held against the size that the manifest states."""
        path = self.manifest.file(int(row), column)
        image = read_image(path)
        height, width = self._size(row)
        if image.shape[:2] != (height, width):
            raise ImageError(
                f"an image is {image.shape[1]} x {image.shape[0]}, its manifest says"
                f" {width} x {height}",
                where=str(path),
            )
        return image


@dataclass(frozen=True)
class _Cut:
    """A square crop in one of its eight orientations; the same for all images of a draw."""

    top: int
    left: int
    side: int
    orientation: int

    @classmethod
    def draw(cls, size: tuple[int, int], rules: DrawRules, generator: np.random.Generator) -> _Cut:
        top, left = (int(generator.integers(length - rules.crop + 1)) for length in size)
        orientation = int(generator.integers(8)) if rules.augment else 0
        return cls(top, left, rules.crop, orientation)

    def __call__(self, image: Image) -> npt.NDArray[np.uint8]:
        """(H, W, 3) -> (3, side, side), a copy, so that the whole image can go."""
        crop = image[self.top : self.top + self.side, self.left : self.left + self.side]
        if self.orientation & 1:
            crop = crop[:, ::-1]
        if self.orientation & 2:
            crop = crop[::-1]
        # A flip about the diagonal; with the two above it makes all quarter turns.
        axes = (2, 1, 0) if self.orientation & 4 else (2, 0, 1)
        return crop.transpose(axes).copy(order="C")


def make_loader(
    dataset: TrajectoryDataset,
    *,
    batch_size: int,
    workers: int = 0,
    first_step: int = 0,
    steps: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Item]:
    """Batches from step `first_step` on, the same whatever the number of workers.

    Args:
        dataset: what to draw from; its rules' seed also orders the draws.
        batch_size: T, trajectories a batch on each rank; a batch has T x k points.
        workers: loader processes, no more than there are cores; decoding holds the interpreter,
            so threads would not help.
        first_step: steps already taken: resuming at step s goes on with batch s.
        steps: number of batches; None never ends.
        rank: which of `world_size` processes this is. Each takes its share of every global
            batch, so 1 process of 8 trajectories and 2 of 4 see the same ones at a step.
        world_size: processes that train together.

    Returns:
        A DataLoader of `Batch` dictionaries.

    Raises:
        DataError: no trajectory can be read.
    """
    workers = min(workers, os.cpu_count() or 1)
    if workers:
        # A data set whose files are gone fails here, not as a traceback out of a worker.
        dataset[0]
    sampler = TrajectorySampler(
        len(dataset),
        seed=dataset.rules.seed,
        offset=first_step * batch_size * world_size,
        count=None if steps is None else steps * batch_size,
        rank=rank,
        world_size=world_size,
    )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator().manual_seed(dataset.rules.seed),
    )


def _leave_signals_to_the_parent(worker: int) -> None:
    """A scheduler tells a whole process group to end; the trainer then needs its step's batches.

    A worker ends when the trainer closes the loader or is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    """Chance that hangs on identity, not on order."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


_Rows = npt.NDArray[np.int64]


def _rows_of(table: pa.Table, split: str | None) -> _Rows:
    """Numbers of the split's rows."""
    if split is None:
        return np.arange(table.num_rows)
    mask = pc.equal(table.column("split"), split).to_numpy()
    return np.flatnonzero(mask)


def _usable(table: pa.Table, rows: _Rows, rules: DrawRules) -> _Rows:
    """The rows that a draw may take: with a timestep, or native ones where t is fixed."""
    if rules.consistency:
        mask = pc.is_valid(table.column("timestep"))
    else:
        # A pair of unknown n is all its trajectory has.
        mask = pc.fill_null(
            pc.equal(table.column("n_frames"), table.column("native_n_frames")), True
        )
    kept: _Rows = rows[mask.to_numpy()[rows]]
    return kept


def _nothing_left(split: str | None, rows: int, rules: DrawRules) -> DataError:
    if not rows:
        return DataError(
            f"the manifest has no rows of the split {split}", cure="give another data set or split"
        )
    if rules.consistency:
        return DataError(
            f"none of the manifest's {rows:,} rows states a timestep",
            cure="train without consistency, or index the data with a timestep",
        )
    return DataError(
        f"none of the manifest's {rows:,} rows is the native blur of its trajectory",
        cure="train with consistency, or take a recipe that keeps the official pairs",
    )


def _check_sizes(table: pa.Table, rows: _Rows, crop: int) -> None:
    sizes = pc.min_element_wise(table.column("width"), table.column("height")).to_numpy()
    small = rows[sizes[rows] < crop]
    if len(small):
        names = table.column("sample_id").take(small[:100]).to_pylist()
        raise DataError(
            f"{len(small):,} images are smaller than the crop of {crop} pixels",
            where=f"smallest side {sizes[small].min()}; {shorten(names)}",
            cure=f"give --crop {sizes[rows].min()} or less, or select larger images",
        )


def _check_sharp(table: pa.Table, rows: _Rows) -> None:
    """All points of a trajectory must have one and the same sharp image."""
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


def _group(table: pa.Table, rows: _Rows) -> tuple[_Rows, _Rows]:
    """Rows ordered by trajectory, and where each trajectory starts, with the end at the end.

    Trajectories keep the order of their first row, and rows that of the manifest.
    """
    ids = table.column("trajectory_id").take(rows).combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()  # numbered by first appearance
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes))])
    return rows[order], starts
