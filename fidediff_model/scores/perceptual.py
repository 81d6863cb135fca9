"""LPIPS and DISTS: perceptual distances on a frozen backbone, as losses and as metrics.

Both are a few lines of arithmetic on a network's features: VGG16 or AlexNet for LPIPS, VGG16 for
DISTS. They are written here because the usual packages need torchvision, which breaks a CPU
install of torch; the small trained parts (LPIPS' linear heads, DISTS' alpha and beta) come with the
package (`weights.heads`). Images may leave [-1, 1]: an untrained model's do. Distances are per
image, in float32 also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fidediff_model.weights.alexnet import AlexNet
from fidediff_model.weights.heads import load_heads
from fidediff_model.weights.vgg import VGG16

# The input scaling that LPIPS was trained with: ImageNet's mean and deviation on [-1, 1].
_LPIPS_SHIFT = (-0.030, -0.088, -0.188)
_LPIPS_SCALE = (0.458, 0.448, 0.450)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

# Zero for an all-zero feature vector and a finite gradient there.
_UNIT_EPS = 1e-8
_LAYERS = 5
# c1 and c2 of DISTS.
_DISTS_EPS = 1e-6


class LPIPS(nn.Module):
    """LPIPS with a backbone and its linear heads, version 0.1 (Zhang et al. 2018).

    Args:
        backbone: VGG16, the usual training loss, or AlexNet, the usual metric. Their distances
            are different numbers.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: VGG16 | AlexNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("shift", _per_channel(_LPIPS_SHIFT), persistent=False)
        self.register_buffer("scale", _per_channel(_LPIPS_SCALE), persistent=False)
        for number, head in enumerate(load_heads(backbone.heads).values()):  # (1, C, 1, 1)
            self.register_buffer(f"head{number}", head, persistent=False)

    def forward(self, restored: Tensor, sharp: Tensor, index: Tensor | None = None) -> Tensor:
        """Distance of each image of `restored` from its image of `sharp`.

        Args:
            restored: (B, 3, H, W), nominally in [-1, 1]; sides of at least 16 pixels for VGG16,
                31 for AlexNet.
            sharp: the same shape, or with `index` (T, 3, H, W).
            index: (B,), which of `sharp` each image belongs to, so that one sharp image of several
                goes through the backbone once.

        Returns:
            (B,) float32, at least 0; 0 for equal images.

        Raises:
            ValueError: the shapes differ or are too small.
        """
        _check_images(restored, sharp, index, self.backbone.smallest_side)
        heads = [self.get_buffer(f"head{number}") for number in range(_LAYERS)]
        return lpips_distance(self._features(restored), _at(self._features(sharp), index), heads)

    def _features(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone((image - self.shift) / self.scale)
        return maps


class DISTS(nn.Module):
    """DISTS: structure and texture similarity of VGG16's features (Ding et al. 2020).

    Args:
        vgg: the backbone, shared with LPIPS where both are used.
    """

    mean: Tensor
    deviation: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, vgg: VGG16) -> None:
        super().__init__()
        self.vgg = vgg
        self.register_buffer("mean", _per_channel(_IMAGENET_MEAN), persistent=False)
        self.register_buffer("deviation", _per_channel(_IMAGENET_DEVIATION), persistent=False)
        # One weight for each channel of the image and of the five maps: 1,475.
        for name, weights in load_heads("dists").items():
            self.register_buffer(name, weights, persistent=False)

    def forward(self, restored: Tensor, sharp: Tensor, index: Tensor | None = None) -> Tensor:
        """Distance of each image of `restored` from its image of `sharp`.

        Args:
            restored: (B, 3, H, W), nominally in [-1, 1]; sides of at least 16 pixels.
            sharp: the same shape, or with `index` (T, 3, H, W).
            index: (B,), as for `LPIPS`.

        Returns:
            (B,) float32; 0 for equal images.

        Raises:
            ValueError: the shapes differ or are too small.
        """
        _check_images(restored, sharp, index, self.vgg.smallest_side)
        wanted = _at(self._features(sharp), index)
        return dists_distance(self._features(restored), wanted, self.alpha, self.beta)

    def _features(self, image: Tensor) -> list[Tensor]:
        unit = (image + 1) / 2
        maps: list[Tensor] = self.vgg((unit - self.mean) / self.deviation, pooling="l2")
        # The image itself is the first "feature map", which makes DISTS injective.
        return [unit, *maps]


