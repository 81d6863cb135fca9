"""What flushing to the disk and measuring motion cost a build, for `expand.py`."""

from __future__ import annotations

import os
import shutil
import statistics
from pathlib import Path
from typing import Any


def flush_cost(source: Path, scratch: Path, rounds: int) -> dict[str, float]:
    """Medians of builds of one process with and without flushing, taken in turn."""
    idle = {"fsync": _do_nothing, "fdatasync": _do_nothing}
    flushed, not_flushed = _with_and_without(os, idle, source, scratch, rounds)
    return {"flushed, s": round(flushed, 2), "not flushed, s": round(not_flushed, 2),
            "cost": round(flushed / not_flushed - 1, 3)}  # fmt: skip


def motion_cost(source: Path, scratch: Path, rounds: int) -> dict[str, float]:
    """Medians of builds of one process that measure motion_px and step_px, or do not, in turn."""
    from trajectory_builder.build import gopro_shard

    measured, not_measured = _with_and_without(
        gopro_shard, {"motion": _NoMotion, "Watch": _NoWatch}, source, scratch, rounds
    )
    return {"measured, s": round(measured, 2), "not measured, s": round(not_measured, 2),
            "cost": round(measured / not_measured - 1, 3)}  # fmt: skip


class _NoMotion:
    """Stands in for `pixels.motion` in the rounds without motion."""

    @staticmethod
    def coarse(pixels: Any) -> None:
        """No small copy."""


class _NoWatch:
    """Stands in for `Watch` in the rounds without motion."""

    def see(self, rank: int, small: None) -> None:
        """See nothing."""

    def columns(self, row: Any) -> dict[str, None]:
        """Know nothing."""
        return {"motion_px": None, "step_px": None}

    def official(self, row: Any, longest: Any) -> dict[str, None]:
        """Know nothing."""
        return self.columns(row)


def _with_and_without(
    owner: Any, idle: dict[str, Any], source: Path, scratch: Path, rounds: int
) -> tuple[float, float]:
    """Median seconds of builds of one process, with names of `owner` as they are and replaced."""
    from trajectory_builder.build import run
    from trajectory_builder.plan import gopro, recipe

    kept = {name: getattr(owner, name) for name in idle}
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for as_they_are in (True, False):
            for name in idle:
                setattr(owner, name, kept[name] if as_they_are else idle[name])
            try:
                chosen = gopro.plan_gopro(source, recipe.load_recipe("fidediff-7877"))
                report = run.build_plan(chosen, scratch / "f", run.BuildOptions(progress=False))
            finally:
                for name, own in kept.items():
                    setattr(owner, name, own)
            taken[as_they_are].append(report.seconds)
            shutil.rmtree(scratch / "f")
    return statistics.median(taken[True]), statistics.median(taken[False])


def _do_nothing(descriptor: int) -> None:
    """Stand in for fsync in the rounds that leave it out."""
