"""Pictures of how a run stands: one row a blur, blurry | restored | sharp, and kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fidediff_model.model.kernels import kernel_mosaic
from fidediff_model.scores.metrics import as_uint8
from trajectory_builder.disk.atomic import write_atomic

Picture = npt.NDArray[np.uint8]
_INK = (255, 255, 255)
_GAP = 4


def row(images: Sequence[Tensor], *, kernels: Tensor | None = None, words: str = "") -> Picture:
    """Images of one size side by side, with a line of words below.

    Args:
        images: each (3, H, W) in [-1, 1].
        kernels: (K, H, W); drawn as a mosaic of the same height.
        words: such as "t 200, t_hat 187".
    """
    tiles = [as_uint8(torch.nan_to_num(image)) for image in images]
    height = tiles[0].shape[0]
    if kernels is not None:
        gray = kernel_mosaic(kernels, columns=6, zoom=2)
        side = cv2.resize(gray, (round(gray.shape[1] * height / gray.shape[0]), height))
        tiles.append(np.repeat(np.asarray(side, np.uint8)[..., None], 3, axis=2))
    gap = np.zeros((height, _GAP, 3), np.uint8)
    joined = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    band = np.zeros((16, joined.shape[1], 3), np.uint8)
    cv2.putText(band, words, (2, 12), cv2.FONT_HERSHEY_PLAIN, 0.8, _INK, 1, cv2.LINE_AA)
    return np.concatenate([joined, band])


def stack(rows: Sequence[Picture]) -> Picture:
    """Rows one below the other, padded to the widest."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in rows]
    return np.concatenate(padded)


def write(folder: Path, step: int, picture: Picture) -> Path:
    """Write a picture as FOLDER/step-000100.png, in one go."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.png"
    _, payload = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    write_atomic(path, payload.tobytes())
    return path
