"""A VAE that starts as a linear codec: each latent cell is the mean colour of its pixels.

A small VAE trained from random weights on a few pictures paints any other picture in their colours:
its group norms remove each image's mean, and it has memorised what to put in its place. Here the
first weights are set so that three latents carry brightness and two colour differences from end to
end, nearly exactly; training then adds detail.

Two tricks carry a signal through norms and SiLU, in any VAE with one norm group:

- every signal c travels as a pair (c, -c), whose mean is 0, and SiLU(c) - SiLU(-c) = c;
- a pair of constants (K, -K), large beside the signals, travels with them. It dominates the norm's
  divisor, which is then the same for all images, and the norm's weight undoes it.

The method is our own and has no counterpart in the paper, which starts from Stable Diffusion's VAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

COLOURS = 3
SIGNALS = 2 * COLOURS
CHANNELS = SIGNALS + 2
"""Channels needed: a pair for each colour and one for the constants."""
K = 4.0  # signals are at most 1; the norms' relative error is (signal / K)^2
SPARE = 0.3  # factor on the random weights of all other channels

_MIX = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [2.0, 0.0, -2.0], [-1.0, 2.0, -1.0]])
"""Colours to the first three latents; differences are doubled, since they vary less."""


def fits(groups: int, channels: Sequence[int]) -> bool:
    """Whether a VAE with these norm groups and channels per level can start as a linear codec."""
    return groups == 1 and min(channels) >= CHANNELS


@torch.no_grad()
def begin(vae: Any) -> None:
    """Set the weights of a diffusers AutoencoderKL whose structure `fits`, in place.

    Residual branches must start at zero, or they disturb the signals.
    """
    for part in vae.modules():
        if isinstance(part, nn.GroupNorm):
            # The constants alone have a deviation of K sqrt(2 / C) over C channels.
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
            # Means of 2 x 2 pixels: taps 0 and 1, since diffusers pads right and below alone.
            sampler.conv.weight[:CHANNELS, :CHANNELS, :2, :2] = (
                torch.eye(CHANNELS)[:, :, None, None] / 4
            )
    last = encoder.conv_out
    last.weight.mul_(SPARE)
    last.bias.zero_()
    last.weight[:COLOURS] = 0
    last.weight[last.out_channels // 2 :] = 0  # log variances, which `mode` does not read
    _leave(last, _MIX)


def _begin_decoder(decoder: Any) -> None:
    _enter(decoder.conv_in, torch.linalg.inv(_MIX))
    for block in decoder.up_blocks:
        _pass_shortcuts(block)
        for sampler in block.upsamplers or []:
            # Pixels repeat. A smooth kernel would darken the border, which is padded with zeros.
            _clear(sampler.conv)
            sampler.conv.weight[:CHANNELS, :CHANNELS, 1, 1] = torch.eye(CHANNELS)
    decoder.conv_out.weight.zero_()
    decoder.conv_out.bias.zero_()
    _leave(decoder.conv_out, torch.eye(COLOURS))


def _enter(conv: Any, mix: Tensor) -> None:
    """Incoming colours become pairs, joined by the constants."""
    _clear(conv)
    conv.weight[0:SIGNALS:2, :COLOURS, 1, 1] = mix
    conv.weight[1:SIGNALS:2, :COLOURS, 1, 1] = -mix
    conv.bias[SIGNALS], conv.bias[SIGNALS + 1] = K, -K


def _leave(conv: Any, mix: Tensor) -> None:
    """Turn the pairs back into colours."""
    conv.weight[:COLOURS, 0:SIGNALS:2, 1, 1] = mix
    conv.weight[:COLOURS, 1:SIGNALS:2, 1, 1] = -mix


def _pass_shortcuts(block: Any) -> None:
    for layer in block.resnets:
        if layer.conv_shortcut is not None:
            _clear(layer.conv_shortcut)
            layer.conv_shortcut.weight[:CHANNELS, :CHANNELS, 0, 0] = torch.eye(CHANNELS)


def _clear(conv: Any) -> None:
    """Make room for the pairs; weights of other channels stay random, for training to use."""
    conv.weight.mul_(SPARE)
    conv.bias.zero_()
    conv.weight[:CHANNELS] = 0
