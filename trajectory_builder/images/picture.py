"""An image with everything in its file that is not blur, and how it is turned upright."""

from __future__ import annotations

import logging
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import ImageError

MAX_PIXELS = 1 << 28
"""Larger images are refused before they are decoded; our choice: 16,384 squared."""
ORIENTATION = 0x0112
"""EXIF and TIFF tag: how to turn the stored rows so that the picture is upright."""
COPY_AGAIN = "copy this file again from its source and run the same command again"


# Orientation -> (quarter turns counter-clockwise, then mirrored left to right).
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False)}
_TURNS |= {7: (1, True), 8: (1, False)}
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[2-8]""")

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Picture:
    """An image file's content.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16, upright; not multiplied by alpha.
        format: PNG, JPEG, TIFF, WEBP, AVIF or HEIC.
        alpha: (H, W) of the same type, or None.
        gray: the file has one colour channel.
        icc: its ICC profile.
        exif: its EXIF block, with the orientation set to upright.
        xmp: its XMP packet; that of a PNG is among `chunks`.
        chunks: kind and content of a PNG's other chunks on colours, size and texts.
        notes: what could not be kept, one sentence each.
        ends_at: the largest 16-bit value, where it is below `white.LOW_END`.
        sha256: of the file's bytes, in hex; "" for an image that was not read.
    """

    pixels: Pixels
    format: str
    alpha: Pixels | None = None
    gray: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()
    ends_at: int | None = None
    sha256: str = ""

    @property
    def white(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def upright(values: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn (H, W, ...) as an EXIF or TIFF orientation of 1 to 8 says; contiguous."""
    turns, mirrored = _TURNS.get(orientation, (0, False))
    values = np.rot90(values, turns)
    return np.ascontiguousarray(values[:, ::-1] if mirrored else values)


def full_range(samples: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Samples of `bits` bits scaled so that the largest is white: 255, or 65535 above 8 bits."""
    target = np.uint16 if bits > 8 else np.uint8
    if bits in (8, 16):
        return samples.astype(target)
    return stretched(samples, (1 << bits) - 1, target)


def stretched(samples: npt.NDArray[Any], largest: int, target: Any) -> npt.NDArray[Any]:
    """Samples of 0 to `largest` over the range of the type `target`, rounded to nearest."""
    white = int(np.iinfo(target).max)
    # uint32 takes 65535 x 65535.
    return ((samples.astype(np.uint32) * white + largest // 2) // largest).astype(target)


def read_exif(block: bytes | None) -> tuple[int, bytes | None]:
    """The orientation in an EXIF block, and the block with its orientation set to upright."""
    if not block:
        return 1, None
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(block)
        orientation = int(exif.get(ORIENTATION, 1))
        if orientation == 1:
            return 1, block
        exif[ORIENTATION] = 1
        return orientation, exif.tobytes()
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error) as error:
        log.debug("EXIF that cannot be read is left out: %s", error)
        return 1, None


def upright_xmp(packet: bytes | None) -> bytes | None:
    """An XMP packet whose copy of the orientation is set to upright; some viewers prefer it."""
    return packet and _XMP_ORIENTATION.sub(rb"\g<1>1", packet)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image of too many pixels by its header.

    Raises:
        ImageError: reason `frame-too-large`.
    """
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"the image claims {width:,} x {height:,} pixels, more than is read",
            reason="frame-too-large",
            where=name,
            cure=f"images of at most {MAX_PIXELS:,} pixels are read; make smaller ones",
        )


def damaged(what: str, name: str, reason: str = "frame-damaged") -> ImageError:
    """The error for a file whose content is not what it was when it was written."""
    return ImageError(f"the image is damaged: {what}", reason=reason, where=name, cure=COPY_AGAIN)
