"""What is wrong with a PNG file: a walk over its bytes that decodes nothing and names the cause.

Every fault has a fixed word (`ImageError.reason`), a place and one cure. A frame is one complete
8-bit RGB PNG; everything else is refused here, before a decoder sees it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from trajectory_builder.errors import ImageError
from trajectory_builder.images.formats import other_kind
from trajectory_builder.images.picture import COPY_AGAIN, check_size, damaged

try:  # three times as fast: 0.11 against 0.36 ms a megabyte
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END_CHUNK = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_CHUNK_HEAD = struct.Struct(">I4s").unpack_from
_CHUNK_END = struct.Struct(">I").unpack_from

_CONVERT = "convert the frames to 8-bit RGB PNG and run the same command again"
_GRAY, RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_DEPTHS = {_GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), _PALETTE: (1, 2, 4, 8)}
_DEPTHS |= {_GRAY_ALPHA: (8, 16), _RGB_ALPHA: (8, 16)}

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
    "frame-animated",
    "frame-size-differs",
)
"""Every word that `ImageError.reason` can be."""


class Chunk(NamedTuple):
    """A chunk of a PNG file: its kind, and where its content starts and ends in the file."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What a PNG file says of itself in its first 33 bytes: size in pixels, bits, colour type."""

    width: int
    height: int
    depth: int
    color_type: int
    interlace: int


def png_header(payload: bytes, *, name: str = "") -> PngHeader:
    """Read the header of a PNG file; 33 bytes suffice.

    Raises:
        ImageError: empty, not a PNG, cut inside the header, or a header that contradicts itself.
    """
    if not payload:
        raise ImageError(
            "the image is an empty file", reason="frame-empty", where=name, cure=COPY_AGAIN
        )
    if payload[:8] != SIGNATURE[: len(payload)]:
        raise _not_png(payload, name)
    if len(payload) < 33:
        raise _truncated(len(payload), "its header", name)
    length, kind = struct.unpack_from(">I4s", payload, 8)
    width, height, depth, color_type, _, _, interlace = struct.unpack_from(">IIBBBBB", payload, 16)
    if crc32(payload[12:29]) != struct.unpack_from(">I", payload, 29)[0]:
        raise _bad_checksum("IHDR", name)
    known = depth in _DEPTHS.get(color_type, ()) and interlace in (0, 1)
    if (length, kind) != (13, b"IHDR") or not known or width == 0 or height == 0:
        raise damaged("its header makes no sense", name)
    return PngHeader(width, height, depth, color_type, interlace)


def check_png(payload: bytes, *, name: str, expect: tuple[int, int] | None = None) -> PngHeader:
    """Check a complete PNG file without decoding it, and name what is wrong.

    Walks all chunks with their checksums.

    Args:
        payload: the file's bytes.
        name: how messages call the file.
        expect: (width, height) that it must have.

    Raises:
        ImageError: with the cause as `reason`: anything but one complete 8-bit RGB PNG.
    """
    return checked_chunks(payload, name=name, expect=expect)[0]


def checked_chunks(
    payload: bytes, *, name: str, expect: tuple[int, int] | None = None
) -> tuple[PngHeader, list[Chunk]]:
    """What `check_png` checks, with all chunks of the file."""
    header = png_header(payload, name=name)
    _refuse_other_formats(header, name)
    check_size(header.width, header.height, name)
    if expect is not None and (header.width, header.height) != expect:
        raise ImageError(
            f"the image is {header.width} x {header.height}, its clip is {expect[0]} x {expect[1]}",
            reason="frame-size-differs",
            where=name,
            cure="put frames of another size into a clip of their own",
        )
    chunks = png_chunks(payload, name)
    _refuse_more_than_pixels({chunk.kind for chunk in chunks}, name)
    return header, chunks


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
            f"the image is {what}, not 8-bit RGB", reason=reason, where=name, cure=_CONVERT
        )


def png_chunks(payload: bytes, name: str) -> list[Chunk]:
    """All chunks of a complete PNG file, their lengths and checksums right and nothing after them.

    Raises:
        ImageError: cut, damaged, without pixels, or with bytes after its end.
    """
    view = memoryview(payload)
    size, at, data_chunks = len(payload), 8, 0
    chunks: list[Chunk] = []
    while at < size:
        if at + 12 > size:
            raise _truncated(size, "a chunk's head", name)
        length, kind = _CHUNK_HEAD(payload, at)
        if not kind.isalpha() or length > 0x7FFFFFFF:
            raise damaged(f"no chunk begins at byte {at}", name)
        data_chunks += kind == b"IDAT"
        end = at + 12 + length
        if end > size:
            raise _truncated(size, f"chunk {_label(kind, data_chunks)}", name)
        if crc32(view[at + 4 : end - 4]) != _CHUNK_END(payload, end - 4)[0]:
            raise _bad_checksum(_label(kind, data_chunks), name)
        chunks.append(Chunk(kind, at + 8, end - 4))
        at = end
        if kind == b"IEND":
            break
    else:
        raise _truncated(len(payload), "the file: its end mark IEND is missing", name)
    if data_chunks == 0:
        raise damaged("it contains no pixels", name)
    if at != len(payload):
        raise ImageError(
            f"{len(payload) - at:,} bytes follow the end of the image",
            reason="frame-trailing-bytes",
            where=f"{name}, from byte {at}",
            cure=COPY_AGAIN,
        )
    return chunks


def _refuse_more_than_pixels(kinds: set[bytes], name: str) -> None:
    if b"tRNS" in kinds:
        reason, what = "frame-has-alpha", "the image has a transparent colour"
    elif b"acTL" in kinds:
        reason, what = "frame-animated", "the image is an animation"
    else:
        return
    raise ImageError(what, reason=reason, where=name, cure=_CONVERT)


def _label(kind: bytes, data_chunks: int) -> str:
    return f"IDAT {data_chunks}" if kind == b"IDAT" else kind.decode()


def _not_png(payload: bytes, name: str) -> ImageError:
    what, cure = "a JPEG", "use the lossless frames; a JPEG is not what was published"
    if not payload.startswith(b"\xff\xd8\xff"):
        what, cure = other_kind(payload)
    if what.startswith("a "):
        return ImageError(
            f"the image is {what}, not a PNG", reason="frame-not-png", where=name, cure=cure
        )
    blank = payload[:8].strip(b"\0") == b""
    what = "begins with zeros; its blocks were never written" if blank else "is not a PNG"
    return ImageError(f"the image {what}", reason="frame-not-png", where=name, cure=COPY_AGAIN)


def _truncated(size: int, inside: str, name: str) -> ImageError:
    return ImageError(
        f"the image is truncated at byte {size}, inside {inside}",
        reason="frame-truncated",
        where=name,
        cure=COPY_AGAIN,
    )


def _bad_checksum(chunk: str, name: str) -> ImageError:
    return ImageError(
        f"the image is damaged: the checksum of {chunk} is wrong",
        reason="frame-crc",
        where=name,
        cure=COPY_AGAIN,
    )
