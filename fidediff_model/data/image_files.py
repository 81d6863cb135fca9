"""Reading an image file whole or not at all: a damaged file is an error, never a gray patch.

Only whole images can be read. A PNG is one zlib stream whose filters refer to the row above, so
the rows below a crop could be left out but none above it, and no packaged decoder offers even
that; JPEG could be cut by blocks, but OpenCV cannot. A crop costs the decoding of its image.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import ImageError

Image = npt.NDArray[np.uint8]
"""An image (H, W, 3), RGB, 8 bits."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
# Some cameras append data of their own after the end of a JPEG.
_JPEG_TAIL = 1 << 16
# Bit depth 8, colour type 2 (RGB), then compression 0, filter 0, not interlaced.
_PLAIN_RGB = bytes([8, 2, 0, 0, 0])


def read_image(path: Path) -> Image:
    """An image file as RGB.

    8-bit RGB PNG, what `trajbuild` writes, is read by kornia-rs where it is installed: it is the
    fastest reader and checks every checksum. Other PNGs have their chunks checked here, then
    OpenCV reads them, as it does JPEG and the rest: gray becomes RGB, 16 bits become 8, alpha is
    dropped, and a rotation in EXIF is applied.

    Returns:
        (H, W, 3) uint8, RGB, writable, contiguous.

    Raises:
        ImageError: the file cannot be opened, is damaged, or is no image.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(29)
            if head.startswith(_PNG) and head[24:] == _PLAIN_RGB:
                read = _strict_reader()
                if read is not None:
                    return _read_strictly(read, path)
            content = head + file.read()
    except OSError as error:
        raise ImageError(f"an image cannot be opened: {error.strerror}", where=str(path)) from error
    _check_whole(content, path)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        # OpenCV raises for an empty file and for absurd sizes, and returns None for the rest.
        pixels = None
    if pixels is None:
        raise ImageError("a file is not an image that can be read", where=str(path))
    rgb: Image = np.ascontiguousarray(pixels[:, :, ::-1])
    return rgb


@cache
def _strict_reader() -> Any:
    """kornia-rs' PNG reader, or None where no wheel of it exists for the machine."""
    try:
        from kornia_rs.io import read_image_png_u8
    except ImportError:
        return None
    return read_image_png_u8


def _read_strictly(read: Any, path: Path) -> Image:
    try:
        pixels = read(str(path), "rgb")
    except Exception as error:
        # kornia-rs raises bare Exceptions for files that it refuses.
        raise ImageError(f"an image is damaged: {error}", where=str(path)) from error
    rgb: Image = np.ascontiguousarray(pixels, dtype=np.uint8)
    return rgb


def _check_whole(content: bytes, path: Path) -> None:
    """Refuse what OpenCV would read in part: cut files and PNG chunks with a wrong checksum."""
    if content.startswith(_PNG):
        problem = _png_problem(content)
    elif content.startswith(_JPEG) and _JPEG_END not in content[-_JPEG_TAIL:]:
        problem = "the end marker is missing"
    else:
        return
    if problem:
        raise ImageError(f"an image is damaged: {problem}", where=str(path))


def _png_problem(content: bytes) -> str:
    """What is wrong with a PNG's chunks, or nothing (PNG specification, section 5)."""
    at = len(_PNG)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(content):
            break
        if zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return f"checksum of chunk {kind!r} at byte {at}"
        if kind == b"IEND":
            return ""
        at = end + 4
    return "the file ends early"
