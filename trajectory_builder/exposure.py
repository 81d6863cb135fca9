"""Make one shard of a user's footage: frames go by once, windows become blurs, checks are made.

Runs in a worker. What time alone cannot tell is found here, on the frames: a scene cut inside a
window, a frame stored twice, a picture that does not move. Such a window makes no pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from trajectory_builder import averaging, camera, images, interpolation, motion
from trajectory_builder.sources import pictures, stills, video
from trajectory_builder.sources.colour import Colour
from trajectory_builder.store import Batch
from trajectory_builder.trajectory import Problem

Pixels = npt.NDArray[Any]
Stream = Iterator[tuple[int, Pixels | None]]

DAMAGED, VIDEO_DAMAGED = "frame-damaged", "video-frame-damaged"
_WHAT = {
    motion.SCENE_CUT: ("a scene cut lies in it", ""),
    motion.REPEATED: ("a frame of it is stored twice", "film at a fixed rate, without slow motion"
                      " made up by the phone"),
    motion.STATIC: ("nothing moves in it, so blur and sharp are the same", "move the camera, or"
                    " lower --motion-floor"),
    DAMAGED: ("a frame of it cannot be read", "copy the frame again from its source"),
    VIDEO_DAMAGED: ("a frame of it is damaged", "copy the video again from the camera"),
}  # fmt: skip


@dataclass
class Result:
    """What a shard gave: records of pairs, problems, and digests of the files that were read."""

    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    frames: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A shard of footage.

    Attributes:
        out: the output folder.
        roots: folders and files that parts start from.
        rows: its plan rows.
        order: what else the plan says of it, see `generate`.
    """

    out: Path
    roots: dict[str, str]
    rows: tuple[dict[str, Any], ...]
    order: dict[str, Any]

    def trajectories(self) -> list[list[dict[str, Any]]]:
        """Its rows, those of one trajectory together, ascending in n."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault(row["trajectory_id"], []).append(row)
        return [sorted(group, key=lambda row: row["n_frames"]) for group in groups.values()]


def make(work: Work, batch: Batch) -> Result:
    """Make a shard's files, which get their names when `batch` ends."""
    result = Result()
    if work.order["kind"] == "still":
        for rows in work.trajectories():
            _make_still(work, rows, batch, result)
    else:
        _make_windows(work, batch, result)
    return result


def render(work: Work) -> Iterator[tuple[dict[str, Any], Pixels]]:
    """The blurs of a shard as they were written, for `verify --level deep`: (row, pixels)."""
    result = Result()
    if work.order["kind"] == "still":
        for rows in work.trajectories():
            shot = _shoot_still(work, rows, result)
            if shot is not None:
                yield from ((row, shot.blurs[row["n_frames"]]) for row in rows)
        return
    watch = Watch(work.order["interpolate"] + 1)
    for rows, frames in _whole_windows(_stream(work, watch, result), work.trajectories()):
        sound = [row for row in rows if _has_all(row, frames)]
        if sound:
            blurs = _expose(work, sound, frames)
            yield from ((row, blurs[row["n_frames"]]) for row in sound)


def _make_windows(work: Work, batch: Batch, result: Result) -> None:
    watch = Watch(work.order["interpolate"] + 1)
    stream = _stream(work, watch, result)
    for rows, frames in _whole_windows(stream, work.trajectories()):
        moved = _judge(work, rows, frames, watch, result)
        watch.forget(rows[-1]["first_index"])
        if not moved:
            continue
        kept = [row for row, _ in moved]
        blurs = _expose(work, kept, frames)
        sharp = _at_depth(cast(Pixels, frames[rows[0]["center_index"]]), work.order["bits"])
        made = _drawn_camera(work, rows[0]["trajectory_id"])
        for row, pixels in moved:
            extra = {"motion_px": pixels} | made
            _write_pair(work, batch, row, blurs[row["n_frames"]], sharp, extra, result)


def _whole_windows(
    stream: Stream, trajectories: Sequence[list[dict[str, Any]]]
) -> Iterator[tuple[list[dict[str, Any]], dict[int, Pixels | None]]]:
    """Each trajectory's rows with its frames by rank, as soon as the last one has come.

    Holds the frames of open windows alone.
    """
    waiting = sorted(trajectories, key=lambda rows: _last(rows[-1]))
    # The first rank that this trajectory or any later one still needs.
    needed = [min(rows[-1]["first_index"] for rows in waiting[i:]) for i in range(len(waiting))]
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
    kept: list[tuple[dict[str, Any], float]] = []
    fastest = 0.0
    lost = VIDEO_DAMAGED if work.order["kind"] == "video" else DAMAGED
    for row in rows:
        reason = None if _has_all(row, frames) else lost
        reason = reason or watch.interruption(row)
        if reason is not None:
            result.problems.append(_problem(row, reason))
            continue
        median, most = watch.motion(row)
        fastest = max(fastest, most)
        kept.append((row, median))
    # Short windows move little in any clip: what counts is whether the trajectory gets anywhere.
    if kept and fastest < work.order["motion_floor"]:
        result.problems += [_problem(row, motion.STATIC) for row, _ in kept]
        return []
    return kept


