"""Image files in and out of a restoration, with everything in them that is not blur.

Kept: 8 or 16 bits, gray or colour, alpha, the ICC profile, EXIF (its orientation applied to the
pixels and then set to upright). Pillow reads 8-bit files and all metadata; it cuts 16-bit colour
to 8, so those pixels go through OpenCV and tifffile.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from trajectory_builder.errors import ImageError

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""File ending -> format; what `restore` reads and writes."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "TIFF": {"compression": "tiff_deflate"},
    "WEBP": {"lossless": True, "exact": True},
}
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_PNG_HEAD = 8 + 12 + 13  # signature, then the IHDR chunk
# Orientation of EXIF -> (quarter turns counter-clockwise, then mirrored left to right).
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False)}
_TURNS |= {7: (1, True), 8: (1, False)}
# Pillow raises all of these for files that are not what they claim to be.
_DAMAGED = (OSError, SyntaxError, ValueError, struct.error, EOFError, OverflowError, KeyError)

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Picture:
    """An image file's content.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16, upright.
        format: PNG, JPEG, TIFF or WEBP.
        alpha: (H, W) of the same type, or None.
        gray: the file has one colour channel.
        icc: its ICC profile.
        exif: its EXIF block with the orientation set to upright.
        notes: what could not be kept, a sentence each.
    """

    pixels: Pixels
    format: str
    alpha: Pixels | None = None
    gray: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def white(self) -> int:
        """The value of white: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def to_tensor(self) -> Tensor:
        """(3, H, W) float32 in [-1, 1]."""
        values = self.pixels.astype(np.float32) * (2 / self.white) - 1
        return torch.from_numpy(values).permute(2, 0, 1).contiguous()

    def with_image(self, image: Tensor) -> Picture:
        """The same file with other pixels, (3, H, W) near [-1, 1], rounded to the nearest.

        Raises:
            ImageError: a value is not finite.
        """
        values = to_unit(image)
        if self.gray:
            values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
        pixels: Any = np.rint(values * self.white).astype(self.pixels.dtype)
        return replace(self, pixels=pixels)


def to_unit(image: Tensor) -> npt.NDArray[np.float32]:
    """(3, H, W) near [-1, 1] as (H, W, 3) in [0, 1].

    Raises:
        ImageError: a value is not finite.
    """
    unit = image.detach().float().add(1).div(2).clamp(0, 1).permute(1, 2, 0)
    values: npt.NDArray[np.float32] = unit.cpu().numpy()
    if not np.isfinite(values).all():
        raise ImageError(
            "the restoration holds values that are not finite",
            cure="give --dtype fp32 or bf16; if it stays, the model's training diverged",
        )
    return values


def read_picture(content: bytes, *, name: str) -> Picture:
    """An image file's content as a picture.

    Args:
        content: the whole file.
        name: what to call it in an error.

    Raises:
        ImageError: empty, no image, damaged, animated, of floats, or of another format.
    """
    if not content:
        raise ImageError("the file is empty", where=name, cure="copy it again")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            _check_kind(opened, name)
            opened.load()
            if _bits(opened, content) == 16:
                return _read_deep(opened, content, name)
            return _read_shallow(opened)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        reason = "no image that can be read" if _unknown(error) else f"damaged: {error}"
        raise ImageError(
            f"the file is {reason}", where=name, cure="give PNG, JPEG, TIFF or WebP, or copy it new"
        ) from error


def _unknown(error: Exception) -> bool:
    return type(error).__name__ == "UnidentifiedImageError"


def _check_kind(opened: Any, name: str) -> None:
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        raise ImageError(
            f"the file holds {frames:,} pictures, animated or in pages",
            where=name,
            cure="save them apart, or make a video of them (ffmpeg -i FILE video.mp4)",
        )
    if opened.format not in set(FORMATS.values()):
        raise ImageError(
            f"the format {opened.format} is not among those restored",
            where=name,
            cure="save it as PNG, JPEG, TIFF or WebP",
        )
    if opened.mode in ("F", "I"):
        raise ImageError(
            "the file holds floats or 32-bit integers", where=name, cure="save it with 8 or 16 bits"
        )


def _bits(opened: Any, content: bytes) -> int:
    if opened.format == "PNG":
        return int(content[24])  # IHDR: bit depth
    if opened.format == "TIFF":
        return int(max(opened.tag_v2.get(_BITS_PER_SAMPLE, (8,))))
    return 8


def _read_shallow(opened: Any) -> Picture:
    image, notes = opened, []
    icc, exif = opened.info.get("icc_profile"), _upright_exif(opened)
    if image.mode == "CMYK":
        image, notes, icc = _from_cmyk(image), ["CMYK became sRGB"], None
    image = ImageOps.exif_transpose(image)
    gray = image.mode in ("1", "L", "LA", "La")
    transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    values = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    alpha = np.ascontiguousarray(values[:, :, 3]) if transparent else None
    pixels = np.ascontiguousarray(values[:, :, :3])
    if gray and icc and b"GRAY" not in icc[:20]:
        gray = False  # an RGB profile does not fit a gray file
    return Picture(pixels, opened.format, alpha, gray, icc, exif, tuple(notes))


