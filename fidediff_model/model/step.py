"""What M and T read from a blurry image, and the rules at the model's door.

    kernels = M(blur); t_hat = T(kernels); k_in = kernels pooled to latent cells

`read_kernels` is the only place where this is written: `FideDiff.forward`, with or without tiles,
the control stage of training and the speed measurement all call it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from fidediff_model.errors import ModelError
from fidediff_model.model.diffusion import LAST_TIMESTEP
from fidediff_model.model.kernels import pool_kernels

if TYPE_CHECKING:
    from fidediff_model.model.fidediff import FideDiff

Part = Literal["kernel_estimator", "timestep_regressor", "control"]
Stage = Literal["base", "kernel", "control"]
PARTS: tuple[Part, ...] = get_args(Part)
TRAINED_BY: dict[Part, Stage] = {
    "kernel_estimator": "kernel",
    "timestep_regressor": "control",
    "control": "control",
}
"""The stage which trains each part."""


@dataclass(frozen=True)
class Restored:
    """The result of one step.

    Attributes:
        image: (B, 3, H, W) float32, near [-1, 1] but not clamped.
        t_hat: (B,) float32, the timestep used: the caller's, or T's estimate.
        kernels: (B, K, H, W) float32, or None where they were not needed or not kept.
        z0_hat: (B, 4, h, w) float32, the sharp latent of the padded image.
    """

    image: Tensor
    t_hat: Tensor
    kernels: Tensor | None
    z0_hat: Tensor


@dataclass(frozen=True)
class Reading:
    """What the step needs to know about the motion in a batch of padded images.

    Attributes:
        t: (B,) float32 in [0, 999]: the caller's timestep, or T's estimate.
        k_in: (B, K, h, w) float32, kernels pooled to latent cells; None where no control reads
            them.
        kernels: (B, K, H, W) float32, kernels of all pixels; None unless kept.
    """

    t: Tensor
    k_in: Tensor | None = None
    kernels: Tensor | None = None


def read_kernels(
    model: FideDiff,
    padded: Tensor,
    timestep: float | Tensor | None = None,
    *,
    keep: bool = False,
) -> Reading:
    """Run M, T and the pooling as far as the model and the arguments need them.

    Args:
        model: its M, T and control decide what is read.
        padded: (B, 3, H, W) in [-1, 1], sides multiples of `codec.multiple`.
        timestep: in [0, 999], a number or (B,); None estimates one per image.
        keep: also return the kernels at full size (1.33 GB per image at 1280 x 720).

    Raises:
        ModelError: M or T is needed and missing, or the timestep is impossible.
    """
    control = model.control
    steers = control is not None and control.needs_kernels
    if timestep is not None and not steers:
        return Reading(timesteps(timestep, padded))
    estimator, stride = model.part("kernel_estimator"), model.codec.latent_stride
    regressor: Any = model.part("timestep_regressor") if timestep is None else None
    # T's cells (4 pixels) divide both strides, so the same means serve the control too.
    side = stride if regressor is None else math.gcd(stride, regressor.pool)
    with side_precision(model, padded):
        kernels = estimator(padded) if keep else None  # M(blur), (B, K, H, W)
        cells = estimator.pooled(padded, side) if kernels is None else pool_kernels(kernels, side)
        # t_hat = T(M(blur)), one number per image
        if timestep is None:
            t = regressor(pool_kernels(cells, regressor.pool // side), pooled=True)
        else:
            t = timesteps(timestep, padded)
    # k_in: means over d x d pixels, (B, K, H / d, W / d), as large as the latent
    return Reading(t, pool_kernels(cells, stride // side) if steers else None, kernels)


def side_precision(model: FideDiff, x: Tensor) -> torch.autocast:
    """The autocast of M and T, whose weights stay float32.

    Beside a base in half precision they compute in its type; beside a float32 base they join an
    autocast that is already on, such as that of training, and otherwise compute in float32.
    """
    # A base in half precision is an engine's; a float32 base may be in training, under autocast.
    device, base = x.device.type, model.base.dtype
    if base != torch.float32:
        return torch.autocast(device, dtype=base)
    enabled = torch.is_autocast_enabled(device)
    return torch.autocast(device, dtype=torch.get_autocast_dtype(device), enabled=enabled)


def no_part(part: Part, parts: Sequence[str], *, where: str = "") -> ModelError:
    """The error of a part that is needed and missing.

    Args:
        part: the missing one.
        parts: the parts that are there, besides the base.
        where: the option that needs it; default, the list of parts.
    """
    cure = f"train it (fidediff train {TRAINED_BY[part]})"
    if not where and part != "control":
        cure += ", or set the timestep: --timestep 200 (timestep=200 in Python) for 11 frames"
    elif where:
        cure += f", or omit {where}"
    present = f"the model has the base and {', '.join(parts) or 'no other part'}"
    return ModelError(f"this model has no {part}", where=where or present, cure=cure)


def check_image(blur: Any) -> None:
    """Raise `ModelError` unless blur is (B, 3, H, W) of floats, nothing empty."""
    if blur.ndim != 4 or blur.shape[1] != 3 or 0 in blur.shape or not blur.is_floating_point():
        raise ModelError(
            f"blur is {tuple(blur.shape)} {blur.dtype}, not (B, 3, H, W) of floats",
            where="blur",
            cure="give RGB images in [-1, 1] with the batch first",
        )


def timesteps(timestep: float | Tensor, blur: Tensor) -> Tensor:
    """A timestep as (B,) float32 on the image's device.

    The values of a tensor are not checked: reading them would wait for the device.

    Raises:
        ModelError: a number outside [0, 999], or a tensor of another length than the batch.
    """
    batch = blur.shape[0]
    if isinstance(timestep, Tensor):
        if timestep.ndim > 1 or timestep.numel() not in (1, batch):
            raise ModelError(
                f"the timestep has shape {tuple(timestep.shape)}",
                where="timestep",
                cure=f"give one number or ({batch},)",
            )
        return timestep.to(device=blur.device, dtype=torch.float32).expand(batch)
    if not 0 <= timestep <= LAST_TIMESTEP:
        raise ModelError(
            f"the timestep is {timestep}",
            where="timestep",
            cure=f"give a number from 0 to {LAST_TIMESTEP:g}; n frames are (n - 1) x 20",
        )
    return torch.full((batch,), float(timestep), device=blur.device)
