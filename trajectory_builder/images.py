"""Strict reading and fast writing of frames: 8-bit RGB PNG files and nothing else.

A file's bytes are read once; those very bytes are hashed, gated, checked chunk by chunk and then
decoded. Decoders alone are too kind: OpenCV drops alpha, cuts 16 bits to 8, turns grayscale into
RGB and reads a JPEG named .png without a word, and gives `None` for six different faults. Here
each fault has a fixed word and one cure. Nothing here hands a path to a library.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import TrajbuildError, printable

Pixels = npt.NDArray[np.uint8]
"""An image as (H, W, 3) uint8, RGB."""

ReaderName = Literal["kornia-rs", "opencv"]
WriterName = Literal["isal", "opencv"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END_CHUNK = b"\x00\x00\x00\x00IEND\xaeB`\x82"
MAX_PIXELS = 1 << 27
"""Frames of more pixels are refused before anything is decoded (ours: four times 8K video)."""

_COPY_AGAIN = "copy this file again from its source and run the same command again"
_CONVERT = "convert the frames to 8-bit RGB PNG and run the same command again"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_DEPTHS = {_GRAY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8)}
_DEPTHS |= {_GRAY_ALPHA: (8, 16), _RGB_ALPHA: (8, 16)}

# What else has been met under the name .png: first bytes, what to call it, the cure.
_IMPOSTORS = (
    (b"\xff\xd8\xff", "a JPEG", "use the lossless frames; a JPEG is not what was published"),
    (b"GIF8", "a GIF", _CONVERT),
    (b"BM", "a BMP", _CONVERT),
    (b"RIFF", "a WebP or another RIFF file", _CONVERT),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` where it came from"),
    (b"<", "a web page or XML text", "download the file again; the server sent a page instead"),
)


class ImageError(TrajbuildError):
    """A frame that cannot be used, and why.

    Attributes:
        reason: a fixed word, one of `REASONS`; what problems.parquet is filtered by.
    """

    def __init__(self, what: str, *, reason: str, where: str = "", cure: str = "") -> None:
        super().__init__(what, where=where, cure=cure)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # The base class restores the three parts; `reason` travels as state.
        return (*super().__reduce__(), {"reason": self.reason})


REASONS = (
    "frame-missing",
    "frame-unreadable",
    "frame-empty",
    "frame-not-png",
    "frame-truncated",
    "frame-crc",
    "frame-damaged",
    "frame-trailing-bytes",
    "frame-too-large",
    "frame-16-bit",
    "frame-grayscale",
    "frame-palette",
    "frame-has-alpha",
    "frame-size-differs",
)
"""Every word that `ImageError.reason` can be."""


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What a PNG file says of itself in its first 33 bytes: size in pixels, bits, colour type."""

    width: int
    height: int
    depth: int
    color_type: int
    interlace: int


@dataclass(frozen=True, slots=True)
class Frame8:
    """A decoded frame: pixels (H, W, 3) uint8 RGB, and the SHA-256 of the file's bytes in hex."""

    pixels: Pixels
    sha256: str


def png_header(payload: bytes, *, name: str = "") -> PngHeader:
    """Read the header of a PNG file; 33 bytes suffice.

    Raises:
        ImageError: empty, not a PNG, cut inside the header, or a header that contradicts itself.
    """
    if not payload:
        raise ImageError(
            "the frame is an empty file", reason="frame-empty", where=name, cure=_COPY_AGAIN
        )
    if payload[:8] != SIGNATURE[: len(payload)]:
        raise _not_png(payload, name)
    if len(payload) < 33:
        raise _truncated(len(payload), "its header", name)
    length, kind = struct.unpack_from(">I4s", payload, 8)
    width, height, depth, color_type, _, _, interlace = struct.unpack_from(">IIBBBBB", payload, 16)
    if zlib.crc32(payload[12:29]) != struct.unpack_from(">I", payload, 29)[0]:
        raise _bad_checksum("IHDR", name)
    known = depth in _DEPTHS.get(color_type, ()) and interlace in (0, 1)
    if (length, kind) != (13, b"IHDR") or not known or width == 0 or height == 0:
        raise _damaged("its header makes no sense", name)
    return PngHeader(width, height, depth, color_type, interlace)


def check_png(payload: bytes, *, name: str, expect: tuple[int, int] | None = None) -> PngHeader:
    """Check a whole PNG file without decoding it, and name what is wrong.

    Walks all chunks with their checksums, about 0.4 ms a megabyte.

    Args:
        payload: the file's bytes.
        name: how messages call the file.
        expect: (width, height) that it must have.

    Raises:
        ImageError: with the cause as `reason`: anything but one whole 8-bit RGB PNG.
    """
    header = png_header(payload, name=name)
    _refuse_other_formats(header, name)
    if header.width * header.height > MAX_PIXELS:
        raise ImageError(
            f"the frame claims {header.width} x {header.height} pixels, more than is read",
            reason="frame-too-large",
            where=name,
            cure=f"frames of at most {MAX_PIXELS:,} pixels are read; make smaller ones",
        )
    if expect is not None and (header.width, header.height) != expect:
        raise ImageError(
            f"the frame is {header.width} x {header.height}, its clip is {expect[0]} x {expect[1]}",
            reason="frame-size-differs",
            where=name,
            cure="put frames of another size into a clip of their own",
        )
    _walk_chunks(payload, name)
    return header


