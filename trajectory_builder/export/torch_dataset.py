"""A data set as PyTorch trains on it: pairs or trajectories, cropped and flipped jointly.

Needs torch, which is imported on first use, and nothing of `fidediff_model`:

    pairs = TrajectoryPairs("GOPRO_Large_trajectories", crop=256)
    loader = DataLoader(pairs, batch_size=16, sampler=TrajectorySampler(pairs), num_workers=8)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.errors import DataError, ImageError, shorten
from trajectory_builder.images.pictures import read_rgb8

if TYPE_CHECKING:
    import torch

Rows = npt.NDArray[np.int64]
UNKNOWN = -1
"""Stands for a timestep or n that the manifest does not state."""
_COLUMNS = ("split", "sample_id", "trajectory_id", "n_frames", "timestep", "height", "width")


class Draw(NamedTuple):
    """What `TrajectorySampler` asks a data set for: an item, and the epoch that seeds its crop."""

    epoch: int
    item: int


class Item(TypedDict):
    """One item; with k points, `blur`, `timestep` and `n_frames` have a leading axis of k.

    `blur` and `sharp` are (3, H, W) float32 in [0, 1]; `timestep` and `n_frames` are int64,
    `UNKNOWN` where the manifest does not state them.
    """

    blur: torch.Tensor
    sharp: torch.Tensor
    timestep: torch.Tensor
    n_frames: torch.Tensor
    sample_id: str | list[str]
    trajectory_id: str


class TrajectoryPairs:
    """The pairs of a data set, or k points of each of its trajectories: a map-style dataset.

    An item gets one crop and one flip, the same for its blurs and its sharp image. They depend on
    `seed`, the epoch and the item's name where `TrajectorySampler` asks, so workers and their
    number change nothing; else on torch's generator, which a DataLoader seeds in each worker.

    Args:
        source: a data set's folder, a split's folder, a manifest file, or several of these.
        split: rows of this split; None takes all.
        crop: side of the square crop in pixels; None takes images as they are.
        flips: mirror at random, in each of the two directions.
        points: None makes each pair an item; k makes each trajectory an item of k of its blurs,
            drawn at random, ascending in n. Trajectories of fewer than k are left out.
        seed: of crops, flips and points.
        allow_links: follow symbolic links out of the folder; for sets of your own.

    Attributes:
        items: the rows of each item, ascending in n.
        left_out: trajectories with fewer than `points` blurs.

    Raises:
        DataError: nothing is left, or an image is smaller than the crop.
        ManifestError: as `manifest.read`.
    """

    def __init__(
        self,
        source: Path | str | Sequence[Path | str],
        *,
        split: str | None = "train",
        crop: int | None = 256,
        flips: bool = True,
        points: int | None = None,
        seed: int = 0,
        allow_links: bool = False,
    ) -> None:
        self.manifest = manifest.read(source, allow_links=allow_links)
        self.crop, self.flips, self.points, self.seed = crop, flips, points, seed
        table = self.manifest.table
        known = {name: pc.fill_null(table.column(name), UNKNOWN) for name in _COLUMNS[3:]}
        self.columns = {n: known.get(n, table.column(n)).to_numpy() for n in _COLUMNS}
        rows = np.arange(table.num_rows)
        if split is not None:
            rows = rows[self.columns["split"] == split]
        self.left_out = 0
        if points is None:
            self.items = list(rows[:, None])
        else:
            trajectories = _by_trajectory(self.columns, rows)
            self.items = [own for own in trajectories if len(own) >= points]
            self.left_out = len(trajectories) - len(self.items)
        self._check(rows, split)

    def _check(self, rows: Rows, split: str | None) -> None:
        where = shorten([str(folder) for _, folder in self.manifest.folders])
        if not len(rows):
            there = ", ".join(sorted(set(self.columns["split"]))) or "none"
            raise DataError(
                f"no pair in split {split}" if split else "the data set is empty",
                where=f"{where}; its splits: {there}",
                cure="give one of these as `split`, or build the set first",
            )
        if not self.items:
            raise DataError(
                f"no trajectory has {self.points} points",
                where=where,
                cure="give fewer points; `trajbuild stats --by n_frames` shows which n there are",
            )
        sides = np.minimum(self.columns["height"][rows], self.columns["width"][rows])
        if self.crop is not None and sides.min() < self.crop:
            raise DataError(
                f"{np.sum(sides < self.crop):,} images are smaller than the crop of {self.crop}",
                where=f"{where}; the shortest side is {sides.min()}",
                cure=f"give crop={sides.min()} or less",
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | Draw) -> Item:
        """One item.

        Raises:
            DataError, ImageError: a file is absent, damaged, or not of the size in the manifest.
            IndexError: there is no such item.
        """
        import torch

        if isinstance(index, tuple):
            rows = self.items[index[1]]
            name = f"{self.seed}/{index[0]}/{self.columns['sample_id'][rows[0]]}"
            random = _generator(name)
        else:
            rows = self.items[index]
            random = np.random.default_rng(int(torch.randint(1 << 62, ()).item()))
        if self.points is not None:
            rows = rows[np.sort(random.choice(len(rows), self.points, replace=False))]
        paths = [(int(row), "blur_file_name") for row in rows]
        images = [self._read(*path) for path in [*paths, (int(rows[0]), "sharp_file_name")]]
        *blurs, sharp = self._cut(np.stack(images), random)
        # Pairs have no axis of points.
        own = rows if self.points is not None else rows[0]
        names = self.columns["sample_id"][own]
        return Item(
            blur=torch.stack(blurs) if self.points is not None else blurs[0],
            sharp=sharp,
            timestep=torch.as_tensor(self.columns["timestep"][own].astype(np.int64)),
            n_frames=torch.as_tensor(self.columns["n_frames"][own].astype(np.int64)),
            sample_id=names if isinstance(names, str) else list(names),
            trajectory_id=str(self.columns["trajectory_id"][rows[0]]),
        )

    def _cut(self, images: npt.NDArray[np.uint8], random: np.random.Generator) -> torch.Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, h, w) in [0, 1], one crop and flip for all N."""
        import torch

        if self.crop is not None:
            top, left = (int(random.integers(side - self.crop + 1)) for side in images.shape[1:3])
            images = images[:, top : top + self.crop, left : left + self.crop]
        for axis in (1, 2) if self.flips else ():
            if random.integers(2):
                images = np.flip(images, axis)
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return torch.from_numpy(planes).float() / 255

    def _read(self, row: int, column: str) -> npt.NDArray[np.uint8]:
        path = self.manifest.file(row, column)
        image = read_rgb8(path)
        size = (self.columns["height"][row], self.columns["width"][row])
        if image.shape[:2] != size:
            raise ImageError(
                f"the image is {image.shape[1]} x {image.shape[0]}, its manifest says"
                f" {size[1]} x {size[0]}",
                where=str(path),
                cure="run `trajbuild verify` on the data set",
            )
        return np.asarray(image, np.uint8)


