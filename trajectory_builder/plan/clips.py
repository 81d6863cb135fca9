"""Plan rows of one clip of footage: its windows, what breaks them, and its shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from trajectory_builder.images.video import containers
from trajectory_builder.images.video import reading as video
from trajectory_builder.plan import windows
from trajectory_builder.plan.footage_request import FootageRequest
from trajectory_builder.plan.gopro import TRAJECTORIES_A_SHARD, sample_name
from trajectory_builder.plan.windows import WindowChoice
from trajectory_builder.sources.footage import Footage
from trajectory_builder.trajectory import Problem, Window, centred_window

FRAMES_A_SHARD = 240
"""Ours: a video's shard begins at a keyframe and spans at least so many frames, so that the few
which two shards both decode, a window's length, weigh little."""

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


class ClipPlan:
    """Rows, shards and problems of one clip."""

    def __init__(
        self, clip: Footage, split: str, choice: WindowChoice, request: FootageRequest
    ) -> None:
        self.clip = clip
        self.split = split
        self.choice = choice
        self.request = request
        self.factor = 1 if clip.kind == "still" else request.interpolate + 1
        self.fps = clip.fps * self.factor
        self.problems: list[Problem] = []
        self._spans: dict[str, tuple[int, int]] = {}
        self._shards = _shard_starts(clip.starts)
        windows.check_timesteps(choice, self.fps, clip.name)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Plan rows of all trajectories; fills `problems` and the shards' spans."""
        if self.clip.kind == "still":
            yield from self._still_rows()
            return
        found = windows.centers(self.choice, self.clip.length, factor=self.factor)
        if not found:
            self._too_short()
        for place, center in enumerate(found):
            pair = f"{center:06d}"
            wanted = self._wanted(pair)
            sound = [n for n in wanted if self._is_sound(center, n, f"{self.clip.name}/{pair}")]
            if sound:
                yield from self._trajectory(pair, center, sound, place)

    def orders(self) -> dict[str, dict[str, Any]]:
        """What a worker needs for each shard, beyond its rows."""
        return {name: self._order(first, end) for name, (first, end) in self._spans.items()}

    def _wanted(self, pair: str) -> tuple[int, ...]:
        name = f"{self.clip.name}/{pair}"
        return self.choice.recipe.n_frames(self.choice.native_n_frames, name)

    def _native(self, center: int, n: int) -> tuple[int, int]:
        """First and last rank, as shot, of the frames that a window is made of."""
        reach = -(-(n // 2) // self.factor)
        return center - reach, center + reach

    def _is_sound(self, center: int, n: int, trajectory_id: str) -> bool:
        first, last = self._native(center, n)
        reason = ""
        if first < 0 or last >= self.clip.length:
            reason, what = "window-leaves-clip", "it leaves the clip"
        elif any(rank in self.clip.missing for rank in range(first, last + 1)):
            reason, what = "frame-missing", "a frame of it is not there"
        else:
            stop = next((r for r in range(first, last) if r in self.clip.stops), None)
            if stop is not None:
                reason = self.clip.stops[stop]
                what = f"{_REASONS[reason]} after {self.clip.label(stop)} s"
        if reason:
            sample_id = sample_name(trajectory_id, n)
            self.problems.append(
                Problem(reason, f"{sample_id} is left out: {what}", _CURES[reason], self.split,
                        self.clip.name, sample_id)
            )  # fmt: skip
        return not reason

    def _trajectory(
        self, pair: str, center: int, sizes: Sequence[int], place: int
    ) -> Iterator[dict[str, Any]]:
        first, last = self._native(center, max(sizes))
        shard = self._shard_of(first, place)
        before = self._spans.get(shard, (first, last + 1))
        self._spans[shard] = min(before[0], first), max(before[1], last + 1)
        for position, n in enumerate(sizes):
            window = centred_window(center * self.factor, n)
            yield self._row(pair, n, window, shard) | {
                "native_n_frames": max(sizes),
                "backward_n_frames": [1, *sizes[:position]],
                "center_frame": self.clip.label(center),
                "frame_names": self._frame_names(center, n),
            }

    def _still_rows(self) -> Iterator[dict[str, Any]]:
        for path in range(self.request.paths_per_still):
            pair = f"path{path:03d}"
            sizes = self._wanted(pair)
            shard = f"{self.split}/{self.clip.name}/0000"
            self._spans[shard] = (0, 1)
            for position, n in enumerate(sizes):
                window = centred_window(max(sizes) // 2, n)
                yield self._row(pair, n, window, shard) | {
                    "native_n_frames": max(sizes),
                    "backward_n_frames": [1, *sizes[:position]],
                    "center_frame": self.clip.label(0),
                    "frame_names": [self.clip.parts[0].name],
                }

    def _row(self, pair: str, n: int, window: Window, shard: str) -> dict[str, Any]:
        clip, recipe = self.clip, self.choice.recipe
        origin = "interpolated" if self.factor > 1 else "averaged"
        return {
            "sample_id": sample_name(f"{clip.name}/{pair}", n),
            "trajectory_id": f"{clip.name}/{pair}",
            "split": self.split,
            "clip_id": clip.name,
            "n_frames": n,
            "timestep": windows.timestep_of(
                n, self.fps, self.choice.timestep_map, step=recipe.timestep_step
            ),
            "blur_file_name": f"blur/{clip.name}/{pair}_n{n:02d}.png",
            "sharp_file_name": f"sharp/{clip.name}/{pair}.png",
            "origin": "synthetic" if clip.kind == "still" else origin,
            "average_domain": "camera" if self.request.camera else recipe.average,
            "first_index": window.first_index,
            "center_index": window.center_index,
            "fps": self.fps or None,
            "exposure_ms": 1000.0 * n / self.fps if self.fps else None,
            "shard": shard,
            "blur_source": "",
            "sharp_source": f"footage:{_identity(clip)}",
        }

    def _frame_names(self, center: int, n: int) -> list[str]:
        first, last = self._native(center, n)
        return [self.clip.label(rank) for rank in range(first, last + 1)]

    def _shard_of(self, first: int, place: int) -> str:
        if self.clip.kind == "video":
            number = bisect_right(self._shards, first) - 1
        else:
            number = place // TRAJECTORIES_A_SHARD
        return f"{self.split}/{self.clip.name}/{number:04d}"

    def _order(self, first: int, end: int) -> dict[str, Any]:
        request, clip = self.request, self.clip
        return {
            "kind": clip.kind,
            "first": first,
            "size": [clip.width, clip.height],
            "parts": _parts(clip, first, end),
            "interpolate": self.factor - 1,
            "camera": request.camera,
            "seed": request.seed,
            "bits": request.bits,
            "max_side": request.max_side,
            "motion_floor": request.motion_floor,
            "decoder": containers.versions() if clip.kind == "video" else "",
        }

    def _too_short(self) -> None:
        longest = windows.longest_n(self.choice, "")
        self.problems.append(
            Problem(
                "clip-too-short",
                f"{self.clip.name} has {self.clip.length} frames, too few for a window of"
                f" {longest}" + (f" with {self.factor - 1} between each" * (self.factor > 1)),
                "film longer, or ask for shorter windows with --n-frames",
                self.split,
                self.clip.name,
            )
        )


def _identity(clip: Footage) -> str:
    """What the clip's pictures are told by: digests of coded videos, names of files."""
    told = [
        part.content.sha256[:16] if isinstance(part.content, video.Video) else part.name
        for part in clip.parts
    ]
    return ",".join(told)


def _shard_starts(starts: Sequence[int]) -> list[int]:
    """Those keyframes at which shards begin, at least `FRAMES_A_SHARD` apart."""
    chosen = [0]
    for start in starts:
        if start - chosen[-1] >= FRAMES_A_SHARD:
            chosen.append(start)
    return chosen


def _parts(clip: Footage, first: int, end: int) -> list[dict[str, Any]]:
    """Stretches of the clip's files that hold ranks `first` to `end` - 1, as plain values."""
    if clip.kind == "still":
        return [{"root": clip.parts[0].root, "name": clip.parts[0].name}]
    parts: list[dict[str, Any]] = []
    offset = 0
    for part in clip.parts:
        content = part.content
        if content is None:
            continue
        low, high = max(first - offset, 0), min(end - offset, len(content))
        offset += len(content)
        if low >= high:
            continue
        entry: dict[str, Any] = {"root": part.root, "name": part.name}
        if isinstance(content, video.Video):
            wanted = asdict(video.stretch(content, low, high))
            del wanted["path"]
            entry |= wanted
        else:
            entry["names"] = list(content.names[low:high])
        parts.append(entry)
    return parts
