"""Two layers of the base network made for CUDA in the channels-last format, at inference.

torch 2.11's own kernels spend 60 % of a restoration on an H100 in group norm and 11 % in the
VAE's attention (docs/decisions/0025): group norm copies a channels-last map to the other format
and back and takes its statistics in as many blocks as there are groups, and no fast attention
kernel takes the VAE's single head of 512. Here are the same functions from operations that are
fast on such maps. Elsewhere, and where gradients are wanted, the stock layers run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORE_BYTES = 512 << 20
"""How much of the VAE's attention scores is held at once."""
COMPILED_KINDS = ("BasicTransformerBlock", "ResnetBlock2D")
_GRAPHS = 512


class ChannelsLastGroupNorm(nn.GroupNorm):
    """Group norm that reads and writes a channels-last map (B, C, H, W) as it is in memory.

    The mean and variance of each channel come first and are merged to those of its group (Chan,
    Golub and LeVeque 1983), all in float32.
    """

    @classmethod
    def of(cls, norm: nn.GroupNorm) -> ChannelsLastGroupNorm:
        """The same layer, sharing its parameters."""
        made = cls(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        made.affine, made.weight, made.bias = norm.affine, norm.weight, norm.bias
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same, in the type and format of x."""
        if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        if not self.affine or torch.is_grad_enabled():
            return super().forward(x)
        # Per channel first: channels are what a channels-last map has side by side in memory.
        mean, variance = self._of_groups(*channel_moments(x))
        if not x.is_cuda or torch.compiler.is_compiling():
            scale = self.weight.float() * (variance + self.eps).rsqrt()  # (B, C)
            centred = x.float() - mean[:, :, None, None]
            shifted = centred * scale[:, :, None, None] + self.bias.float()[:, None, None]
            return shifted.to(x.dtype)
        # The element-wise half of synchronised batch norm, which takes one image's statistics.
        out = torch.empty_like(x)
        inverse = (variance + self.eps).rsqrt()
        for i in range(x.shape[0]):
            torch.ops.aten.batch_norm_elemt.out(
                x[i : i + 1], self.weight, self.bias, mean[i], inverse[i], self.eps,
                out=out[i : i + 1],
            )  # fmt: skip
        return out

    def _of_groups(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the groups, repeated to (B, C), from those of the channels."""
        shape = (mean.shape[0], self.num_groups, -1)
        # Channels have equally many pixels: var of a group = var of the means + mean of the vars.
        between, of_group = torch.var_mean(mean.view(shape), dim=2, correction=0, keepdim=True)
        within = variance.view(shape).mean(dim=2, keepdim=True)
        width = mean.shape[1] // self.num_groups
        wide = (*of_group.shape[:2], width)
        spread = (between + within).expand(wide)
        return of_group.expand(wide).reshape(mean.shape), spread.reshape(mean.shape)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of each image: (B, C, H, W) -> 2 x (B, C) float32.

    On CUDA by the statistics half of synchronised batch norm (Welford). Under a compiler, and on
    CPUs, by sums of x and of its square about the channel's first pixel: one pass over x, and
    no cancellation where a mean is large beside its deviation.
    """
    if x.is_cuda and not torch.compiler.is_compiling():
        found = [torch.batch_norm_stats(x[i : i + 1], 0.0) for i in range(x.shape[0])]
        mean, inverse = (torch.stack(each) for each in zip(*found, strict=True))
        return mean, inverse.pow(-2)
    first = x[:, :, :1, :1].float()
    shifted = x.float() - first
    mean = shifted.mean(dim=(2, 3))
    variance = shifted.square().mean(dim=(2, 3)) - mean.square()
    return mean + first[:, :, 0, 0], variance.clamp(min=0)


class WideHeadAttention:
    """diffusers' attention processor for the VAE: one head over all its channels.

    The scores of some rows at a time stand in float16: its eleven bits keep a softmax's weights
    eight times as exact as bfloat16's, and after group norm nothing nears its range.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) to the same: attention over all places, with the residual.

        The last three are what diffusers gives every processor; in a VAE they say nothing.
        """
        x = hidden_states
        # The stock function is exact; in half precision it has no fast kernel for 512 channels.
        exact = x.dtype == torch.float32
        attend: Any = F.scaled_dot_product_attention if exact else attention_by_rows
        tokens = attn.group_norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, C)
        mixed = attend(attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens))
        mixed = attn.to_out[0](mixed.to(x.dtype))
        batch, channels, height, width = x.shape
        # (B, HW, C) seen as a channels-last map
        out = mixed.view(batch, height, width, channels).permute(0, 3, 1, 2)
        restored: Tensor = (out + x) / attn.rescale_output_factor
        return restored


def attention_by_rows(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k' / sqrt(C)) v in float16, `SCORE_BYTES` of scores at a time.

    Args:
        query: (B, N, C), C a head's width.
        key: (B, M, C).
        value: (B, M, C).

    Returns:
        (B, N, C) float16.
    """
    scale = query.shape[-1] ** -0.5
    # Scaled before the product, so that no score leaves the range of float16.
    query, key, value = query.half() * scale, key.half(), value.half()
    rows = max(1, SCORE_BYTES // (2 * key.shape[1]))
    out = torch.empty_like(query)
    for image in range(query.shape[0]):
        keys = key[image].T
        for top in range(0, query.shape[1], rows):
            scores = query[image, top : top + rows] @ keys  # (rows, M)
            # Into place: a list of bands and torch.cat would keep the result twice.
            torch.mm(scores.softmax(dim=-1), value[image], out=out[image, top : top + rows])
    return out


def to_channels_last(module: nn.Module) -> None:
    """Convert weights to channels-last, group norms and a VAE's attention to their fast forms.

    In place; parameters, names and results stay, and a second call changes nothing.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.GroupNorm:
                setattr(parent, name, ChannelsLastGroupNorm.of(child))
    for part in (getattr(module, "encoder", None), getattr(module, "decoder", None)):
        for attention in getattr(getattr(part, "mid_block", None), "attentions", None) or ():
            if attention is not None and attention.heads == 1:
                attention.set_processor(WideHeadAttention())


def compile_regions(*parts: nn.Module | None, backend: str = "inductor") -> None:
    """Compile the blocks that repeat; weights and their names stay as they are.

    Whole models compile for minutes; equal blocks of one size share their code. Every size of
    image is compiled for itself: code for any size took 12 % longer in the VAE (decision 25).

    Args:
        parts: UNet, VAE, control; None is passed over.
        backend: of `torch.compile`.
    """
    # A block counts once for each width and size that it occurs in, some 40 for one image size,
    # and past torch's limit of 8 it runs uncompiled without a word.
    dynamo: Any = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # torch 2.6 has the second alone
        if hasattr(dynamo, name):
            setattr(dynamo, name, max(getattr(dynamo, name), _GRAPHS))
    for name in ("accumulated_recompile_limit", "accumulated_cache_size_limit"):
        if hasattr(dynamo, name):
            setattr(dynamo, name, max(getattr(dynamo, name), 8 * _GRAPHS))
    for part in parts:
        for module in part.modules() if part is not None else ():
            if type(module).__name__ in COMPILED_KINDS:
                module.compile(dynamic=False, backend=backend)
