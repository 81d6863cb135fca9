"""Video files as frames: every frame with its time, decoded once, in order, in upright RGB.

`index` reads a file's packets, not its pixels: times, keyframes, size, colour. `stretch` and
`decode` yield the frames of a range of ranks, one at a time, from the keyframe before it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import VideoError, printable
from trajectory_builder.images.video import times as clock
from trajectory_builder.images.video.colour import (
    Colour,
    RgbConverter,
    changes_colour,
    colour_of_frame,
    luma_of,
    stream_tags,
)
from trajectory_builder.images.video.containers import main_stream, open_container, pyav
from trajectory_builder.images.video.hdr import Handling
from trajectory_builder.images.video.orientation import (
    UPRIGHT,
    orientation_of,
    swaps_sides,
    upright,
)
from trajectory_builder.images.video.packets import Packets, read_packets, times_restart
from trajectory_builder.images.video.properties import has_alpha

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 1 << 27
"""Frames of more pixels are refused before anything is decoded (ours: four times 8K)."""


@dataclass(frozen=True)
class Video:
    """What a video file contains, from its packets and its first frame.

    Attributes:
        path: the file.
        width, height: of its frames in pixels, upright.
        orientation: how stored frames are turned or mirrored to be upright, see `orientation`.
        codec, pix_fmt: as FFmpeg names them.
        colour: matrix, range and HDR transfer.
        alpha: whether it has an alpha channel, which is dropped.
        interlaced: whether its frames are two fields each.
        time_base: seconds per unit of `pts`.
        pts: (N,) int64, the frames' times in order; a frame's rank is its index here.
        keyframes: (K,) int64, ascending ranks at which decoding can start.
        fps: frames per second, measured on `pts`, or as the user says.
        header_fps: frames per second by the container's header; 0 where it has none.
        sha256: of the coded pictures; equal for two files that show the same.
    """

    path: Path
    width: int
    height: int
    orientation: int
    codec: str
    pix_fmt: str
    colour: Colour
    alpha: bool
    interlaced: bool
    time_base: Fraction
    pts: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    fps: float
    header_fps: float
    sha256: str

    def __len__(self) -> int:
        return len(self.pts)

    def time(self, rank: int) -> Fraction:
        """Exact time of a frame in seconds from the first one's."""
        return Fraction(int(self.pts[rank] - self.pts[0])) * self.time_base

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last one."""
        last = self.time(len(self) - 1) if len(self) else Fraction(0)
        return last + Fraction(clock.median_interval(self.pts)) * self.time_base


def index(path: Path, *, fps: float | None = None, hdr: Handling = "refuse") -> Video:
    """Read a video's frame times and properties; only one frame is decoded.

    Args:
        path: the file.
        fps: frames per second at which it was shot, for files that were slowed down afterwards
            (240 fps stored as 30).
        hdr: whether HDR is refused, or converted when it is decoded.

    Raises:
        VideoError: not a video, cut, without a video stream, HDR (unless converted), in a colour
            matrix that is not read, too large, without frames or without a rate, or its times begin
            anew.
    """
    with open_container(path) as container:
        stream = main_stream(container, path)
        # Read now: PyAV's streams must not be touched once their file is closed.
        context = stream.codec_context
        codec, tags = str(context.name), stream_tags(stream)
        base, rate = Fraction(stream.time_base), stream.average_rate or stream.guessed_rate or 0
        packets = read_packets(container, stream)
        first = _first_frame(path)
        alpha = first is not None and has_alpha(stream, first)
    if first is None or not packets.pts:
        raise VideoError(
            "no frame of the video can be decoded",
            where=f"{printable(str(path))}: {codec}, {len(packets.pts)} packets",
            cure="check that it plays; copy it again from the camera",
        )
    if packets.restarts_after:
        raise times_restart(packets.restarts_after, path)
    times = packets if packets.timed else _decoded_times(path)
    pts = np.sort(np.array(times.pts, dtype=np.int64))
    keys = np.sort(np.array(times.keys, dtype=np.int64))
    colour = colour_of_frame(first, tags, path)
    if colour.hdr and hdr == "refuse":
        raise _hdr_error(colour.hdr, path)
    orientation = orientation_of(first)
    width, height = upright_size(first, orientation)
    video = Video(
        path=path,
        width=width,
        height=height,
        orientation=orientation,
        codec=codec,
        pix_fmt=first.format.name,
        colour=colour,
        alpha=alpha,
        interlaced=bool(first.interlaced_frame),
        time_base=base,
        pts=pts,
        keyframes=np.searchsorted(pts, keys),
        fps=fps or clock.measured_fps(pts, base) or float(rate),
        header_fps=float(rate),
        sha256=packets.sha256,
    )
    _refuse(video, packets.broken)
    return video


def _first_frame(path: Path) -> Any:
    """The first frame that decodes, whatever comes before it; None if there is none."""
    for frame in _raw_frames(path, None):
        if frame is not None and not frame.is_corrupt:
            return frame
    return None


def _decoded_times(path: Path) -> Packets:
    """Times by decoding, for containers whose packets carry none (AVI)."""
    found = Packets()
    for frame in _raw_frames(path, None):
        time = None if frame is None else _time_of(frame)
        if time is not None:
            found.add(time, bool(frame.key_frame))
    return found


def upright_size(frame: Any, orientation: int) -> tuple[int, int]:
    """Width and height of a stored frame once it is upright."""
    if swaps_sides(orientation):
        return frame.height, frame.width
    return frame.width, frame.height


def _hdr_error(transfer: str, path: Path) -> VideoError:
    return VideoError(
        f"the video is HDR: {transfer}",
        reason="video-hdr",
        where=printable(str(path)),
        cure="film with HDR off, or convert it to ordinary video: --hdr convert",
    )


def _refuse(video: Video, broken: bool) -> None:
    where = printable(str(video.path))
    if video.width * video.height > MAX_PIXELS:
        raise VideoError(
            f"the video claims frames of {video.width} x {video.height} pixels, too many to read",
            reason="video-too-large",
            where=where,
            cure=f"frames of at most {MAX_PIXELS:,} pixels are read; scale it down",
        )
    if len(video) < 2:
        raise VideoError(
            f"the video has {len(video)} frame" + ("" if len(video) == 1 else "s"),
            reason="video-too-short",
            where=where + (", and its data breaks off" if broken else ""),
            cure="a blur needs three frames or more; give photographs with --stills instead",
        )
    if video.fps <= 0:
        raise VideoError(
            "the video's frame rate is unknown",
            reason="video-no-rate",
            where=where,
            cure="give the rate at which it was shot, for example --fps 240",
        )


@dataclass(frozen=True)
class Stretch:
    """A run of frames of one file, and what a worker needs to decode it.

    Attributes:
        path: the file.
        seek: time (in units of the stream) of the keyframe to start from; None for the start.
        pts: times of the wanted frames, ascending.
        keys: times of the keyframes in the stretch.
        colour: of the stream.
        orientation: of the stored frames.
        size: upright width and height; frames of another size are lost.
    """

    path: Path
    seek: int | None
    pts: tuple[int, ...]
    keys: tuple[int, ...]
    colour: Colour
    orientation: int
    size: tuple[int, int]


def stretch(video: Video, first: int, end: int) -> Stretch:
    """The frames of ranks `first` to `end` - 1, decoded from the last keyframe before them."""
    position = int(np.searchsorted(video.keyframes, first, side="right")) - 1
    inside = video.keyframes[(video.keyframes >= first) & (video.keyframes < end)]
    return Stretch(
        path=video.path,
        # The first keyframe needs no seek, and then a file without an index will do.
        seek=int(video.pts[video.keyframes[position]]) if position > 0 else None,
        pts=tuple(int(pts) for pts in video.pts[first:end]),
        keys=tuple(int(video.pts[rank]) for rank in inside),
        colour=video.colour,
        orientation=video.orientation,
        size=(video.width, video.height),
    )


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame in RGB, and its luma as the decoder gave it.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16, turned upright.
        luma: (h, w) uint8, as stored, not turned; None where no luma of 8 bits is stored.
        full_range: whether luma runs from 0 to 255.
        orientation: of the stored luma.
    """

    pixels: npt.NDArray[Any]
    luma: Pixels | None = None
    full_range: bool = True
    orientation: int = UPRIGHT


