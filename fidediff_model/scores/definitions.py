"""Every score by name: its heading, its definition, whose tables use it. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        "SSIM: 8-bit RGB, Gaussian 11 x 11 of sigma 1.5, population covariance, range 255, the"
        " mean over channels; that of scikit-image with those settings and of BasicSR's tables.",
    ),
    "ssim-matlab": Definition(
        "SSIM (MATLAB)",
        "SSIM (MATLAB): `ssim` on the RGB array as a volume, 11 x 11 x 11; that of the tables of"
        " MPRNet, HINet, NAFNet, Restormer, FFTformer and AdaRevD. Higher than SSIM.",
    ),
    "lpips-vgg": Definition(
        "LPIPS (VGG)",
        "LPIPS (VGG): VGG16, version 0.1; the usual training loss.",
        lower_is_better=True,
    ),
    "lpips-alex": Definition(
        "LPIPS (Alex)",
        "LPIPS (Alex): AlexNet, version 0.1; the default of `lpips`, pyiqa and BasicSR.",
        lower_is_better=True,
    ),
    "lpips": Definition(
        "LPIPS (net not stated)",
        "LPIPS (net not stated): the paper does not say whether AlexNet or VGG16; not comparable"
        " with a column of either.",
        lower_is_better=True,
    ),
    "dists": Definition(
        "DISTS",
        "DISTS: VGG16 (Ding et al. 2020), as DISTS-pytorch and pyiqa.",
        lower_is_better=True,
    ),
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
"""The columns of a table, in order. `lpips` is that of the paper's rows alone."""

LPIPS_NETS = ("vgg", "alex")
OFFERED = tuple(name for name in METRICS if not name.startswith("lpips-"))
"""The names that `--metrics` takes; `lpips` there means the networks of `--lpips-net`."""


def columns(metrics: Iterable[str], lpips_net: Sequence[str] = ("vgg",)) -> tuple[str, ...]:
    """The columns that `--metrics` and `--lpips-net` ask for, each once, in the given order."""
    chosen: list[str] = []
    for name in metrics:
        chosen += [f"lpips-{net}" for net in lpips_net] if name == "lpips" else [name]
    return tuple(dict.fromkeys(chosen))
