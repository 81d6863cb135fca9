"""The scores and seconds that the FideDiff paper prints, and where they may stand beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fidediff_model.evaluate.sets import Pair

SOURCE = "FideDiff, arXiv 2510.01641"
IMAGES = {"gopro": 1_111, "realblur-j": 980, "realblur-r": 980}
"""Images of each test set."""
_GOPRO_TEST = (
    *("GOPR0384_11_00", "GOPR0384_11_05", "GOPR0385_11_01", "GOPR0396_11_00", "GOPR0410_11_00"),
    *("GOPR0854_11_00", "GOPR0862_11_00", "GOPR0868_11_00", "GOPR0869_11_00", "GOPR0871_11_00"),
    "GOPR0881_11_01",
)
"""The test sequences of GoPro (Nah et al. 2017)."""


@dataclass(frozen=True)
class PaperScore:
    """A row of the paper: the set, the method, and its scores; None where it gives none."""

    data: str
    method: str
    psnr: float | None = None
    lpips: float | None = None
    dists: float | None = None

    @property
    def scores(self) -> dict[str, float | None]:
        """The scores by metric; `lpips` is of a network that the paper does not state."""
        return {"psnr": self.psnr, "lpips": self.lpips, "dists": self.dists}


PAPER = (
    PaperScore("gopro", "AdaRevD", 34.60, 0.0712, 0.0672),
    PaperScore("gopro", "DiffBIR", 26.15, 0.2366, 0.1460),
    PaperScore("gopro", "OSEDiff-s1", 24.34, 0.1738, 0.0834),
    PaperScore("gopro", "FideDiff", 28.79, 0.0831, 0.0525),
    PaperScore("realblur-j", "AdaRevD", 30.12, 0.1408, 0.1037),
    PaperScore("realblur-j", "DiffBIR", 26.92, 0.2587, 0.1599),
    PaperScore("realblur-j", "OSEDiff-s1", 26.83, 0.1793, 0.1198),
    PaperScore("realblur-j", "FideDiff", 28.96, 0.1142, 0.0800),
    PaperScore("realblur-r", "AdaRevD", lpips=0.0621),
    PaperScore("realblur-r", "DiffBIR", lpips=0.3388),
    PaperScore("realblur-r", "OSEDiff-s1", lpips=0.1057),
    PaperScore("realblur-r", "FideDiff", 36.01, 0.0584),
)
"""The paper's tables, copied; not measured here."""

PAPER_SECONDS = (
    ("DiffBIR, 50 steps", 25.40),
    ("Diff-Plugin, 20 steps", 5.29),
    ("AdaRevD", 1.09),
    ("FideDiff, d = 4 in full", 1.52),
    ("FideDiff, d = 8 without Kernel ControlNet", 0.25),
)
"""Seconds per GoPro image (1280 x 720) from the paper, arXiv 2510.01641."""


@dataclass(frozen=True)
class PaperRows:
    """Which rows of the paper to print: those of the set `data`."""

    data: str

    def notes(self, images: Sequence[int]) -> Iterable[str]:
        """What a reader must know of these rows beside results on so many images."""
        yield f"Rows marked (paper) are from {SOURCE}; they were not measured here."
        whole = IMAGES[self.data]
        if any(count != whole for count in images):
            counts = ", ".join(f"{count:,}" for count in images)
            yield (
                f"The paper's rows are of all {whole:,} images of {self.data}, the results here of"
                f" {counts}: NOT comparable."
            )


def rows_for(choice: str, pairs: Sequence[Pair]) -> PaperRows | None:
    """The paper's rows that `--paper` asks for.

    Args:
        choice: a set; `none`; or `auto`: GoPro's where `pairs` are its whole test set.
        pairs: what is scored.
    """
    if choice == "auto":
        names = {pair.sample_id.replace("-", "/").partition("/")[0] for pair in pairs}
        native = all(pair.n_frames in (None, 11) for pair in pairs)
        whole = len(pairs) == IMAGES["gopro"] and names == set(_GOPRO_TEST) and native
        choice = "gopro" if whole else "none"
    return None if choice == "none" else PaperRows(choice)
