"""The timestep regressor T: how far along its blur trajectory an image is, read from its kernels.

In FideDiff (arXiv 2510.01641) t_hat = T(M(I)), trained by L_time in the control stage; its layers
are not published. Strided convolutions, a global mean and a small MLP are ours, as is one t_hat an
image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fidediff_model.model.kernels import KERNEL_SIZE, pool_kernels
from fidediff_model.model.reblur import kernel_size_of

MAX_TIMESTEP = 999.0
"""The last timestep of Stable Diffusion's schedule."""

CHANNELS = (64, 128, 256)
"""Widths of T's strided convolutions (ours)."""

POOL = 4
"""Pixels a side over which T first averages the kernels (ours): neighbouring pixels move alike."""

_FIRST_T_HAT = 200.0
"""What an untrained T answers, about: t of 11 frames, the commonest blur of GoPro (ours)."""


class TimestepRegressor(nn.Module):
    """T: the kernels of an image in, its timestep out.

    The kernels are averaged over `pool` x `pool` pixels, projected, reduced by strided
    convolutions, averaged over the image and read by an MLP whose sigmoid spans the schedule.

    Args:
        kernel_size: m of the kernel estimator, odd.
        channels: width of each strided convolution; the first projects the taps.
        pool: side in pixels of the cells that the kernels are averaged over first.

    Raises:
        ValueError: `kernel_size` is even, or `channels` is empty.
    """

    def __init__(
        self,
        kernel_size: int = KERNEL_SIZE,
        channels: tuple[int, ...] = CHANNELS,
        pool: int = POOL,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must name the width of one convolution at least")
        self.taps = kernel_size**2
        kernel_size_of(self.taps)
        self.pool = pool
        self.project = nn.Conv2d(self.taps, channels[0], 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1)
            for a, b in zip(channels, (*channels[1:], channels[-1]), strict=True)
        )
        self.hidden = nn.Linear(channels[-1], channels[-1])
        self.out = nn.Linear(channels[-1], 1)
        # sigmoid(bias) = 200 / 999, so that an untrained T starts at a usable t.
        share = _FIRST_T_HAT / MAX_TIMESTEP
        nn.init.constant_(self.out.bias, math.log(share / (1 - share)))

    def forward(self, kernels: Tensor, *, pooled: bool = False) -> Tensor:
        """One timestep an image.

        Args:
            kernels: (B, K, H, W) as `KernelEstimator` gives them; any H and W.
            pooled: the kernels are already means over `pool` x `pool` pixels, as
                `KernelEstimator.pooled(blur, regressor.pool)` gives them.

        Returns:
            t_hat (B,), float32 in [0, 999].

        Raises:
            ValueError: the kernels have another number of taps.
        """
        if kernels.ndim != 4 or kernels.shape[1] != self.taps:
            raise ValueError(f"kernels must be (B, {self.taps}, H, W), not {tuple(kernels.shape)}")
        cells = kernels if pooled else pool_kernels(kernels, self.pool)
        # Weights are about 1 / K; times K they are about 1, what the layers' start expects.
        x = self.project(cells * self.taps)
        # (B, C, H / 4, W / 4), halved by each convolution
        for conv in self.convs:
            x = conv(functional.gelu(x))
        # bfloat16 rounds t = 281 to 282, so the last steps are taken in float32.
        mean = functional.gelu(x).float().mean(dim=(2, 3))  # (B, C)
        with torch.autocast(device_type=mean.device.type, enabled=False):
            hidden = functional.gelu(
                functional.linear(mean, self.hidden.weight.float(), self.hidden.bias.float())
            )
            logit = functional.linear(hidden, self.out.weight.float(), self.out.bias.float())
            return MAX_TIMESTEP * logit.squeeze(1).sigmoid()
