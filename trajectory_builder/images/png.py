"""Strict reading and fast writing of frames: 8-bit RGB PNG files and nothing else.

A file's bytes are read once; those very bytes are hashed, checked chunk by chunk and decoded.
Decoders alone are too kind: OpenCV drops alpha, cuts 16 bits to 8, turns grayscale into RGB and
reads a JPEG named .png without a word, and gives `None` for six different faults. So `png_check`
names each fault first, by a fixed word, and `png_stream` inflates the pixels and checks their
sum. Nothing here hands a path to a library.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import ImageError, printable
from trajectory_builder.images.files import read_bytes
from trajectory_builder.images.picture import damaged
from trajectory_builder.images.png_check import (
    END_CHUNK,
    REASONS,
    RGB,
    SIGNATURE,
    PngHeader,
    check_png,
    checked_chunks,
    png_header,
)
from trajectory_builder.images.png_stream import bare_png, png_chunk

__all__ = [
    "REASONS",
    "Frame8",
    "ImageError",
    "Pixels",
    "PngHeader",
    "ReaderName",
    "WriterName",
    "check_png",
    "codecs",
    "decode_png",
    "default_reader",
    "default_writer",
    "encode_png",
    "pixel_sha256",
    "png_header",
    "read_bytes",
    "read_frame",
]

Pixels = npt.NDArray[np.uint8]
"""An image as (H, W, 3) uint8, RGB."""

ReaderName = Literal["kornia-rs", "opencv"]
WriterName = Literal["isal", "opencv"]

_ISAL_HEAD = 8
"""Bytes that ISA-L compresses apart: at least 4, so that it begins its history with them, and fewer
than its main loop asks for (16)."""


@dataclass(frozen=True, slots=True)
class Frame8:
    """A decoded frame: pixels (H, W, 3) uint8 RGB, and the SHA-256 of the file's bytes in hex."""

    pixels: Pixels
    sha256: str


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
    header, chunks = checked_chunks(payload, name=name, expect=expect)
    bare = bare_png(payload, header, chunks, name)
    return decode_bare(bare, header, name, reader=reader)


def decode_bare(
    bare: bytes, header: PngHeader, name: str, *, reader: ReaderName | None = None
) -> Pixels:
    """The pixels of an 8-bit RGB PNG as `png_stream.bare_png` gives it: (H, W, 3) uint8 RGB."""
    return _READERS[reader or default_reader()](bare, header, name)


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


def pixel_sha256(pixels: npt.NDArray[Any]) -> str:
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


def _decode_kornia(payload: bytes, header: PngHeader, name: str) -> Pixels:
    from kornia_rs.io import decode_image_png_u8

    try:
        pixels: Pixels = decode_image_png_u8(payload, (header.height, header.width), "rgb")
    except Exception as error:  # kornia-rs 0.2 raises bare Exception
        raise damaged("its pixels cannot be decoded", name) from error
    return pixels


def _decode_opencv(payload: bytes, header: PngHeader, name: str) -> Pixels:
    import cv2

    try:
        # UNCHANGED does not rotate by an orientation tag; COLOR does.
        bgr = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise damaged("its pixels cannot be decoded", name) from error
    if bgr is None or bgr.dtype != np.uint8 or bgr.shape != (header.height, header.width, 3):
        raise damaged("its pixels cannot be decoded", name)
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
    flat = filtered.reshape(-1)
    stream = isal_zlib.compressobj(1)
    # ISA-L hashes the third byte of a stream wrongly, from an address, so its matches would differ
    # between processes once in some ten thousand images (decision 26). Its path for short inputs
    # does not, and after a flush the rest goes on from there; that costs some 4 bytes.
    parts = (stream.compress(flat[:_ISAL_HEAD]), stream.flush(isal_zlib.Z_SYNC_FLUSH))
    data = b"".join((*parts, stream.compress(flat[_ISAL_HEAD:]), stream.flush()))
    header = struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            png_chunk(b"IHDR", header),
            png_chunk(b"IDAT", data),
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