def decode(wanted: Stretch, *, bits: int = 8) -> Iterator[npt.NDArray[Any] | None]:
    """The frames of a stretch in RGB alone: see `decode_with_luma`."""
    for frame in decode_with_luma(wanted, bits=bits):
        yield None if frame is None else frame.pixels


def decode_with_luma(wanted: Stretch, *, bits: int = 8) -> Iterator[Decoded | None]:
    """The frames of a stretch, in order, one at a time.

    A frame that is damaged, absent, of another size or colour coding is None, and so are all that
    follow a damaged one up to the next keyframe, since they build on it.

    Args:
        wanted: from `stretch`.
        bits: 8 or 16 bits per channel.

    Yields:
        A frame, or None; one for each of `wanted.pts`.

    Raises:
        VideoError: the file can no longer be opened.
    """
    if not wanted.pts:
        return
    convert = RgbConverter(wanted.colour)
    place = {pts: index for index, pts in enumerate(wanted.pts)}
    keys = set(wanted.keys) | ({wanted.seek} if wanted.seek is not None else set())
    following, sound = 0, True
    for frame in _frames_from(wanted):
        pts = None if frame is None else _time_of(frame)
        if frame is None or pts is None:
            sound = False
            continue
        sound = (sound or pts in keys) and not frame.is_corrupt
        index = place.get(pts)
        if index is None or index < following:
            if pts > wanted.pts[-1]:
                break
            continue
        yield from [None] * (index - following)
        following = index + 1
        other = upright_size(frame, wanted.orientation) != wanted.size
        if not sound or other or changes_colour(frame, wanted.colour):
            yield None
        else:
            pixels = upright(convert(frame, bits=bits), wanted.orientation)
            full = wanted.colour.full_range
            yield Decoded(pixels, luma_of(frame), full, wanted.orientation)
        if following == len(wanted.pts):
            return
    yield from [None] * (len(wanted.pts) - following)


