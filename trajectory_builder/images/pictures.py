"""Images of users: any PNG, JPEG, TIFF, WebP, AVIF or HEIC, read strictly and completely, as RGB.

A file is what its content says, whatever it is called. What no decoder may be trusted to notice
is checked: a missing end, a wrong checksum, more pages than one. GoPro's frames, 8-bit RGB PNGs and
nothing else, are read by `png.read_frame`.
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import ImageError, UserError, printable
from trajectory_builder.images.files import MAX_FILE_BYTES, read_bytes, unreadable
from trajectory_builder.images.formats import format_of, other_kind
from trajectory_builder.images.heif import heic_size, read_heic
from trajectory_builder.images.nclx import notes_on_colours
from trajectory_builder.images.picture import (
    COPY_AGAIN,
    Picture,
    check_size,
    damaged,
    read_exif,
    upright,
    upright_xmp,
)
from trajectory_builder.images.png import Pixels
from trajectory_builder.images.png_check import png_header
from trajectory_builder.images.png_picture import png_size, read_png
from trajectory_builder.images.tiff import read_tiff, tiff_size

_KNOWN = "PNG, JPEG, TIFF, WebP, AVIF or HEIC"
_CMYK_NOTE = "CMYK became sRGB"


def read(path: Path, *, expect: tuple[int, int] | None = None, white: int | None = None) -> Picture:
    """Read one image with the digest of its file.

    Args:
        path: a file of one of `formats.FORMATS`.
        expect: (width, height) that it must have, upright.
        white: the value of white in a 16-bit image; see `white.with_white`.

    Raises:
        ImageError: missing, unreadable, of another format, cut, damaged or of another size.
    """
    payload = read_bytes(path)
    name = printable(path)
    picture = decode(payload, name=name, white=white)
    height, width = picture.pixels.shape[:2]
    if expect is not None and (width, height) != expect:
        raise ImageError(
            f"the image is {width} x {height}, its clip is {expect[0]} x {expect[1]}",
            reason="frame-size-differs",
            where=name,
            cure="put images of another size into a folder of their own",
        )
    return replace(picture, sha256=hashlib.sha256(payload).hexdigest())


def read_rgb8(path: Path) -> Pixels:
    """The pixels of an image file as (H, W, 3) uint8 RGB: what training and reports look at.

    Gray becomes RGB, 16 bits become 8, alpha is dropped, and the image is upright.

    Raises:
        ImageError: as `read`.
    """
    pixels = decode(read_bytes(path), name=printable(path)).pixels
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def decode(payload: bytes, *, name: str, white: int | None = None) -> Picture:
    """The content of an image file, whose bytes are at hand.

    Args:
        payload: all its bytes.
        name: how errors call the file.
        white: the value of white in a 16-bit image; see `white.with_white`.

    Raises:
        ImageError: empty, of another format, cut, damaged, animated, of many pages, or too large.
    """
    try:
        return _decode(payload, name, white)
    except (UserError, MemoryError):
        raise
    # Whatever a library raises on one file must not end the work on the others.
    except Exception as error:
        raise damaged(f"reading it failed: {type(error).__name__}: {error}", name) from error


def _decode(payload: bytes, name: str, white: int | None) -> Picture:
    kind = _format_or_refuse(payload, name)
    if kind == "PNG":
        return read_png(payload, name, white)
    if kind == "TIFF":
        return read_tiff(payload, name, white)
    if kind == "HEIC":
        return read_heic(payload, name)
    if kind == "JPEG" and not _jpeg_is_complete(payload):
        raise damaged("its end mark is missing", name, "frame-truncated")
    return _through_pillow(payload, kind, name)


def size_and_bits(path: Path) -> tuple[int, int, int]:
    """(width, height, bits per channel: 8 or 16) of the upright image, from the header alone.

    Raises:
        ImageError: it is no image that is read, or too large.
    """
    name = printable(path)
    try:
        with open_regular(path, at_most=MAX_FILE_BYTES) as file:
            head = file.read(128)
            kind = _format_or_refuse(head, name)
            file.seek(0)
            if kind == "PNG":
                return _size_of_png(file, name)
            if kind == "TIFF":
                return tiff_size(file, name)
            if kind == "HEIC":
                return heic_size(file, name)
            return _size_by_pillow(file, kind, name)
    except OSError as error:
        raise unreadable(error, name) from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # as in `decode`
        raise damaged(f"its header cannot be read: {error}", name) from error


def _format_or_refuse(payload: bytes, name: str) -> str:
    if not payload:
        raise ImageError(
            "the image is an empty file", reason="frame-empty", where=name, cure=COPY_AGAIN
        )
    kind = format_of(payload)
    if kind is None:
        what, cure = other_kind(payload)
        raise ImageError(
            f"the file is {what}, not {_KNOWN}",
            reason="frame-unknown-format",
            where=name,
            cure=cure,
        )
    return kind


def _through_pillow(payload: bytes, kind: str, name: str) -> Picture:
    """JPEG, WebP and AVIF."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(payload), formats=[kind]) as opened:
            check_size(*opened.size, name)
            notes = _notes_on_more_images(opened, kind, name)
            if kind == "AVIF":
                notes += notes_on_colours(payload, opened.info.get("icc_profile"), name)
                bits = _bits_of_avif(payload)
                notes += (f"{bits} bits became 8",) if bits > 8 else ()
            opened.load()
            return _from_pillow(opened, kind, notes)
    # Pillow raises all of these for files that are not what they claim to be.
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, OverflowError, KeyError,
            Image.DecompressionBombError) as error:  # fmt: skip
        raise damaged(f"its pixels cannot be decoded: {error}", name) from error


