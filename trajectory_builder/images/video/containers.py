"""Opening a video file safely: its container by its first bytes, its main stream by one rule.

File names are never trusted: `-y.mp4` is an option and `http:x.mp4` an address to FFmpeg, a text
file may be called .mp4, and a playlist may name files elsewhere. So the container is recognised
here, its demuxer is forced, and the path is passed absolute and as a `file:` address.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import ExitCode, VideoError, printable

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".ts", ".3gp", ".360",
)  # fmt: skip
"""Endings of the files that count as videos when a folder is searched; their content decides."""

_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_SNIFFED_BYTES = 400
_EXTRA = 'pip install "fidediff[video]"'


def pyav() -> ModuleType:
    """PyAV, imported on first use because only videos need it.

    Raises:
        VideoError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError(
            "reading videos needs PyAV, which is not installed",
            reason="video-extra-missing",
            exit_code=ExitCode.WRONG_USE,
            where=str(error),
            cure=f"run `{_EXTRA}`, or extract the frames and give their folder",
        ) from error
    # FFmpeg writes its own complaints to stderr; ours name the file and the cure.
    av.logging.set_level(av.logging.PANIC)
    module: ModuleType = av
    return module


def sniff(path: Path) -> str:
    """The FFmpeg demuxer for a file, by its first bytes.

    Raises:
        VideoError: not a regular file, unreadable, empty, a GIF, text, or an unknown format.
    """
    where = printable(str(path))
    try:
        with open_regular(path) as file:
            head = file.read(_SNIFFED_BYTES)
    except OSError as error:
        raise VideoError(
            f"the video cannot be read: {error.strerror}",
            reason="video-unreadable",
            where=where,
            cure="check the name and the permissions; give a file, not a pipe or a device",
        ) from error
    if not head:
        raise VideoError(
            "the video is an empty file",
            reason="video-empty",
            where=where,
            cure="copy it again from the camera",
        )
    found = _demuxer(head)
    if found is None:
        raise _not_a_video(head, where)
    return found


def _demuxer(head: bytes) -> str | None:
    if head[4:8] in _ATOMS:
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if all(head[at : at + 1] == b"\x47" for at in (0, 188, 376)):
        return "mpegts"
    if all(head[at : at + 1] == b"\x47" for at in (4, 196, 388)):
        return "mpegts"  # .m2ts: each packet carries four bytes of time before it
    return None


def _not_a_video(head: bytes, where: str) -> VideoError:
    if head[:4] == b"GIF8":
        return VideoError(
            "a GIF is no footage: 256 colours, and times in hundredths of a second",
            reason="video-gif",
            where=where,
            cure="use the video that the GIF was made from",
        )
    text = not set(head) & (set(range(32)) - set(b"\t\n\r\f"))
    kind = "text" if text else "none of MP4, MOV, MKV, WebM, AVI, MPEG-TS"
    return VideoError(
        f"the file is not a video but {kind}" if text else f"the file is {kind}",
        reason="video-not-a-video",
        where=where,
        cure="give a video file; `ffmpeg -i FILE -c copy OUT.mkv` converts other containers",
    )


def open_container(path: Path) -> Any:
    """Open a video file with PyAV; the caller closes it.

    Returns:
        An `av.container.InputContainer`.

    Raises:
        VideoError: PyAV is missing, the file is no video, cut, or without its index.
    """
    av = pyav()
    demuxer = sniff(path)
    try:
        return av.open(
            f"file:{path.resolve()}",
            format=demuxer,
            container_options={"protocol_whitelist": "file"},
            # Tags of old cameras are Latin-1; a title must not cost the file.
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError) as error:
        cut = demuxer == "mov"
        raise VideoError(
            "the video has no index (its moov atom is missing or damaged): the file was cut short"
            if cut
            else "the video's header is damaged",
            where=f"{printable(str(path))}: {error.strerror}",
            cure="copy it again from the camera, or repair it, for example with untrunc",
        ) from error


def main_stream(container: Any, path: Path) -> Any:
    """The video stream that is the film: not a cover picture, then the largest, then the first.

    Raises:
        VideoError: there is none (sound only), or none in a coding that FFmpeg knows.
    """
    from av.stream import Disposition

    not_film = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [s for s in container.streams.video if not s.disposition & not_film]
    if not streams:
        others = sorted({stream.type for stream in container.streams})
        raise VideoError(
            "the file has no video stream but cover pictures"
            if container.streams.video
            else f"the file has no video stream, only {' and '.join(others) or 'nothing'}",
            reason="video-no-stream",
            where=printable(str(path)),
            cure="give a file that contains pictures; sound alone cannot be used",
        )
    # PyAV gives a stream of an unknown coding no context.
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise VideoError(
            "the video's coding is unknown",
            reason="video-codec-unknown",
            where=printable(str(path)),
            cure="copy it again from the camera, or convert it with the camera's own program",
        )
    return max(streams, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index))


def versions() -> str:
    """The versions of PyAV and FFmpeg: another decoder may give other pixels."""
    av = pyav()
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
