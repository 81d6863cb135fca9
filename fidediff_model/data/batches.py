"""Batches of trajectories: the contents of one draw and one batch, on the host and on the device.

N = T x k throughout: T trajectories per batch, k points of each, those of a trajectory adjacent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

UNKNOWN = -1
"""n_frames of a point for which the manifest states none."""


class Skipped(NamedTuple):
    """A file that could not be used, and why."""

    file: str
    reason: str


class Item(TypedDict):
    """One draw: k points of one trajectory, with the same crop and orientation."""

    blur: Tensor  # (k, 3, c, c) uint8
    sharp: Tensor  # (3, c, c) uint8
    timestep: Tensor  # (k,) float32
    n_frames: Tensor  # (k,) int64, 1 for the sharp itself, UNKNOWN where not stated
    trajectory_id: str
    sample_id: list[str]  # k names; CLIP/PAIR/n01 for the sharp itself
    skipped: list[Skipped]


class Batch(TypedDict):
    """T draws; their N = T x k points one after the other, those of a trajectory adjacent."""

    blur: Tensor  # (N, 3, c, c) uint8
    sharp: Tensor  # (T, 3, c, c) uint8
    timestep: Tensor  # (N,) float32
    n_frames: Tensor  # (N,) int64
    trajectory: Tensor  # (N,) int64, which of the T a point belongs to
    trajectory_id: list[str]
    sample_id: list[str]
    skipped: list[Skipped]


class DeviceBatch(NamedTuple):
    """A batch as the model takes it, images float32 in [-1, 1]."""

    blur: Tensor  # (N, 3, c, c)
    sharp: Tensor  # (T, 3, c, c), once per trajectory, so that it is encoded once
    timestep: Tensor  # (N,) float32
    trajectory: Tensor  # (N,) int64, which of the T a point belongs to

    @property
    def target(self) -> Tensor:
        """The sharp image of each point, (N, 3, c, c)."""
        return self.sharp[self.trajectory]


def collate(items: list[Item]) -> Batch:
    """A batch of draws with one crop size and number of points; images stay uint8."""
    points = [len(item["sample_id"]) for item in items]
    return Batch(
        blur=torch.cat([item["blur"] for item in items]),
        sharp=torch.stack([item["sharp"] for item in items]),
        timestep=torch.cat([item["timestep"] for item in items]),
        n_frames=torch.cat([item["n_frames"] for item in items]),
        trajectory=torch.arange(len(items)).repeat_interleave(torch.tensor(points)),
        trajectory_id=[item["trajectory_id"] for item in items],
        sample_id=[name for item in items for name in item["sample_id"]],
        skipped=[one for item in items for one in item["skipped"]],
    )


def to_device(batch: Batch, device: torch.device | str) -> DeviceBatch:
    """A batch on a device as the model takes it.

    Images travel as bytes, a quarter of the traffic, and become float32 in [-1, 1] there.
    """
    return DeviceBatch(
        blur=_to_range(batch["blur"].to(device, non_blocking=True)),
        sharp=_to_range(batch["sharp"].to(device, non_blocking=True)),
        timestep=batch["timestep"].to(device, non_blocking=True),
        trajectory=batch["trajectory"].to(device, non_blocking=True),
    )


def _to_range(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


@dataclass
class SkipLog:
    """Counts skipped draws in the training process; names each file once.

    Attributes:
        count: draws lost to a file, each replaced by another trajectory.
        files: reason by file.
    """

    count: int = 0
    files: dict[str, str] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        """Count what a batch had to skip and log a warning for each file not seen before."""
        for file, reason in batch["skipped"]:
            self.count += 1
            if file not in self.files:
                self.files[file] = reason
                _log.warning("skipped a trajectory: %s: %s", reason, file)
