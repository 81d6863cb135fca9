"""The clips that `train_tiny.py` learns from and is tested on, in GoPro's layout.

Windows of the sample's scenes, 128 x 96 pixels from the middle of each frame. Two scenes are known,
the two others are new. Training and "new motion" look at the known scenes at other times, so the
camera and the cut-out move in other ways over the same photographs.

A clip is 13 frames, one trajectory, taken where the picture moves `SPEED` pixels a frame on
average. At any speed t could not be read off kernels: a short window of a fast motion has the
kernel of a long window of a slow one (`t_error_of_lengths` measures it).
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from trajectory_builder.images.png import encode_png
from trajectory_builder.pixels.averaging import mean_of_window
from trajectory_builder.sample import render_frame, scenes
from trajectory_builder.trajectory import GOPRO_FPS, timestep

WIDTH, HEIGHT = 128, 96
N_FRAMES = 13
LEVELS = (7, 11, 13)
"""The windows that are scored: GoPro's own."""
SPEED = (1.15, 1.4)
TRAIN_CLIPS, TEST_CLIPS = 66, 10  # a scene; a tenth of the training clips is held out
APART = 30  # ranks between the first frames of two clips; a window has 13
KNOWN = {"garage": "GOPR9001_07_00", "table": "GOPR9003_11_03"}
NEW = {"cat": "GOPR9002_11_00", "launch": "GOPR9005_11_00"}
Image = NDArray[np.uint8]


class TinyClip(NamedTuple):
    """One clip: `start` is the rank of its first frame in the scene's time."""

    split: str
    name: str
    scene: str
    start: int


def frame(scene: str, rank: float) -> Image:
    """The middle of a scene's frame at any time, counted in frames of 240 a second."""
    whole = render_frame((KNOWN | NEW)[scene], rank)
    top, left = (whole.shape[0] - HEIGHT) // 2, (whole.shape[1] - WIDTH) // 2
    return np.ascontiguousarray(whole[top : top + HEIGHT, left : left + WIDTH])


@cache
def clips(further: int = 0) -> tuple[TinyClip, ...]:
    """All clips; no test clip is there at the time of a training clip.

    Args:
        further: training clips of each known scene beyond `TRAIN_CLIPS`; the others stay the same.
    """
    wanted = [
        (scene, number, start)
        for scene in KNOWN | NEW
        for number, start in enumerate(
            _starts(scene, TEST_CLIPS + (TRAIN_CLIPS + further) * (scene in KNOWN))
        )
    ]
    fixed = {scene: TEST_CLIPS + TRAIN_CLIPS * (scene in KNOWN) for scene in KNOWN | NEW}
    wanted.sort(key=lambda one: one[1] >= fixed[one[0]])  # names do not hang on `further`
    found: list[TinyClip] = []
    for scene, number, start in wanted:
        first = fixed[scene] - TEST_CLIPS
        split = "test" if first <= number < fixed[scene] else "train"
        found.append(TinyClip(split, f"GOPR{9200 + len(found)}_{N_FRAMES}_00", scene, start))
    return tuple(found)


def clip(name: str) -> TinyClip:
    """The clip of that name."""
    return next(one for one in clips() if one.name == name)


def seconds(scene: str, rank: float) -> float:
    """The scene's time at a rank."""
    return scenes.clip((KNOWN | NEW)[scene]).starts_at + rank / GOPRO_FPS


