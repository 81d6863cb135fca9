"""The VGG16 backbone of LPIPS and DISTS: read from a file that the user names, or refused.

One file serves both distances: torchvision's `vgg16-397923af.pth` (528 MB), or the 26 tensors of
its convolutions as safetensors (59 MB, `convert`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from fidediff_model.weights.backbone import (
    BackboneFile,
    convert_backbone,
    load_backbone,
    open_backbone,
    randomise,
)

FILE = BackboneFile(
    "VGG16",
    "--vgg16",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af",
    "train --perceptual none, evaluate --metrics psnr,ssim",
    "VGG19 and batch-normalised variants do not fit",
)
WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five feature maps."""

# The convolutions in torchvision's `features`, by block: (index, channels in, channels out).
_BLOCKS = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)

Pooling = Literal["max", "l2"]


class VGG16(nn.Module):
    """The convolutions of VGG16, frozen (Simonyan and Zisserman 2015, configuration D).

    Its weights are not set yet: `open_vgg16` gives one that has them.

    Args:
        source: where its weights come from, for reports.
    """

    hann: Tensor
    smallest_side = 16
    """Smallest side in pixels; four poolings leave one cell of it."""
    heads = "lpips-vgg"
    """Name of LPIPS' linear heads for this network."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        # Left unset: drawing weights that are read next anyway would shift the global generator.
        self.features = nn.ModuleDict(
            {
                str(at): skip_init(nn.Conv2d, a, b, 3, padding=1)  # type: ignore[no-untyped-call]
                for block in _BLOCKS
                for at, a, b in block
            }
        )
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("hann", (line[:, None] * line)[None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, *, pooling: Pooling = "max") -> list[Tensor]:
        """The feature maps after the last ReLU of each of the five blocks.

        Args:
            x: (B, 3, H, W), normalised as the caller's distance wants it; H, W of 16 at least.
            pooling: between blocks; "max" as published, or the "l2" pooling of DISTS.

        Returns:
            Five maps (B, 64, H, W), (B, 128, H/2, W/2), ... (B, 512, H/16, W/16).
        """
        maps: list[Tensor] = []
        for number, block in enumerate(_BLOCKS):
            if number:
                x = functional.max_pool2d(x, 2) if pooling == "max" else self._l2_pool(x)
            for at, _, _ in block:
                x = functional.relu(self.features[str(at)](x))
            maps.append(x)
        return maps

    def _l2_pool(self, x: Tensor) -> Tensor:
        """Root of the Hann-weighted mean of squares, stride 2 (DISTS, Ding et al. 2020)."""
        channels = x.shape[1]
        squares = functional.conv2d(
            x * x, self.hann.expand(channels, 1, 3, 3).to(x.dtype), None, 2, 1, 1, channels
        )
        return (squares + 1e-12).sqrt()


def open_vgg16(spec: str | Path | None, *, needed_by: str) -> VGG16:
    """The backbone that `--vgg16` names; see `open_backbone`."""
    return open_backbone(FILE, spec, VGG16, needed_by=needed_by)


def load_vgg16(path: Path) -> VGG16:
    """The backbone from torchvision's .pth or from the safetensors that `convert` writes.

    Raises:
        WeightsError: the file is absent, unreadable, or not of VGG16.
    """
    return load_backbone(FILE, path, VGG16)


def random_vgg16(seed: int) -> VGG16:
    """Seeded random weights: for tests alone."""
    return randomise(VGG16, FILE, seed=seed)


def convert(source: Path, target: Path) -> Path:
    """Write the 26 convolution tensors of a VGG16 file as safetensors (59 MB instead of 528)."""
    return convert_backbone(FILE, source, target, VGG16)
