"""Plan rows of one clip of footage: its windows, what breaks them, and its shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from trajectory_builder.images.video import containers
from trajectory_builder.images.video import reading as video
from trajectory_builder.plan import windows
from trajectory_builder.plan.footage_request import FootageRequest
from trajectory_builder.plan.order import FootageOrder, FootagePart
from trajectory_builder.plan.table import (
    TRAJECTORIES_PER_SHARD,
    PlannedWindow,
    PlanRow,
    Trajectory,
    pair_rows,
    rows_table,
    sample_name,
)
from trajectory_builder.plan.windows import WindowChoice
from trajectory_builder.sources.footage import Footage, Part
from trajectory_builder.trajectory import Problem

FRAMES_PER_SHARD = 120
"""Our choice: a video's shard begins at a keyframe and spans at least this many frames, so that
the few which two shards both decode, a window's length, weigh little."""

_REASONS = {
    "time-gap": "a frame is missing in time",
    "time-duplicate": "two frames have the same time, or nearly",
}
_CURES = {
    "time-gap": "none, if few; if many, film at a fixed rate",
    "time-duplicate": "none, if few; if many, film at a fixed rate",
    "frame-missing": "copy the frame again from its source",
    "window-leaves-clip": "none: the clip begins or ends there",
}


@dataclass(frozen=True)
class ClipPlan:
    """Rows, work orders by shard, and problems of one clip."""

    table: pa.Table
    orders: dict[str, FootageOrder]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """A trajectory before its rows are made: its name, its centre frame as shot, its n."""

    pair: str
    center: int
    sizes: tuple[int, ...]
    shard: str


def plan_clip(clip: Footage, split: str, choice: WindowChoice, request: FootageRequest) -> ClipPlan:
    """Plan one clip.

    Raises:
        UsageError: its windows have timesteps beyond the schedule.
    """
    planner = _Planner(clip, split, choice, request)
    windows.check_timesteps(choice, planner.fps, clip.name)
    places, problems = planner.stills() if clip.kind == "still" else planner.places()
    orders = {
        name: planner.order(first, end) for name, (first, end) in planner.spans(places).items()
    }
    rows = (row for place in places for row in planner.rows(place))
    return ClipPlan(rows_table(rows), orders, tuple(problems))


