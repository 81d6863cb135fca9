"""TIFF files as their tags say: depth, planes, black and white, alpha, tiles, byte order.

tifffile reads the tags and what it has codecs for. What it lacks without the package imagecodecs
(LZW, JPEG) goes through OpenCV where the layout is one that OpenCV reads right: RGB or gray with
black as zero, samples together. Everything else is refused by name.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import ImageError
from trajectory_builder.images.formats import RAW
from trajectory_builder.images.picture import (
    Picture,
    check_size,
    damaged,
    full_range,
    upright,
    upright_xmp,
)
from trajectory_builder.images.white import notes_on_white, with_white

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRIC = {4: "a mask", 8: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab", 32803: "a raw mosaic"}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_TAGS = {"bits": 258, "fill_order": 266, "sub_images": 330, "format": 339, "xmp": 700, "dng": 50706}
_EXIF_TAGS = (271, 272, 306, 315, 33432, 34665, 34853)  # maker to GPS: of the photograph
_UNSIGNED = 1


@dataclass(frozen=True)
class _Layout:
    """What the tags of a TIFF page say.

    Attributes:
        bits: of each sample.
        photometric: tag 262.
        extra: tag 338, the kind of each sample after the colours.
        colours: samples that are colours: 1 or 3.
        apart: each sample is a plane of its own (tag 284).
    """

    width: int
    height: int
    bits: int
    photometric: int
    extra: tuple[int, ...]
    colours: int
    apart: bool
    orientation: int


def read_tiff(payload: bytes, name: str, white: int | None = None) -> Picture:
    """A TIFF file's content; 2 to 7 bits become 8, 9 to 15 bits become 16.

    Args:
        payload: all its bytes.
        name: how errors call the file.
        white: see `white.with_white`.

    Raises:
        ImageError: damaged, of many pages, too large, or of a kind that is not read.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(payload)) as file:
            page = _only_page(file, name)
            layout = _layout(page, name)
            picture = _picture(page, layout, payload, name, white)
            has_exif = any(number in page.tags for number in _EXIF_TAGS)
            packet = _tag(page, _TAGS["xmp"])
            icc = page.iccprofile
    except ImageError:
        raise
    # tifffile and its codecs raise whatever a contradiction in the tags leads to.
    except Exception as error:
        raise damaged(f"the TIFF cannot be read: {error}", name) from error
    notes = picture.notes + (("EXIF of a TIFF is left out",) if has_exif else ())
    xmp = upright_xmp(packet if isinstance(packet, bytes) else None)
    return replace(picture, icc=icc, xmp=xmp, notes=notes)


