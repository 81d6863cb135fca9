"""Scores of a restoration alone, without its sharp image.

`blur-effect` (Crete et al. 2007) is arithmetic, needs no weights and is always available. NIQE and
the learnt ones come from pyiqa where the user has installed it: its licence is non-commercial and
it needs torchvision, so it is no dependency (decision 22). No such score knows the scene: an
invented texture can win. Read them beside PSNR and LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
import torch
from skimage.measure import blur_effect as _blur_effect

from fidediff_model.errors import WeightsError
from fidediff_model.scores.metrics import Image
from trajectory_builder.errors import ExitCode

Learnt = Literal["niqe", "musiq", "maniqa", "clipiqa"]
LEARNT: tuple[Learnt, ...] = get_args(Learnt)
"""Scores that pyiqa makes, by its own names."""

_WINDOW = 11
# pyiqa is not installed, it or its torchvision does not load, or its weights cannot be fetched.
_UNUSABLE = (ImportError, RuntimeError, OSError, AssertionError, KeyError)


def blur_effect(image: Image) -> float:
    """How little a further blur changes the image (Crete et al. 2007): 0 sharp, 1 blurred.

    scikit-image's `blur_effect` with its window of 11 pixels, on the gray image; the worse of the
    two axes. Of a restoration, read it beside the same score of its blur.

    Args:
        image: (H, W, 3) uint8, sides of at least 11 pixels.

    Raises:
        ValueError: the image is smaller than the window.
    """
    if min(image.shape[:2]) < _WINDOW:
        raise ValueError(
            f"blur-effect needs at least {_WINDOW} x {_WINDOW} pixels, not {image.shape[:2]}"
        )
    return float(_blur_effect(image, h_size=_WINDOW, channel_axis=2))  # type: ignore[no-untyped-call]


def open_learnt(name: Learnt, device: torch.device) -> Callable[[Image], float]:
    """A score of pyiqa, with its weights loaded.

    Args:
        name: niqe, musiq, maniqa or clipiqa.
        device: where it runs.

    Returns:
        A function of an image (H, W, 3) uint8.

    Raises:
        WeightsError: pyiqa is not installed or does not load, or its weights, which it
            fetches at first use, cannot be fetched.
    """
    try:
        metric: Any = import_module("pyiqa").create_metric(name, device=device)
    except _UNUSABLE as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "pyiqa"
        reason = "which is not installed" if absent else f"which fails: {_first_line(error)}"
        raise WeightsError(
            f"{name} comes from pyiqa, {reason}",
            where="--metrics",
            cure="pip install pyiqa (non-commercial licence; needs a torchvision that fits your"
            f" torch, and a network for its weights), or leave {name} out",
            exit_code=ExitCode.WRONG_USE,
        ) from error

    def score(image: Image) -> float:
        unit = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
        with torch.inference_mode():
            return float(metric(unit.to(device)))

    return score


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
