"""A video restored frame by frame: times, sound and colour tags kept, memory constant.

Sound is copied packet by packet, not encoded again. A rotation in the container is applied to the
frames. More than 8 bits stay more than 8 bits. Nothing looks from frame to frame: the model is one
of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fidediff_model.restore.engine import ReadyModel
from fidediff_model.restore.files import to_unit
from trajectory_builder.disk.atomic import NO_ROOM
from trajectory_builder.errors import ExitCode, VideoError

# Encoder and options by container; visually lossless qualities (ours).
_X264 = ("libx264", {"crf": "16", "preset": "medium"})
_ENCODERS = {
    ".webm": ("libvpx-vp9", {"crf": "20", "b:v": "0", "row-mt": "1"}),
    ".avi": ("mpeg4", {"qscale": "2", "flags": "+qscale", "global_quality": "236"}),
}
_AHEAD = 4


def restore_video(
    ready: ReadyModel, source: Path, target: Path, *, batch: int = 1, report: Any
) -> dict[str, Any]:
    """Restore a video into `target`, whose ending names the container.

    Args:
        ready: the model.
        source: any video that FFmpeg reads.
        target: a temporary name; the caller renames it.
        batch: frames restored together.
        report: called as report("frame", count).

    Returns:
        Values for the record: width, height, frames, the mean and range of t_hat, notes.

    Raises:
        VideoError: it cannot be opened or decoded, or holds no frame.
        OSError: the disk is full.
    """
    av = _av()
    try:
        with av.open(str(source)) as opened, av.open(str(target), "w") as written:
            values = _Passage(ready, opened, written, target, report).run(batch)
    except av.error.FFmpegError as error:
        if error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise VideoError(
            f"the video cannot be read: {error.strerror}", where=str(source), cure="copy it again"
        ) from error
    if not values["frames"]:
        raise VideoError(
            "the video holds no frame", where=str(source), cure="check it with ffprobe"
        )
    return values


def _av() -> Any:
    try:
        import av
        import av.error
    except ImportError as error:
        raise VideoError(
            "PyAV is not installed, which reads videos",
            cure="pip install 'fidediff[video]'",
            exit_code=ExitCode.WRONG_USE,
        ) from error
    return av


class _Passage:
    """One video on its way: reader thread -> batches on the device -> writer thread."""

    def __init__(
        self, ready: ReadyModel, opened: Any, written: Any, target: Path, report: Any
    ) -> None:
        self.ready, self.opened, self.written = ready, opened, written
        self.target, self.report = target, report
        pictures = [s for s in opened.streams.video if not _is_cover(s)]
        if not pictures:
            raise VideoError(
                "the file holds no video",
                where=str(opened.name),
                cure="give a video; sound alone cannot be restored",
            )
        self.stream = pictures[0]
        self.stream.thread_type = "AUTO"
        # Made with the video's stream, which comes first in the file; until then sound waits.
        self.sounds: dict[int, Any] = {}
        self.waiting: list[Any] = []
        self.out: Any = None
        self.t_hats: list[float] = []
        self.notes: dict[str, None] = {}
        self.size = (0, 0)

    def run(self, batch: int) -> dict[str, Any]:
        """Read, restore, write all; the values of the record."""
        frames: list[Any] = []
        with ThreadPoolExecutor(1) as writer:
            behind: list[Future[None]] = []
            for kind, item in _ahead(self._items()):
                if kind == "sound":
                    self._later(behind, writer.submit(self._write_sound, item))
                    continue
                frames.append(item)
                if len(frames) == batch:
                    self._later(behind, writer.submit(self._write, *self._restore(frames)))
                    frames = []
            if frames:
                self._later(behind, writer.submit(self._write, *self._restore(frames)))
            for future in behind:
                future.result()
            if self.out is not None:
                self.written.mux(self.out.encode())
        return self._record()

    def _later(self, behind: list[Future[None]], future: Future[None]) -> None:
        behind.append(future)
        while len(behind) > _AHEAD:
            behind.pop(0).result()

    def _items(self) -> Iterator[tuple[str, Any]]:
        """Sound packets and decoded frames, as they come."""
        for packet in self.opened.demux([self.stream, *self.opened.streams.audio]):
            if packet.stream.index == self.stream.index:
                for frame in packet.decode():
                    yield "frame", frame
            elif packet.dts is not None:
                yield "sound", packet

    def _restore(self, frames: list[Any]) -> tuple[list[Any], list[npt.NDArray[Any]]]:
        pixels = [_upright(frame) for frame in frames]
        white = float(np.iinfo(pixels[0].dtype).max)
        batch = np.stack(pixels).astype(np.float32) * (2 / white) - 1
        answer = self.ready.run(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous())
        self.t_hats += [float(t) for t in answer.t_hat]
        self.notes |= dict.fromkeys(answer.notes)
        self.report("frame", len(frames))
        scaled = [
            np.rint(to_unit(image) * white).astype(pixels[0].dtype) for image in answer.images
        ]
        return frames, scaled

    def _write(self, frames: list[Any], restored: list[npt.NDArray[Any]]) -> None:
        av = _av()
        for source, values in zip(frames, restored, strict=True):
            if self.out is None:
                self._start(source, values)
            layout = "rgb48le" if values.dtype == np.uint16 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=layout)
            frame = frame.reformat(
                format=self.out.codec_context.pix_fmt,
                dst_colorspace=_matrix(source),
                dst_color_range=_range(source),
            )
            frame.pts, frame.time_base = source.pts, source.time_base
            self.written.mux(self.out.encode(frame))

    def _write_sound(self, packet: Any) -> None:
        if self.out is None:
            self.waiting.append(packet)
            return
        packet.stream = self.sounds[packet.stream.index]
        self.written.mux(packet)

    def _start(self, source: Any, values: npt.NDArray[Any]) -> None:
        """The output's video stream, once size and colours of the first frame are known."""
        av = _av()
        height, width = values.shape[:2]
        name, options = _ENCODERS.get(self.target.suffix.lower(), _X264)
        if name not in av.codecs_available:
            name, options = "mpeg4", _ENCODERS[".avi"][1]
            self.notes["the video was encoded by mpeg4: this FFmpeg has no x264"] = None
        rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        stream = self.written.add_stream(name, rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = _layout(name, values)
        context = stream.codec_context
        context.time_base = source.time_base
        own = self.stream.codec_context
        for tag in ("color_primaries", "color_trc", "colorspace"):
            setattr(context, tag, getattr(own, tag))
        context.color_range = _range(source)
        self.out, self.size = stream, (width, height)
        self.sounds = {
            sound.index: self.written.add_stream_from_template(sound)
            for sound in self.opened.streams.audio
        }
        waiting, self.waiting = self.waiting, []
        for packet in waiting:
            self._write_sound(packet)

    def _record(self) -> dict[str, Any]:
        ts = self.t_hats or [0.0]
        return {
            "width": self.size[0],
            "height": self.size[1],
            "frames": len(self.t_hats),
            "t_hat": round(sum(ts) / len(ts), 3),
            "t_hat_range": [round(min(ts), 3), round(max(ts), 3)],
            "notes": list(self.notes),
        }


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is the cover picture of the sound."""
    return "attached_pic" in str(stream.disposition)


def _upright(frame: Any) -> npt.NDArray[Any]:
    """A frame as RGB (H, W, 3), uint8 or uint16, turned as the container says."""
    deep = max((part.bits for part in frame.format.components), default=8) > 8
    values: npt.NDArray[Any] = frame.to_ndarray(format="rgb48le" if deep else "rgb24")
    # FFmpeg's display matrix gives degrees counter-clockwise, as rot90 turns.
    return np.rot90(values, round(getattr(frame, "rotation", 0) / 90) % 4)


def _layout(name: str, values: npt.NDArray[Any]) -> str:
    """4:2:0, or 4:4:4 for odd sizes, with 10 bits where the source has more than 8."""
    odd = values.shape[0] % 2 or values.shape[1] % 2
    layout = "yuv444p" if odd and name != "mpeg4" else "yuv420p"
    return layout + ("10le" if values.dtype == np.uint16 and name != "mpeg4" else "")


def _matrix(frame: Any) -> int:
    """The frame's YUV matrix; what is not tagged is decoded and encoded by the same default."""
    value = int(frame.colorspace)
    return value if value in (1, 4, 5, 7) else 5


def _range(frame: Any) -> int:
    """2 for full range, else 1: what is not tagged is limited."""
    return 2 if int(frame.color_range) == 2 else 1


def _ahead(items: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Run an iterator in a thread, a few items ahead; its error is raised here."""
    with ThreadPoolExecutor(1) as reader:
        waiting = deque(reader.submit(next, items, None) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, items, None))
            yield item
