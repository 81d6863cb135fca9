"""Restoring what a program holds: PIL images, numpy arrays, torch tensors; the same kind back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fidediff_model.errors import ModelError


def restore_image(run: Callable[[Tensor], Tensor], image: Any) -> Any:
    """Restore an image of any kind and return the same kind.

    Args:
        run: restores (B, 3, H, W) in [-1, 1].
        image: one of

            - a PIL image of mode L, LA, RGB or RGBA (alpha is kept);
            - numpy (H, W), (H, W, 3), (H, W, 4) or (N, H, W, 3): uint8, uint16, or floats in
              [0, 1];
            - torch (3, H, W) or (B, 3, H, W), floats in [-1, 1], or uint8 in [0, 255].

    Raises:
        ModelError: another kind, shape or type, or a part is missing.
    """
    if isinstance(image, Tensor):
        return _restore_torch(image, run)
    if isinstance(image, np.ndarray):
        return _restore_numpy(image, run)
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise ModelError(
            f"an image cannot be a {type(image).__name__}",
            where="image",
            cure="give a PIL image, a numpy array or a torch tensor",
        )
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ModelError(
            f"a PIL image of mode {image.mode} cannot be restored",
            where="image",
            cure="convert it first: image.convert('RGB')",
        )
    return Image.fromarray(_restore_numpy(np.asarray(image), run), mode=None)


def _restore_torch(image: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    batch = image[None] if image.ndim == 3 else image
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise ModelError(
            f"the tensor is {tuple(image.shape)}",
            where="image",
            cure="give (3, H, W) or (B, 3, H, W), RGB",
        )
    if batch.dtype == torch.uint8:
        restored = run(batch.float() / 127.5 - 1)
        restored = ((restored + 1) * 127.5).round().clamp(0, 255)
    elif batch.is_floating_point():
        restored = run(batch.detach()).clamp(-1, 1)
    else:
        raise ModelError(f"the tensor is {image.dtype}", where="image", cure="give floats or uint8")
    restored = restored.to(image.device, image.dtype)
    return restored[0] if image.ndim == 3 else restored


def _restore_numpy(image: npt.NDArray[Any], run: Callable[[Tensor], Tensor]) -> npt.NDArray[Any]:
    gray_alpha = image.ndim == 3 and image.shape[2] == 2
    fits = image.ndim == 2 or (image.ndim in (3, 4) and image.shape[-1] in (3, 4)) or gray_alpha
    whites = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
    if not fits or not (image.dtype in whites or image.dtype.kind == "f") or 0 in image.shape:
        raise ModelError(
            f"the array is {image.shape} {image.dtype}",
            where="image",
            cure="give (H, W), (H, W, 3), (H, W, 4) or (N, H, W, 3) of uint8, uint16 or floats",
        )
    white = whites.get(image.dtype, 1.0)
    gray = image.ndim == 2 or gray_alpha
    colour = image[..., :1] if gray_alpha else image[..., None] if gray else image[..., :3]
    unit = np.repeat(colour, 3, axis=-1) if gray else colour  # (..., H, W, 3)
    batch = torch.from_numpy(np.ascontiguousarray(unit, dtype=np.float32) * (2 / white) - 1)
    batch = batch.reshape(-1, *unit.shape[-3:]).permute(0, 3, 1, 2).contiguous()
    values = ((run(batch) + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy().astype(np.float64)
    values = values.reshape(unit.shape) * white
    values = values.mean(axis=-1, keepdims=True) if gray else values
    restored = (values if image.dtype.kind == "f" else np.rint(values)).astype(image.dtype)
    if gray_alpha or (image.ndim > 2 and image.shape[-1] == 4):
        restored = np.concatenate([restored, image[..., -1:]], axis=-1)
    return restored[..., 0] if image.ndim == 2 else restored
