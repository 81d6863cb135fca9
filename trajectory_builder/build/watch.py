"""What passing frames show of the windows made of them: cuts, repeated frames, motion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trajectory_builder.pixels import motion

if TYPE_CHECKING:
    from trajectory_builder.build.writer import Record
    from trajectory_builder.pixels.motion import Gray
    from trajectory_builder.plan.table import PlanRow

NOISE_PX = 0.06
"""Our choice: at most this much of a step's median is noise (12 grey levels give 0.05 pixels)."""
_KEPT = 64  # frames before a window that are still kept: the next window may begin earlier


class Watch:
    """Small copies of the frames that passed, and what they show of a window.

    Args:
        factor: frames after interpolation per frame as shot; rows count the former.
    """

    def __init__(self, factor: int = 1) -> None:
        self._factor = factor
        self._small: dict[int, motion.Small] = {}
        self._steps: dict[int, tuple[float, float] | None] = {}

    def see(self, rank: int, small: motion.Small) -> None:
        """Keep the small copy of a frame as shot."""
        self._small[rank] = small

    def forget(self, rank: int) -> None:
        """Drop what is well before a window that starts at `rank`."""
        border = rank // self._factor - _KEPT
        for old in [r for r in self._small if r < border]:
            del self._small[old]
            self._steps.pop(old, None)

    def interruption(self, row: PlanRow) -> str | None:
        """A cut or a repeated frame inside a window, or None."""
        return motion.interruption([self._small[rank] for rank in self._span(row)])

    def evidence(self, row: PlanRow, reason: str) -> Gray:
        """The two frames of a window that show why it is rejected, side by side: (h, 2 w + 4) gray.

        Those before and after a cut, those that are the same picture, or the first and the last.
        """
        frames = [self._small[rank] for rank in self._span(row)]
        first, last = 0, len(frames) - 1
        if reason in (motion.SCENE_CUT, motion.REPEATED):
            steps = motion.steps(frames)
            first = int(steps.argmax() if reason == motion.SCENE_CUT else steps.argmin())
            last = first + 1
        pair = frames[first].gray, frames[last].gray
        line = np.full((len(pair[0]), 4), 255, np.uint8)
        return np.hstack([pair[0], line, pair[1]])

    def is_static(self, row: PlanRow, floor: float) -> bool:
        """Whether nothing in a window moves by `floor` pixels: neither the picture nor a part."""
        way = self.columns(row)["motion_px"]
        # Noise gives each step a length, so even a still picture has a length.
        moves = way is None or float(way) - NOISE_PX * (row["n_frames"] - 1) >= floor
        return not moves and self._reach(row) < floor

    def _reach(self, row: PlanRow) -> float:
        """How far the fastest parts of the picture get from a window's first frame to its last.

        Pixels, 95th percentile. It notices a person who walks past a still camera,
        which the median of `motion_px` does not, and noise does not add up in it.
        """
        span = self._span(row)
        frames = [self._small[rank] for rank in span]
        # Flow follows long ways only in short steps, so the window grows from the middle outwards.
        (*_, (_, fast)) = motion.growing_displacement(frames, range(1, len(span) // 2 + 1))
        # A window that ends between two frames as shot spans a part of what was measured.
        return fast * (row["n_frames"] - 1) / (self._factor * (len(span) - 1))

    def columns(self, row: PlanRow) -> Record:
        """The manifest's `motion_px` and `step_px`; None where a step cannot be measured.

        `motion_px` adds up the steps between neighbours, so it never falls as n grows.
        """
        last = row["first_index"] + row["n_frames"] - 1
        # With interpolation a step as shot counts once per step of the window that is part of it.
        steps = [self._step(rank // self._factor) for rank in range(row["first_index"], last)]
        measured = [step for step in steps if step is not None]
        # A sum with a step left out would be too small without showing it.
        if len(measured) < len(steps):
            return {"motion_px": None, "step_px": None}
        return {
            "motion_px": sum(median for median, _ in measured) / self._factor,
            "step_px": max(fast for _, fast in measured) / self._factor,
        }

    def official(self, row: PlanRow, longest: PlanRow | None) -> Record:
        """The columns of an official blur of GoPro, whose window is not read for its own sake.

        Where other windows did not need its outermost frames, decoding them would cost a fifth
        more time. The picture then goes on at the speed of `longest`, the longest window of the
        trajectory that was read: at 240 fps 9 of 11 frames show it well. None where no
        window was read.
        """
        own = self.columns(row)
        if own["motion_px"] is not None or longest is None or longest["n_frames"] > row["n_frames"]:
            return own
        read = self.columns(longest)
        if read["motion_px"] is None:
            return read
        growth = (row["n_frames"] - 1) / (longest["n_frames"] - 1)
        return {"motion_px": float(read["motion_px"]) * growth, "step_px": read["step_px"]}

    def _span(self, row: PlanRow) -> range:
        """Ranks, as shot, of the frames that a window is made of."""
        last = row["first_index"] + row["n_frames"] - 1
        return range(row["first_index"] // self._factor, -(-last // self._factor) + 1)

    def _step(self, rank: int) -> tuple[float, float] | None:
        """(median, 95th percentile) of the displacement from a frame to the next; measured once."""
        if rank not in self._steps:
            pair = self._small.get(rank), self._small.get(rank + 1)
            self._steps[rank] = None if None in pair else motion.step(*pair)  # type: ignore[arg-type]
        return self._steps[rank]