def tiff_size(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """(width, height, bits per channel) of the upright picture, by its tags alone.

    Raises:
        ImageError: as `read_tiff`, before anything is decoded.
    """
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened:
            layout = _layout(_only_page(opened, name), name)
    except ImageError:
        raise
    except Exception as error:
        raise damaged(f"the TIFF cannot be read: {error}", name) from error
    bits = 16 if layout.bits > 8 else 8
    turned = layout.orientation >= 5
    size = (layout.height, layout.width) if turned else (layout.width, layout.height)
    return (*size, bits)


def _only_page(file: Any, name: str) -> Any:
    first = file.pages.first
    is_reduced = int(first.subfiletype) & _REDUCED and _TAGS["sub_images"] in first.tags
    if _TAGS["dng"] in first.tags or is_reduced:
        # DNG, NEF, ARW: a preview, and the sensor's values in an image below it.
        what, cure = RAW
        raise _refused(f"the file is {what}", name, cure, "frame-unknown-format")
    pages = [page for page in file.pages if not int(page.subfiletype) & (_REDUCED | _MASK)]
    if len(pages) != 1:
        raise _refused(
            f"the TIFF has {len(pages):,} pages", name, "save its pages apart", "frame-many-pages"
        )
    return pages[0]


def _layout(page: Any, name: str) -> _Layout:
    check_size(page.imagewidth, page.imagelength, name)
    bits = set(_as_tuple(_tag(page, _TAGS["bits"]), 1))
    formats = set(_as_tuple(_tag(page, _TAGS["format"]), _UNSIGNED))
    if formats != {_UNSIGNED} or len(bits) != 1 or not 1 <= max(bits) <= 16:
        kind = "floats or signed values" if formats != {_UNSIGNED} else f"{sorted(bits)} bits"
        raise _refused(
            f"the TIFF has {kind} per channel, not 1 to 16 unsigned bits",
            name, "convert it to 16-bit PNG or TIFF", "frame-unknown-depth",
        )  # fmt: skip
    photometric = int(page.photometric)
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _CMYK: 4}.get(photometric, 3)
    extra = tuple(int(kind) for kind in page.extrasamples)
    extra += (0,) * (page.samplesperpixel - colours - len(extra))
    known = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR)
    if page.imagedepth != 1:
        raise _refused("the TIFF is a volume", name, "save its slices apart", "frame-many-pages")
    if not known or page.samplesperpixel < colours:
        kind = _PHOTOMETRIC.get(photometric, f"of photometric interpretation {photometric}")
        raise _refused(
            f"the TIFF is {kind} with {page.samplesperpixel} samples per pixel",
            name, "convert it to RGB", "frame-unknown-format",
        )  # fmt: skip
    orientation = int(_as_tuple(_tag(page, 274), 1)[0])
    return _Layout(
        page.imagewidth, page.imagelength, bits.pop(), photometric, extra, colours,
        int(page.planarconfig) == 2, orientation,
    )  # fmt: skip


def _picture(page: Any, layout: _Layout, payload: bytes, name: str, white: int | None) -> Picture:
    if layout.photometric in (_PALETTE, _CMYK, _YCBCR):
        return _through_pillow(layout, payload, name)
    samples, orientation = _samples(page, layout, payload, name)  # (H, W, S)
    ends_at: int | None = None
    of_white: tuple[str, ...] = ()
    if layout.bits == 16:
        samples, ends_at = with_white(samples, layout.colours, white, name)
        of_white = notes_on_white(ends_at, white)
    values = full_range(samples, layout.bits)
    if layout.photometric == _WHITE_IS_ZERO:
        values[:, :, 0] = np.iinfo(values.dtype).max - values[:, :, 0]
    values = upright(values, orientation)
    colour, extras = values[:, :, : layout.colours], values[:, :, layout.colours :]
    notes = (
        [] if layout.bits in (1, 8, 16) else [f"{layout.bits} bits became {8 * values.itemsize}"]
    )
    alpha, associated = None, False
    for index, kind in enumerate(layout.extra):
        if kind in (_ASSOCIATED, _UNASSOCIATED) and alpha is None:
            alpha, associated = np.ascontiguousarray(extras[:, :, index]), kind == _ASSOCIATED
        else:
            notes.append("an extra channel of unknown meaning is left out")
    if associated and alpha is not None:
        colour = _divided_by_alpha(colour, alpha)
        notes.append("colours multiplied by alpha were divided by it")
    gray = layout.colours == 1
    colour = colour.repeat(3, axis=2) if gray else colour
    notes += of_white
    colour = np.ascontiguousarray(colour)
    return Picture(colour, "TIFF", alpha, gray, notes=tuple(notes), ends_at=ends_at)


def _samples(page: Any, layout: _Layout, payload: bytes, name: str) -> tuple[npt.NDArray[Any], int]:
    """The samples (H, W, S) as stored, and the rotation that is still to be applied."""
    count = layout.colours + len(layout.extra)
    if layout.bits not in (8, 16) and page.compression == 1 and not page.is_tiled:
        return _unpacked(page, layout, count, payload), layout.orientation
    if 0 in page.databytecounts:  # tifffile would fill the place with zeros
        raise ValueError("a strip or tile is missing")
    try:
        values = page.asarray()
    except Exception as error:
        # The error for a codec that is not installed depends on the codec.
        if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
            raise
        values = _through_opencv(layout, count, payload)
        if values is None:
            raise _refused(
                f"the TIFF cannot be decoded: {error}",
                name, "pip install imagecodecs, or save it without compression",
                "frame-unknown-format",
            ) from error  # fmt: skip
        return values, 1  # OpenCV has turned it
    if layout.apart and values.ndim == 3:
        values = np.moveaxis(values, 0, 2)
    return values.reshape(layout.height, layout.width, count), layout.orientation


