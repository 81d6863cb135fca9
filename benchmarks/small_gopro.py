"""A small GoPro tree of any image size, for benchmarks and for tests that break builds.

Frames are a window that moves over a photograph of scikit-image's, with light noise, so that PNGs
are about as large a pixel as real ones. Names, numbers and shifts follow the published layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
PHOTOS = ("coffee", "chelsea", "astronaut", "rocket")


def make(
    root: Path, sequences: Mapping[str, int], *, size: tuple[int, int] = (64, 48), seed: int = 7
) -> tuple[Path, Path]:
    """Write `GOPRO_Large` and `GOPRO_Large_all` under `root`.

    Args:
        root: an existing folder.
        sequences: `SPLIT/NAME` to its number of pairs; the name must not be a published one, whose
            pairs the table counts.
        size: (width, height) in pixels.
        seed: of motion and noise.

    Returns:
        The two trees.
    """
    pairs, frames = root / "GOPRO_Large", root / "GOPRO_Large_all"
    for index, (where, count) in enumerate(sequences.items()):
        n, shift = (int(part) for part in where.rsplit("_", 2)[1:])
        first_pair = 3 + 10 * index
        first_frame = (first_pair - 1) * n + 1
        clip = list(moving(n * count, size, seed=seed + index))
        _write_all(frames / where, {first_frame + i: frame for i, frame in enumerate(clip)})
        sharp, blur = {}, {}
        for rank in range(count):
            begin = rank * n - shift
            sharp[first_pair + rank] = clip[begin + n // 2]
            # The first window of a shifted sequence begins before what was published.
            window = np.stack([clip[max(0, i)] for i in range(begin, begin + n)])
            blur[first_pair + rank] = np.rint(window.mean(axis=0)).astype(np.uint8)
        _write_all(pairs / where / "sharp", sharp)
        _write_all(pairs / where / "blur", blur)
        (pairs / where / f"frames {n} offset {shift}.txt").write_text("as published\n")
    return pairs, frames


def moving(count: int, size: tuple[int, int], *, seed: int) -> list[Pixels]:
    """`count` frames (H, W, 3) of a camera that pans over a photograph."""
    from skimage import data

    width, height = size
    rng = np.random.default_rng(seed)
    photo = getattr(data, PHOTOS[seed % len(PHOTOS)])()[:, :, :3]
    room = max(16, min(width, height) // 4)
    scale = max((width + room) / photo.shape[1], (height + room) / photo.shape[0])
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    photo = photo[: height + room, : width + room]
    grain = rng.integers(0, 5, photo.shape, dtype=np.uint8)
    photo = cv2.add(photo, grain)
    frames = []
    for i in range(count):
        x = int((0.5 + 0.5 * np.sin(0.11 * i + seed)) * (photo.shape[1] - width))
        y = int((0.5 + 0.5 * np.cos(0.07 * i)) * (photo.shape[0] - height))
        frames.append(np.ascontiguousarray(photo[y : y + height, x : x + width]))
    # A mark that names the frame, so that no two are equal even where the camera stands still.
    for i, frame in enumerate(frames):
        frame[0, : min(16, width)] = [[255 * (i >> bit & 1)] * 3 for bit in range(min(16, width))]
    return frames


def _write_all(folder: Path, images: Mapping[int, Pixels]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in images.items():
        cv2.imwrite(str(folder / f"{number:06d}.png"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
