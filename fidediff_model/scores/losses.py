"""Losses of a restoration: L1, a perceptual distance, the reblur and the timestep loss.

FideDiff (arXiv 2510.01641): L = L1 + lambda1 x L_EA-LPIPS + lambda2 x L_G; its ablation ranks
EA-LPIPS before LPIPS before DISTS. L_G lives in `discriminator.py`. The weights are not published:
lambda1 = 2 is our choice.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from fidediff_model.model.reblur import kernel_size_of, reblur
from fidediff_model.scores.perceptual import DISTS, LPIPS
from fidediff_model.weights.vgg import VGG16

Perceptual = Literal["none", "lpips", "ea-lpips", "dists"]
PERCEPTUALS: tuple[Perceptual, ...] = get_args(Perceptual)
"""The perceptual distances that a setting may name."""

_TIMESTEP_SCALE = 1000.0
# Added to the squared gradients; the slope of sqrt at 0, on flat areas, is infinite without it.
_SOBEL_EPS = 1e-6


class LossTerms(NamedTuple):
    """A loss and what it is made of: scalars in float32, the parts not yet weighed."""

    total: Tensor
    l1: Tensor
    perceptual: Tensor


class ReconstructionLoss(nn.Module):
    """l1_weight x L1 + perceptual_weight x a perceptual distance, means over the batch.

    Args:
        vgg: the backbone; None only for `perceptual="none"`.
        perceptual: `none`, `lpips`, `ea-lpips` or `dists`.
        l1_weight: weight of L1 in pixels of [-1, 1] (paper: 1).
        perceptual_weight: lambda1 (our choice: 2).

    Raises:
        ValueError: a perceptual distance without a backbone, or one of another name.
    """

    def __init__(
        self,
        vgg: VGG16 | None,
        *,
        perceptual: Perceptual = "ea-lpips",
        l1_weight: float = 1.0,
        perceptual_weight: float = 2.0,
    ) -> None:
        super().__init__()
        if perceptual not in PERCEPTUALS:
            raise ValueError(f"perceptual is one of {', '.join(PERCEPTUALS)}, not {perceptual}")
        if perceptual != "none" and vgg is None:
            raise ValueError(f"{perceptual} needs a VGG16 backbone: vgg.open_vgg16 gives one")
        self.kind: Perceptual = perceptual
        self.l1_weight = l1_weight
        self.perceptual_weight = perceptual_weight
        self.distance: nn.Module | None = None
        if vgg is not None and perceptual != "none":
            self.distance = DISTS(vgg) if perceptual == "dists" else LPIPS(vgg)

    def forward(
        self, restored: Tensor, sharp: Tensor, trajectory: Tensor | None = None
    ) -> LossTerms:
        """The loss of a batch.

        Args:
            restored: (B, 3, H, W), nominally in [-1, 1]; gradients flow into it.
            sharp: the same shape, in [-1, 1]; with `trajectory` (T, 3, H, W).
            trajectory: (B,), which of `sharp` each restored image belongs to.
        """
        target = sharp if trajectory is None else sharp[trajectory]
        l1 = functional.l1_loss(restored.float(), target.float())
        perceptual = torch.zeros_like(l1)
        if isinstance(self.distance, LPIPS) and self.kind == "ea-lpips":
            perceptual = edge_aware_lpips(self.distance, restored, sharp, trajectory).mean()
        elif self.distance is not None:
            perceptual = self.distance(restored, sharp, trajectory).mean()
        total = self.l1_weight * l1 + self.perceptual_weight * perceptual
        return LossTerms(total, l1, perceptual)


def edge_aware_lpips(
    lpips: LPIPS, restored: Tensor, sharp: Tensor, trajectory: Tensor | None = None
) -> Tensor:
    """EA-LPIPS: LPIPS of the images + LPIPS of their Sobel magnitudes.

    Both weigh 1, as in the line of work that FideDiff takes it from (prior). Images and edges go
    through the backbone together.

    Args:
        lpips: the distance.
        restored: (B, 3, H, W), nominally in [-1, 1].
        sharp: the same shape, or with `trajectory` (T, 3, H, W).
        trajectory: (B,), which of `sharp` each restored image belongs to.

    Returns:
        (B,) float32, at least 0.
    """
    if trajectory is None:
        trajectory = torch.arange(len(sharp), device=sharp.device)
    distances: Tensor = lpips(
        torch.cat([restored, sobel_magnitude(restored)]),
        torch.cat([sharp, sobel_magnitude(sharp)]),
        torch.cat([trajectory, trajectory + len(sharp)]),
    )
    return distances.view(2, -1).sum(dim=0)  # image + edges


def sobel_magnitude(image: Tensor) -> Tensor:
    """Strength of the edges of each channel, in the range that LPIPS wants.

    2 sqrt(gx^2 + gy^2 + 1e-6) - 1 with Sobel's gx and gy scaled so that the step from -1 to 1
    along an axis is 1: flat areas are about -1, such a step is 1, a diagonal one 1.06 x.

    Args:
        image: (B, C, H, W) in [-1, 1].

    Returns:
        (B, C, H, W) float32, nominally in [-1, 1]; the border is continued.
    """
    padded = functional.pad(image.float(), (1, 1, 1, 1), mode="replicate")
    # Differences first, then the 1-2-1 mean across; 8 = 4 (sum of 1-2-1) x 2 (range of [-1, 1]).
    dx = padded[..., 2:] - padded[..., :-2]
    dy = padded[..., 2:, :] - padded[..., :-2, :]
    gx = (dx[..., :-2, :] + 2 * dx[..., 1:-1, :] + dx[..., 2:, :]) / 8
    gy = (dy[..., :-2] + 2 * dy[..., 1:-1] + dy[..., 2:]) / 8
    return 2 * (gx.square() + gy.square() + _SOBEL_EPS).sqrt() - 1


def reblur_loss(kernels: Tensor, sharp: Tensor, blur: Tensor) -> Tensor:
    """L1 between the reblurred sharp image and the blur: what trains M (stage kernel).

    L1(M(I_blur) * I_sharp, I_blur); the paper's public note swaps the two names, but only this
    order makes a reblur. The rim where kernels reach over the border is left out: what moved in
    from outside the crop is not in the sharp crop, so no kernel explains it.

    Args:
        kernels: (B, K, H, W), M's answer to `blur`.
        sharp: (B, 3, H, W).
        blur: (B, 3, H, W).

    Returns:
        Scalar, float32.
    """
    reblurred = without_rim(reblur(sharp, kernels), kernels)
    return functional.l1_loss(reblurred, without_rim(blur, kernels).float())


def without_rim(image: Tensor, kernels: Tensor) -> Tensor:
    """The interior of (B, C, H, W) whose kernels (B, K, H, W) stay inside the image.

    Of an image smaller than four rims, half of each side is kept (our choice).
    """
    height, width = image.shape[-2:]
    rim = min(kernel_size_of(kernels.shape[1]) // 2, height // 4, width // 4)
    return image[..., rim : height - rim, rim : width - rim]


def timestep_loss(t_hat: Tensor, timestep: Tensor) -> Tensor:
    """L_time: mean |t_hat - t| / 1000 (the paper names it without a formula: our choice).

    Args:
        t_hat: (B,) in [0, 999].
        timestep: (B,) from the manifest.

    Returns:
        Scalar, float32.
    """
    return functional.l1_loss(t_hat.float(), timestep.float()) / _TIMESTEP_SCALE
