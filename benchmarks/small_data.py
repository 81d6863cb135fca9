"""Blurs of generated scenes without end, for pre-training the model `small`.

Every draw depends on the seed and the step alone, so a run that was cut goes on with the very
crops that it would have had. Scenes come from a window of seeds that moves on as training goes:
`SCENES` are held at a time, and one is replaced every `STEPS_PER_SCENE` steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_builder.pixels import hand_motion
from trajectory_builder.sources.dead_leaves import draw_scene

Image = NDArray[np.uint8]

SCENES = 240
STEPS_PER_SCENE = 5
SIDE = 256
CROP = 128
FIRST_TRAINING_SCENE = 1_000_000
"""Seeds below are for validation and tests."""
N_FRAMES = (1, 3, 5, 7, 9, 11, 13, 15)
SHARES = (0.02, 0.04, 0.08, 0.19, 0.19, 0.19, 0.19, 0.10)
CAMERA = hand_motion.HandMotion(slices=max(N_FRAMES), blur_px=(6.3, 18))
HAND_SHARE = 0.2
"""Of the paths, which are `hand_motion`'s; the others keep their direction longer, as a camera of
some mass does over 1/16 of a second."""
SPEED = (0.4, 1.2)
"""Pixels a slice of the other paths."""


@dataclass(frozen=True)
class Blurs:
    """A batch: blur and sharp (B, 3, H, W) in [-1, 1], and t (B,)."""

    blur: Tensor
    sharp: Tensor
    t: Tensor


def batches(first: int, last: int, batch: int, seed: int) -> Iterator[Blurs]:
    """The batches of steps `first` to `last`, each drawn while the one before is used."""
    window = Scenes()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_batch, window, first, batch, seed)
        for step in range(first, last):
            current = coming.result()
            coming = pool.submit(_batch, window, step + 1, batch, seed)
            yield current


class Scenes:
    """The scenes that a step may draw from, by seed."""

    def __init__(self) -> None:
        self.scenes: dict[int, Image] = {}

    def at(self, step: int, which: int) -> Image:
        """Scene number `which` of the window that belongs to `step`."""
        start = FIRST_TRAINING_SCENE + step // STEPS_PER_SCENE
        self.scenes.pop(start - 1, None)
        seed = start + which
        if seed not in self.scenes:
            self.scenes[seed] = draw_scene(seed, SIDE, SIDE)
        return self.scenes[seed]


def _batch(window: Scenes, step: int, batch: int, seed: int) -> Blurs:
    random = np.random.default_rng((seed, step))
    blurs, sharps, t = [], [], []
    for _ in range(batch):
        scene = window.at(step, int(random.integers(SCENES)))
        n = int(random.choice(N_FRAMES, p=SHARES))
        blur, sharp = blurred(detailed_crop(scene, random), (n,), random)
        orientation = int(random.integers(8))
        blurs.append(turned(blur[n], orientation))
        sharps.append(turned(sharp, orientation))
        t.append((n - 1) * 20.0)
    return Blurs(to_tensor(blurs), to_tensor(sharps), torch.tensor(t))


def detailed_crop(scene: Image, random: np.random.Generator) -> Image:
    """Of two random windows the one of more contrast, with the margin that a path needs.

    Contrast of means over 4 x 4 pixels: what is finer is noise that no restoration brings back.
    """
    side = CROP + 2 * CAMERA.margin
    tops, lefts = (random.integers(0, length - side + 1, 2) for length in scene.shape[:2])
    windows = [scene[y : y + side, x : x + side] for y, x in zip(tops, lefts, strict=True)]
    coarse = (side // 4, side // 4)
    return max(windows, key=lambda w: cv2.resize(w, coarse, interpolation=cv2.INTER_AREA).std())


def blurred(
    window: Image, n_frames: tuple[int, ...], random: np.random.Generator
) -> tuple[dict[int, Image], Image]:
    """Blurs of one random camera path over a window, and the sharp middle of it."""
    return exposed(window, camera_path(window.shape[0] - 2 * CAMERA.margin, random), n_frames)


def exposed(
    window: Image, poses: NDArray[np.float64], n_frames: tuple[int, ...]
) -> tuple[dict[int, Image], Image]:
    """Blurs of a window along a camera path, and the sharp middle of it."""
    side, margin = window.shape[0] - 2 * CAMERA.margin, CAMERA.margin
    middle, total = len(poses) // 2, np.zeros((side, side, 3), np.float32)
    blurs, wide = {}, window.astype(np.float32)
    for radius in range(max(n_frames) // 2 + 1):
        for index in {middle - radius, middle + radius}:
            total += _slice(wide, poses[index], side, margin)
        if 2 * radius + 1 in n_frames:
            blurs[2 * radius + 1] = np.rint(total / (2 * radius + 1)).astype(np.uint8)
    return blurs, window[margin:-margin, margin:-margin]


def camera_path(side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """(slices, 3): angle in degrees, x and y in pixels, 0 in the middle slice."""
    by_hand = random.random() < HAND_SHARE
    return hand_path(side, random) if by_hand else steady_path(side, random)


def hand_path(side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A path of `trajbuild generate --stills`."""
    return hand_motion.camera_path(CAMERA, side, side, random)


def steady_path(side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """A walk with inertia, now and then a jerk, and a turn over the whole of it."""
    slices, speed = CAMERA.slices, random.uniform(*SPEED)
    way = np.zeros((slices, 3))
    direction = random.normal(0, 1, 2)
    step = direction * speed / np.hypot(*direction)
    for k in range(1, slices):
        step = step + random.normal(0, 0.2, 2)
        if random.random() < 0.05:  # a jerk
            step = random.normal(0, 0.7, 2)
        step = step * min(1.0, SPEED[1] / np.hypot(*step))
        way[k, 1:] = way[k - 1, 1:] + step
    way -= way[slices // 2]
    way[:, 0] = random.normal(0, 0.2) * np.linspace(-1, 1, slices)
    return way


def _slice(
    window: NDArray[np.float32], pose: NDArray[np.float64], side: int, margin: int
) -> NDArray[np.float32]:
    """What `hand_motion.render_slice` gives, by one affine warp: eight times as fast."""
    angle, half = np.deg2rad(pose[0]), (side - 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    x = pose[1] + half + margin - cos * half + sin * half
    y = pose[2] + half + margin - sin * half - cos * half
    matrix = np.array([[cos, -sin, x], [sin, cos, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(window, matrix, (side, side), flags=flags), np.float32)


def turned(image: Image, orientation: int) -> Image:
    """One of the eight flips and quarter turns of a square image."""
    image = image[:, ::-1] if orientation & 1 else image
    image = image[::-1] if orientation & 2 else image
    return image.transpose(1, 0, 2) if orientation & 4 else image


def to_tensor(images: list[Image]) -> Tensor:
    """(B, 3, H, W) in [-1, 1] of (H, W, 3) uint8 images of one size."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1