def read_frame(
    path: str | Path, *, expect: tuple[int, int] | None = None, reader: ReaderName | None = None
) -> Frame8:
    """Read one frame strictly: its bytes once, hashed, checked, decoded.

    Args:
        path: an 8-bit RGB PNG file; any name that the file system allows.
        expect: (width, height) of the clip.
        reader: which decoder; the fastest that is installed when None.

    Raises:
        ImageError: the file is missing, unreadable or not exactly such a frame.
    """
    payload = read_bytes(path)
    pixels = decode_png(payload, name=printable(os.fspath(path)), expect=expect, reader=reader)
    return Frame8(pixels, hashlib.sha256(payload).hexdigest())


def decode_png(
    payload: bytes,
    *,
    name: str,
    expect: tuple[int, int] | None = None,
    reader: ReaderName | None = None,
) -> Pixels:
    """Check and decode the bytes of an 8-bit RGB PNG file to (H, W, 3) uint8 RGB.

    Orientation tags are ignored, as the published frames have none: the stored rows are the rows.

    Args:
        payload: the whole file.
        name: what to call it in an error.
        expect: (width, height) of the clip.
        reader: which decoder; the fastest that is installed when None.

    Raises:
        ImageError: it is not exactly such a frame.
    """
    header = check_png(payload, name=name, expect=expect)
    return _READERS[reader or default_reader()](payload, header, name)


def encode_png(pixels: Pixels, *, writer: WriterName | None = None) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a PNG file, lossless, the same bytes every time.

    The bytes may differ between versions of the codec and families of processors, the pixels do
    not: compare images by `pixel_sha256`, files by their own digest.

    Raises:
        ValueError: not a uint8 array of shape (H, W, 3) with at least one pixel.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"need (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    return _WRITERS[writer or default_writer()](pixels)


def pixel_sha256(pixels: Pixels) -> str:
    """SHA-256 in hex of the RGB bytes (H, W, 3) in row order: the same whatever the encoder."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def codecs() -> dict[str, str]:
    """Name the decoder and the encoder in use with their versions; build.json records them."""
    packages = {"kornia-rs": ("kornia-rs",), "isal": ("isal",)}
    opencv = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless")
    names = {"reader": default_reader(), "writer": default_writer()}
    return {
        role: f"{name} {_version(packages.get(name, opencv))}".strip()
        for role, name in names.items()
    }


@cache
def default_reader() -> ReaderName:
    """kornia-rs, or OpenCV where its wheel is missing (or too old to decode from memory).

    kornia-rs needs 10 ms for a 1.5 MB frame of 1280 x 720 where OpenCV needs 25, from memory as
    from a path, and is the stricter one.
    """
    try:
        from kornia_rs.io import decode_image_png_u8  # noqa: F401
    except ImportError:
        return "opencv"
    return "kornia-rs"


@cache
def default_writer() -> WriterName:
    """ISA-L, or OpenCV where the wheel of python-isal is missing."""
    try:
        from isal import isal_zlib  # noqa: F401
    except ImportError:
        return "opencv"
    return "isal"


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes; refuses what is not a regular file, so that no pipe can hang a build.

    Raises:
        ImageError: missing, unreadable, no regular file, or larger than any frame.
    """
    name = printable(os.fspath(path))
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(
                "the frame is not a regular file",
                reason="frame-unreadable",
                where=name,
                cure="put the PNG file itself in its place",
            )
        if status.st_size > 4 * MAX_PIXELS:
            raise ImageError(
                f"the frame's file has {status.st_size:,} bytes, more than is read",
                reason="frame-too-large",
                where=name,
                cure="no frame needs that many; check what the file is",
            )
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(
            "the frame is missing", reason="frame-missing", where=name, cure=_COPY_AGAIN
        ) from error
    except OSError as error:
        raise ImageError(
            f"the frame cannot be read: {error.strerror or error}",
            reason="frame-unreadable",
            where=name,
            cure="check the file's permissions and the disk, then run the same command again",
        ) from error


def _refuse_other_formats(header: PngHeader, name: str) -> None:
    found = {
        _GRAY: ("frame-grayscale", "grayscale"),
        _GRAY_ALPHA: ("frame-has-alpha", "grayscale with alpha"),
        _RGB_ALPHA: ("frame-has-alpha", "RGB with alpha"),
        _PALETTE: ("frame-palette", "a palette image"),
    }.get(header.color_type)
    if found is None and header.depth == 16:
        found = ("frame-16-bit", "16-bit RGB")
    if found is not None:
        reason, what = found
        raise ImageError(
            f"the frame is {what}, not 8-bit RGB", reason=reason, where=name, cure=_CONVERT
        )


