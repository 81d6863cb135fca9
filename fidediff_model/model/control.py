"""The kernel control: blur kernels steer the UNet through a ControlNet.

FideDiff (arXiv 2510.01641) filters the latent by the blur kernels and feeds it to a ControlNet that
starts as a copy of the pre-trained encoder. The copy is made of the *clean* UNet, without LoRA.
Four ways to bring the condition in are built, the rows of the paper's ablation; in all of them the
last layer starts at zero, so that the model starts as the base, bit for bit.

Kernels come pooled to latent cells, k_in (B, K, h, w) of sum 1; K = m x m, 361 for m = 19.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fidediff_model.config import ControlVariant
from fidediff_model.model.base import Residuals, refuse_lora
from fidediff_model.weights.sd21 import seeded


def zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that starts as zero, Z in the paper."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # torch types it as optional
    return conv


class KernelFilter(nn.Module):
    """The published filter: weights drawn from the kernels act on latent features as attention.

    z_in2 = Conv(z_in1), W = Conv(Cat(k_in, z_in2)), O = W * z_in2 element by element,
    z_out = z_in1 + Z(O). The 3x3 convolutions and the sigmoid on W are ours.

    Args:
        taps: K, weights a kernel.
        channels: width of z_in2, W and O.
        latents: c, channels of the latent.
    """

    def __init__(self, taps: int, channels: int, latents: int = 4) -> None:
        super().__init__()
        self.features = nn.Conv2d(latents, channels, 3, padding=1)
        self.weights = nn.Conv2d(taps + channels, channels, 3, padding=1)
        self.zero = zero_conv(channels, latents)

    def forward(self, z_in1: Tensor, k_in: Tensor) -> Tensor:
        """z_out (B, c, h, w) of z_in1 (B, c, h, w) and k_in (B, K, h, w)."""
        z_in2 = self.features(z_in1)
        # W = sigmoid(Conv(Cat(k_in, z_in2))): (B, K + C, h, w) -> (B, C, h, w)
        weights = self.weights(torch.cat([_scaled(k_in).to(z_in2.dtype), z_in2], dim=1)).sigmoid()
        z_out: Tensor = z_in1 + self.zero(weights * z_in2)
        return z_out


class KernelAddition(nn.Module):
    """Kernel features added to the latent: z_out = z_in1 + Z(SiLU(Conv(k_in))).

    The ablation's "kernel addition"; its layers are not published and ours here.
    """

    def __init__(self, taps: int, channels: int, latents: int = 4) -> None:
        super().__init__()
        self.features = nn.Conv2d(taps, channels, 3, padding=1)
        self.zero = zero_conv(channels, latents)

    def forward(self, z_in1: Tensor, k_in: Tensor) -> Tensor:
        """z_out (B, c, h, w) of z_in1 (B, c, h, w) and k_in (B, K, h, w)."""
        features = F.silu(self.features(_scaled(k_in).to(z_in1.dtype)))
        z_out: Tensor = z_in1 + self.zero(features)
        return z_out


class MotionAlign(nn.Module):
    """Latent features sampled along the motion that the kernels tell, then weighed.

    For each cell p the kernels give `points` offsets o_i in cells and weights w_i of sum 1:
    O(p) = sum_i w_i(p) z_in2(p + g_i + o_i(p)), z_out = z_in1 + Z(O), with g_i a regular grid
    round p. Sampling is bilinear and stays inside the map. After the idea of MISCFilter (CVPR
    2024), where offsets and weights of a deformable filter follow the motion; layers are ours.

    Args:
        taps: K, weights a kernel.
        channels: width of z_in2 and O.
        points: samples a cell, a square number.
        latents: c, channels of the latent.
    """

    grid: Tensor

    def __init__(self, taps: int, channels: int, points: int = 9, latents: int = 4) -> None:
        super().__init__()
        self.points = points
        self.features = nn.Conv2d(latents, channels, 3, padding=1)
        self.motion = nn.Conv2d(taps + channels, channels, 3, padding=1)
        self.offsets = nn.Conv2d(channels, 2 * points, 3, padding=1)
        self.weights = nn.Conv2d(channels, points, 3, padding=1)
        self.zero = zero_conv(channels, latents)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]  # torch types it as optional
        side = round(points**0.5)
        axis = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(-1, 2)
        self.register_buffer("grid", grid[:points], persistent=False)  # (P, 2): x, y in cells

    def forward(self, z_in1: Tensor, k_in: Tensor) -> Tensor:
        """z_out (B, c, h, w) of z_in1 (B, c, h, w) and k_in (B, K, h, w)."""
        z_in2 = self.features(z_in1)
        motion = F.silu(self.motion(torch.cat([_scaled(k_in).to(z_in2.dtype), z_in2], dim=1)))
        offsets = self.offsets(motion).float().unflatten(1, (self.points, 2))  # (B, P, 2, h, w)
        weights = self.weights(motion).float().softmax(dim=1)  # (B, P, h, w)
        mixed = sample_along(z_in2.float(), offsets + self.grid[None, :, :, None, None], weights)
        z_out: Tensor = z_in1 + self.zero(mixed.to(z_in2.dtype))
        return z_out


def sample_along(features: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Deformable sampling: O(p) = sum_i w_i(p) features(p + o_i(p)), bilinear, borders repeated.

    Args:
        features: (B, C, h, w) float32.
        offsets: (B, P, 2, h, w), x then y, in cells.
        weights: (B, P, h, w).

    Returns:
        (B, C, h, w); one sample after another, so that memory does not grow with P at inference.
    """
    height, width = features.shape[-2:]
    ys = torch.arange(height, device=features.device, dtype=torch.float32)
    xs = torch.arange(width, device=features.device, dtype=torch.float32)
    out = torch.zeros_like(features)
    for i in range(offsets.shape[1]):
        x = offsets[:, i, 0] + xs  # (B, h, w)
        y = offsets[:, i, 1] + ys[:, None]
        # grid_sample counts from -1 at the first cell's centre to 1 at the last one's.
        place = torch.stack([_unit(x, width), _unit(y, height)], dim=-1)  # (B, h, w, 2)
        sampled = F.grid_sample(
            features, place, mode="bilinear", padding_mode="border", align_corners=True
        )
        out = out + weights[:, i, None] * sampled
    return out