class _Planner:
    """One clip and what to make of it."""

    def __init__(
        self, clip: Footage, split: str, choice: WindowChoice, request: FootageRequest
    ) -> None:
        self.clip = clip
        self.split = split
        self.choice = choice
        self.request = request
        self.factor = 1 if clip.kind == "still" else request.interpolate + 1
        self.fps = clip.fps * self.factor
        self._shard_starts = _shard_starts(clip.starts)

    def places(self) -> tuple[list[_Place], list[Problem]]:
        """Trajectories of a video or a folder of frames, and windows that make no pair."""
        centers = windows.centers(self.choice, self.clip.length, factor=self.factor)
        places: list[_Place] = []
        problems: list[Problem] = [] if centers else [self._too_short()]
        for place, center in enumerate(centers):
            pair = f"{center:06d}"
            found = [(n, self._problem(center, n, pair)) for n in self._wanted(pair)]
            problems += [problem for _, problem in found if problem]
            sizes = tuple(n for n, problem in found if problem is None)
            if sizes:
                first, _ = self._span(center, max(sizes))
                places.append(_Place(pair, center, sizes, self._shard(first, place)))
        return places, problems

    def stills(self) -> tuple[list[_Place], list[Problem]]:
        """Trajectories of a photograph, one per camera path."""
        shard = f"{self.split}/{self.clip.name}/0000"
        names = [f"path{path:03d}" for path in range(self.request.paths_per_still)]
        return [_Place(name, 0, self._wanted(name), shard) for name in names], []

    def spans(self, places: Sequence[_Place]) -> dict[str, tuple[int, int]]:
        """First rank, as shot, of each shard's frames, and one past the last."""
        spans: dict[str, tuple[int, int]] = {}
        for place in places:
            first, last = self._span(place.center, max(place.sizes))
            low, high = spans.get(place.shard, (first, last + 1))
            spans[place.shard] = min(low, first), max(high, last + 1)
        return spans

    def rows(self, place: _Place) -> Iterator[PlanRow]:
        """Plan rows of one trajectory."""
        clip, recipe, is_still = self.clip, self.choice.recipe, self.clip.kind == "still"
        origin = "interpolated" if self.factor > 1 else "averaged"
        trajectory = Trajectory(
            clip_id=clip.name,
            split=self.split,
            pair=place.pair,
            shard=place.shard,
            # A photograph has no frames: ranks count the slices of its camera path.
            center_index=max(place.sizes) // 2 if is_still else place.center * self.factor,
            center_frame=clip.label(place.center),
            native_n_frames=max(place.sizes),
            fps=self.fps,
            domain="camera" if self.request.camera else recipe.average,
            sharp_source=f"footage:{_identity(clip)}",
            origin="synthetic" if is_still else origin,
        )
        planned = []
        for n in place.sizes:
            t = windows.timestep_of(
                n, self.fps, self.choice.timestep_map, step=recipe.timestep_step
            )
            first, last = self._span(place.center, n)
            ranks = range(first, last + 1)
            names = [clip.parts[0].name] if is_still else [clip.label(rank) for rank in ranks]
            planned.append(PlannedWindow(n, t, names))
        return pair_rows(trajectory, planned)

    def order(self, first: int, end: int) -> FootageOrder:
        """The work order of a shard that needs the frames of ranks `first` to `end` - 1."""
        request, clip = self.request, self.clip
        return FootageOrder(
            kind=clip.kind,
            first=first,
            size=(clip.width, clip.height),
            parts=_parts(clip, first, end),
            interpolate=self.factor - 1,
            camera=request.camera,
            seed=request.seed,
            bits=request.bits,
            max_side=request.max_side,
            blur_px=request.blur_px,
            motion_floor=request.motion_floor,
            decoder=containers.versions() if clip.kind == "video" else "",
            white=request.white,
        )

    def _wanted(self, pair: str) -> tuple[int, ...]:
        name = f"{self.clip.name}/{pair}"
        return self.choice.recipe.n_frames(self.choice.native_n_frames, name)

    def _span(self, center: int, n: int) -> tuple[int, int]:
        """First and last rank, as shot, of the frames that a window is made of."""
        if self.clip.kind == "still":
            return 0, 0
        reach = -(-(n // 2) // self.factor)
        return center - reach, center + reach

    def _problem(self, center: int, n: int, pair: str) -> Problem | None:
        """Why a window makes no pair, as far as times and names show."""
        first, last = self._span(center, n)
        clip, reason = self.clip, ""
        if first < 0 or last >= clip.length:
            reason, what = "window-leaves-clip", "it leaves the clip"
        elif any(rank in clip.missing for rank in range(first, last + 1)):
            reason, what = "frame-missing", "a frame of it is not there"
        else:
            stop = next((r for r in range(first, last) if r in clip.stops), None)
            if stop is None:
                return None
            reason = clip.stops[stop]
            what = f"{_REASONS[reason]} after {clip.label(stop)} s"
        sample_id = sample_name(f"{clip.name}/{pair}", n)
        what = f"{sample_id} is left out: {what}"
        return Problem(reason, what, _CURES[reason], self.split, clip.name, sample_id)

    def _shard(self, first: int, place: int) -> str:
        if self.clip.kind == "video":
            number = bisect_right(self._shard_starts, first) - 1
        else:
            number = place // TRAJECTORIES_PER_SHARD
        return f"{self.split}/{self.clip.name}/{number:04d}"

    def _too_short(self) -> Problem:
        longest, clip = windows.longest_n(self.choice, ""), self.clip
        drawn = f" with {self.factor - 1} between each" if self.factor > 1 else ""
        return Problem(
            "clip-too-short",
            f"{clip.name} has {clip.length} frames, too few for a window of {longest}{drawn}",
            "film longer, or ask for shorter windows with --n-frames",
            self.split,
            clip.name,
        )


def _identity(clip: Footage) -> str:
    """What identifies the clip's frames: digests of coded videos, names of files."""
    return ",".join(
        part.content.sha256[:16] if isinstance(part.content, video.Video) else part.name
        for part in clip.parts
    )


def _shard_starts(starts: Sequence[int]) -> list[int]:
    """Those keyframes at which shards begin, at least `FRAMES_PER_SHARD` apart."""
    chosen = [0]
    for start in starts:
        if start - chosen[-1] >= FRAMES_PER_SHARD:
            chosen.append(start)
    return chosen


def _parts(clip: Footage, first: int, end: int) -> tuple[FootagePart, ...]:
    """Stretches of the clip's files that contain ranks `first` to `end` - 1."""
    if clip.kind == "still":
        return (FootagePart(clip.parts[0].root, clip.parts[0].name),)
    parts = []
    for part, low, high in ranges(clip, first, end):
        if isinstance(part.content, video.Video):
            stretch = video.stretch(part.content, low, high)
            stretch = replace(stretch, path=Path(part.name))
            parts.append(FootagePart(part.root, part.name, stretch=stretch))
        elif part.content is not None:
            frames = part.content.names[low:high]
            parts.append(FootagePart(part.root, part.name, frames=tuple(frames)))
    return tuple(parts)


def ranges(clip: Footage, first: int, end: int) -> Iterator[tuple[Part, int, int]]:
    """Each part with frames of ranks `first` to `end` - 1: (part, first rank in it, its end)."""
    offset = 0
    for part in clip.parts:
        if part.content is None:
            continue
        length = len(part.content)
        low, high = max(first - offset, 0), min(end - offset, length)
        if low < high:
            yield part, low, high
        offset += length
