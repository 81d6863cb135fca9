"""A hand-held camera's path during an exposure, drawn at random: photographs become trajectories.

The path is a run of poses, one per slice of the exposure. A slice shows the photograph from its
pose; a blur of n slices is the mean of the n slices round the middle one, exactly as a blur of n
frames is. So kernels nest as frame averages do: n k_n = (n - 2) k_(n-2) + the two outer slices.
k_1 is the identity. Kernels vary over the picture when the camera rotates about its axis.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

KERNEL_SIZE = 19
"""Our choice, as in FideDiff's kernel estimator here: the paper does not publish its size."""

GRID_STRIDE = 32
"""Our choice: kernels are stored on a grid of this many pixels; `kernels_at` computes any other."""

BLUR_PX = (12.0, 18.0)
"""Our choice: default sides of the longest kernels. 18 fills kernels of 19 x 19; a blur of 13
slices then moves by 1 to 2 pixels per slice, as a hand does at 240 frames per second."""

# Our choice: a hand as a damped mass on a spring, pushed by tremor and rare jerks:
# dv = tremor - pull x - damping v, dx = v dt, in pixels and slices.
_SUBSTEPS = 8
_PULL = 0.02
_DAMPING = 0.06
_TREMOR = 0.35
_JERK_CHANCE = 0.015
_JERK = 4.0
_TURN_SHARE = 0.5

Poses = npt.NDArray[np.float64]
Coordinates = npt.NDArray[Any]

STEPS_PER_PIXEL = 32
"""Slices sample the photograph at multiples of 1/32 pixel, the finest that OpenCV's `remap` knows;
finer kernels would not be those of the rendered blur."""


@dataclass(frozen=True, slots=True)
class HandMotion:
    """How the camera moves.

    Attributes:
        slices: number of slices in the longest exposure, odd.
        blur_px: least and largest side, in pixels, of the square that the longest kernel fills;
            drawn per path. No pixel gets farther than half of it from its place in the middle.
        rotation: whether the camera also rotates about its axis.
    """

    slices: int
    blur_px: tuple[float, float] = BLUR_PX
    rotation: bool = True

    @property
    def reach_px(self) -> float:
        """Largest distance of any pixel from its place in the middle slice."""
        return self.blur_px[1] / 2

    @property
    def margin(self) -> int:
        """Pixels cut off at each side, so that no slice reaches past the photograph."""
        return math.ceil(self.reach_px) + 1

    @property
    def kernel_size(self) -> int:
        """Side of the kernels that contain every path: `KERNEL_SIZE`, or the next odd size."""
        return max(KERNEL_SIZE, 2 * math.ceil(self.reach_px) + 1)


