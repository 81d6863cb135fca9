"""Any PNG as a picture: all depths and colour types, transparent colours, profiles and texts.

Pixels come from a decoder that is handed nothing but them; the chunks on colours and texts are
kept as they are stored, so that they can be written back.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import ImageError
from trajectory_builder.images import png
from trajectory_builder.images.picture import (
    Picture,
    check_size,
    damaged,
    read_exif,
    upright,
    upright_xmp,
)
from trajectory_builder.images.png_check import RGB, Chunk, PngHeader, png_chunks, png_header
from trajectory_builder.images.png_stream import bare_png
from trajectory_builder.images.white import notes_on_white, with_white

KEPT_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs")
"""Chunks on colours and size that are valid for other pixels too (PNG specification, 11.3)."""
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"iCCP")
_OF_THIS_FILE = (b"tIME", b"hIST", b"sBIT")  # say when and of what these very pixels were made
_MAX_PROFILE = 1 << 24
_GRAY, _PALETTE, _GRAY_ALPHA = 0, 3, 4


def read_png(payload: bytes, name: str, white: int | None = None) -> Picture:
    """A PNG file's content; low depths become 8 bits, a transparent colour becomes alpha.

    Args:
        payload: all its bytes.
        name: how errors call the file.
        white: see `white.with_white`.

    Raises:
        ImageError: cut, damaged, an animation, or too large.
    """
    header = png_header(payload, name=name)
    check_size(header.width, header.height, name)
    chunks = png_chunks(payload, name)
    by_kind = {c.kind: payload[c.start : c.end] for c in chunks if c.kind != b"IDAT"}
    if b"acTL" in by_kind:
        raise ImageError(
            "the PNG is an animation",
            reason="frame-animated",
            where=name,
            cure="save its pictures apart, or make a video of them (ffmpeg -i FILE video.mp4)",
        )
    if header.color_type == _PALETTE:
        _check_palette(by_kind.get(b"PLTE", b""), header, name)
    values = _channels(payload, header, chunks, name)  # (H, W, C), C = 1 to 4
    if b"tRNS" in by_kind and values.shape[2] in (1, 3) and header.color_type != _PALETTE:
        opaque = _opaque(values, by_kind[b"tRNS"], header)
        values = np.concatenate([values, opaque[:, :, None]], axis=2)
    ends_at = None
    if header.depth == 16:
        values, ends_at = with_white(values, 1 if values.shape[2] <= 2 else 3, white, name)
    orientation, exif = read_exif(by_kind.get(b"eXIf"))
    values = upright(values, orientation)
    gray, alpha = values.shape[2] <= 2, values.shape[2] % 2 == 0
    colour = values[:, :, :1].repeat(3, axis=2) if gray else values[:, :, :3]
    kept = [(c.kind, payload[c.start : c.end]) for c in chunks if c.kind in KEPT_CHUNKS]
    kept += [
        (c.kind, upright_xmp(payload[c.start : c.end]) or b"")
        for c in chunks
        if c.kind in TEXT_CHUNKS
    ]
    icc = _profile(by_kind.get(b"iCCP"))
    return Picture(
        np.ascontiguousarray(colour),
        "PNG",
        np.ascontiguousarray(values[:, :, -1]) if alpha else None,
        gray,
        icc,
        exif,
        chunks=tuple(kept),
        notes=_lost(by_kind, icc, exif)
        + notes_on_white(ends_at, white if header.depth == 16 else None),
        ends_at=ends_at,
    )


def _lost(chunks: Mapping[bytes, bytes], icc: bytes | None, exif: bytes | None) -> tuple[str, ...]:
    """What of a PNG's chunks other pixels cannot have, or cannot be read."""
    handled = {*KEPT_CHUNKS, *TEXT_CHUNKS, *_PIXEL_CHUNKS, *_OF_THIS_FILE}
    lost = sorted({kind.decode("ascii") for kind in chunks if kind not in handled})
    notes = [f"the PNG's chunks {', '.join(lost)} are left out"] if lost else []
    if b"iCCP" in chunks and icc is None:
        notes.append("the ICC profile cannot be read and is left out")
    if b"eXIf" in chunks and exif is None:
        notes.append("the EXIF block cannot be read and is left out")
    return tuple(notes)


def png_size(header: PngHeader, orientation: int) -> tuple[int, int, int]:
    """(width, height, bits per channel) of the upright picture."""
    width, height = header.width, header.height
    bits = 16 if header.depth == 16 else 8
    return (height, width, bits) if orientation >= 5 else (width, height, bits)


def _channels(
    payload: bytes, header: PngHeader, chunks: Sequence[Chunk], name: str
) -> npt.NDArray[Any]:
    """The pixels as (H, W, C) uint8 or uint16 in the order RGB, alpha last, not turned."""
    bare = bare_png(payload, header, chunks, name)
    if (header.color_type, header.depth, header.interlace) == (RGB, 8, 0):
        return png.decode_bare(bare, header, name)
    colours = sum(c.end - c.start for c in chunks if c.kind == b"PLTE") // 3
    values = _through_opencv(bare) if header.depth == 16 else _through_pillow(bare, colours)
    if values is None or values.shape[:2] != (header.height, header.width):
        raise damaged("its pixels cannot be decoded", name)
    if header.color_type == _GRAY_ALPHA and values.shape[2] == 4:
        values = values[:, :, 2:]  # OpenCV makes gray with alpha four channels
    return values


def _through_opencv(bare: bytes) -> npt.NDArray[Any] | None:
    import cv2

    try:
        values = cv2.imdecode(np.frombuffer(bare, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.dtype != np.uint16:
        return None
    if values.ndim == 2:
        return values[:, :, None]
    order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] == 4 else [2, 1, 0]
    return np.ascontiguousarray(values[:, :, order])


def _check_palette(content: bytes, header: PngHeader, name: str) -> None:
    """Refuse a palette that is missing or of an odd length: decoders would draw it black."""
    colours, rest = divmod(len(content), 3)
    if rest or not 1 <= colours <= 1 << header.depth:
        raise damaged("its palette is missing or has an impossible length", name)


def _through_pillow(bare: bytes, colours: int) -> npt.NDArray[Any] | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(bare), formats=["PNG"]) as opened:
            opened.load()
            image: Any = opened
            if image.mode == "P":
                if np.asarray(image).max() >= colours:
                    return None  # a pixel of a colour that the palette lacks
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            elif image.mode == "1":
                image = image.convert("L")
            values = np.array(image)  # a copy that can be written to
    # Pillow raises these for an unknown filter, or a palette that is missing or too long.
    except (OSError, SyntaxError, ValueError):
        return None
    return values[:, :, None] if values.ndim == 2 else values


def _opaque(values: npt.NDArray[Any], transparent: bytes, header: PngHeader) -> npt.NDArray[Any]:
    """Alpha (H, W) of an image with one transparent colour (PNG specification, 11.3.1.1)."""
    count = values.shape[2]
    white = np.iinfo(values.dtype).max
    key = np.frombuffer(transparent[: 2 * count].ljust(2 * count, b"\0"), ">u2").astype(np.int64)
    # Samples of 1, 2 and 4 bits were scaled to 8; so is the colour that is compared with them.
    scaled = key * white // ((1 << header.depth) - 1)
    return np.where((values == scaled).all(axis=2), 0, white).astype(values.dtype)


def _profile(content: bytes | None) -> bytes | None:
    """The ICC profile in an iCCP chunk; None where there is none that can be read."""
    if content is None:
        return None
    _, _, rest = content.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(rest[1:], _MAX_PROFILE)
    except zlib.error:
        return None
    return profile or None
