"""The discriminator D: does a latent come from a sharp image, or from the model?

FideDiff (arXiv 2510.01641) puts a few convolution blocks on the encoder of a pre-trained UNet and
compares the sharp image's latent with z0_hat. The encoder is copied from the *clean* UNet; it is
conditioned on the blur's timestep, which D gets so that it can be stricter where little was
lost. Levels, widths and both losses are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fidediff_model.config import ModelConfig
from fidediff_model.model.base import refuse_lora
from fidediff_model.weights.sd21 import BaseWeights, seeded

GanLoss = Literal["hinge", "softplus"]
Logits = list[Tensor]


class Discriminator(nn.Module):
    """Logits for each level of a UNet's encoder and its middle: positive means sharp.

    Args:
        unet: a clean `UNet2DConditionModel`; its encoder is copied.
        prompt: (1, tokens, width) for the encoder's cross attention; fixed.
        head_channels: width of each head, a multiple of 4.
        train_encoder: train the copied encoder with the heads; needs three times its memory.
        seed: of the heads.

    Raises:
        WeightsError: the UNet carries LoRA, which D would take over as its own.
    """

    prompt: Tensor

    def __init__(
        self,
        unet: Any,
        prompt: Tensor,
        *,
        head_channels: int = 256,
        train_encoder: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_lora(unet, "the discriminator")
        # The paper's D: the encoder of a pre-trained UNet and a few convolutions on its features.
        parts = ("conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block")
        self.encoder = nn.ModuleDict({name: copy.deepcopy(getattr(unet, name)) for name in parts})
        self.encoder.requires_grad_(train_encoder)
        self.register_buffer("prompt", prompt.detach().clone())
        # One head per level, (320, 640, 1280, 1280) in SD 2.1, and one for the middle block.
        widths = [*unet.config.block_out_channels, unet.config.block_out_channels[-1]]
        with seeded(seed):
            self.heads = nn.ModuleList(_head(width, head_channels) for width in widths)

    def forward(self, z: Tensor, t: Tensor) -> Logits:
        """Five logit maps (B, 1, h_i, w_i) of latents z (B, 4, h, w) at timesteps t (B,)."""
        features = self._features(z, t)
        return [head(f) for head, f in zip(self.heads, features, strict=True)]

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the heads, in a fixed order."""
        return list(self.heads.parameters())

    def _features(self, z: Tensor, t: Tensor) -> list[Tensor]:
        encoder: Any = self.encoder
        dtype = encoder["conv_in"].weight.dtype
        text = self.prompt.to(dtype).expand(z.shape[0], -1, -1)  # (1, T, C) -> (B, T, C)
        # From t, D knows how much the blur has destroyed, so how sharp z0_hat can be.
        time = encoder["time_embedding"](encoder["time_proj"](t.float()).to(dtype))
        h = encoder["conv_in"](z.to(dtype))
        features = []  # level i: (B, C_i, h / 2^i, w / 2^i)
        for block in encoder["down_blocks"]:
            attends = getattr(block, "has_cross_attention", False)
            h, _ = block(h, time, encoder_hidden_states=text) if attends else block(h, time)
            features.append(h)
        features.append(encoder["mid_block"](h, time, encoder_hidden_states=text))
        # The encoder may be frozen in bfloat16; the heads train in float32.
        own = next(self.heads.parameters()).dtype
        return [f.to(own) for f in features]


def build_discriminator(
    config: ModelConfig, weights: BaseWeights, *, seed: int = 0
) -> Discriminator:
    """D over clean base weights, which it copies; call it before `build`."""
    return Discriminator(weights.unet, weights.prompt, **asdict(config.discriminator), seed=seed)


def _head(inputs: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1),
        nn.GroupNorm(4, channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.GroupNorm(4, channels),
        nn.SiLU(),
        nn.Conv2d(channels, 1, 1),  # one logit per position, as in a patch discriminator
    )


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor], kind: GanLoss) -> Tensor:
    """What D minimises; the mean over levels of the mean over positions.

    hinge: max(0, 1 - real) + max(0, 1 + fake). softplus: log(1 + e^-real) + log(1 + e^fake).

    Args:
        real: D's logits on latents of sharp images.
        fake: D's logits on z0_hat, which must be detached from the model.
        kind: which of the two.
    """
    # The mean over positions comes before that over levels, so that a large map has no more say.
    if kind == "hinge":
        terms = [
            F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)
        ]
    else:
        terms = [
            F.softplus(-r).mean() + F.softplus(f).mean() for r, f in zip(real, fake, strict=True)
        ]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[Tensor], kind: GanLoss) -> Tensor:
    """What the model minimises on D's logits of z0_hat: -fake (hinge), log(1 + e^-fake)."""
    if kind == "hinge":
        return torch.stack([-f.mean() for f in fake]).mean()
    return torch.stack([F.softplus(-f).mean() for f in fake]).mean()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module inside, but reach none of its parameters.

    Without it the model's step would leave its gradient in D, to be added to D's own.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
