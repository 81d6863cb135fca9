"""HEIC, what phones write by default, through the package pillow-heif (the extra `heif`)."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from trajectory_builder.errors import ExitCode, ImageError
from trajectory_builder.images.nclx import notes_on_colours
from trajectory_builder.images.picture import (
    Picture,
    check_size,
    damaged,
    full_range,
    read_exif,
    upright_xmp,
)


def read_heic(payload: bytes, name: str) -> Picture:
    """The primary image of a HEIC file; 10 and 12 bits become 16.

    Raises:
        ImageError: damaged, too large, or pillow-heif is not installed.
    """
    image, notes = _primary(io.BytesIO(payload), name)
    notes += notes_on_colours(payload, image.info.get("icc_profile"), name)
    try:
        values = np.array(image)
    # libheif reports damage in whatever error its step has.
    except Exception as error:
        raise damaged(f"its pixels cannot be decoded: {error}", name) from error
    bits = int(image.info.get("bit_depth", 8))
    if values.dtype == np.uint16:
        # pillow-heif shifts the values to the upper bits, so that white is not 65535.
        values = full_range(values >> (16 - bits), bits)
        notes += (f"{bits} bits became 16",)
    values = values[:, :, None] if values.ndim == 2 else values
    gray, alpha = values.shape[2] == 1, values.shape[2] == 4
    # libheif has turned the pixels; the tag still says how they were stored.
    _, exif = read_exif(image.info.get("exif"))
    return Picture(
        np.ascontiguousarray(values[:, :, :1].repeat(3, 2) if gray else values[:, :, :3]),
        "HEIC",
        np.ascontiguousarray(values[:, :, 3]) if alpha else None,
        gray,
        image.info.get("icc_profile"),
        exif,
        xmp=upright_xmp(image.info.get("xmp")),
        notes=notes,
    )


def heic_size(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """(width, height, bits per channel) of the upright picture, by its header alone.

    Raises:
        ImageError: as `read_heic`.
    """
    image, _ = _primary(file, name)
    return (*image.size, 16 if int(image.info.get("bit_depth", 8)) > 8 else 8)


def encode_heic(values: Any, options: dict[str, Any]) -> bytes:
    """(H, W, 3 or 4) uint8 or uint16 as a HEIC file at quality 95 in 4:4:4; 16 bits become 10.

    Args:
        values: the pixels, alpha last.
        options: `exif`, `icc_profile` and `xmp` where there are any.

    Raises:
        ImageError: pillow-heif is not installed.
    """
    library = _library("the output")
    mode = "RGB" if values.shape[2] == 3 else "RGBA"
    mode += ";16" if values.dtype == np.uint16 else ""
    height, width = values.shape[:2]
    sink = io.BytesIO()
    image = library.from_bytes(mode, (width, height), np.ascontiguousarray(values).tobytes())
    image.save(sink, quality=95, chroma=444, **options)
    return sink.getvalue()


def _primary(file: BinaryIO, name: str) -> tuple[Any, tuple[str, ...]]:
    library = _library(name)
    try:
        opened = library.open_heif(file, convert_hdr_to_8bit=False)
        image = opened[opened.primary_index]
    # libheif reports damage in whatever error its step has.
    except Exception as error:
        raise damaged(f"the HEIC cannot be read: {error}", name) from error
    width, height = image.size
    check_size(width, height, name)
    notes: tuple[str, ...] = ()
    if len(opened) > 1:
        notes += (f"{len(opened) - 1} further images in the file are left out",)
    if image.info.get("aux") or image.info.get("depth_images"):
        notes += ("gain maps and depth maps are left out",)
    return image, notes


def _library(name: str) -> ModuleType:
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            "HEIC is read with the package pillow-heif, which is not installed",
            reason="frame-unknown-format",
            where=name,
            cure='pip install "fidediff[heif]", or convert the file to PNG or TIFF',
            exit_code=ExitCode.WRONG_USE,
        ) from error
    module: ModuleType = pillow_heif
    return module
