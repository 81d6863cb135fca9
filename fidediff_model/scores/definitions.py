"""Every score by name: its heading, its definition, whose tables use it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """What a score is called and how it is computed.

    Attributes:
        heading: the column's heading.
        text: the definition in one sentence, printed under each table.
        lower_is_better: the direction in which to read it.
        decimals: digits printed after the point.
    """

    heading: str
    text: str
    lower_is_better: bool = False
    decimals: int = 4


METRICS = {
    "psnr": Definition(
        "PSNR",
        "PSNR: 8-bit RGB, 10 log10(255^2 / MSE) per image, then the mean over images.",
        decimals=2,
    ),
    "ssim": Definition(
        "SSIM",
        "SSIM: 8-bit RGB, Gaussian 11 x 11 of sigma 1.5, population covariance, range 255"
        " (scikit-image with those settings), the mean over channels.",
    ),
    "ssim-matlab": Definition(
        "SSIM (MATLAB)", "SSIM (MATLAB): `ssim` on the RGB array as a volume, 11 x 11 x 11."
    ),
    "lpips": Definition("LPIPS", "LPIPS: VGG16, version 0.1.", lower_is_better=True),
    "dists": Definition("DISTS", "DISTS: VGG16.", lower_is_better=True),
    "blur-effect": Definition(
        "blur effect",
        "Blur effect (Crete et al. 2007): no reference; 0 sharp, 1 blurred; as scikit-image,"
        " window of 11.",
        lower_is_better=True,
    ),
    "niqe": Definition(
        "NIQE", "NIQE: no reference, lower is better; by pyiqa.", lower_is_better=True
    ),
    "musiq": Definition("MUSIQ", "MUSIQ: no reference, higher is better; by pyiqa."),
    "maniqa": Definition("MANIQA", "MANIQA: no reference, higher is better; by pyiqa."),
    "clipiqa": Definition("CLIP-IQA", "CLIP-IQA: no reference, higher is better; by pyiqa."),
}
"""The scores that `evaluate` and `scan` offer, in the order of a table's columns."""
