"""Compare the official pairs of a task with the frames: what a worker of `alignment` runs.

A module of its own that imports neither tables nor the builder: workers load it before they begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from trajectory_builder.build import nearness, workers
from trajectory_builder.disk.atomic import fault_point
from trajectory_builder.errors import ImageError
from trajectory_builder.images import png
from trajectory_builder.images.png import Pixels
from trajectory_builder.pixels import averaging

if TYPE_CHECKING:
    from trajectory_builder.plan.table import PlanRow

REACH = 8
"""Our choice: a sharp image is searched this many frames before and after its expected rank."""
GAMMA_TOLERANCE = 2  # grey levels; blur_gamma is not bit-reproducible (DeepDeblur_release#65)


@dataclass(frozen=True)
class PairCheck:
    """Result for one official pair.

    Attributes:
        trajectory_id: the pair's.
        offset: frames between the expected rank and the one that the sharp image shows; None where
            no frame within `REACH` is near it, or several are.
        near: offsets of the frames that it may show.
        is_exact: whether its pixels equal a frame's.
        blur: `equal`, `differs`, `absent` (frames of its window are), or `unchecked`.
    """

    trajectory_id: str
    offset: int | None
    near: tuple[int, ...]
    is_exact: bool
    blur: str

    @property
    def is_found(self) -> bool:
        """Whether it shows one of the frames, or one of several that look alike."""
        return bool(self.near)


@dataclass(frozen=True)
class Task:
    """Neighbouring official pairs of one clip.

    Attributes:
        clip: its name.
        names: by rank, the existing frames that the rows may need.
        rows: plan rows of the pairs.
        with_blur: sample_ids whose blur is compared too.
        roots: folders that `pairs:` and `frames:` paths start from.
    """

    clip: str
    names: Mapping[int, str]
    rows: Sequence[PlanRow]
    with_blur: set[str]
    roots: dict[str, str]


def check_task(task: Task) -> tuple[str, list[PairCheck]]:
    """The clip's name, and a result for each pair whose images can be read."""
    workers.set_up()
    frames = _Frames(task)
    checks = []
    for row in task.rows:
        sharp = _read(task.roots, row["sharp_source"])
        if sharp is None or row["center_index"] not in task.names:
            continue  # plan and shard report what is missing
        center = frames.get(row["center_index"])
        if center is None or center.shape != sharp.shape:
            continue  # a bad frame shows nothing of its place; the shard reports what is wrong
        exact = frames.offset_of(sharp, row["center_index"])
        near = (exact,) if exact is not None else frames.near(sharp, row["center_index"])
        wanted = row["sample_id"] in task.with_blur
        blur = frames.blur_of(row, task.roots) if wanted else "unchecked"
        offset = near[0] if len(near) == 1 else None
        checks.append(PairCheck(row["trajectory_id"], offset, near, exact is not None, blur))
        # Memory is bounded by the frames near one pair, however long the clip is.
        frames.forget_before(row["center_index"] - REACH)
        fault_point("pair-checked")
    return task.clip, checks


class _Frames:
    """Frames of a clip by rank, each decoded once while it is near."""

    def __init__(self, task: Task) -> None:
        self._names = task.names
        self._root = Path(task.roots["frames"])
        self._held: dict[int, Pixels | None] = {}

    def get(self, rank: int) -> Pixels | None:
        """The frame's pixels; None where it is absent or cannot be read."""
        if rank not in self._held:
            name = self._names.get(rank)
            self._held[rank] = _pixels(self._root / name) if name else None
        return self._held[rank]

    def forget_before(self, rank: int) -> None:
        """Drop the frames before `rank`."""
        self._held = {r: frame for r, frame in self._held.items() if r >= rank}

    def offset_of(self, sharp: Pixels, expected: int) -> int | None:
        """How far from `expected` the nearest frame equal to `sharp` is."""
        # Nearest first: in a still clip many frames are equal, and then the expected one counts.
        for offset in sorted(range(-REACH, REACH + 1), key=abs):
            frame = self.get(expected + offset)
            if frame is not None and np.array_equal(frame, sharp):
                return offset
        return None

    def near(self, sharp: Pixels, expected: int) -> tuple[int, ...]:
        """Offsets of the frames that the sharp image may show, where it equals none."""
        frames = {
            offset: nearness.sample(frame)
            for offset in range(-REACH, REACH + 1)
            if (frame := self.get(expected + offset)) is not None and frame.shape == sharp.shape
        }
        return nearness.nearest(nearness.sample(sharp), frames)

    def blur_of(self, row: PlanRow, roots: dict[str, str]) -> str:
        """Whether the official blur is the mean of its window."""
        span = range(row["first_index"], row["first_index"] + row["n_frames"])
        frames = [frame for frame in map(self.get, span) if frame is not None]
        official = _read(roots, row["blur_source"])
        if official is None or len(frames) < row["n_frames"]:
            return "absent"
        if {frame.shape for frame in frames} != {official.shape}:
            return "differs"
        domain = cast(averaging.Domain, row["average_domain"])
        mean = averaging.mean_of_window(frames, domain)
        tolerance = 0 if domain == "srgb" else GAMMA_TOLERANCE
        # int16, since the difference of two uint8 values wraps round below 0.
        apart = np.abs(mean.astype(np.int16) - official).max()
        return "equal" if apart <= tolerance else "differs"


def _read(roots: dict[str, str], source: str) -> Pixels | None:
    root, name = source.split(":", 1)
    return _pixels(Path(roots[root], name))


def _pixels(path: Path) -> Pixels | None:
    try:
        return png.decode_png(png.read_bytes(path), name=str(path))
    # No error here: the shard that needs the file reports it.
    except ImageError:
        return None
