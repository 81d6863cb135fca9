"""Make one shard of a user's footage: frames pass once, windows become blurs, checks are made.

Runs in a worker. What times alone do not show is found here, on the frames: a scene cut inside a
window, a frame stored twice, a picture that does not move. Such a window makes no pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2

from trajectory_builder.build import still_shard
from trajectory_builder.build.watch import Watch
from trajectory_builder.build.writer import (
    Contents,
    Pixels,
    Record,
    at_depth,
    pair_problem,
    pair_record,
    trajectories,
    write_image,
)
from trajectory_builder.disk.batch import Batch
from trajectory_builder.disk.store import REJECTED, STATE
from trajectory_builder.errors import ImageError
from trajectory_builder.images import pictures
from trajectory_builder.images.video import reading as video
from trajectory_builder.pixels import averaging, camera, interpolation, motion
from trajectory_builder.sources.footage import problem_of
from trajectory_builder.trajectory import Problem

if TYPE_CHECKING:
    from trajectory_builder.build.shard import Shard
    from trajectory_builder.plan.order import FootageOrder
    from trajectory_builder.plan.table import PlanRow

Frames = dict[int, Pixels | None]  # by rank; None where a frame cannot be read
See = Callable[[int, motion.Small], None]

DAMAGED, VIDEO_DAMAGED = "frame-damaged", "video-frame-damaged"
_SHOWN = (motion.SCENE_CUT, motion.REPEATED, motion.STATIC)
_WHAT = {
    motion.SCENE_CUT: ("a scene cut is in it", "none: two shots make no blur"),
    motion.REPEATED: ("a frame of it is stored twice", "film at a fixed rate, without slow motion"
                      " made up by the phone"),
    motion.STATIC: ("nothing moves in it, so blur and sharp are the same", "move the camera, or"
                    " lower --motion-floor"),
    DAMAGED: ("a frame of it cannot be read", "copy the frame again from its source"),
    VIDEO_DAMAGED: ("a frame of it is damaged or of another size or colour coding", "copy the video"
                    " again from the camera; split it where its size or colour changes"),
}  # fmt: skip


def make(shard: Shard, order: FootageOrder, batch: Batch) -> Contents:
    """Make a shard's files, which get their names when `batch` ends."""
    if order.kind == "still":
        parts = [_make_still(shard, order, rows, batch) for rows in trajectories(shard.rows)]
        return Contents(
            [record for part in parts for record in part.records],
            [problem for part in parts for problem in part.problems],
            {name: digest for part in parts for name, digest in part.frames.items()},
        )
    reader = FrameReader(shard, order)
    watch = Watch(order.factor)
    records: list[Record] = []
    problems: list[Problem] = []
    for rows, frames in complete_windows(reader.stream(watch.see), trajectories(shard.rows)):
        kept, lost = _judge(order, rows, frames, watch)
        for problem in lost:
            # One picture per reason and shard says enough.
            if problem.reason in _SHOWN and problem.reason not in {p.reason for p in problems}:
                row = next(row for row in rows if row["sample_id"] == problem.sample_id)
                _write_evidence(shard, row, problem.reason, watch, batch)
            problems.append(problem)
        motions = [watch.columns(row) for row in kept]
        # Memory follows the window, not the length of the clip.
        watch.forget(rows[-1]["first_index"])
        if kept:
            records += _write(shard, order, kept, motions, frames, batch)
    return Contents(records, [*reader.problems, *problems], reader.digests)


def _write_evidence(shard: Shard, row: PlanRow, reason: str, watch: Watch, batch: Batch) -> None:
    """Leave a picture beside the markers that shows why a window makes no pair; for the report."""
    seen = watch.evidence(row, reason)
    done, payload = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, 70])
    if done:
        name = Path(REJECTED, reason, f"{row['sample_id']}.jpg")
        batch.add(Path(shard.out, STATE) / name, payload.tobytes())


def render(shard: Shard, order: FootageOrder) -> Iterator[tuple[PlanRow, Pixels]]:
    """The blurs of a shard as they were written, for `verify --level deep`."""
    if order.kind == "still":
        for rows in trajectories(shard.rows):
            shot = still_shard.shoot(shard, order, rows)
            if isinstance(shot, still_shard.StillShot):
                yield from ((row, shot.blurs[row["n_frames"]]) for row in rows)
        return
    stream = FrameReader(shard, order).stream()
    for rows, frames in complete_windows(stream, trajectories(shard.rows)):
        sound = [row for row in rows if _has_all(row, frames)]
        if sound:
            blurs = _expose(order, sound, frames)
            yield from ((row, blurs[row["n_frames"]]) for row in sound)