def camera_path(
    settings: HandMotion, height: int, width: int, random: np.random.Generator
) -> Poses:
    """Draw the camera's path through the slices of one exposure.

    Args:
        settings: number of slices and reach.
        height: of the blur in pixels.
        width: of the blur in pixels.
        random: source of the draws.

    Returns:
        (slices, 3) float64: angle in degrees, x and y in pixels, all 0 in the middle slice.
    """
    steps = (settings.slices - 1) * _SUBSTEPS + 1
    state, speed = np.zeros(3), random.normal(0, 1, 3)
    way = np.zeros((steps, 3))
    for step in range(1, steps):
        speed += _TREMOR * random.normal(0, 1, 3) - _PULL * state - _DAMPING * speed
        if random.random() < _JERK_CHANCE:
            speed += _JERK * random.normal(0, 1, 3)
        state = state + speed / _SUBSTEPS
        way[step] = state
    poses = way[::_SUBSTEPS] - way[(steps - 1) // 2]
    # The angle is scaled to pixels at the picture's corner, so that both parts weigh alike.
    corner = math.hypot(height, width) / 2
    poses[:, 0] *= math.degrees(_TURN_SHARE / corner) if settings.rotation else 0.0
    return _scaled(poses, random.uniform(*settings.blur_px) / 2, height, width)


def _scaled(poses: Poses, reach: float, height: int, width: int) -> Poses:
    """The same path, scaled so that the farthest corner moves by `reach` pixels.

    Angles are small, so displacement is nearly linear in the factor and three rounds suffice.
    """
    y, x = np.array([[0.0], [height - 1.0]]), np.array([[0.0, width - 1.0]])
    reach -= 1 / STEPS_PER_PIXEL  # rounding may add half a step to each part
    for _ in range(3):
        farthest = max(float(np.hypot(*offsets(p, y, x, height, width)).max()) for p in poses)
        if farthest == 0:
            return poses
        poses = poses * (reach / farthest)
    return poses


def offsets(
    pose: npt.NDArray[np.float64], y: Coordinates, x: Coordinates, height: int, width: int
) -> tuple[Coordinates, Coordinates]:
    """Where a slice samples: its value at (y, x) is the photograph's at (y + dy, x + dx).

    A rotation about the picture's middle, then a shift, in steps of 1 / `STEPS_PER_PIXEL`.

    Args:
        pose: angle in degrees, x and y in pixels.
        y: rows of the pixels, of any shape that broadcasts with `x`.
        x: columns of the pixels.
        height: of the blur.
        width: of the blur.

    Returns:
        dy and dx in pixels, of the broadcast shape.
    """
    angle = math.radians(pose[0])
    below, right = y - (height - 1) / 2, x - (width - 1) / 2
    cos, sin = math.cos(angle) - 1, math.sin(angle)
    dy = sin * right + cos * below + pose[2]
    dx = cos * right - sin * below + pose[1]
    return np.rint(dy * STEPS_PER_PIXEL) / STEPS_PER_PIXEL, np.rint(
        dx * STEPS_PER_PIXEL
    ) / STEPS_PER_PIXEL


def blurs(
    photo: npt.NDArray[Any], poses: Poses, n_slices: Sequence[int], margin: int
) -> dict[int, npt.NDArray[Any]]:
    """Blurs of the middle n slices, each slice rendered once.

    Args:
        photo: (H + 2 margin, W + 2 margin, 3) uint8 or uint16.
        poses: from `camera_path` for height H and width W.
        n_slices: odd numbers of slices.
        margin: pixels round the blur that slices may reach.

    Returns:
        n to (H, W, 3), in the photograph's type, rounded to nearest; 1 is the photograph itself.
    """
    middle = len(poses) // 2
    height, width = photo.shape[0] - 2 * margin, photo.shape[1] - 2 * margin
    total = np.zeros((height, width, 3), np.float64)
    means: dict[int, npt.NDArray[Any]] = {}
    for radius in range(max(n_slices) // 2 + 1):
        for index in sorted({middle - radius, middle + radius}):
            total += render_slice(photo, poses[index], margin)
        n = 2 * radius + 1
        if n in n_slices:
            means[n] = np.rint(total / n).astype(photo.dtype)
    return means


def render_slice(
    photo: npt.NDArray[Any], pose: npt.NDArray[np.float64], margin: int
) -> npt.NDArray[np.float32]:
    """What the camera sees in one slice: (H, W, 3) float32, not rounded; bilinear."""
    import cv2

    height, width = photo.shape[0] - 2 * margin, photo.shape[1] - 2 * margin
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    dy, dx = offsets(pose, y, x, height, width)
    at_y, at_x = (dy + (y + margin)).astype(np.float32), (dx + (x + margin)).astype(np.float32)
    seen = cv2.remap(photo.astype(np.float32), at_x, at_y, cv2.INTER_LINEAR)
    return np.asarray(seen, dtype=np.float32)


def kernels_at(
    poses: Poses,
    n: int,
    points: npt.NDArray[Any],
    height: int,
    width: int,
    size: int = KERNEL_SIZE,
) -> npt.NDArray[np.float64]:
    """True blur kernels of the middle n slices at some pixels.

    A blur's value at p is the sum over u of k(u) sharp(p + u), with u from -(size // 2) to
    size // 2 in both directions, rows first.

    Args:
        poses: from `camera_path`.
        n: odd number of slices.
        points: (P, 2) as (y, x).
        height: of the blur.
        width: of the blur.
        size: side of the kernels; odd.

    Returns:
        (P, size, size) float64; each sums to 1.

    Raises:
        ValueError: a slice reaches farther than the kernels.
    """
    middle, half = len(poses) // 2, size // 2
    kernels = np.zeros((len(points), size, size))
    ranks = np.arange(len(points))
    for pose in poses[middle - n // 2 : middle + n // 2 + 1]:
        moved = np.stack(offsets(pose, points[:, 0], points[:, 1], height, width), axis=1) + half
        if moved.min() < 0 or moved.max() > size - 1:
            raise ValueError(f"a slice reaches farther than {half} pixels")
        # Bilinear weights, as `remap` applies them; at the kernel's edge the whole weight is there.
        whole = np.minimum(np.floor(moved).astype(np.intp), size - 2)
        part = moved - whole
        for dy in (0, 1):
            for dx in (0, 1):
                weight_y = part[:, 0] if dy else 1 - part[:, 0]
                weight_x = part[:, 1] if dx else 1 - part[:, 1]
                np.add.at(kernels, (ranks, whole[:, 0] + dy, whole[:, 1] + dx), weight_y * weight_x)
    return kernels / n


def kernel_file(
    poses: Poses, n_slices: Sequence[int], height: int, width: int, size: int = KERNEL_SIZE
) -> bytes:
    """The true kernels of a trajectory as the bytes of an .npz file, the same every time.

    Arrays: `poses` (slices, 3), `n_slices` (N,), `grid_y` (h,), `grid_x` (w,), `image_size`
    (height, width) and `kernels` (N, h, w, size, size) float32. `kernels_at` computes the kernels
    of all other pixels from the poses.
    """
    grid_y, grid_x = np.arange(0, height, GRID_STRIDE), np.arange(0, width, GRID_STRIDE)
    y, x = np.meshgrid(grid_y, grid_x, indexing="ij")
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    shape = (len(grid_y), len(grid_x), size, size)
    kernels = [kernels_at(poses, n, points, height, width, size).reshape(shape) for n in n_slices]
    sink = io.BytesIO()
    np.savez_compressed(
        sink,
        poses=poses,
        n_slices=np.array(n_slices, np.int16),
        grid_y=grid_y.astype(np.int32),
        grid_x=grid_x.astype(np.int32),
        image_size=np.array([height, width], np.int32),
        kernels=np.array(kernels, np.float32),
    )
    return sink.getvalue()
