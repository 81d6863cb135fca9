"""The VAE evaluated strip by strip, with exactly the result of evaluating it at once.

Cutting an image into tiles and blending them is another function: group norm and attention see one
tile at a time, so brightness shifts from tile to tile. Here every layer runs over horizontal strips
of rows instead. A strip brings the rows next to it that its convolution reaches, group norm takes
its statistics from all strips before any is normalised, and the attention in the middle chunks its
queries over all keys. Nothing is blended, so there is no seam; only the
order of float sums differs.

Between two layers the complete map is on `store`. With `store="cpu"` the accelerator has one strip
at a time, whatever the image's size, at the price of moving each map once per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES_PER_ROW_OF_STRIP = 256


@dataclass(frozen=True)
class Strips:
    """How to cut: `rows` of a map at a time, and where complete maps are between layers.

    Args:
        rows: rows of the layer's input computed at once, 1 or more.
        device: where strips are computed.
        store: where complete maps are; "cpu" bounds the accelerator's memory by one strip.
    """

    rows: int
    device: torch.device
    store: torch.device

    def spans(self, height: int) -> Iterator[tuple[int, int]]:
        """The strips of a map of that height: first row and the row after the last."""
        return ((top, min(top + self.rows, height)) for top in range(0, height, self.rows))

    def take(self, x: Tensor, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom` of a stored map (B, C, H, W), on the computing device."""
        return x[:, :, top:bottom].to(self.device)


def encode(vae: Any, x: Tensor, strips: Strips) -> Tensor:
    """The mean of the VAE's posterior (B, 4, H/8, W/8) for an image (B, 3, H, W); no gradient.

    Args:
        vae: diffusers' `AutoencoderKL`.
        x: image in [-1, 1]; H and W multiples of 8.
        strips: how to cut.
    """
    encoder = vae.encoder
    # The layers of diffusers' Encoder in their order: conv_in, down blocks, middle, norm, conv_out.
    h = _conv(encoder.conv_in, x.to(strips.store), strips)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            h = _resnet(resnet, h, strips)
        for sampler in block.downsamplers or ():
            h = _downsample(sampler.conv, h, strips)
    h = _middle(encoder.mid_block, h, strips)
    h = _conv(encoder.conv_out, h, strips, _normed(encoder.conv_norm_out, h, strips))
    if vae.quant_conv is not None:
        h = _conv(vae.quant_conv, h, strips)
    return h.chunk(2, dim=1)[0].to(strips.device)  # mean and log variance -> mean


def decode(vae: Any, z: Tensor, strips: Strips) -> Tensor:
    """The image (B, 3, 8h, 8w) on `store` for an unscaled latent (B, 4, h, w); no gradient."""
    decoder = vae.decoder
    h = z.to(strips.store)
    if vae.post_quant_conv is not None:
        h = _conv(vae.post_quant_conv, h, strips)
    h = _conv(decoder.conv_in, h, strips)
    h = _middle(decoder.mid_block, h, strips)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            h = _resnet(resnet, h, strips)
        for sampler in block.upsamplers or ():
            h = _upsample(sampler.conv, h, strips)
    return _conv(decoder.conv_out, h, strips, _normed(decoder.conv_norm_out, h, strips))


def _resnet(block: Any, x: Tensor, strips: Strips) -> Tensor:
    """x + conv2(act(norm2(conv1(act(norm1(x)))))), with a 1x1 shortcut where the width changes."""
    h = _conv(block.conv1, x, strips, _normed(block.norm1, x, strips))
    activate = _normed(block.norm2, h, strips)
    out = torch.empty_like(h)
    for top, bottom in strips.spans(h.shape[2]):
        own = strips.take(x, top, bottom)
        if block.conv_shortcut is not None:
            own = block.conv_shortcut(own)
        new = own + _conv_rows(block.conv2, h, top, bottom, strips, activate)
        out[:, :, top:bottom] = (new / block.output_scale_factor).to(out.device)
    return out


def _middle(block: Any, x: Tensor, strips: Strips) -> Tensor:
    x = _resnet(block.resnets[0], x, strips)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            x = _attention(attention, x, strips)
        x = _resnet(resnet, x, strips)
    return x


def _attention(attention: Any, x: Tensor, strips: Strips) -> Tensor:
    """Self-attention over all positions, a chunk of queries at a time; exact."""
    batch, channels, height, width = x.shape
    normed = attention.group_norm(x.to(strips.device).flatten(2))  # (B, C, HW)
    tokens = normed.transpose(1, 2)  # (B, HW, C)

    def heads(y: Tensor) -> Tensor:
        split = y.reshape(*y.shape[:2], attention.heads, -1)
        return split.transpose(1, 2)  # (B, heads, HW, C/heads)

    key, value = heads(attention.to_k(tokens)), heads(attention.to_v(tokens))
    parts = []
    for chunk in tokens.split(strips.rows * _QUERIES_PER_ROW_OF_STRIP, dim=1):
        mixed = F.scaled_dot_product_attention(heads(attention.to_q(chunk)), key, value)
        parts.append(attention.to_out[0](mixed.transpose(1, 2).flatten(2)))
    out = torch.cat(parts, dim=1).transpose(1, 2).reshape(batch, channels, height, width)
    mixed_in: Tensor = (out.to(x.device) + x) / attention.rescale_output_factor
    return mixed_in


