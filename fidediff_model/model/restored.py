"""What goes into one step and what comes out: the checks at the model's door, and its answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fidediff_model.errors import ModelError
from fidediff_model.model.diffusion import LAST_TIMESTEP


@dataclass
class Restored:
    """What one step gives.

    Attributes:
        image: (B, 3, H, W) float32, near [-1, 1] but not clamped.
        t_hat: (B,) float32, the timestep used: given, or estimated by T.
        kernels: (B, K, H, W) float32, or None where they were not needed or not kept.
        z0_hat: (B, 4, h, w) float32, the sharp latent of the padded image.
    """

    image: Tensor
    t_hat: Tensor
    kernels: Tensor | None
    z0_hat: Tensor


def check_image(blur: Tensor) -> None:
    """Raise `ModelError` unless blur is (B, 3, H, W) of floats, nothing empty."""
    if blur.ndim != 4 or blur.shape[1] != 3 or 0 in blur.shape or not blur.is_floating_point():
        raise ModelError(
            f"blur is {tuple(blur.shape)} {blur.dtype}, not (B, 3, H, W) of floats",
            where="blur",
            cure="give RGB images in [-1, 1] with the batch first",
        )


def timesteps(t: float | Tensor, blur: Tensor) -> Tensor:
    """t as (B,) float32 on the image's device; a tensor's values are not looked at (no sync).

    Raises:
        ModelError: a number outside [0, 999], or a tensor of another length than the batch.
    """
    batch = blur.shape[0]
    if isinstance(t, Tensor):
        if t.ndim > 1 or t.numel() not in (1, batch):
            raise ModelError(
                f"t has shape {tuple(t.shape)}", where="t", cure=f"give one number or ({batch},)"
            )
        return t.to(device=blur.device, dtype=torch.float32).expand(batch)
    if not 0 <= t <= LAST_TIMESTEP:
        raise ModelError(f"t is {t}", where="t", cure="give a timestep in [0, 999]")
    return torch.full((batch,), float(t), device=blur.device)
