"""PSNR and SSIM as deblurring benchmarks compute them, and the spread of a trajectory's results.

On 8-bit RGB images, in float64, one image at a time: a set's score is the mean over its images.
A pooled PSNR of a batch, or one of unrounded floats, is another number.

Three SSIMs go by one name in the literature, so each is named here by what it agrees with.
RGB is used as it is; nothing is converted to luma and no border is cut.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

Image = npt.NDArray[np.uint8]
"""An image (H, W, 3), RGB, 8 bits."""

SsimVariant = Literal["gaussian", "uniform", "matlab"]
SSIM_VARIANTS: tuple[SsimVariant, ...] = get_args(SsimVariant)

_RANGE = 255.0
_C1 = (0.01 * _RANGE) ** 2
_C2 = (0.03 * _RANGE) ** 2
_SIGMA = 1.5
_RADIUS = 5

_Volume = npt.NDArray[np.float64]


def psnr(restored: Image, sharp: Image) -> float:
    """Peak signal-to-noise ratio: 10 log10(255^2 / MSE) over all pixels and channels.

    Args:
        restored: (H, W, 3) uint8.
        sharp: the same shape.

    Returns:
        Decibels; infinity for equal images.

    Raises:
        ValueError: the images are not uint8 RGB of one size.
    """
    _check(restored, sharp)
    difference = restored.astype(np.float64) - sharp
    error = float(np.mean(difference * difference))
    return math.inf if error == 0 else 10 * math.log10(_RANGE**2 / error)


def ssim(restored: Image, sharp: Image, *, variant: SsimVariant = "gaussian") -> float:
    """Structural similarity (Wang et al. 2004), C1 = (0.01 x 255)^2, C2 = (0.03 x 255)^2.

    Args:
        restored: (H, W, 3) uint8, sides of at least 11 pixels.
        sharp: the same shape.
        variant: which of the usual three:

            - `gaussian`: 11 x 11 window, sigma 1.5, population covariance, the mean over channels
              and over pixels whose window lies inside; scikit-image's `structural_similarity(
              channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
              data_range=255)`. Wang's settings, and what most Python evaluations use.
            - `uniform`: 7 x 7 box, sample covariance: scikit-image's defaults with
              `channel_axis=2, data_range=255`.
            - `matlab`: MATLAB's `ssim(A, B)` on an RGB array, which it takes for a volume:
              11 x 11 x 11 window, sigma 1.5, the border replicated, the mean over all voxels.
              What MATLAB scripts of GoPro papers report; higher than the others.

    Returns:
        At most 1; 1 for equal images.

    Raises:
        ValueError: the images are not uint8 RGB of one size, too small, or the variant unknown.
    """
    _check(restored, sharp)
    if min(restored.shape[:2]) < 2 * _RADIUS + 1:
        raise ValueError(f"SSIM needs at least 11 x 11 pixels, not {restored.shape[:2]}")
    if variant not in SSIM_VARIANTS:
        raise ValueError(f"variant is one of {', '.join(SSIM_VARIANTS)}, not {variant}")
    if variant == "matlab":
        return _ssim_of_volumes(restored.astype(np.float64), sharp.astype(np.float64))
    wang = {"gaussian_weights": True, "sigma": _SIGMA, "use_sample_covariance": False}
    settings: dict[str, Any] = wang if variant == "gaussian" else {}
    score = structural_similarity(  # type: ignore[no-untyped-call]
        sharp, restored, channel_axis=2, data_range=_RANGE, **settings
    )
    return float(score)


def _ssim_of_volumes(a: _Volume, b: _Volume) -> float:
    """The mean SSIM of two (H, W, 3) arrays taken for volumes, as MATLAB's `ssim` does."""
    mean_a, mean_b = _smooth(a), _smooth(b)
    product = mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    covariance = _smooth(a * b) - product
    spread = _smooth(a * a + b * b) - squares
    # Wang et al. 2004, equation 13: (2 m_a m_b + C1) (2 cov + C2)
    #   / ((m_a^2 + m_b^2 + C1) (var_a + var_b + C2)).
    similarity = ((2 * product + _C1) * (2 * covariance + _C2)) / ((squares + _C1) * (spread + _C2))
    return float(similarity.mean())


def _smooth(volume: _Volume) -> _Volume:
    """The Gaussian over height, width and the three channels, replicated at every border."""
    side = 2 * _RADIUS + 1
    planes = cv2.GaussianBlur(volume, (side, side), _SIGMA, borderType=cv2.BORDER_REPLICATE)
    smooth: _Volume = np.asarray(planes, dtype=np.float64) @ _channel_weights().T
    return smooth


def _channel_weights() -> _Volume:
    """(3, 3): how much of channel j the window centred on channel i sees.

    Taps that fall beyond the first or last channel count for that channel.
    """
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    taps = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    weights = np.zeros((3, 3))
    for channel in range(3):
        np.add.at(weights[channel], np.clip(channel + offsets, 0, 2), taps)
    return weights


def _check(restored: npt.NDArray[Any], sharp: npt.NDArray[Any]) -> None:
    for image in (restored, sharp):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"images are (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if restored.shape != sharp.shape:
        raise ValueError(f"images differ in size: {restored.shape} and {sharp.shape}")


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) uint8 as (3, H, W) float32 in [-1, 1]."""
    values = image.astype(np.float32) * np.float32(2 / _RANGE) - 1
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def as_uint8(image: Tensor) -> Image:
    """An image of the model as 8-bit RGB, as it would be written to a file.

    Args:
        image: (3, H, W) in [-1, 1], any floating dtype; values outside are clipped.

    Returns:
        (H, W, 3) uint8, rounded to the nearest.

    Raises:
        ValueError: another shape, or a value that is not a number.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"one image is (3, H, W), not {tuple(image.shape)}")
    scaled = (image.detach().float() + 1) * (_RANGE / 2)
    if not bool(scaled.isfinite().all()):
        raise ValueError("the image has values that are not finite")
    pixels = scaled.clamp(0, _RANGE).round().to(torch.uint8)
    rgb: Image = pixels.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
    return rgb


def trajectory_gap(restored: Tensor) -> float:
    """Mean pairwise L1 between the restorations of one trajectory's points.

    All points of a trajectory share one sharp image, so a consistent model restores all of them
    to the same image, with a gap of 0. A gap says nothing about sharpness: read it beside PSNR.

    Args:
        restored: (N, 3, H, W), N >= 2 restorations of the blurs of one trajectory, any range.

    Returns:
        Mean absolute difference over pairs, channels and pixels, in the input's units.

    Raises:
        ValueError: fewer than two restorations.
    """
    if restored.ndim != 4 or restored.shape[0] < 2:
        raise ValueError(f"at least two restorations (N, 3, H, W), not {tuple(restored.shape)}")
    points = restored.detach().float()
    count = points.shape[0]
    gaps = [
        (points[i] - points[j]).abs().mean(dtype=torch.float64)
        for i in range(count)
        for j in range(i + 1, count)
    ]
    return float(torch.stack(gaps).mean())