def _unpacked(page: Any, layout: _Layout, count: int, payload: bytes) -> npt.NDArray[Any]:
    """Strips of samples that do not fill bytes: bits in the order of tag 266, rows padded."""
    per_row = 1 if layout.apart else count
    row_bytes = (layout.width * per_row * layout.bits + 7) // 8
    data = b"".join(
        payload[at : at + size]
        for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)
    )
    rows = layout.height * (count if layout.apart else 1)
    if len(data) < rows * row_bytes:
        raise ValueError(f"{rows * row_bytes - len(data):,} bytes of its pixels are missing")
    packed = np.frombuffer(data, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
    order: Any = "little" if _tag(page, _TAGS["fill_order"]) == 2 else "big"
    bits = np.unpackbits(packed, axis=1, bitorder=order)[:, : layout.width * per_row * layout.bits]
    weights = 1 << np.arange(layout.bits - 1, -1, -1, dtype=np.uint16)
    values: npt.NDArray[Any] = bits.reshape(rows, -1, layout.bits) @ weights
    values = values.astype(np.uint16 if layout.bits > 8 else np.uint8)
    if layout.apart:
        return np.moveaxis(values.reshape(count, layout.height, layout.width), 0, 2)
    return values.reshape(layout.height, layout.width, count)


def _divided_by_alpha(colour: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[Any]:
    white = int(np.iinfo(colour.dtype).max)
    share = np.maximum(alpha, 1).astype(np.float64)[:, :, None] / white
    divided: npt.NDArray[Any] = np.minimum(np.rint(colour / share), white)
    return divided.astype(colour.dtype)


def _through_opencv(layout: _Layout, count: int, payload: bytes) -> npt.NDArray[Any] | None:
    import cv2

    plain = layout.photometric in (_BLACK_IS_ZERO, _RGB) and not layout.extra and not layout.apart
    if not plain or layout.bits not in (8, 16):
        return None
    try:
        values = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.size != layout.height * layout.width * count:
        return None
    return values[:, :, ::-1] if values.ndim == 3 else values[:, :, None]


def _through_pillow(layout: _Layout, payload: bytes, name: str) -> Picture:
    """Palettes, CMYK and YCbCr of 8 bits, which Pillow converts to RGB."""
    from PIL import Image

    from trajectory_builder.images.cmyk import to_srgb

    if layout.bits > 8 or (layout.extra and layout.photometric != _CMYK):
        raise _refused(
            f"the TIFF has {layout.bits} bits in a colour layout that is read with 8 alone",
            name, "convert it to RGB", "frame-unknown-depth",
        )  # fmt: skip
    with Image.open(io.BytesIO(payload), formats=["TIFF"]) as opened:
        opened.load()
        cmyk = opened.mode == "CMYK"
        image = to_srgb(opened) if cmyk else opened.convert("RGB")
        pixels = upright(np.asarray(image), layout.orientation)
    return Picture(pixels, "TIFF", notes=("CMYK became sRGB",) if cmyk else ())


def _tag(page: Any, number: int) -> Any:
    tag = page.tags.get(number)
    return None if tag is None else tag.value


def _as_tuple(value: Any, default: int) -> tuple[int, ...]:
    if value is None:
        return (default,)
    return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)


def _refused(what: str, name: str, cure: str, reason: str) -> ImageError:
    return ImageError(what, reason=reason, where=name, cure=cure)