def _make_still(shard: Shard, order: FootageOrder, rows: list[PlanRow], batch: Batch) -> Contents:
    shot = still_shard.shoot(shard, order, rows)
    if isinstance(shot, still_shard.LostStill):
        problems = [pair_problem(row, shot.reason, shot.what, shot.cure) for row in rows]
        return Contents(problems=problems, frames=shot.frames)
    kernels = still_shard.write_kernels(shard, rows, shot, batch)
    extra = [kernels | still_shard.motion(shot, row["n_frames"]) for row in rows]
    blurs = [shot.blurs[row["n_frames"]] for row in rows]
    records = _write_pairs(shard, order, rows, blurs, shot.sharp, extra, batch)
    return Contents(records, frames=shot.frames)


def _write(
    shard: Shard,
    order: FootageOrder,
    rows: Sequence[PlanRow],
    motions: Sequence[Record],
    frames: Frames,
    batch: Batch,
) -> list[Record]:
    """Write the pairs of one trajectory from its frames."""
    blurs = _expose(order, rows, frames)
    sharp = at_depth(cast(Pixels, frames[rows[0]["center_index"]]), order.bits)
    pixels = [blurs[row["n_frames"]] for row in rows]
    return _write_pairs(shard, order, rows, pixels, sharp, motions, batch)


def _write_pairs(
    shard: Shard,
    order: FootageOrder,
    rows: Sequence[PlanRow],
    blurs: Sequence[Pixels],
    sharp: Pixels,
    extra: Sequence[Record],
    batch: Batch,
) -> list[Record]:
    """Write a trajectory's sharp image once and each of its blurs."""
    folder = Path(shard.out, rows[0]["split"])
    sharp_file = write_image(batch, folder / rows[0]["sharp_file_name"], sharp, hash_pixels=False)
    drawn = _drawn_camera(order, rows[0]["trajectory_id"])
    return [
        pair_record(
            row, sharp_file, write_image(batch, folder / row["blur_file_name"], blur), own | drawn
        )
        for row, blur, own in zip(rows, blurs, extra, strict=True)
    ]


def _drawn_camera(order: FootageOrder, trajectory_id: str) -> Record:
    """The manifest column of a trajectory's camera settings; nothing without them."""
    if not order.camera:
        return {}
    # A function of name and seed, so it equals the camera that `_expose` draws.
    drawn = camera.draw(camera.parse(order.camera), trajectory_id, order.seed)
    return {"camera": json.dumps(drawn.as_data(), sort_keys=True)}


def complete_windows(
    stream: Iterator[tuple[int, Pixels | None]], groups: Sequence[list[PlanRow]]
) -> Iterator[tuple[list[PlanRow], Frames]]:
    """Each trajectory's rows with its frames by rank, as soon as the last one has come.

    Keeps the frames of open windows alone.
    """
    waiting = sorted(groups, key=lambda rows: _last(rows[-1]))
    # The first rank that this trajectory or any later one still needs.
    firsts = [int(rows[-1]["first_index"]) for rows in waiting]
    needed = list(accumulate(reversed(firsts), min))[::-1]
    kept: Frames = {}
    place = 0
    for rank, pixels in stream:
        kept[rank] = pixels
        while place < len(waiting) and _last(waiting[place][-1]) <= rank:
            yield waiting[place], kept
            place += 1
        # The stream is lazy: frames after the last window are never decoded.
        if place == len(waiting):
            return
        for old in [r for r in kept if r < needed[place]]:
            del kept[old]


def _last(row: PlanRow) -> int:
    return row["first_index"] + row["n_frames"] - 1


def _has_all(row: PlanRow, frames: Frames) -> bool:
    ranks = range(row["first_index"], _last(row) + 1)
    return all(frames.get(rank) is not None for rank in ranks)


