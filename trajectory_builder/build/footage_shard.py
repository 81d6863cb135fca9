"""Make one shard of a user's footage: frames go by once, windows become blurs, checks are made.

Runs in a worker. What time alone cannot tell is found here, on the frames: a scene cut inside a
window, a frame stored twice, a picture that does not move. Such a window makes no pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from trajectory_builder.build import still_shard
from trajectory_builder.build.writer import Pixels, Result, Work, at_depth, drawn_camera, write_pair
from trajectory_builder.disk.batch import Batch
from trajectory_builder.errors import ImageError
from trajectory_builder.images import pictures
from trajectory_builder.images.video import reading as video
from trajectory_builder.images.video.colour import Colour
from trajectory_builder.pixels import averaging, camera, interpolation, motion
from trajectory_builder.trajectory import Problem

Stream = Iterator[tuple[int, Pixels | None]]
See = Callable[[int, motion.Small], None]

DAMAGED, VIDEO_DAMAGED = "frame-damaged", "video-frame-damaged"
_WHAT = {
    motion.SCENE_CUT: ("a scene cut lies in it", "none: two shots make no blur"),
    motion.REPEATED: ("a frame of it is stored twice", "film at a fixed rate, without slow motion"
                      " made up by the phone"),
    motion.STATIC: ("nothing moves in it, so blur and sharp are the same", "move the camera, or"
                    " lower --motion-floor"),
    DAMAGED: ("a frame of it cannot be read", "copy the frame again from its source"),
    VIDEO_DAMAGED: ("a frame of it is damaged or of another size", "copy the video again from the"
                    " camera; split it where its size changes"),
}  # fmt: skip


def make(work: Work, batch: Batch) -> Result:
    """Make a shard's files, which get their names when `batch` ends."""
    result = Result()
    if work.order["kind"] == "still":
        for rows in work.trajectories():
            still_shard.make(work, rows, batch, result)
    else:
        _make_windows(work, batch, result)
    return result


def render(work: Work) -> Iterator[tuple[dict[str, Any], Pixels]]:
    """The blurs of a shard as they were written, for `verify --level deep`: (row, pixels)."""
    result = Result()
    if work.order["kind"] == "still":
        for rows in work.trajectories():
            shot = still_shard.shoot(work, rows, result)
            if shot is not None:
                yield from ((row, shot.blurs[row["n_frames"]]) for row in rows)
        return
    for rows, frames in _whole_windows(_stream(work, result), work.trajectories()):
        sound = [row for row in rows if _has_all(row, frames)]
        if sound:
            blurs = _expose(work, sound, frames)
            yield from ((row, blurs[row["n_frames"]]) for row in sound)


def _make_windows(work: Work, batch: Batch, result: Result) -> None:
    watch = Watch(work.order["interpolate"] + 1)
    stream = _stream(work, result, watch.see)
    for rows, frames in _whole_windows(stream, work.trajectories()):
        moved = _judge(work, rows, frames, watch, result)
        watch.forget(rows[-1]["first_index"])
        if not moved:
            continue
        kept = [row for row, _ in moved]
        blurs = _expose(work, kept, frames)
        sharp = at_depth(cast(Pixels, frames[rows[0]["center_index"]]), work.order["bits"])
        made = drawn_camera(work, rows[0]["trajectory_id"])
        for row, pixels in moved:
            extra = {"motion_px": pixels} | made
            write_pair(work, batch, row, blurs[row["n_frames"]], sharp, extra, result)


def _whole_windows(
    stream: Stream, trajectories: Sequence[list[dict[str, Any]]]
) -> Iterator[tuple[list[dict[str, Any]], dict[int, Pixels | None]]]:
    """Each trajectory's rows with its frames by rank, as soon as the last one has come.

    Holds the frames of open windows alone.
    """
    waiting = sorted(trajectories, key=lambda rows: _last(rows[-1]))
    # The first rank that this trajectory or any later one still needs.
    firsts = [int(rows[-1]["first_index"]) for rows in waiting]
    needed = list(accumulate(reversed(firsts), min))[::-1]
    kept: dict[int, Pixels | None] = {}
    place = 0
    for rank, pixels in stream:
        kept[rank] = pixels
        while place < len(waiting) and _last(waiting[place][-1]) <= rank:
            yield waiting[place], kept
            place += 1
        if place == len(waiting):
            return
        for old in [r for r in kept if r < needed[place]]:
            del kept[old]


def _last(row: dict[str, Any]) -> int:
    return int(row["first_index"] + row["n_frames"] - 1)


def _has_all(row: dict[str, Any], frames: dict[int, Pixels | None]) -> bool:
    ranks = range(row["first_index"], _last(row) + 1)
    return all(frames.get(rank) is not None for rank in ranks)


def _judge(
    work: Work,
    rows: list[dict[str, Any]],
    frames: dict[int, Pixels | None],
    watch: Watch,
    result: Result,
) -> list[tuple[dict[str, Any], float]]:
    """Rows that make a pair with their motion in pixels; the others become problems."""
    kept: list[dict[str, Any]] = []
    lost = VIDEO_DAMAGED if work.order["kind"] == "video" else DAMAGED
    for row in rows:
        reason = None if _has_all(row, frames) else lost
        reason = reason or watch.interruption(row)
        if reason is None:
            kept.append(row)
        else:
            result.problems.append(_problem(row, reason))
    motions = watch.motions(kept) if kept else []
    # Short windows move little in any clip: what counts is whether the trajectory gets anywhere.
    if motions and motions[-1][1] < work.order["motion_floor"]:
        result.problems += [_problem(row, motion.STATIC) for row in kept]
        return []
    return [(row, median) for row, (median, _) in zip(kept, motions, strict=True)]