def _frames_from(wanted: Stretch) -> Iterator[Any]:
    """Raw frames from the stretch's keyframe; from the file's start if seeking lands after it."""
    if wanted.seek is None:
        yield from _raw_frames(wanted.path, None)
        return
    frames = _raw_frames(wanted.path, wanted.seek)
    first = next(frames, None)
    landed = None if first is None else _time_of(first)
    if landed is None or landed > wanted.pts[0]:
        frames.close()
        yield from _raw_frames(wanted.path, None)
        return
    yield first
    yield from frames


def _time_of(frame: Any) -> int | None:
    time = frame.pts if frame.pts is not None else frame.dts
    return None if time is None else int(time)


def _raw_frames(path: Path, seek: int | None) -> Generator[Any, None, None]:
    """Decoded `av.VideoFrame`s from a keyframe's time on; None where data could not be decoded.

    One thread: with frame threads FFmpeg does not mark damaged frames (tried with 8.1).
    """
    av = pyav()
    with open_container(path) as container:
        stream = main_stream(container, path)
        stream.codec_context.thread_count = 1
        if seek is not None:
            container.seek(seek, stream=stream, backward=True, any_frame=False)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                # The file breaks off: frames still in the decoder are intact.
                packet = None
            try:
                yield from stream.codec_context.decode(packet if packet and packet.size else None)
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                yield None
            if packet is None or not packet.size:
                return
