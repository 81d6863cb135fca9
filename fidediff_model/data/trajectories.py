"""From the manifest to batches of trajectories: what is drawn, how it is cut, what is skipped.

The unit is the trajectory, not the pair: a draw takes one trajectory, k of its points and the one
sharp crop that all of them should be restored to (FideDiff's consistency training).
Points, crop and orientation depend on (seed, epoch, trajectory_id) alone, so workers, batch size
and resuming change nothing. `sampler.TrajectorySampler` decides the order. t comes from the
manifest, never from a file's name.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from fidediff_model.data.batches import UNKNOWN, Item, Skipped, collate
from fidediff_model.data.rules import DrawRules, choose
from fidediff_model.data.sampler import Draw, TrajectorySampler
from trajectory_builder.errors import DataError, ImageError, ManifestError, shorten
from trajectory_builder.images.pictures import read_rgb8
from trajectory_builder.images.png import Pixels
from trajectory_builder.manifest import Manifest

MAX_SUBSTITUTES = 20
"""Unreadable trajectories in a row after which a draw gives up: the data set is broken."""
_IDENTITY = -1  # in place of a row: the sharp image as its own blur


class TrajectoryDataset(Dataset[Item]):
    """The trajectories of a manifest; `dataset[Draw(epoch, trajectory)]` is one draw.

    Args:
        manifest: as `trajectory_builder.manifest.read` gives it.
        rules: what a draw takes.
        split: rows of this split only; None takes all.
        without: clips whose rows are left out, such as those held out for validation.
        clips: rows of these clips only; None takes all.

    Attributes:
        left_out: rows that no draw can take, because the manifest states no timestep or they are
            not native, as the rules need.

    Raises:
        DataError: no row is left, an image is smaller than the crop, or the rows of one
            trajectory name different sharp images.
    """

    def __init__(
        self,
        manifest: Manifest,
        rules: DrawRules,
        *,
        split: str | None = "train",
        clips: Collection[str] | None = None,
        without: Collection[str] = (),
    ) -> None:
        self.manifest = manifest
        self.rules = rules
        chosen = choose(manifest.table, rules, split=split, clips=clips, without=without)
        self._rows, self._starts, self.left_out = chosen

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
        order = generator.permutation(rows)
        if len(order) < rules.points and rules.timestep_of == "given":
            order = np.append(order, _IDENTITY)
        chosen = np.resize(order, rules.points)
        chosen[generator.random(rules.points) < rules.identity] = _IDENTITY
        cut = _Cut.draw(self._size(rows[0]), rules, generator)
        sharp = cut(self._read(rows[0], "sharp_file_name"))
        blurs = {
            row: cut(self._read(row, "blur_file_name"))
            for row in dict.fromkeys(chosen[chosen != _IDENTITY].tolist())
        }
        points = [
            (f"{trajectory_id}/n01", 0.0, 1, sharp)
            if row == _IDENTITY
            else (self._value("sample_id", row), *self._time(row), blurs[row])
            for row in chosen.tolist()
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
        is_given = self.rules.timestep_of == "given"
        t = self._value("timestep", row) if is_given else self.rules.fixed_timestep
        return float(t), UNKNOWN if n_frames is None else int(n_frames)

    def _size(self, row: int) -> tuple[int, int]:
        return self._value("height", row), self._value("width", row)

    def _read(self, row: int, column: str) -> Pixels:
        """The image of a row, compared with the size that the manifest states."""
        path = self.manifest.file(int(row), column)
        image = read_rgb8(path)
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

    def __call__(self, image: Pixels) -> npt.NDArray[np.uint8]:
        """(H, W, 3) -> (3, side, side), a copy, so that the full image can be freed."""
        crop = image[self.top : self.top + self.side, self.left : self.left + self.side]
        if self.orientation & 1:
            crop = crop[:, ::-1]
        if self.orientation & 2:
            crop = crop[::-1]
        # A flip about the diagonal; with the two above it generates all quarter turns.
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
    """Batches from step `first_step` on, the same for any number of workers.

    Args:
        dataset: what to draw from; its rules' seed also orders the draws.
        batch_size: T, trajectories per batch on each rank; a batch has T x k points.
        workers: loader processes, no more than there are cores; decoding needs the interpreter's
            lock, so threads would not help.
        first_step: steps already taken: resuming at step s continues with batch s.
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
        # A data set whose files are gone fails here, not with a traceback from a worker.
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
    """Ignore SIGTERM and SIGINT in a loader process.

    A scheduler signals the process group; the trainer still needs the batches of the step that it
    finishes. A worker ends when the trainer closes the loader or is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    """A random generator that depends on names, not on the order of draws."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{name}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