def _walk_chunks(payload: bytes, name: str) -> None:
    """Check every chunk's length and CRC-32 up to IEND, and that nothing follows it."""
    view = memoryview(payload)
    at, data_chunks = 8, 0
    while at < len(payload):
        if at + 12 > len(payload):
            raise _truncated(len(payload), "a chunk's head", name)
        length, kind = struct.unpack_from(">I4s", payload, at)
        if not kind.isalpha() or length > 0x7FFFFFFF:
            raise _damaged(f"no chunk begins at byte {at}", name)
        data_chunks += kind == b"IDAT"
        label = f"IDAT {data_chunks}" if kind == b"IDAT" else kind.decode()
        end = at + 12 + length
        if end > len(payload):
            raise _truncated(len(payload), f"chunk {label}", name)
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", payload, end - 4)[0]:
            raise _bad_checksum(label, name)
        if kind == b"tRNS":
            raise ImageError(
                "the frame has a transparent colour",
                reason="frame-has-alpha",
                where=name,
                cure=_CONVERT,
            )
        at = end
        if kind == b"IEND":
            break
    else:
        raise _truncated(len(payload), "the file: its end mark IEND is missing", name)
    if data_chunks == 0:
        raise _damaged("it holds no pixels", name)
    if at != len(payload):
        raise ImageError(
            f"{len(payload) - at:,} bytes follow the end of the frame",
            reason="frame-trailing-bytes",
            where=f"{name}, from byte {at}",
            cure=_COPY_AGAIN,
        )


def _not_png(payload: bytes, name: str) -> ImageError:
    for start, what, cure in _IMPOSTORS:
        if payload.startswith(start):
            return ImageError(
                f"the frame is {what}, not a PNG", reason="frame-not-png", where=name, cure=cure
            )
    blank = payload[:8].strip(b"\0") == b""
    what = "begins with zeros; its blocks were never written" if blank else "is not a PNG"
    return ImageError(f"the frame {what}", reason="frame-not-png", where=name, cure=_COPY_AGAIN)


def _truncated(size: int, inside: str, name: str) -> ImageError:
    return ImageError(
        f"the frame is truncated at byte {size}, inside {inside}",
        reason="frame-truncated",
        where=name,
        cure=_COPY_AGAIN,
    )


def _bad_checksum(chunk: str, name: str) -> ImageError:
    return ImageError(
        f"the frame is damaged: the checksum of {chunk} is wrong",
        reason="frame-crc",
        where=name,
        cure=_COPY_AGAIN,
    )


def _damaged(what: str, name: str) -> ImageError:
    return ImageError(
        f"the frame is damaged: {what}", reason="frame-damaged", where=name, cure=_COPY_AGAIN
    )


def _decode_kornia(payload: bytes, header: PngHeader, name: str) -> Pixels:
    from kornia_rs.io import decode_image_png_u8

    try:
        pixels: Pixels = decode_image_png_u8(payload, (header.height, header.width), "rgb")
    except Exception as error:  # kornia-rs 0.2 raises bare Exception
        raise _damaged("its pixels cannot be decoded", name) from error
    return pixels


def _decode_opencv(payload: bytes, header: PngHeader, name: str) -> Pixels:
    import cv2

    try:
        # UNCHANGED does not rotate by an orientation tag; COLOR does.
        bgr = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _damaged("its pixels cannot be decoded", name) from error
    if bgr is None or bgr.dtype != np.uint8 or bgr.shape != (header.height, header.width, 3):
        raise _damaged("its pixels cannot be decoded", name)
    rgb: Pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), np.uint8)
    return rgb


def _encode_isal(pixels: Pixels) -> bytes:
    """Filter Up in numpy and ISA-L at level 1: faster than OpenCV by four and smaller."""
    from isal import isal_zlib

    height, width, _ = pixels.shape
    rows = pixels.reshape(height, width * 3)
    filtered = np.empty((height, width * 3 + 1), np.uint8)  # one filter byte before each row
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    data = isal_zlib.compress(filtered, 1)
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, _RGB, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)),
            struct.pack(">I", len(data)) + b"IDAT",
            data,
            struct.pack(">I", zlib.crc32(data, zlib.crc32(b"IDAT"))),
            END_CHUNK,
        )
    )


def _encode_opencv(pixels: Pixels) -> bytes:
    import cv2

    # Level 1 alone resets OpenCV's strategy and halves its speed; so all three are given.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12 and later
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG")
    encoded: bytes = data.tobytes()
    return encoded


def _version(packages: tuple[str, ...]) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


_READERS: dict[ReaderName, Callable[[bytes, PngHeader, str], Pixels]] = {
    "kornia-rs": _decode_kornia,
    "opencv": _decode_opencv,
}
_WRITERS: dict[WriterName, Callable[[Pixels], bytes]] = {
    "isal": _encode_isal,
    "opencv": _encode_opencv,
}