def _unit(position: Tensor, length: int) -> Tensor:
    return position * (2 / max(length - 1, 1)) - 1


def _scaled(k_in: Tensor) -> Tensor:
    """Kernels of mean 1 in place of 1 / K, what the start of a convolution expects."""
    return k_in * k_in.shape[1]


class KernelControl(nn.Module):
    """The block of one variant and the ControlNet behind it. Build with `from_clean_unet`.

    Args:
        variant: `vanilla` conditions on the blurry image through ControlNet's stock embedding;
            `addition`, `align` and `filter` change the latent that the ControlNet reads.
        controlnet: diffusers' `ControlNetModel`.
        block: what changes the latent; None for `vanilla`.
    """

    def __init__(self, variant: ControlVariant, controlnet: Any, block: nn.Module | None) -> None:
        super().__init__()
        self.variant = variant
        self.controlnet = controlnet
        self.block = block

    @classmethod
    def from_clean_unet(
        cls,
        unet: Any,
        variant: ControlVariant,
        *,
        taps: int,
        channels: int = 64,
        points: int = 9,
        condition_channels: tuple[int, ...] = (16, 32, 96, 256),
        seed: int = 0,
    ) -> KernelControl:
        """Copy the encoder of a UNet that has no LoRA.

        Args:
            unet: a clean `UNet2DConditionModel`; it is not changed and shares no storage.
            variant: any but `none`, which is the absence of this module.
            taps: K, weights a kernel.
            channels: width of the block.
            points: samples a cell, for `align`.
            condition_channels: widths of the stock embedding, for `vanilla`.
            seed: of the new layers.

        Raises:
            WeightsError: the UNet carries LoRA.
        """
        refuse_lora(unet, "the ControlNet")
        diffusers: Any = import_module("diffusers")
        with seeded(seed):
            controlnet = diffusers.ControlNetModel.from_unet(
                unet, conditioning_embedding_out_channels=condition_channels
            )
            block = _block(variant, taps, channels, points, unet.config.in_channels)
        if block is not None:
            # The filtered latent enters as the sample itself; nothing is left to embed.
            controlnet.controlnet_cond_embedding = nn.Identity()
        return cls(variant, controlnet, block)

    @property
    def needs_kernels(self) -> bool:
        """Whether `forward` reads the kernels (all but `vanilla`)."""
        return self.block is not None

    def forward(
        self, z_t: Tensor, t: Tensor, prompt: Tensor, *, k_in: Tensor | None, image: Tensor | None
    ) -> Residuals:
        """What to add to the UNet's skips and middle.

        Args:
            z_t: latent of the blur (B, c, h, w).
            t: (B,) float32 in [0, 999].
            prompt: (1, tokens, width).
            k_in: kernels pooled to cells (B, K, h, w); for all variants but `vanilla`.
            image: the blur as the VAE sees it, (B, 3, 8h, 8w) in [-1, 1]; for `vanilla`.
        """
        dtype = self.controlnet.conv_in.weight.dtype
        z = z_t.to(dtype)
        if self.block is not None:
            if k_in is None:
                raise ValueError(f"the control variant {self.variant} needs k_in")
            z = self.block(z, k_in)
            condition = z.new_zeros(1, 1, 1, 1)
        elif image is None:
            raise ValueError("the control variant vanilla needs the image")
        else:
            condition = image.to(dtype) / 2 + 0.5  # the stock embedding expects [0, 1]
        text = prompt.to(dtype).expand(z.shape[0], -1, -1)
        down, middle = self.controlnet(z, t.float(), text, condition, return_dict=False)
        return list(down), middle


def _block(
    variant: ControlVariant, taps: int, channels: int, points: int, latents: int
) -> nn.Module | None:
    if variant == "filter":
        return KernelFilter(taps, channels, latents)
    if variant == "addition":
        return KernelAddition(taps, channels, latents)
    if variant == "align":
        return MotionAlign(taps, channels, points, latents)
    if variant == "vanilla":
        return None
    raise ValueError(f"the control variant {variant} has no module")
