"""The order of draws: a function of (seed, epoch, position), known before anything is read.

Draws have positions 0, 1, 2, ... without end; epoch e covers positions e x size to (e + 1) x size,
a permutation of all trajectories. A step takes the next positions, dealt to the ranks in turn. So
to resume is to start at a position, and neither workers nor ranks change what a step sees.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """Which trajectory, and in which epoch: the epoch decides its crop and orientation."""

    epoch: int
    trajectory: int


class TrajectorySampler(Sampler[Draw]):
    """An endless, resumable order of draws for one rank.

    A batch may straddle two epochs, so no trajectory is dropped at an epoch's end.

    Args:
        size: number of trajectories.
        seed: of the permutations.
        offset: draws already taken by all ranks together: steps x batch_size x world_size.
        count: draws of this rank before the end; None never ends.
        rank: from 0; takes positions offset + rank, + world_size, ...
        world_size: number of ranks.

    Raises:
        ValueError: no trajectories, or a rank that is not below world_size.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int = 0,
        offset: int = 0,
        count: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if size < 1 or offset < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"size {size} must be 1 at least, offset {offset} 0 at least, and rank {rank}"
                f" below world_size {world_size}"
            )
        self.size = size
        self.seed = seed
        self.offset = offset
        self.count = count
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Draw]:
        epoch = -1
        order = np.empty(0, dtype=np.int64)
        turns = itertools.count() if self.count is None else range(self.count)
        for turn in turns:
            position = self.offset + turn * self.world_size + self.rank
            now, place = divmod(position, self.size)
            if now != epoch:
                epoch, order = now, epoch_order(self.size, seed=self.seed, epoch=now)
            yield Draw(epoch, int(order[place]))


def epoch_order(size: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The permutation of `size` trajectories in an epoch, (size,)."""
    digest = hashlib.blake2b(f"order/{seed}/{epoch}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).permutation(size)
