"""The AlexNet backbone of LPIPS: the net behind most published LPIPS of restorations."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from fidediff_model.weights.backbone import BackboneFile, open_backbone, randomise

FILE = BackboneFile(
    "AlexNet",
    "--alexnet",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "7be5be79",
    "evaluate --lpips-net vgg",
    "AlexNet of 2012 with its two towers does not fit",
)
WIDTHS = (64, 192, 384, 256, 256)
"""Channels of the five feature maps."""

# torchvision's `features`: index, channels in, channels out, kernel, stride, padding.
_CONVOLUTIONS = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
_POOLED_BEFORE = (3, 6)


class AlexNet(nn.Module):
    """The convolutions of AlexNet, frozen (Krizhevsky 2014, one tower, as in torchvision).

    Its weights are not set yet: `open_alexnet` gives one that has them.

    Args:
        source: where its weights come from, for reports.
    """

    smallest_side = 31
    """Smallest side in pixels; the stride and two poolings leave one cell of it."""
    heads = "lpips-alex"
    """Name of LPIPS' linear heads for this network."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        # Left unset: drawing weights that are read next anyway would shift the global generator.
        self.features = nn.ModuleDict(
            {
                str(at): skip_init(  # type: ignore[no-untyped-call]
                    nn.Conv2d, a, b, kernel, stride=stride, padding=padding
                )
                for at, a, b, kernel, stride, padding in _CONVOLUTIONS
            }
        )
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """The feature maps after each of the five ReLUs.

        Args:
            x: (B, 3, H, W), normalised as LPIPS needs it; H, W of at least 31.

        Returns:
            Five maps (B, 64, H/4, W/4), (B, 192, H/8, W/8), then of 384, 256 and 256 channels at
            (H/16, W/16), all rounded down.
        """
        maps: list[Tensor] = []
        for at, *_ in _CONVOLUTIONS:
            if at in _POOLED_BEFORE:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(self.features[str(at)](x))
            maps.append(x)
        return maps


def open_alexnet(spec: str | Path | None, *, needed_by: str) -> AlexNet:
    """The backbone that `--alexnet` names; see `open_backbone`."""
    return open_backbone(FILE, spec, AlexNet, needed_by=needed_by)


def random_alexnet(seed: int) -> AlexNet:
    """Seeded random weights: for tests alone."""
    return randomise(AlexNet, FILE, seed=seed)
