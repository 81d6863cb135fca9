"""Images as programs have them: PIL, numpy, torch, a path or a list, restored to the same kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fidediff_model.errors import ModelError
from trajectory_builder.errors import printable, shorten
from trajectory_builder.images import pictures
from trajectory_builder.images.formats import FORMATS

ValueRange = tuple[float, float]
Run = Callable[[Tensor], Tensor]
"""Restores (B, 3, H, W) in [-1, 1]; the result is near [-1, 1]."""

_MODES = ("L", "LA", "RGB", "RGBA")
# What resampling in float32 may leave outside the range; more is a mistake of the caller's.
_SLACK = 1e-3


def restore_image(run: Run, image: Any, *, value_range: ValueRange = (0.0, 1.0)) -> Any:
    """Restore an image of any kind and return the same kind.

    Args:
        run: the model.
        image: one of

            - a PIL image of mode L, LA, RGB or RGBA;
            - numpy (H, W), (H, W, 2), (H, W, 3), (H, W, 4) or (N, H, W, 3): uint8, uint16, or
              floats in `value_range`;
            - torch (3, H, W) or (B, 3, H, W): uint8, or floats in `value_range`;
            - the path of a PNG, JPEG, TIFF or WebP file: a PIL image comes back, of 8 bits;
            - a list or tuple of these: a list comes back.

            Alpha is kept as it is.
        value_range: black and white of floats: (0, 1), or (-1, 1) as networks have them.

    Raises:
        ModelError: another kind, shape or type, values out of range, or values that are not
            finite.
        ImageError: the file cannot be read.
    """
    if isinstance(image, (list, tuple)):
        return [restore_image(run, each, value_range=value_range) for each in image]
    if isinstance(image, (str, os.PathLike)):
        return _restore_file(run, Path(image))
    if isinstance(image, Tensor):
        return _restore_torch(run, image, value_range)
    if isinstance(image, np.ndarray):
        return _restore_numpy(run, image, value_range)
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise _no_image(
            f"an image cannot be a {type(image).__name__}",
            "give a PIL image, a numpy array, a torch tensor, a path, or a list of these",
        )
    if image.mode not in _MODES:
        raise _no_image(
            f"a PIL image of mode {image.mode} cannot be restored",
            "convert it first: image.convert('RGB')",
        )
    return Image.fromarray(_restore_numpy(run, np.asarray(image), value_range), mode=None)


def _no_image(what: str, cure: str) -> ModelError:
    return ModelError(what, where="image", cure=cure)


@dataclass(frozen=True)
class _Scale:
    """The values of black and white in an image."""

    black: float
    white: float

    @classmethod
    def of(cls, dtype: Any, value_range: ValueRange) -> _Scale:
        """The scale of a dtype; `value_range` counts for floats alone.

        Raises:
            ModelError: the range is empty or reversed.
        """
        whites = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, torch.uint8: 255.0}
        if dtype in whites:
            return cls(0.0, whites[dtype])
        black, white = value_range
        if not black < white:
            raise ModelError(
                f"value_range is {value_range}", where="value_range", cure="give (0, 1) or (-1, 1)"
            )
        return cls(black, white)

    def to_network(self, values: Tensor) -> Tensor:
        """Values as float32 in [-1, 1]; refuses what is outside the range or not finite."""
        span = self.white - self.black
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):  # a NaN anywhere is both of them
            raise _no_image("the image has values that are not finite", "replace NaN and infinity")
        if low < self.black - _SLACK * span or high > self.white + _SLACK * span:
            raise _no_image(
                f"the image has values from {low:.4g} to {high:.4g},"
                f" outside [{self.black:g}, {self.white:g}]",
                "clip or rescale them, or give value_range=(-1, 1) for values in [-1, 1]",
            )
        return values.float() * (2 / span) - (self.white + self.black) / span

    def from_network(self, values: Tensor) -> Tensor:
        """Values near [-1, 1] as float64 from black to white."""
        share = ((values.double() + 1) / 2).clamp(0, 1)
        return share * (self.white - self.black) + self.black


def _restore_torch(run: Run, image: Tensor, value_range: ValueRange) -> Tensor:
    batch = image.detach()[None] if image.ndim == 3 else image.detach()
    if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
        raise _no_image(f"the tensor is {tuple(image.shape)}", "give (3, H, W) or (B, 3, H, W) RGB")
    if batch.dtype != torch.uint8 and not batch.is_floating_point():
        raise _no_image(f"the tensor is {image.dtype}", "give uint8, or floats in value_range")
    scale = _Scale.of(batch.dtype, value_range)
    restored = scale.from_network(run(scale.to_network(batch)))
    if batch.dtype == torch.uint8:
        restored = restored.round()
    restored = restored.to(image.device, image.dtype)
    return restored[0] if image.ndim == 3 else restored


def _restore_numpy(run: Run, image: npt.NDArray[Any], value_range: ValueRange) -> npt.NDArray[Any]:
    gray_alpha = image.ndim == 3 and image.shape[2] == 2
    fits = image.ndim == 2 or (image.ndim in (3, 4) and image.shape[-1] in (3, 4)) or gray_alpha
    is_float = image.dtype.kind == "f"
    if not fits or not (is_float or image.dtype in (np.uint8, np.uint16)) or 0 in image.shape:
        raise _no_image(
            f"the array is {image.shape} {image.dtype}",
            "give (H, W), (H, W, 3), (H, W, 4) or (N, H, W, 3) of uint8, uint16 or floats",
        )
    scale = _Scale.of(image.dtype, value_range)
    gray = image.ndim == 2 or gray_alpha
    colour = image[..., :1] if gray_alpha else image[..., None] if gray else image[..., :3]
    rgb = np.repeat(colour, 3, axis=-1) if gray else colour  # (..., H, W, 3)
    values = torch.from_numpy(np.ascontiguousarray(rgb, dtype=np.float32))
    # (..., H, W, 3) -> (B, 3, H, W)
    batch = scale.to_network(values).reshape(-1, *rgb.shape[-3:]).permute(0, 3, 1, 2).contiguous()
    pixels = scale.from_network(run(batch)).permute(0, 2, 3, 1).numpy().reshape(rgb.shape)
    pixels = pixels.mean(axis=-1, keepdims=True) if gray else pixels
    restored = (pixels if is_float else np.rint(pixels)).astype(image.dtype)
    if gray_alpha or (image.ndim > 2 and image.shape[-1] == 4):
        restored = np.concatenate([restored, image[..., -1:]], axis=-1)
    return restored[..., 0] if image.ndim == 2 else restored


def _restore_file(run: Run, path: Path) -> Any:
    from PIL import Image

    if path.suffix.lower() not in FORMATS:
        raise _no_image(
            f"{printable(path)} has no ending of an image file",
            f"give one of {shorten(sorted(FORMATS))}",
        )
    picture = pictures.read(path)
    # PIL has no 16-bit colour, so the path is for 8 bits; arrays of uint16 keep theirs.
    pixels = picture.pixels if picture.white == 255 else np.rint(picture.pixels / 257)
    alpha = None if picture.alpha is None else picture.alpha[..., None] / (picture.white / 255)
    restored = _restore_numpy(run, pixels.astype(np.uint8), (0.0, 1.0))
    if alpha is not None:
        restored = np.concatenate([restored, np.rint(alpha).astype(np.uint8)], axis=-1)
    image = Image.fromarray(restored)
    if picture.gray:
        image = image.convert("L" if alpha is None else "LA")
    return image
