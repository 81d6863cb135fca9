"""Scores after alignment, as RealBlur asks for them.

RealBlur's pairs come from two cameras: a sharp photograph is a pixel or so off its blur. Its
authors (Rim et al., ECCV 2020, `evaluation_RealBlur.py`) bring the restoration to the sharp image's
intensity by least squares, find a homography by 100 iterations of ECC on gray images (Gaussian of
5 x 5), warp bicubically, and score only the pixels that the warped image covers. Here are the same
steps in the same order with the same settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from fidediff_model.scores.metrics import Image
from trajectory_builder.errors import ImageError

ITERATIONS = 100
GAUSSIAN = 5
# ndimage's radius for sigma 1.5 cut at 3.5 sigma: the rim whose windows leave the image.
_SSIM_RIM = 5

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Aligned:
    """A restoration brought onto its sharp image.

    Attributes:
        restored: (H, W, 3) float32 in about [0, 1], zero where not covered.
        sharp: the same, zero where the restoration does not cover it.
        mask: (H, W, 3) float32, 1 where covered.
        warp: (3, 3), maps pixels of `sharp` to pixels of the restoration.
    """

    restored: _Floats
    sharp: _Floats
    mask: _Floats
    warp: _Floats

    def psnr(self) -> float:
        """PSNR over the covered pixels, in decibels."""
        difference = (self.sharp - self.restored).astype(np.float64)
        error = float((difference**2).sum() / self.mask.sum(dtype=np.float64))
        return math.inf if error == 0 else 10 * math.log10(1 / error)

    def ssim(self) -> float:
        """Gaussian SSIM of range 1, its map averaged over the covered pixels inside the rim."""
        result: Any = structural_similarity(  # type: ignore[no-untyped-call]
            self.sharp,
            self.restored,
            channel_axis=2,
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )
        inside = (slice(_SSIM_RIM, -_SSIM_RIM),) * 2
        covered = self.mask[inside].astype(np.float64)
        # In float64: sums of a map in float32 lose the fourth digit.
        similarity = result[1].astype(np.float64)[inside] * covered
        values = similarity.sum(axis=(0, 1)) / covered.sum(axis=(0, 1))
        return float(values.mean())

    def as_uint8(self) -> tuple[Image, Image]:
        """Restoration and sharp image as 8-bit RGB, for the perceptual scores."""
        return _to_bytes(self.restored), _to_bytes(self.sharp)


def align(restored: Image, sharp: Image) -> Aligned:
    """Bring a restoration onto its sharp image.

    Args:
        restored: (H, W, 3) uint8, RGB.
        sharp: the same shape.

    Raises:
        ImageError: ECC does not converge, as on images without structure.
    """
    x: _Floats = sharp.astype(np.float32) / np.float32(255)
    z: _Floats = restored.astype(np.float32) / np.float32(255)
    energy = float((z * z).sum())
    # Least squares: a = <x, z> / <z, z> minimises |x - a z|^2.
    z = z * np.float32((x * z).sum() / energy) if energy else z
    warp: Any = np.eye(3, dtype=np.float32)
    no_mask: Any = None
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, 0)
    try:
        _, warp = cv2.findTransformECC(
            cv2.cvtColor(x, cv2.COLOR_RGB2GRAY),
            cv2.cvtColor(z, cv2.COLOR_RGB2GRAY),
            warp,
            cv2.MOTION_HOMOGRAPHY,
            criteria,
            inputMask=no_mask,
            gaussFiltSize=GAUSSIAN,
        )
    except cv2.error as error:
        raise ImageError(
            "the restoration cannot be aligned with its sharp image",
            where=f"ECC on {sharp.shape[1]} x {sharp.shape[0]} pixels",
            cure="score it without --align, or leave the image out",
        ) from error
    moved = _warp(z, warp, cv2.INTER_CUBIC, cv2.BORDER_REFLECT)
    mask = _warp(np.ones_like(z), warp, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
    return Aligned(moved * mask, x * mask, mask, warp)


def _warp(image: _Floats, warp: _Floats, interpolation: int, border: int) -> _Floats:
    height, width = image.shape[:2]
    flags = interpolation | cv2.WARP_INVERSE_MAP
    moved: Any = cv2.warpPerspective(image, warp, (width, height), flags=flags, borderMode=border)
    values: _Floats = moved
    return values


def _to_bytes(image: _Floats) -> Image:
    values: Image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return values