def lpips_distance(
    restored: Sequence[Tensor], sharp: Sequence[Tensor], heads: Sequence[Tensor]
) -> Tensor:
    """Sum over layers of the spatial mean of weighted squared differences of unit features.

    d = sum_l mean_hw sum_c w_lc (a_lc / |a_l| - b_lc / |b_l|)^2 (Zhang et al. 2018), with
    |a| = sqrt(sum_c a_c^2 + 1e-8).

    Args:
        restored: feature maps, one (B, C, H, W) a layer.
        sharp: the same shapes.
        heads: weights, one (1, C, 1, 1) a layer.

    Returns:
        (B,) float32.
    """
    layers = [
        ((_unit(a.float()) - _unit(b.float())).square() * head).sum(dim=1).mean(dim=(1, 2))
        for a, b, head in zip(restored, sharp, heads, strict=True)
    ]
    return torch.stack(layers).sum(dim=0)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + _UNIT_EPS).sqrt()


def dists_distance(
    restored: Sequence[Tensor], sharp: Sequence[Tensor], alpha: Tensor, beta: Tensor
) -> Tensor:
    """1 - sum over layers and channels of alpha x texture + beta x structure (Ding et al. 2020).

    texture = (2 m_a m_b + c) / (m_a^2 + m_b^2 + c) of the channel means, structure = (2 cov + c)
    / (var_a + var_b + c), c = 1e-6; alpha and beta are divided by their joint sum. The covariance
    is taken of centred features: as mean(ab) - m_a m_b it cancels in float32, and equal images
    come out below 0.

    Args:
        restored: feature maps, one (B, C, H, W) a layer.
        sharp: the same shapes.
        alpha: texture weights (sum of all C,).
        beta: structure weights (sum of all C,).

    Returns:
        (B,) float32.
    """
    textures, structures = [], []
    for a, b in zip(restored, sharp, strict=True):
        a, b = a.float(), b.float()
        mean_a, mean_b = a.mean(dim=(2, 3)), b.mean(dim=(2, 3))  # (B, C)
        a, b = a - mean_a[:, :, None, None], b - mean_b[:, :, None, None]
        spread = a.square().mean(dim=(2, 3)) + b.square().mean(dim=(2, 3))
        covariance = (a * b).mean(dim=(2, 3))
        means = mean_a.square() + mean_b.square()
        textures.append((2 * mean_a * mean_b + _DISTS_EPS) / (means + _DISTS_EPS))
        structures.append((2 * covariance + _DISTS_EPS) / (spread + _DISTS_EPS))
    whole = alpha.sum() + beta.sum()
    # Weights of (1 - similarity) instead of 1 - weighted similarity: exactly 0 for equal images.
    lost = alpha * (1 - torch.cat(textures, 1)) + beta * (1 - torch.cat(structures, 1))  # (B, C)
    return lost.sum(dim=1) / whole


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def _at(maps: list[Tensor], index: Tensor | None) -> list[Tensor]:
    return maps if index is None else [each[index] for each in maps]


def _check_images(restored: Tensor, sharp: Tensor, index: Tensor | None, smallest: int) -> None:
    count = len(sharp) if index is None else len(index)
    if (count, *sharp.shape[1:]) != restored.shape or restored.ndim != 4 or sharp.shape[1] != 3:
        raise ValueError(
            f"images must both be (B, 3, H, W), not {tuple(restored.shape)}"
            f" and {tuple(sharp.shape)}"
        )
    if min(restored.shape[2:]) < smallest:
        raise ValueError(
            f"sides must be at least {smallest} pixels, not {tuple(restored.shape[2:])}"
        )