def _problem(row: dict[str, Any], reason: str) -> Problem:
    what, cure = _WHAT[reason]
    return Problem(
        reason,
        f"{row['sample_id']} is left out: {what}",
        cure,
        row["split"],
        row["clip_id"],
        row["sample_id"],
    )


def _expose(
    work: Work, rows: Sequence[dict[str, Any]], frames: dict[int, Pixels | None]
) -> dict[int, Pixels]:
    """Blurs of the rows by n, from one run outwards over the longest window."""
    longest = max(rows, key=lambda row: row["n_frames"])
    window = [cast(Pixels, frames[r]) for r in range(longest["first_index"], _last(longest) + 1)]
    sizes = [row["n_frames"] for row in rows]
    if work.order["camera"]:
        name = longest["trajectory_id"]
        drawn = camera.draw(camera.parse(work.order["camera"]), name, work.order["seed"])
        return dict(camera.expose(window, sizes, drawn, name, work.order["seed"]))
    means = averaging.nested_means(window, sizes, longest["average_domain"])
    return {n: at_depth(mean, work.order["bits"]) for n, mean in means.items()}


class Watch:
    """Small copies of the frames that went by, and what they tell of a window.

    Args:
        factor: frames after interpolation for one as shot; rows count the former.
    """

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._small: dict[int, motion.Small] = {}

    def see(self, rank: int, small: motion.Small) -> None:
        """Keep the small copy of a frame as shot."""
        self._small[rank] = small

    def forget(self, rank: int) -> None:
        """Drop what lies well before a window that starts at `rank`."""
        border = rank // self._factor
        for old in [r for r in self._small if r < border - 64]:
            del self._small[old]

    def _span(self, row: dict[str, Any]) -> range:
        return range(row["first_index"] // self._factor, -(-_last(row) // self._factor) + 1)

    def interruption(self, row: dict[str, Any]) -> str | None:
        """A cut or a repeated frame inside a window, or None."""
        return motion.interruption([self._small[rank] for rank in self._span(row)])

    def motions(self, rows: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
        """(median, 95th percentile) of the displacement over nested windows, in pixels."""
        spans = [self._span(row) for row in rows]
        frames = [self._small[rank] for rank in spans[-1]]
        reaches = [len(span) // 2 for span in spans]
        found = motion.growing_displacement(frames, reaches)
        # A window that ends between two frames as shot spans a part of what was measured.
        shares = [
            (row["n_frames"] - 1) / (self._factor * (len(span) - 1))
            for row, span in zip(rows, spans, strict=True)
        ]
        return [(share * a, share * b) for share, (a, b) in zip(shares, found, strict=True)]


def _stream(work: Work, result: Result, see: See | None = None) -> Stream:
    """The shard's frames as windows count them, interpolated ones among them."""
    shot = _shot_frames(work, result, see)
    count = work.order["interpolate"]
    if not count:
        return shot
    spans = [range(rows[-1]["first_index"], _last(rows[-1]) + 1) for rows in work.trajectories()]
    return interpolation.upsampled(shot, count, spans)


def _shot_frames(work: Work, result: Result, see: See | None) -> Stream:
    """The frames as shot; `see` gets a small copy of each, and none are made without it."""
    rank = work.order["first"]
    size = (work.order["size"][0], work.order["size"][1])
    for part in work.order["parts"]:
        path = Path(work.roots[part["root"]], part["name"])
        if work.order["kind"] == "video":
            frames = video.decode_with_luma(_stretch(path, part))
        else:
            frames = _files(path, part["names"], size, result)
        for frame in frames:
            if see is not None and frame is not None:
                see(rank, _small(frame))
            yield rank, None if frame is None else frame.pixels
            rank += 1


def _small(frame: video.Decoded) -> motion.Small:
    if frame.luma is None:
        return motion.small(frame.pixels)
    return motion.small_of_luma(
        frame.luma, full_range=frame.full_range, orientation=frame.orientation
    )


def _stretch(path: Path, part: dict[str, Any]) -> video.Stretch:
    return video.Stretch(
        path=path,
        seek=part["seek"],
        pts=tuple(part["pts"]),
        keys=tuple(part["keys"]),
        colour=Colour(**part["colour"]),
        orientation=part["orientation"],
        size=tuple(part["size"]),
    )


def _files(
    folder: Path, names: Sequence[str | None], size: tuple[int, int], result: Result
) -> Iterator[video.Decoded | None]:
    """Frames of a folder; one that cannot be read is told of once and costs its windows."""
    for name in names:
        if name is None:
            yield None
            continue
        try:
            found = pictures.read(folder / name, expect=size)
        except ImageError as error:
            result.problems.append(Problem(error.reason, error.what, error.cure, file=error.where))
            yield None
            continue
        result.frames[name] = found.sha256
        yield video.Decoded(found.pixels)
