"""A VAE that is a linear codec: the weights that make it one.

A VAE whose first layer sees cells of pixels as channels (`vae_patch` above 1) can be any linear
code of a cell exactly, although its layers are those of Stable Diffusion's VAE:

- residual branches end in zeros, so that blocks pass their input on;
- every signal c goes as a pair (c, -c), whose mean is 0, and SiLU(c) - SiLU(-c) = c;
- two constants (K, -K), large beside the signals, decide what the last norm divides by, which so
  becomes the same for all images; the norm's weight undoes it.

The method is ours; it has no counterpart in the paper, which starts from Stable Diffusion's VAE.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

K = 256.0
"""The constants; signals are a few units, and the norm's error is below (signal / K)^2."""


@torch.no_grad()
def write_codec(vae: Any, basis: Tensor, scale: float) -> None:
    """Set the weights of a packed `AutoencoderKL` of one norm group, in place.

    Args:
        vae: of one level, with 2 x latents + 2 channels or more.
        basis: (pixels of a cell x 3, latents), orthonormal columns.
        scale: latents are the cell's coordinates in this basis, times `scale`.
    """
    encoder, decoder = vae.encoder, vae.decoder
    latents = basis.shape[1]
    for name, parameter in vae.named_parameters():
        is_norm = name.endswith(("norm1.weight", "norm2.weight"))
        parameter.fill_(1.0 if is_norm else 0.0)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
    _enter(encoder.conv_in, basis.T * scale)
    _leave(encoder.conv_norm_out, encoder.conv_out, torch.eye(latents))
    _enter(decoder.conv_in, torch.eye(latents))
    _leave(decoder.conv_norm_out, decoder.conv_out, basis / scale)
    vae.register_to_config(scaling_factor=1.0)


def _enter(conv: nn.Conv2d, mix: Tensor) -> None:
    """Mix the incoming signals and turn them into pairs; add the constants."""
    signals = len(mix)
    conv.weight[0 : 2 * signals : 2, :, 1, 1] = mix
    conv.weight[1 : 2 * signals : 2, :, 1, 1] = -mix
    if conv.bias is not None:
        conv.bias[2 * signals], conv.bias[2 * signals + 1] = K, -K


def _leave(norm: nn.GroupNorm, conv: nn.Conv2d, mix: Tensor) -> None:
    """Turn the pairs back into mixed signals; the norm's weight undoes its division."""
    norm.weight.fill_(K * (2 / norm.num_channels) ** 0.5)
    outputs, signals = mix.shape
    conv.weight[:outputs, 0 : 2 * signals : 2, 1, 1] = mix
    conv.weight[:outputs, 1 : 2 * signals : 2, 1, 1] = -mix