class TrajectorySampler:
    """Each epoch, every trajectory once, in random order; of a set of pairs, one of its n.

    A trajectory with many n does not outweigh one with few, as it does when pairs are shuffled.
    Give it to a DataLoader as `sampler`. Each pass is the next epoch; `set_epoch` goes to another.

    Args:
        pairs: the data set that is drawn from.
        weights: n -> weight of its draw among a trajectory's pairs, 1 where it is not named; only
            for a set of pairs. A trajectory whose weights are all 0 is left out.
        rank: of this process; takes each `world_size`-th draw from `rank` on.
        world_size: number of processes; all get equally many draws.
        seed: of order and draws; the data set's own when None.
    """

    def __init__(
        self,
        pairs: TrajectoryPairs,
        *,
        weights: Mapping[int, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
    ) -> None:
        self.epoch, self.rank, self.world_size = 0, rank, world_size
        self.seed = pairs.seed if seed is None else seed
        rows = np.array([own[0] for own in pairs.items])
        # Rows become items: in a set of pairs each row is one, else each trajectory is.
        item_of = {int(row): item for item, row in enumerate(rows)}
        groups = _by_trajectory(pairs.columns, rows)
        self._groups: list[tuple[Rows, npt.NDArray[np.float64]]] = []
        for own in groups:
            n = pairs.columns["n_frames"][own].tolist()
            share = np.array([(weights or {}).get(one, 1.0) for one in n])
            if share.sum() > 0:
                items = np.array([item_of[int(row)] for row in own])
                self._groups.append((items, share / share.sum()))
        if len(self) == 0:
            raise DataError(
                f"{len(self._groups)} trajectories give {world_size} ranks nothing to draw",
                where="TrajectorySampler",
                cure="give some n of the set a weight above 0, and no more ranks than trajectories",
            )

    def __len__(self) -> int:
        return len(self._groups) // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that epoch, e.g. after resuming."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        """The draws of this rank in the current epoch."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        random = _generator(f"{self.seed}/{epoch}")
        order = random.permutation(len(self._groups))
        # All ranks draw for all, so that they agree; the tail that does not divide is dropped.
        chosen = [random.choice(items, p=share) for items, share in self._groups]
        for at in order[self.rank : len(self) * self.world_size : self.world_size]:
            yield Draw(epoch, int(chosen[at]))


def _by_trajectory(columns: Mapping[str, npt.NDArray[np.generic]], rows: Rows) -> list[Rows]:
    """Rows of each trajectory, ascending in n; trajectories in the order of the rows."""
    grouped: dict[str, list[int]] = {}
    for row in rows.tolist():
        grouped.setdefault(str(columns["trajectory_id"][row]), []).append(row)
    n = columns["n_frames"]
    return [np.array(sorted(own, key=lambda row: int(n[row]))) for own in grouped.values()]


def _generator(name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
