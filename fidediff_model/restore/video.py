"""A video restored frame by frame; times, sound, colours and tags are kept, memory is constant.

More than 8 bits stay more than 8 bits. Frames are restored one by one: the model sees no motion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fidediff_model.model.engine import ReadyModel
from fidediff_model.restore.files import to_unit
from trajectory_builder.disk.atomic import NO_ROOM
from trajectory_builder.errors import VideoError, printable
from trajectory_builder.images.video.colour import (
    Colour,
    RgbConverter,
    changes_colour,
    colour_of_frame,
    stream_tags,
)
from trajectory_builder.images.video.containers import main_stream, open_container, pyav
from trajectory_builder.images.video.orientation import orientation_of, upright
from trajectory_builder.images.video.packets import times_restart
from trajectory_builder.images.video.properties import losses, read_properties
from trajectory_builder.images.video.writing import VideoWriter

_AHEAD = 4
_SPLIT = (
    "split it there and restore the parts, for example with `ffmpeg -i IN -t SECONDS -c copy PART`"
)


def restore_video(
    ready: ReadyModel, source: Path, target: Path, *, batch: int = 1, report: Any
) -> dict[str, Any]:
    """Restore a video into `target`, whose ending names the container.

    Args:
        ready: the model.
        source: a video file.
        target: a temporary name; the caller renames it.
        batch: frames restored together.
        report: called as report("frame", count).

    Returns:
        Values for the record: width, height, frames, the mean and range of t_hat, notes.

    Raises:
        VideoError: it cannot be opened or decoded, has no frame, or its frames change in size.
        OSError: the disk is full.
    """
    av = pyav()
    try:
        with open_container(source) as opened:
            film = main_stream(opened, source)
            film.thread_type = "AUTO"
            with VideoWriter(opened, film, target) as writer:
                restoration = _Restoration(ready, opened, film, source, writer, report)
                restoration.run(batch)
            notes = [*writer.notes, *restoration.notes]
    except av.error.FFmpegError as error:
        if error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise VideoError(
            f"the video cannot be read: {error.strerror}",
            where=printable(str(source)),
            cure="check that it plays; copy it again from the camera",
        ) from error
    if not restoration.t_hats:
        raise VideoError(
            "no frame of the video can be decoded",
            where=printable(str(source)),
            cure="check that it plays; copy it again from the camera",
        )
    notes += losses(read_properties(source), read_properties(target))
    return restoration.record() | {"notes": notes}


@dataclass
class _Frame:
    """A decoded frame, its upright pixels (H, W, 3) in uint8 or uint16, and its colour space."""

    decoded: Any
    pixels: npt.NDArray[Any]
    colour: Colour


class _Restoration:
    """The restoration of one video: reader thread -> batches on the device -> writer thread."""

    def __init__(
        self,
        ready: ReadyModel,
        opened: Any,
        film: Any,
        source: Path,
        writer: VideoWriter,
        report: Any,
    ) -> None:
        self.ready, self.writer, self.report = ready, writer, report
        self.opened, self.film, self.source = opened, film, source
        self.convert: RgbConverter | None = None
        self.size = (0, 0)  # stored width and height of the first frame
        self.decoded, self.latest = 0, -(1 << 63)  # frames so far, and the time of the last one
        self.shape: tuple[int, ...] = (0, 0)
        self.t_hats: list[float] = []
        self.notes: dict[str, None] = {}

    def run(self, batch: int) -> None:
        """Read, restore and write all frames."""
        frames: list[_Frame] = []
        with ThreadPoolExecutor(1) as writer:
            writes: list[Future[None]] = []
            for kind, item in _ahead(self._items()):
                if kind == "sound":
                    _queue(writes, writer.submit(self.writer.write_sound, item))
                    continue
                frames.append(item)
                if len(frames) == batch:
                    _queue(writes, writer.submit(self._write, frames, self._restore(frames)))
                    frames = []
            if frames:
                _queue(writes, writer.submit(self._write, frames, self._restore(frames)))
            for future in writes:
                future.result()

    def _items(self) -> Iterator[tuple[str, Any]]:
        """Sound packets and decoded frames, in the order of the file."""
        for packet in self.opened.demux([self.film, *self.opened.streams.audio]):
            if packet.stream.index == self.film.index:
                for decoded in packet.decode():
                    yield "frame", self._upright(decoded)
            elif packet.dts is not None:
                yield "sound", packet

    def _upright(self, decoded: Any) -> _Frame:
        """A frame as upright RGB at its own depth; HDR keeps its stored values."""
        if self.convert is None:
            self.size = (decoded.width, decoded.height)
            colour = colour_of_frame(decoded, stream_tags(self.film), self.source)
            self.convert = RgbConverter(colour)
        if (decoded.width, decoded.height) != self.size:
            raise VideoError(
                f"the video changes its size from {self.size[0]} x {self.size[1]} to"
                f" {decoded.width} x {decoded.height}",
                reason="video-size-changes",
                where=f"{printable(str(self.source))}, after {self.decoded} frames",
                cure=_SPLIT,
            )
        deep = max((part.bits for part in decoded.format.components), default=8) > 8
        if changes_colour(decoded, self.convert.colour):
            raise VideoError(
                "the video changes its colour matrix or range",
                reason="video-colour-changes",
                where=f"{printable(str(self.source))}, after {self.decoded} frames",
                cure=_SPLIT,
            )
        if decoded.pts is not None:
            if decoded.pts < self.latest:
                raise times_restart(self.decoded, self.source)
            self.latest = decoded.pts
        # 16 bits also for HDR of 8 bits: the converter would turn it into ordinary video.
        self.decoded += 1
        colour = self.convert.colour
        pixels = self.convert(decoded, bits=16 if deep or colour.hdr else 8)
        return _Frame(decoded, upright(pixels, orientation_of(decoded)), colour)

    def _restore(self, frames: list[_Frame]) -> list[npt.NDArray[Any]]:
        dtype = frames[0].pixels.dtype
        white = float(np.iinfo(dtype).max)
        batch = np.stack([frame.pixels for frame in frames]).astype(np.float32) * (2 / white) - 1
        answer = self.ready.run(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())
        self.t_hats += [float(t) for t in answer.t_hat]
        self.notes |= dict.fromkeys(answer.notes)
        self.shape = frames[0].pixels.shape
        self.report("frame", len(frames))
        return [np.rint(to_unit(image) * white).astype(dtype) for image in answer.images]

    def _write(self, frames: list[_Frame], restored: list[npt.NDArray[Any]]) -> None:
        for frame, pixels in zip(frames, restored, strict=True):
            self.writer.write(frame.decoded, pixels, frame.colour)

    def record(self) -> dict[str, Any]:
        """The values of the record."""
        return {
            "width": self.shape[1],
            "height": self.shape[0],
            "frames": len(self.t_hats),
            "t_hat": round(sum(self.t_hats) / len(self.t_hats), 3),
            "t_hat_range": [round(min(self.t_hats), 3), round(max(self.t_hats), 3)],
        }


def _queue(writes: list[Future[None]], future: Future[None]) -> None:
    """Queue a write; wait for the oldest if too many are waiting."""
    writes.append(future)
    while len(writes) > _AHEAD:
        writes.pop(0).result()


def _ahead(items: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Run an iterator in a thread, a few items ahead; its error is raised here."""
    with ThreadPoolExecutor(1) as reader:
        waiting = deque(reader.submit(next, items, None) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, items, None))
            yield item
