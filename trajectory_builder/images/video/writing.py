"""Writing a video like its source: times, colours, pixel shape, sound and tags are kept.

Sound is copied packet by packet, not encoded again. Frames are stored upright. What the container
or the encoder cannot keep is noted.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import VideoError, printable
from trajectory_builder.images.video import properties
from trajectory_builder.images.video.colour import (
    HD_HEIGHT,
    Colour,
    frame_of_rgb,
    frame_tags,
    stream_tags,
)
from trajectory_builder.images.video.containers import pyav

# Encoder and options by ending; qualities that look lossless (ours).
_X264 = ("libx264", {"crf": "16", "preset": "medium"})
_MPEG4 = ("mpeg4", {"qscale": "2", "flags": "+qscale", "global_quality": "236"})
_ENCODERS = {
    ".webm": ("libvpx-vp9", {"crf": "20", "b:v": "0", "row-mt": "1"}),
    ".avi": _MPEG4,
}
_FORMATS = {
    ".mp4": "mp4", ".m4v": "mp4", ".360": "mp4", ".mov": "mov", ".3gp": "3gp", ".avi": "avi",
    ".mkv": "matroska", ".webm": "webm", ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts",
}  # fmt: skip
# What the muxer writes itself, or belongs to the source's container alone.
_OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "timecode"}
# Finer chroma first: nothing is lost by it.
_CHROMA = {"4:2:0": "yuv420p", "4:2:2": "yuv422p", "4:4:0": "yuv440p", "4:4:4": "yuv444p",
           "gray": "gray"}  # fmt: skip


class VideoWriter:
    """Encodes upright RGB frames as the video that they came from was encoded.

    Use it as a context manager; `notes` is complete once it is closed.

    Args:
        source: the open input container.
        film: its video stream that is being restored.
        target: the file to write; an existing one is replaced.

    Attributes:
        notes: what could not be kept, a sentence each.
    """

    def __init__(self, source: Any, film: Any, target: Path) -> None:
        self._source, self._film, self._target = source, film, target
        self._ending = target.suffix.lower()
        self._format = _FORMATS.get(self._ending, "mp4")
        self._file = pyav().open(f"file:{target.absolute()}", "w", format=self._format)
        self._file.metadata.update(
            {k: v for k, v in source.metadata.items() if k.lower() not in _OWN_TAGS}
        )
        if source.chapters():
            self._file.set_chapters(source.chapters())
        # Created with the video's stream, which comes first in the file; until then sound waits.
        self._sounds: dict[int, Any] = {}
        self._waiting: list[Any] = []
        self._out: Any = None
        self._colour = Colour("bt601", False, "", False)
        self.notes: list[str] = []

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if self._out is not None:
                self._file.mux(self._out.encode())
            self._file.close()
            return
        try:
            self._file.close()
        except pyav().error.FFmpegError:
            return  # the first error is the one to report

    def write(self, frame: Any, rgb: npt.NDArray[Any], colour: Colour) -> None:
        """Encode a frame.

        Args:
            frame: the decoded `av.VideoFrame` that it was made of; gives time and tags.
            rgb: (H, W, 3) upright, uint8 or uint16.
            colour: how `frame` stores colour.
        """
        if self._out is None:
            self._start(frame, rgb, colour)
        encoded = frame_of_rgb(
            rgb,
            self._out.codec_context.pix_fmt,
            self._colour,
            cosited=self._out.codec_context.name == "libx264",
        )
        encoded.pts, encoded.time_base = frame.pts, frame.time_base
        for name, tag in self._tags.items():
            setattr(encoded, name, tag)
        self._file.mux(self._out.encode(encoded))

    def write_sound(self, packet: Any) -> None:
        """Copy a packet of a sound track; packets of tracks that are left out are dropped."""
        if self._out is None:
            self._waiting.append(packet)
        elif packet.stream.index in self._sounds:
            packet.stream = self._sounds[packet.stream.index]
            self._file.mux(packet)

    def _start(self, frame: Any, rgb: npt.NDArray[Any], colour: Colour) -> None:
        """Add the streams, once size and colours of the first frame are known."""
        name, options = _ENCODERS.get(self._ending, _X264)
        if name not in pyav().codecs_available:
            name, options = _MPEG4
            self.notes.append("the video is encoded by mpeg4: this FFmpeg has no better encoder")
        film = self._film
        rate = film.average_rate or film.guessed_rate or Fraction(25)
        out = self._file.add_stream(name, rate=rate, options=options)
        out.height, out.width = rgb.shape[:2]
        out.pix_fmt = _layout(name, frame, rgb)
        context = out.codec_context
        context.time_base = frame.time_base
        context.sample_aspect_ratio = properties.pixel_aspect_ratio(film, frame)
        self._tags = frame_tags(frame, stream_tags(film))
        self._colour = self._storable(colour, name, out.height)
        for tag, value in self._tags.items():
            setattr(context, tag, value)
        timecode = properties.timecode_of(self._source)
        if timecode:
            out.metadata["timecode"] = timecode
        self._out = out
        self._add_sounds()
        waiting, self._waiting = self._waiting, []
        for packet in waiting:
            self.write_sound(packet)

    def _storable(self, colour: Colour, encoder: str, height: int) -> Colour:
        """The colour coding that readers of the output will assume; sets its tags to match."""
        if encoder == "mpeg4":
            # FFmpeg's MPEG-4 has no colour tags: readers go by the height.
            self._tags |= {"colorspace": 2, "color_range": 0}
            return Colour("bt709" if height >= HD_HEIGHT else "bt601", False, "", False)
        if colour.matrix == "rgb":
            self._tags |= {"colorspace": 1, "color_range": 1}
            return Colour("bt709", False, colour.hdr, True)
        self._tags["color_range"] = 2 if colour.full_range else 1
        return colour

    def _add_sounds(self) -> None:
        for sound in self._source.streams.audio:
            problem = _not_copied(sound, self._format)
            if problem:
                self.notes.append(f"sound track {sound.index} is left out: {problem}")
                continue
            copy = self._file.add_stream_from_template(sound)
            copy.metadata.update({k: sound.metadata[k] for k in ("language", "title")
                                  if k in sound.metadata})  # fmt: skip
            self._sounds[sound.index] = copy


def _not_copied(sound: Any, muxer: str) -> str:
    """Why a sound track cannot be copied into a container; "" where it can."""
    av = pyav()
    try:
        # A muxer refuses a codec only when it writes its header, and then the whole file fails.
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            trial.add_stream_from_template(sound)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError, TypeError, AttributeError, NotImplementedError):
        codec = getattr(sound.codec_context, "name", None) or "an unknown codec"
        return f"{muxer} cannot store {codec}"
    return ""


def _layout(encoder: str, frame: Any, rgb: npt.NDArray[Any]) -> str:
    """The encoder's pixel format that is nearest to the frame's and loses least."""
    known = {form.name for form in pyav().Codec(encoder, "w").video_formats}
    wanted = "4:4:4" if frame.format.is_rgb else properties.chroma_format(frame)
    exact = _CHROMA.get(wanted, "yuv444p")
    if exact == "yuv420p" and (rgb.shape[0] % 2 or rgb.shape[1] % 2):
        exact = "yuv444p"  # x264 refuses odd sizes with halved chroma
    deep = "10le" if rgb.dtype == np.uint16 else ""
    choices = [exact + deep, "yuv444p" + deep, exact, "yuv444p", "yuv420p"]
    found = next((name for name in choices if name in known), None)
    if found is None:
        raise VideoError(
            f"the encoder {printable(encoder)} has no pixel format that can be written",
            where=", ".join(sorted(known)),
            cure="install PyAV from PyPI, whose FFmpeg has libx264",
        )
    return found
