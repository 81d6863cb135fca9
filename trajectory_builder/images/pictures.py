"""Single images of users: PNG, JPEG, TIFF and WebP, 8 or 16 bits, read strictly, in RGB.

GoPro's frames are read by `trajectory_builder.images.png`, which takes 8-bit RGB PNG alone. Here
users' own files are read: by their content, whatever they are called, turned upright as their
EXIF tag says, grey made RGB, alpha dropped. What no decoder may be trusted to notice is checked.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import ImageError, printable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
MAX_FILE_BYTES = 1 << 30
MAX_PIXELS = 1 << 28
"""Pictures of more pixels are refused before they are decoded (ours: 16,384 squared)."""

_COPY_AGAIN = "copy this file again from its source and run the same command again"


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels (H, W, 3) RGB, uint8 or uint16, and the SHA-256 of the file's bytes in hex."""

    pixels: npt.NDArray[Any]
    sha256: str


def read(path: Path, *, expect: tuple[int, int] | None = None) -> Picture:
    """Read one picture.

    Args:
        path: a PNG, JPEG, TIFF or WebP file.
        expect: (width, height) that it must have, upright.

    Raises:
        ImageError: missing, unreadable, of another format, cut, damaged or of another size.
    """
    payload = _bytes(path)
    name = printable(str(path))
    kind = format_of(payload)
    if kind is None:
        raise ImageError(
            "the file is no PNG, JPEG, TIFF or WebP" if payload else "the file is empty",
            reason="frame-unknown-format" if payload else "frame-empty",
            where=name,
            cure="convert it to PNG, or take it out of the folder",
        )
    if kind == "jpeg" and not _jpeg_is_whole(payload):
        raise _damaged("the JPEG is cut short: its end mark is missing", name, "frame-truncated")
    pixels = decode(payload, name)
    height, width = pixels.shape[:2]
    if expect is not None and (width, height) != expect:
        raise ImageError(
            f"the frame is {width} x {height}, its clip is {expect[0]} x {expect[1]}",
            reason="frame-size-differs",
            where=name,
            cure="put frames of another size into a folder of their own",
        )
    return Picture(pixels, hashlib.sha256(payload).hexdigest())


def format_of(payload: bytes) -> str | None:
    """`png`, `jpeg`, `tiff` or `webp` by the first bytes, or None."""
    if payload[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if payload[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if payload[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return "webp"
    return None


def size_and_bits(path: Path) -> tuple[int, int, int]:
    """(width, height, bits a channel) by the header alone, upright.

    Raises:
        ImageError: it is no picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) >= 5
            deep = picture.mode.startswith("I") or _png_or_tiff_depth(path) == 16
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        why = getattr(error, "strerror", None) or str(error)
        if isinstance(error, UnidentifiedImageError):  # its text is the path once more
            why = "its content is of no known format"
        raise ImageError(
            f"the file cannot be read as a picture: {why}",
            reason="frame-unreadable",
            where=printable(str(path)),
            cure=_COPY_AGAIN,
        ) from error
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"the file claims {width} x {height} pixels, more than is read",
            reason="frame-too-large",
            where=printable(str(path)),
            cure=f"pictures of at most {MAX_PIXELS:,} pixels are read; make smaller ones",
        )
    return (height, width, 16 if deep else 8) if turned else (width, height, 16 if deep else 8)


def _png_or_tiff_depth(path: Path) -> int:
    """Bits a channel; Pillow hides 16-bit colour, which it reads as 8."""
    with open(path, "rb") as file:
        head = file.read(26)
        if format_of(head) == "png" and len(head) > 24:
            return head[24]
        if format_of(head) != "tiff":
            return 8
        order = "<" if head[:2] == b"II" else ">"
        file.seek(struct.unpack_from(order + "I", head, 4)[0])
        (count,) = struct.unpack(order + "H", file.read(2))
        for _ in range(count):
            tag, _, values, value = struct.unpack(order + "HHII", file.read(12))
            if tag == 258:  # BitsPerSample: inline for one or two values, else at an offset
                if values <= 2:
                    return int(value & 0xFFFF if order == "<" else value >> 16)
                file.seek(value)
                return int(struct.unpack(order + "H", file.read(2))[0])
    return 8


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ImageError(
                "the frame is missing" if not path.exists() else "the frame is not a file",
                reason="frame-missing",
                where=printable(str(path)),
                cure=_COPY_AGAIN,
            )
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(
                "the file is larger than 1 GiB",
                reason="frame-too-large",
                where=printable(str(path)),
                cure="no frame needs that many bytes; check what the file is",
            )
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"the frame cannot be read: {error.strerror or error}",
            reason="frame-unreadable",
            where=printable(str(path)),
            cure="check the permissions and run the same command again",
        ) from error


def decode(payload: bytes, name: str) -> npt.NDArray[Any]:
    """Decode a picture's bytes to (H, W, 3) RGB, uint8 or uint16.

    Raises:
        ImageError: it cannot be decoded, or holds other values.
    """
    import cv2

    try:
        found = cv2.imdecode(
            np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error as error:
        raise _damaged(f"the frame cannot be decoded: {error.err}", name) from error
    if found is None:
        raise _damaged("the frame cannot be decoded: it is cut short or damaged", name)
    if found.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"the frame holds {found.dtype} values, not 8 or 16 bits a channel",
            reason="frame-unknown-depth",
            where=name,
            cure="convert it to 16-bit PNG or TIFF",
        )
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB))


def _damaged(what: str, name: str, reason: str = "frame-damaged") -> ImageError:
    return ImageError(what, reason=reason, where=name, cure=_COPY_AGAIN)


def _jpeg_is_whole(payload: bytes) -> bool:
    """Whether an end mark follows the start of the picture's own data.

    Walks the segments before it, so that the end mark of an embedded thumbnail does not count.
    Decoders fill a missing part with grey without a word.
    """
    at = 2
    while at + 4 <= len(payload) and payload[at] == 0xFF:
        marker, (length,) = payload[at + 1], struct.unpack_from(">H", payload, at + 2)
        at += 2 + length
        if marker == 0xDA:
            return payload.find(b"\xff\xd9", at) >= 0
    return False