def _problem(row: dict[str, Any], reason: str) -> Problem:
    what, cure = _WHAT[reason]
    return Problem(
        reason,
        f"{row['sample_id']} is left out: {what}",
        cure,
        row["split"],
        row["clip"],
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
    return {n: _at_depth(mean, work.order["bits"]) for n, mean in means.items()}


def _at_depth(pixels: Pixels, bits: int) -> Pixels:
    """Pixels in 8 or 16 bits a channel; 16 to 8 rounds to nearest, 8 stays 8."""
    if bits == 8 and pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels


def _drawn_camera(work: Work, trajectory_id: str) -> dict[str, Any]:
    if not work.order["camera"]:
        return {}
    settings = camera.parse(work.order["camera"])
    drawn = camera.draw(settings, trajectory_id, work.order["seed"])
    return {"camera": json.dumps(drawn.as_data(), sort_keys=True)}


class Watch:
    """Small copies of the frames that went by, and what they tell of a window.

    Args:
        factor: frames after interpolation for one as shot; rows count the former.
    """

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self._small: dict[int, motion.Small] = {}

    def see(self, rank: int, pixels: Pixels | None) -> None:
        """Keep a small copy of a frame as shot."""
        if pixels is not None:
            self._small[rank] = motion.small(pixels)

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

    def motion(self, row: dict[str, Any]) -> tuple[float, float]:
        """(median, 95th percentile) of the displacement over a window, in pixels."""
        span = self._span(row)
        median, most = motion.displacement(self._small[span[0]], self._small[span[-1]])
        # A window that ends between two frames as shot spans a part of what was measured.
        share = (row["n_frames"] - 1) / (self._factor * (len(span) - 1))
        return median * share, most * share


def _stream(work: Work, watch: Watch, result: Result) -> Stream:
    """The shard's frames as windows count them, interpolated ones among them."""
    shot = _shot_frames(work, watch, result)
    count = work.order["interpolate"]
    if not count:
        return shot
    spans = [range(rows[-1]["first_index"], _last(rows[-1]) + 1) for rows in work.trajectories()]
    return interpolation.upsampled(shot, count, spans)


def _shot_frames(work: Work, watch: Watch, result: Result) -> Stream:
    rank = work.order["first"]
    size = (work.order["size"][0], work.order["size"][1])
    for part in work.order["parts"]:
        path = Path(work.roots[part["root"]], part["name"])
        if work.order["kind"] == "video":
            found: Iterable[Pixels | None] = video.decode(_stretch(path, part))
        else:
            found = _files(path, part["names"], size, result)
        for pixels in found:
            watch.see(rank, pixels)
            yield rank, pixels
            rank += 1


def _stretch(path: Path, part: dict[str, Any]) -> video.Stretch:
    return video.Stretch(
        path=path,
        seek=part["seek"],
        pts=tuple(part["pts"]),
        keys=tuple(part["keys"]),
        colour=Colour(**part["colour"]),
        rotation=part["rotation"],
    )


def _files(
    folder: Path, names: Sequence[str | None], size: tuple[int, int], result: Result
) -> Iterator[Pixels | None]:
    """Frames of a folder; one that cannot be read is told of once and costs its windows."""
    for name in names:
        if name is None:
            yield None
            continue
        try:
            found = pictures.read(folder / name, expect=size)
        except pictures.PictureError as error:
            result.problems.append(Problem(error.reason, error.what, error.cure, file=error.where))
            yield None
            continue
        result.frames[name] = found.sha256
        yield found.pixels


@dataclass(frozen=True)
class _StillShot:
    sharp: Pixels
    blurs: dict[int, Pixels]
    poses: stills.Poses


def _shoot_still(work: Work, rows: list[dict[str, Any]], result: Result) -> _StillShot | None:
    part, name = work.order["parts"][0], rows[0]["trajectory_id"]
    path = Path(work.roots[part["root"]], part["name"])
    try:
        found = pictures.read(path)
    except pictures.PictureError as error:
        result.problems += [
            Problem(error.reason, f"{row['sample_id']} is left out: {error.what}", error.cure,
                    row["split"], row["clip"], row["sample_id"], error.where)
            for row in rows
        ]  # fmt: skip
        return None
    result.frames[part["name"]] = found.sha256
    photo = _at_depth(_reduced(found.pixels, work.order["max_side"]), work.order["bits"])
    sizes = [row["n_frames"] for row in rows]
    settings = stills.StillSettings(slices=max(sizes))
    margin = settings.margin
    height, width = photo.shape[0] - 2 * margin, photo.shape[1] - 2 * margin
    if min(height, width) < stills.KERNEL_SIZE:
        result.problems += [
            Problem("photo-too-small", f"{row['sample_id']} is left out: the photograph is"
                    f" {photo.shape[1]} x {photo.shape[0]}", "give a larger photograph",
                    row["split"], row["clip"], row["sample_id"])
            for row in rows
        ]  # fmt: skip
        return None
    random = camera.generator(work.order["seed"], name, "path")
    poses = stills.camera_path(settings, height, width, random)
    if work.order["camera"]:
        drawn = camera.draw(camera.parse(work.order["camera"]), name, work.order["seed"])
        slices = [stills.render_slice(photo, pose, margin) for pose in poses]
        whole = [np.rint(one).astype(photo.dtype) for one in slices]
        blurs = dict(camera.expose(whole, sizes, drawn, name, work.order["seed"]))
    else:
        blurs = stills.blurs(photo, poses, sizes, margin)
    sharp = np.ascontiguousarray(photo[margin : margin + height, margin : margin + width])
    return _StillShot(sharp, blurs, poses)


def _reduced(pixels: Pixels, max_side: int) -> Pixels:
    longest = max(pixels.shape[:2])
    if not max_side or longest <= max_side:
        return pixels
    size = [max(round(side * max_side / longest), 1) for side in (pixels.shape[1], pixels.shape[0])]
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def _make_still(work: Work, rows: list[dict[str, Any]], batch: Batch, result: Result) -> None:
    shot = _shoot_still(work, rows, result)
    if shot is None:
        return
    height, width = shot.sharp.shape[:2]
    sizes = [row["n_frames"] for row in rows]
    payload = stills.kernel_file(shot.poses, sizes, height, width)
    kernel_path = f"kernels/{rows[0]['trajectory_id']}.npz"
    batch.add(work.out / rows[0]["split"] / kernel_path, payload)
    corners = np.array([0.0, height - 1.0])[:, None], np.array([0.0, width - 1.0])[None, :]
    for row in rows:
        ends = [
            shot.poses[len(shot.poses) // 2 + side * (row["n_frames"] // 2)] for side in (-1, 1)
        ]
        (y0, x0), (y1, x1) = (stills.offsets(pose, *corners, height, width) for pose in ends)
        extra = {
            "motion_px": float(np.median(np.hypot(y1 - y0, x1 - x0))),
            "kernel_path": kernel_path,
            "kernel_sha256": hashlib.sha256(payload).hexdigest(),
            "kernel_bytes": len(payload),
        } | _drawn_camera(work, row["trajectory_id"])
        _write_pair(work, batch, row, shot.blurs[row["n_frames"]], shot.sharp, extra, result)


def _write_pair(  # where it goes, and what a pair is
    work: Work,
    batch: Batch,
    row: dict[str, Any],
    blur: Pixels,
    sharp: Pixels,
    extra: dict[str, Any],
    result: Result,
) -> None:
    blur_payload, sharp_payload = encode(blur), _written_sharp(work, batch, row, sharp, result)
    batch.add(work.out / row["split"] / row["blur_file_name"], blur_payload)
    result.records.append(
        {
            "sample_id": row["sample_id"],
            "width": blur.shape[1],
            "height": blur.shape[0],
            "sharp_sha256": sharp_payload[0],
            "sharp_bytes": sharp_payload[1],
            "blur_sha256": hashlib.sha256(blur_payload).hexdigest(),
            "blur_bytes": len(blur_payload),
            "blur_pixel_sha256": images.pixel_sha256(blur),
        }
        | extra
    )


def _written_sharp(
    work: Work, batch: Batch, row: dict[str, Any], sharp: Pixels, result: Result
) -> tuple[str, int]:
    """Write a trajectory's sharp image with its first pair; its digest and size after that."""
    last = result.records[-1] if result.records else None
    if last and last["sample_id"].rsplit("/", 1)[0] == row["trajectory_id"]:
        return last["sharp_sha256"], last["sharp_bytes"]
    payload = encode(sharp)
    batch.add(work.out / row["split"] / row["sharp_file_name"], payload)
    return hashlib.sha256(payload).hexdigest(), len(payload)


def encode(pixels: Pixels) -> bytes:
    """A PNG of 8 or 16 bits a channel."""
    if pixels.dtype == np.uint8:
        return images.encode_png(pixels)
    done, payload = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"OpenCV could not write a PNG of {pixels.shape} {pixels.dtype}")
    return payload.tobytes()