def _judge(
    order: FootageOrder, rows: list[PlanRow], frames: Frames, watch: Watch
) -> tuple[list[PlanRow], list[Problem]]:
    """Rows that make a pair, and the problems of the others."""
    kept: list[PlanRow] = []
    problems: list[Problem] = []
    damaged = VIDEO_DAMAGED if order.kind == "video" else DAMAGED
    for row in rows:
        reason = watch.interruption(row) if _has_all(row, frames) else damaged
        if reason is None:
            kept.append(row)
        else:
            problems.append(pair_problem(row, reason, *_WHAT[reason]))
    # Short windows move little in any clip: what counts is whether the trajectory gets anywhere.
    if kept and watch.is_static(kept[-1], order.motion_floor):
        static = [pair_problem(row, motion.STATIC, *_WHAT[motion.STATIC]) for row in kept]
        return [], problems + static
    return kept, problems


def _expose(order: FootageOrder, rows: Sequence[PlanRow], frames: Frames) -> dict[int, Pixels]:
    """Blurs of the rows by n, from one run outwards over the longest window."""
    # Windows of a trajectory have one centre, so the longest contains all others.
    longest = max(rows, key=lambda row: row["n_frames"])
    window = [cast(Pixels, frames[r]) for r in range(longest["first_index"], _last(longest) + 1)]
    sizes = [row["n_frames"] for row in rows]
    if order.camera:
        name = longest["trajectory_id"]
        drawn = camera.draw(camera.parse(order.camera), name, order.seed)
        return dict(camera.expose(window, sizes, drawn, name, order.seed))
    domain = cast(averaging.Domain, longest["average_domain"])
    means = averaging.nested_means(window, sizes, domain)
    return {n: at_depth(mean, order.bits) for n, mean in means.items()}


class FrameReader:
    """Reads a shard's frames; keeps digests of the files it read, and problems of bad ones."""

    def __init__(self, shard: Shard, order: FootageOrder) -> None:
        self._shard = shard
        self._order = order
        self.digests: dict[str, str] = {}
        self.problems: list[Problem] = []

    def stream(self, see: See | None = None) -> Iterator[tuple[int, Pixels | None]]:
        """(rank, pixels) of the frames as windows count them, interpolated ones among them.

        `see` gets a small copy of each frame as shot; without it none are made.
        """
        frames = self._shot_frames(see)
        if not self._order.interpolate:
            return frames
        groups = trajectories(self._shard.rows)
        spans = [range(rows[-1]["first_index"], _last(rows[-1]) + 1) for rows in groups]
        return interpolation.upsampled(frames, self._order.interpolate, spans)

    def _shot_frames(self, see: See | None) -> Iterator[tuple[int, Pixels | None]]:
        rank = self._order.first
        for part in self._order.parts:
            path = Path(self._shard.roots[part.root], part.name)
            if part.stretch is not None:
                frames = self._video(replace(part.stretch, path=path))
            else:
                frames = self._files(path, part.frames)
            for frame in frames:
                if see is not None and frame is not None:
                    see(rank, _small(frame))
                yield rank, None if frame is None else frame.pixels
                rank += 1

    def _video(self, wanted: video.Stretch) -> Iterator[video.Decoded | None]:
        """Frames of a video; an error that ends it early is reported and costs the rest of it."""
        count = 0
        try:
            for frame in video.decode_with_luma(wanted):
                yield frame
                count += 1
        # Not the fault of the file: `retry` makes the shard again, alone.
        except MemoryError:
            raise
        except Exception as error:
            # Whatever a library raises on one file must not end the build of the others.
            self.problems.append(problem_of(error, wanted.path))
            # The ranks of its lost frames still pass, so that the next part keeps its own.
            yield from [None] * (len(wanted.pts) - count)

    def _files(self, folder: Path, names: Sequence[str | None]) -> Iterator[video.Decoded | None]:
        """Frames of a folder; one that cannot be read is reported once and costs its windows."""
        for name in names:
            if name is None:
                yield None
                continue
            try:
                picture = pictures.read(
                    folder / name, expect=self._order.size, white=self._order.white
                )
            except ImageError as error:
                problem = Problem(error.reason, error.what, error.cure, file=error.where)
                self.problems.append(problem)
                yield None
                continue
            self.digests[name] = picture.sha256
            yield video.Decoded(picture.pixels)


def _small(frame: video.Decoded) -> motion.Small:
    if frame.luma is None:
        return motion.small(frame.pixels)
    return motion.small_of_luma(
        frame.luma, full_range=frame.full_range, orientation=frame.orientation
    )