def _normed(norm: Any, x: Tensor, strips: Strips) -> Callable[[Tensor], Tensor]:
    """Group norm with the statistics of the complete map, then SiLU, as a function of a strip."""
    mean, deviation = _statistics(x, norm.num_groups, norm.eps, strips)
    # (x - mean) / deviation * weight + bias as one multiplication and one addition
    scale = norm.weight.float() / deviation  # (B, C)
    shift = norm.bias.float() - mean * scale

    def activate(strip: Tensor) -> Tensor:
        h = strip.float() * scale[:, :, None, None] + shift[:, :, None, None]
        return F.silu(h.to(strip.dtype))

    return activate


def _statistics(x: Tensor, groups: int, eps: float, strips: Strips) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(variance + eps) of each group over the complete map, both (B, C) in float32.

    Strips are merged by their means and squared deviations (Chan, Golub and LeVeque 1983), which
    does not cancel as sums of squares do.
    """
    batch, channels = x.shape[:2]
    count, mean, spread = 0, torch.zeros(()), torch.zeros(())
    for top, bottom in strips.spans(x.shape[2]):
        part = strips.take(x, top, bottom).float().reshape(batch, groups, -1)
        size = part.shape[2]
        part_spread, part_mean = torch.var_mean(part, dim=2, correction=0)
        if count == 0:
            count, mean, spread = size, part_mean, part_spread * size
            continue
        # M2 = M2_a + M2_b + delta^2 n_a n_b / n, mean = mean_a + delta n_b / n
        delta, total = part_mean - mean, count + size
        mean = mean + delta * (size / total)
        spread = spread + part_spread * size + delta**2 * (count * size / total)
        count = total
    deviation = (spread / count + eps).sqrt()
    width = channels // groups  # (B, G) -> (B, C)
    return mean.repeat_interleave(width, dim=1), deviation.repeat_interleave(width, dim=1)


def _conv(
    conv: Any, x: Tensor, strips: Strips, activate: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """A convolution of stride 1 over a complete map, strip by strip."""
    out = x.new_empty(x.shape[0], conv.out_channels, *x.shape[2:])
    for top, bottom in strips.spans(x.shape[2]):
        rows = _conv_rows(conv, x, top, bottom, strips, activate)
        out[:, :, top:bottom] = rows.to(out.device)
    return out


def _conv_rows(
    conv: Any,
    x: Tensor,
    top: int,
    bottom: int,
    strips: Strips,
    activate: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Rows `top` to `bottom` of conv(activate(x)): zeros only beyond the map, not the strip."""
    reach, side = conv.padding
    above, below = max(top - reach, 0), min(bottom + reach, x.shape[2])
    h = strips.take(x, above, below)
    # Activated before the zeros are added: the layer pads the activated map.
    if activate is not None:
        h = activate(h)
    missing = (reach - (top - above), reach - (below - bottom))
    h = F.pad(h, (side, side, *missing))
    return F.conv2d(h, conv.weight, conv.bias)


def _downsample(conv: Any, x: Tensor, strips: Strips) -> Tensor:
    """A 3x3 convolution of stride 2 whose padding is only below and to the right."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    out = x.new_empty(x.shape[0], conv.out_channels, height, width)
    for top, bottom in strips.spans(height):
        # Rows 2 top ... 2 bottom of the input give rows top ... bottom - 1 of the output.
        h = strips.take(x, 2 * top, 2 * bottom + 1)
        h = F.pad(h, (0, 1, 0, 2 * bottom + 1 - min(2 * bottom + 1, x.shape[2])))
        out[:, :, top:bottom] = F.conv2d(h, conv.weight, conv.bias, stride=2).to(out.device)
    return out


def _upsample(conv: Any, x: Tensor, strips: Strips) -> Tensor:
    """Nearest-neighbour enlargement by 2, then a 3x3 convolution."""
    height = x.shape[2]
    out = x.new_empty(x.shape[0], conv.out_channels, 2 * height, 2 * x.shape[3])
    for top, bottom in strips.spans(height):
        above, below = max(top - 1, 0), min(bottom + 1, height)
        h = F.interpolate(strips.take(x, above, below), scale_factor=2.0, mode="nearest")
        # One enlarged row on either side is enough; beyond the map it is zero.
        first, last = 2 * (top - above) - 1, 2 * (below - bottom) - 1
        h = h[:, :, max(first, 0) : h.shape[2] - max(last, 0)]
        h = F.pad(h, (1, 1, int(above == top), int(below == bottom)))
        out[:, :, 2 * top : 2 * bottom] = F.conv2d(h, conv.weight, conv.bias).to(out.device)
    return out
