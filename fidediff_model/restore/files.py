"""Restored images on their way back into files, with everything in the file that is not blur.

`trajectory_builder.images.pictures` reads them. Written are 8 or 16 bits, gray or colour, alpha,
the ICC profile, EXIF (upright), XMP, and a PNG's chunks on colours and texts.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from trajectory_builder.errors import ImageError
from trajectory_builder.images.formats import FORMATS
from trajectory_builder.images.heif import encode_heic
from trajectory_builder.images.picture import Picture
from trajectory_builder.images.png_stream import png_chunk

_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
EIGHT_BIT_FORMATS = ("JPEG", "WEBP", "AVIF")
"""Formats that are written with 8 bits, whatever the picture has."""
_PNG_HEAD = 8 + 12 + 13  # signature, then the IHDR chunk
_XMP_TAG = 700


def to_tensor(picture: Picture) -> Tensor:
    """The pixels as (3, H, W) float32 in [-1, 1]."""
    values = picture.pixels.astype(np.float32) * (2 / picture.white) - 1
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def with_image(picture: Picture, image: Tensor) -> Picture:
    """The same file with other pixels, (3, H, W) near [-1, 1], rounded to the nearest.

    Raises:
        ImageError: a value is not finite.
    """
    values = to_unit(image)
    if picture.gray:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    pixels: Any = np.rint(values * picture.white).astype(picture.pixels.dtype)
    return replace(picture, pixels=pixels)


def to_unit(image: Tensor) -> npt.NDArray[np.float32]:
    """(3, H, W) near [-1, 1] as (H, W, 3) in [0, 1].

    Raises:
        ImageError: a value is not finite.
    """
    unit = image.detach().float().add(1).div(2).clamp(0, 1).permute(1, 2, 0)
    values: npt.NDArray[np.float32] = unit.cpu().numpy()
    if not np.isfinite(values).all():
        raise ImageError(
            "the restoration contains values that are not finite",
            cure="give --dtype fp32 or bf16; if it stays, the model's training diverged",
        )
    return values


def encode_picture(picture: Picture, *, file_format: str | None = None) -> bytes:
    """A picture as a file's content: JPEG, AVIF and HEIC at quality 95 in 4:4:4, the others
    without loss.

    Args:
        picture: what to write.
        file_format: a value of `FORMATS`; None takes the picture's own.
    """
    file_format = file_format or picture.format
    values = picture.pixels[:, :, :1] if picture.gray else picture.pixels
    alpha = picture.alpha if file_format != "JPEG" else None
    if alpha is not None:
        values = np.concatenate([values, alpha[:, :, None]], axis=2)
    if file_format == "TIFF":
        return _tiff(values, picture)
    if file_format == "PNG":
        return _png(values, picture)
    blocks = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
    options: dict[str, Any] = {name: block for name, block in blocks.items() if block is not None}
    if file_format == "HEIC":
        colour = values.repeat(3, axis=2) if values.shape[2] == 1 else values
        return encode_heic(colour, options)
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    return _through_pillow(values, file_format, options | _OPTIONS[file_format])


def lost_in(picture: Picture, file_format: str) -> tuple[str, ...]:
    """What a file of that format loses of a picture, one sentence each."""
    lost = []
    if picture.alpha is not None and file_format == "JPEG":
        lost.append("alpha is lost: JPEG has none")
    if picture.white > 255 and file_format in EIGHT_BIT_FORMATS:
        lost.append(f"16 bits became 8: {file_format} has no more")
    if picture.chunks and file_format != "PNG":
        kinds = sorted({kind.decode("ascii", "replace") for kind, _ in picture.chunks})
        lost.append(f"the PNG's chunks {', '.join(kinds)} are lost in {file_format}")
    if picture.exif and file_format == "TIFF":
        lost.append("EXIF is lost in TIFF")
    return tuple(lost)


def _through_pillow(values: npt.NDArray[Any], file_format: str, options: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    image = Image.fromarray(values.squeeze(2) if values.shape[2] == 1 else values)
    image.save(sink, file_format, **options)
    return sink.getvalue()


def _png(values: npt.NDArray[Any], picture: Picture) -> bytes:
    if values.dtype == np.uint16:
        content = _deep_png(values)
    else:
        content = _through_pillow(values, "PNG", {})
    chunks = b""
    if picture.icc:
        chunks += png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        chunks += png_chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    if picture.xmp:
        chunks += png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + picture.xmp)
    chunks += b"".join(png_chunk(kind, payload) for kind, payload in picture.chunks)
    return bytes(content[:_PNG_HEAD] + chunks + content[_PNG_HEAD:])


def _deep_png(values: npt.NDArray[Any]) -> bytes:
    if values.shape[2] == 2:  # OpenCV writes no gray with alpha
        values = np.concatenate([np.repeat(values[:, :, :1], 3, axis=2), values[:, :, 1:]], axis=2)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]
    content = cv2.imencode(".png", np.ascontiguousarray(values[:, :, order]))[1].tobytes()
    return bytes(content)


def _tiff(values: npt.NDArray[Any], picture: Picture) -> bytes:
    import tifffile

    sink = io.BytesIO()
    channels = values.shape[2]
    xmp = picture.xmp
    tifffile.imwrite(
        sink,
        values.squeeze(2) if channels == 1 else values,
        photometric="minisblack" if channels < 3 else "rgb",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        planarconfig="contig" if channels > 1 else None,
        compression="zlib",
        iccprofile=picture.icc,
        metadata=None,
        extratags=[(_XMP_TAG, "B", len(xmp), xmp, True)] if xmp else (),
    )
    return sink.getvalue()


def format_of(path: Path) -> str | None:
    """The format that a file's ending names, or None."""
    return FORMATS.get(path.suffix.lower())