def _from_cmyk(image: Any) -> Any:
    """CMYK as sRGB, by its own profile where it has one that works."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB")
    return image.convert("RGB")


def _upright_exif(opened: Any) -> bytes | None:
    # A TIFF's own tags come back as EXIF; they speak of the old file's layout.
    if opened.format == "TIFF":
        return None
    exif = opened.getexif()
    if not exif:
        return None
    block: bytes = exif.tobytes()
    if _ORIENTATION in exif:
        upright = Image.Exif()  # Pillow's own object would turn the image no more
        upright.load(block)
        upright[_ORIENTATION] = 1
        block = upright.tobytes()
    return block


def _read_deep(opened: Any, content: bytes, name: str) -> Picture:
    """16 bits a channel."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values: Any = None
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        log.debug("OpenCV refuses %s: %s", name, error)
    if values is None or values.dtype != np.uint16:
        raise ImageError(
            "the file has 16 bits in a layout that cannot be read",
            where=name,
            cure="save it as a plain 16-bit PNG or TIFF in RGB",
        )
    # OpenCV turns a TIFF upright whatever the flags say; Pillow's tag of it differs by release.
    orientation = 1 if opened.format == "TIFF" else opened.getexif().get(_ORIENTATION, 1)
    turns, mirrored = _TURNS.get(orientation, (0, False))
    values = np.rot90(values, turns)
    values = values[:, ::-1] if mirrored else values
    gray = values.ndim == 2
    colour = np.repeat(values[:, :, None], 3, axis=2) if gray else values[:, :, 2::-1]
    alpha = values[:, :, 3] if values.ndim == 3 and values.shape[2] == 4 else None
    gray = gray or opened.mode in ("LA", "I;16")
    return Picture(
        np.ascontiguousarray(colour),
        opened.format,
        None if alpha is None else np.ascontiguousarray(alpha),
        gray,
        opened.info.get("icc_profile"),
        _upright_exif(opened),
    )


def encode_picture(picture: Picture, *, file_format: str | None = None) -> bytes:
    """A picture as a file's content: JPEG at quality 95 in 4:4:4, the others without loss.

    Args:
        picture: what to write.
        file_format: PNG, JPEG, TIFF or WEBP; None takes the picture's own.
    """
    file_format = file_format or picture.format
    values = picture.pixels[:, :, :1] if picture.gray else picture.pixels
    alpha = picture.alpha if file_format != "JPEG" else None
    if alpha is not None:
        values = np.concatenate([values, alpha[:, :, None]], axis=2)
    if values.dtype == np.uint16 and file_format in ("PNG", "TIFF"):
        deep = _deep_png if file_format == "PNG" else _deep_tiff
        return deep(values, picture)
    if values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    options = {"icc_profile": picture.icc, "exif": picture.exif} | _OPTIONS[file_format]
    sink = io.BytesIO()
    image = Image.fromarray(values.squeeze(2) if values.shape[2] == 1 else values)
    image.save(sink, file_format, **{k: v for k, v in options.items() if v is not None})
    return sink.getvalue()


def _deep_png(values: npt.NDArray[Any], picture: Picture) -> bytes:
    if values.shape[2] == 2:  # OpenCV writes no gray with alpha
        values = np.concatenate([np.repeat(values[:, :, :1], 3, axis=2), values[:, :, 1:]], axis=2)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[values.shape[2]]
    content = cv2.imencode(".png", np.ascontiguousarray(values[:, :, order]))[1].tobytes()
    chunks = b""
    if picture.icc:
        chunks += _chunk(b"iCCP", b"icc\0\0" + zlib.compress(picture.icc))
    if picture.exif:
        chunks += _chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    return bytes(content[:_PNG_HEAD] + chunks + content[_PNG_HEAD:])


def _chunk(kind: bytes, payload: bytes) -> bytes:
    """A chunk of a PNG: length, kind, payload, checksum (PNG specification, section 5)."""
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def _deep_tiff(values: npt.NDArray[Any], picture: Picture) -> bytes:
    import tifffile  # comes with scikit-image

    sink = io.BytesIO()
    channels = values.shape[2]
    tifffile.imwrite(
        sink,
        values.squeeze(2) if channels == 1 else values,
        photometric="minisblack" if channels < 3 else "rgb",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        planarconfig="contig" if channels > 1 else None,
        compression="zlib",
        iccprofile=picture.icc,
        metadata=None,
    )
    return sink.getvalue()


def format_of(path: Path) -> str | None:
    """The format that a file's ending names, or None."""
    return FORMATS.get(path.suffix.lower())
