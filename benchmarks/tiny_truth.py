"""What the sample's scenes let us know exactly: the kernel of every pixel, and a deconvolution.

A pixel p of frame f shows what the centre frame shows at A_f(p), where A_f comes from the two
camera matrices. So the blur of n frames weighs the centre frame at A_f(p) - p with 1/n each. Pixels
of the cut-out follow its own matrix. At the cut-out's edge, where something is uncovered, no kernel
is right; these pixels are few.
"""

from __future__ import annotations

import numpy as np
import tiny_data
import torch
from numpy.typing import NDArray
from torch import Tensor

from fidediff_model.model.reblur import reblur
from trajectory_builder.sample import scenes

SIDE = 19
ITERATIONS = 20


def true_kernels(clip: str, n_frames: int) -> Tensor:
    """The kernels (1, 361, H, W) of a clip's blur over n frames."""
    wanted = tiny_data.clip(clip)
    scene = scenes.SCENES[wanted.scene]
    centre = wanted.start + tiny_data.N_FRAMES // 2
    reach = n_frames // 2
    times = [tiny_data.seconds(wanted.scene, centre + k) for k in range(-reach, reach + 1)]
    middle = times[reach]
    layers = [scenes.background_matrix, scenes.foreground_matrix]
    back, front = (_splat([_between(m(scene, middle), m(scene, t)) for t in times]) for m in layers)
    kernels = np.where(tiny_data.cutout(wanted.scene, middle) > 0.5, front, back)
    return torch.from_numpy(kernels.astype(np.float32))[None]


def deconvolve(blur: Tensor, kernels: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Richardson-Lucy with one kernel a pixel; images (1, 3, H, W) in [-1, 1].

    x <- x A^T(b / A x) / A^T 1. A is `reblur`, its transpose comes from autograd.
    """
    observed = (blur + 1) / 2 + 1e-3
    estimate = observed.clone()
    weight = _transposed(torch.ones_like(observed), kernels)
    for _ in range(iterations):
        ratio = observed / reblur(estimate, kernels).clamp_min(1e-4)
        estimate = estimate * _transposed(ratio, kernels) / weight.clamp_min(1e-4)
    return ((estimate - 1e-3) * 2 - 1).clamp(-1, 1)


def _transposed(image: Tensor, kernels: Tensor) -> Tensor:
    with torch.enable_grad():
        x = torch.zeros_like(image, requires_grad=True)
        (found,) = torch.autograd.grad(reblur(x, kernels), x, image)
    return found


def _between(centre: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) map from a pixel of the other frame to where the centre frame shows the same."""
    square = [np.vstack([matrix, [0.0, 0.0, 1.0]]) for matrix in (centre, other)]
    found: NDArray[np.float64] = (np.linalg.inv(square[0]) @ square[1])[:2]
    return found


def _splat(maps: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Kernels (K, H, W) with a weight of 1/n at each offset, shared by the four nearest taps."""
    rows, columns = np.mgrid[: tiny_data.HEIGHT, : tiny_data.WIDTH].astype(np.float64)
    y, x = rows + 0.5 - tiny_data.HEIGHT / 2, columns + 0.5 - tiny_data.WIDTH / 2
    kernels = np.zeros((SIDE * SIDE, *rows.shape))
    places = np.indices(rows.shape)
    reach = SIDE // 2
    for a in maps:
        dx = np.clip(a[0, 0] * x + a[0, 1] * y + a[0, 2] - x, -reach, reach - 1e-6)
        dy = np.clip(a[1, 0] * x + a[1, 1] * y + a[1, 2] - y, -reach, reach - 1e-6)
        left, top = np.floor(dx).astype(int), np.floor(dy).astype(int)
        for down in (0, 1):
            for right in (0, 1):
                weight = np.abs(1 - down - (dy - top)) * np.abs(1 - right - (dx - left))
                taps = (top + down + reach) * SIDE + left + right + reach
                np.add.at(kernels, (taps, places[0], places[1]), weight / len(maps))
    return kernels
