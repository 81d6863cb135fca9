"""A VAE that begins as a linear codec: each latent cell holds the mean colour of its pixels.

A small VAE trained from random weights on a few pictures gives back their colours for any other
picture: its group norms take away each image's mean, and what it puts in its place it learnt by
heart. Here the first weights are set so that three latents carry brightness and two differences of
colour from end to end, nearly exactly; training then adds detail.

What makes that possible with norms and SiLU in the way, for any VAE of one norm group:

- every signal c goes as a pair (c, -c), whose mean is 0, and SiLU(c) - SiLU(-c) = c;
- a pair of constants (K, -K), large beside the signals, goes with them. It decides what the norm
  divides by, which so becomes the same for all images, and the norm's weight undoes it.

The method is ours; it has no counterpart in the paper, which starts from Stable Diffusion's VAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

COLOURS = 3
SIGNALS = 2 * COLOURS
CHANNELS = SIGNALS + 2
"""Channels that are needed: a pair for each colour and one for the constants."""
K = 4.0  # signals are at most 1; the norms' error is (signal / K)^2
SPARE = 0.3  # what the random weights of all other channels are multiplied by

_MIX = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [2.0, 0.0, -2.0], [-1.0, 2.0, -1.0]])
"""Colours to the first three latents; differences are doubled, since they vary less."""


def fits(groups: int, channels: Sequence[int]) -> bool:
    """Whether a VAE with so many norm groups and channels a level can begin so."""
    return groups == 1 and min(channels) >= CHANNELS


@torch.no_grad()
def begin(vae: Any) -> None:
    """Set the weights of a diffusers AutoencoderKL of a structure that `fits`, in place.

    Residual branches must begin at zero, or they disturb the signals.
    """
    for part in vae.modules():
        if isinstance(part, nn.GroupNorm):
            part.weight.fill_(K * (2 / part.num_channels) ** 0.5)
            part.bias.zero_()
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()
    _begin_encoder(vae.encoder)
    _begin_decoder(vae.decoder)


def _begin_encoder(encoder: Any) -> None:
    _enter(encoder.conv_in, torch.eye(COLOURS))
    for block in encoder.down_blocks:
        _pass_shortcuts(block)
        for sampler in block.downsamplers or []:
            _clear(sampler.conv)
            # The stride of two starts at a pixel with its right and lower neighbours.
            sampler.conv.weight[:CHANNELS, :CHANNELS, :2, :2] = (
                torch.eye(CHANNELS)[:, :, None, None] / 4
            )
    last = encoder.conv_out
    last.weight.mul_(SPARE)
    last.bias.zero_()
    last.weight[:COLOURS] = 0
    last.weight[last.out_channels // 2 :] = 0  # the logarithms of variances, which nobody reads
    _leave(last, _MIX)


def _begin_decoder(decoder: Any) -> None:
    _enter(decoder.conv_in, torch.linalg.inv(_MIX))
    for block in decoder.up_blocks:
        _pass_shortcuts(block)
        for sampler in block.upsamplers or []:
            # Pixels are repeated. A smooth kernel would darken the border, where zeros are added.
            _clear(sampler.conv)
            sampler.conv.weight[:CHANNELS, :CHANNELS, 1, 1] = torch.eye(CHANNELS)
    decoder.conv_out.weight.zero_()
    decoder.conv_out.bias.zero_()
    _leave(decoder.conv_out, torch.eye(COLOURS))


def _enter(conv: Any, mix: Tensor) -> None:
    """Colours that come in become pairs, and the constants join them."""
    _clear(conv)
    conv.weight[0:SIGNALS:2, :COLOURS, 1, 1] = mix
    conv.weight[1:SIGNALS:2, :COLOURS, 1, 1] = -mix
    conv.bias[SIGNALS], conv.bias[SIGNALS + 1] = K, -K


def _leave(conv: Any, mix: Tensor) -> None:
    """Pairs become colours again."""
    conv.weight[:COLOURS, 0:SIGNALS:2, 1, 1] = mix
    conv.weight[:COLOURS, 1:SIGNALS:2, 1, 1] = -mix


def _pass_shortcuts(block: Any) -> None:
    for layer in block.resnets:
        if layer.conv_shortcut is not None:
            _clear(layer.conv_shortcut)
            layer.conv_shortcut.weight[:CHANNELS, :CHANNELS, 0, 0] = torch.eye(CHANNELS)


def _clear(conv: Any) -> None:
    """Make room for the pairs; what goes to other channels stays random, for training to use."""
    conv.weight.mul_(SPARE)
    conv.bias.zero_()
    conv.weight[:CHANNELS] = 0