def _notes_on_more_images(opened: Any, kind: str, name: str) -> tuple[str, ...]:
    """Previews and gain maps of a JPEG are left out with a note; an animation is refused.

    Cameras and phones append them to a JPEG (multi-picture format); viewers show the first image.
    """
    count = getattr(opened, "n_frames", 1)
    if count == 1:
        return ()
    if kind == "JPEG":
        return (f"{count - 1} further images in the file (previews, gain maps) are left out",)
    raise ImageError(
        f"the file has {count:,} images: it is an animation",
        reason="frame-animated",
        where=name,
        cure="save them apart, or make a video of them (ffmpeg -i FILE video.mp4)",
    )


def _from_pillow(opened: Any, kind: str, notes: tuple[str, ...]) -> Picture:
    from trajectory_builder.images.cmyk import to_srgb

    orientation, exif = read_exif(opened.info.get("exif"))
    icc, image = opened.info.get("icc_profile"), opened
    if image.mode == "CMYK":
        image, notes, icc = to_srgb(image), (*notes, _CMYK_NOTE), None
    gray = image.mode == "L"
    if gray and icc and b"GRAY" not in icc[:20]:
        gray = False  # an RGB profile does not fit a gray file
    values = np.array(image.convert("RGBA" if "A" in image.mode else "RGB"))
    values = upright(values, orientation)
    alpha = np.ascontiguousarray(values[:, :, 3]) if values.shape[2] == 4 else None
    pixels = np.ascontiguousarray(values[:, :, :3])
    xmp = upright_xmp(opened.info.get("xmp"))
    return Picture(pixels, kind, alpha, gray, icc, exif, xmp=xmp, notes=notes)


def _bits_of_avif(payload: bytes) -> int:
    """Bits per channel by the box `av1C` (AV1-ISOBMFF, 2.3.3), which each AVIF has."""
    at = payload.find(b"av1C")
    flags = payload[at + 6] if 0 <= at < len(payload) - 6 else 0
    if not flags & 0x40:  # high_bitdepth
        return 8
    return 12 if flags & 0x20 else 10  # twelve_bit


def _jpeg_is_complete(payload: bytes) -> bool:
    """Whether an end mark follows the start of the image's own data.

    Walks the segments before it, so that the end mark of an embedded thumbnail does not count.
    Decoders silently fill a missing part with gray.
    """
    at = 2
    while at + 4 <= len(payload) and payload[at] == 0xFF:
        marker, (length,) = payload[at + 1], struct.unpack_from(">H", payload, at + 2)
        at += 2 + length
        if marker == 0xDA:
            return payload.find(b"\xff\xd9", at) >= 0
    return False


def _size_of_png(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """Reads the header and the heads of the chunks, for the orientation in eXIf."""
    header = png_header(file.read(33), name=name)
    check_size(header.width, header.height, name)
    orientation = 1
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            orientation, _ = read_exif(file.read(length))
            break
        file.seek(length + 4, io.SEEK_CUR)
    return png_size(header, orientation)


def _size_by_pillow(file: BinaryIO, kind: str, name: str) -> tuple[int, int, int]:
    from PIL import Image

    try:
        with Image.open(file, formats=[kind]) as opened:
            width, height = opened.size
            orientation, _ = read_exif(opened.info.get("exif"))
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise damaged(f"its header cannot be read: {error}", name) from error
    check_size(width, height, name)
    return (height, width, 8) if orientation >= 5 else (width, height, 8)
