"""One photo of the page: a file in, and out of it what the page shows, says and offers to save.

Nothing here knows of a browser. The restored file is the one that `fidediff restore` writes.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from torch import Tensor

from fidediff_model.model.engine import ReadyModel
from fidediff_model.model.tiles import Report
from fidediff_model.restore.files import encode_picture, lost_in, to_tensor, with_image
from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import ImageError
from trajectory_builder.images import pictures
from trajectory_builder.images.files import unreadable
from trajectory_builder.images.formats import FORMATS
from trajectory_builder.images.picture import Picture

MAX_BYTES = 64 << 20
"""Bytes of a photo that the page takes (ours)."""
MAX_PIXELS = 24_000_000
"""Pixels of a photo that the page takes (ours): what phones and cameras commonly have."""
_LOSSLESS_PIXELS = 2_000_000
_KERNEL_COLOUR = (255, 214, 10)
_LINE = 40  # alpha of the lines between kernels
_CAMERA = (271, 272)  # EXIF: make, model
_ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "AVIF": ".avif",
            "HEIC": ".heic"}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A picture as the browser shows it: the file's content and its ending."""

    content: bytes
    ending: str


@dataclass(frozen=True)
class RestoredPhoto:
    """What became of a photo.

    Attributes:
        before: the photo.
        after: its restoration.
        kernels: the kernels that M sees, to be drawn over it; None for a model without M.
        file: the restoration in the photo's own format.
        file_name: the name that it is saved under.
        size: width and height in pixels.
        t: the timestep that was used.
        facts: what the file keeps, each with its name.
        notes: what could not be kept, or was done differently for lack of memory.
        seconds: of the restoration alone.
    """

    before: Shown
    after: Shown
    kernels: Shown | None
    file: bytes
    file_name: str
    size: tuple[int, int]
    t: float
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    seconds: float


def read_photo(path: Path) -> Picture:
    """Read a photo whose size is within the page's bounds, looked at before it is decoded.

    Raises:
        ImageError: it is too large, no image, or damaged.
    """
    try:
        open_regular(path, at_most=MAX_BYTES).close()
    except OSError as error:
        raise unreadable(error, path.name) from error
    width, height, _ = pictures.size_and_bits(path)
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"the photo has {width:,} x {height:,} pixels, and this page takes"
            f" {MAX_PIXELS // 1_000_000} megapixels",
            where=path.name,
            cure="make it smaller, or restore it with the command `fidediff restore`",
        )
    return pictures.read(path)


def restore_photo(
    ready: ReadyModel,
    picture: Picture,
    name: str,
    *,
    timestep: float | None,
    strength: float,
    report: Report | None = None,
) -> RestoredPhoto:
    """Restore a photo.

    Args:
        ready: the model.
        picture: the photo.
        name: of its file.
        timestep: in [0, 999]; None lets the model estimate it.
        strength: share of the restoration, 0 to 1.
        report: as for `ReadyModel.run`.

    Raises:
        ModelError: the timestep or the strength is out of range, or the model has no T.
        DeviceError: out of memory.
    """
    # The settings are part of what is ready, the layers behind it are shared.
    settings = replace(ready.settings, timestep=timestep, strength=strength)
    started = time.monotonic()
    blur = to_tensor(picture)[None]
    answer = replace(ready, settings=settings).run(blur, report=report)
    seconds = time.monotonic() - started
    restored = with_image(picture, answer.images[0])
    height, width = picture.pixels.shape[:2]
    has_kernels = ready.model.kernel_estimator is not None
    ending = Path(name).suffix
    if FORMATS.get(ending.lower()) != picture.format:
        ending = _ENDINGS[picture.format]  # the content counts, not what it is called
    return RestoredPhoto(
        before=shown(picture),
        after=shown(restored),
        kernels=kernel_overlay(ready, blur) if has_kernels else None,
        file=encode_picture(restored),
        file_name=f"{Path(name).stem}_sharp{ending}",
        size=(width, height),
        t=float(answer.t_hat[0]),
        facts=facts_of(picture),
        notes=(*picture.notes, *answer.notes, *lost_in(picture, picture.format)),
        seconds=seconds,
    )


def shown(picture: Picture) -> Shown:
    """A picture for the browser: 8 bits, its colours as they are, PNG while it is small."""
    if picture.white > 255:
        picture = replace(
            picture,
            pixels=_eight_bits(picture.pixels),
            alpha=None if picture.alpha is None else _eight_bits(picture.alpha),
        )
    # Where a photo was taken is nobody's business here.
    plain = replace(picture, exif=None, xmp=None)
    small = plain.pixels.shape[0] * plain.pixels.shape[1] <= _LOSSLESS_PIXELS
    file_format = "PNG" if small else "JPEG"
    return Shown(encode_picture(plain, file_format=file_format), _ENDINGS[file_format])


def _eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    return np.rint(np.asarray(values, np.float32) / 257).astype(np.uint8)


def kernel_overlay(ready: ReadyModel, blur: Tensor) -> Shown:
    """The kernels of an image (1, 3, H, W) as a transparent PNG of its proportions."""
    weights = ready.kernel_picture(blur)
    # Every kernel is a square of m weights, three pixels each, with a line above and left of it.
    cell = 3 * ready.model.config.kernel.kernel_size + 1
    weights[::cell] = _LINE
    weights[:, ::cell] = _LINE
    colour = np.broadcast_to(np.array(_KERNEL_COLOUR, np.uint8), (*weights.shape, 3))
    sink = io.BytesIO()
    Image.fromarray(np.concatenate([colour, weights[:, :, None]], axis=2)).save(sink, "PNG")
    return Shown(sink.getvalue(), ".png")


def facts_of(picture: Picture) -> tuple[tuple[str, str], ...]:
    """What of a photo's file is kept, each with its name."""
    height, width = picture.pixels.shape[:2]
    bits = 8 if picture.white == 255 else 16
    colour = "gray" if picture.gray else "colour"
    facts = [("size", f"{width:,} x {height:,} pixels"),
             ("format", f"{picture.format}, {bits} bits, {colour}")]  # fmt: skip
    if picture.alpha is not None:
        facts.append(("alpha", "kept as it is"))
    facts.append(("colour profile", _profile_name(picture.icc) if picture.icc else "none"))
    facts.append(("EXIF", _describe_exif(picture.exif) if picture.exif else "none"))
    if picture.xmp:
        facts.append(("XMP", f"{len(picture.xmp):,} bytes"))
    return tuple(facts)


def _profile_name(icc: bytes) -> str:
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return f"{len(icc):,} bytes"


def _describe_exif(block: bytes) -> str:
    exif = Image.Exif()
    try:
        exif.load(block)
        camera = " ".join(str(exif[tag]).strip("\0 ") for tag in _CAMERA if tag in exif)
        count = f"{len(exif):,} entries"
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):
        return f"{len(block):,} bytes"
    return f"{count}, {camera}" if camera else count