def speed(scene: str, first: int, n_frames: int) -> float:
    """Mean way of a window's pixels, in pixels a frame; first is the window's first rank."""
    times = [seconds(scene, first + k) for k in range(n_frames)]
    looks = scenes.SCENES[scene]
    cover = float(cutout(scene, times[n_frames // 2]).mean())
    back, front = (
        _way([matrix(looks, t) for t in times])
        for matrix in (scenes.background_matrix, scenes.foreground_matrix)
    )
    return (1 - cover) * back + cover * front


def cutout(scene: str, at: float) -> NDArray[np.float64]:
    """How much of each pixel the cut-out covers at a time, (HEIGHT, WIDTH) in [0, 1]."""
    looks = scenes.SCENES[scene]
    mask = scenes._CUTOUTS[looks.cutout]()[..., 3]
    from_corner = np.array([[1, 0, 0.5 - WIDTH / 2], [0, 1, 0.5 - HEIGHT / 2], [0, 0, 1.0]])
    half = np.array([[0, 0, 0.5], [0, 0, 0.5]])
    matrix = scenes.foreground_matrix(looks, at) @ from_corner - half
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask, matrix, (WIDTH, HEIGHT), flags=flags), np.float64) / 255


def t_error_of_lengths(scene: str = "garage", minutes: float = 2.0) -> float:
    """Mean error of t when it is guessed from the length of the camera's way, at any speed.

    The guess is the best one: the median t of all windows of about that length.
    """
    matrices = [
        scenes.background_matrix(scenes.SCENES[scene], rank / GOPRO_FPS)
        for rank in range(round(minutes * 60 * GOPRO_FPS))
    ]
    way = np.concatenate([[0.0], np.cumsum(_steps(matrices))])
    middles = np.arange(N_FRAMES, len(way) - N_FRAMES)
    lengths = np.concatenate([way[middles + n // 2] - way[middles - n // 2] for n in LEVELS])
    t = np.repeat([timestep(n) for n in LEVELS], len(middles)).astype(float)
    parts = np.array_split(t[np.argsort(lengths)], 100)
    return float(np.concatenate([np.abs(part - np.median(part)) for part in parts]).mean())


def make(folder: Path, further: int = 0) -> Path:
    """Write the clips, let `trajbuild` make every trajectory and hold clips out; gives the set."""
    out, whole = folder / "data", folder / "expanded"
    if (out / "test" / "metadata.parquet").is_file():
        return out
    jobs = os.cpu_count() or 1
    Parallel(n_jobs=jobs)(delayed(_write_clip)(folder, one) for one in clips(further))
    source = folder / "GOPRO_Large"
    for words in (
        f"expand --src {source} --out {whole} --expand-test --recipe full-trajectory --jobs {jobs}",
        f"split {whole} --out {out} --into train=0.9,validation=0.1 --by clip",
    ):
        subprocess.run([sys.executable, "-m", "trajectory_builder", *words.split()], check=True)
    return out


def _write_clip(folder: Path, one: TinyClip) -> None:
    images = [frame(one.scene, one.start + rank) for rank in range(N_FRAMES)]
    for rank, image in enumerate(images):
        _write(folder / "GOPRO_Large_all" / one.split / one.name / f"{rank + 1:06d}.png", image)
    pairs = folder / "GOPRO_Large" / one.split / one.name
    _write(pairs / "blur" / "000001.png", mean_of_window(images))
    _write(pairs / "sharp" / "000001.png", images[N_FRAMES // 2])


def _starts(scene: str, count: int) -> list[int]:
    """First ranks of windows whose speed is in `SPEED`, all of them and their inner 7 frames."""
    found: list[int] = []
    rank = 0
    while len(found) < count:
        inner = rank + (N_FRAMES - 7) // 2
        fits = SPEED[0] <= speed(scene, rank, N_FRAMES) <= SPEED[1]
        if fits and SPEED[0] <= speed(scene, inner, 7) <= SPEED[1]:
            found.append(rank)
            rank += APART
        else:
            rank += 3
    return found


def _way(matrices: list[NDArray[np.float64]]) -> float:
    return float(_steps(matrices).mean())


def _steps(matrices: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Pixels that the picture's middle moves from each frame to the next."""
    scale = np.hypot(matrices[0][0, 0], matrices[0][1, 0])  # pixels of the layer for one of ours
    seen = np.stack([matrix[:, 2] for matrix in matrices])
    return np.asarray(np.hypot(*np.diff(seen, axis=0).T) / scale)


def _write(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))
