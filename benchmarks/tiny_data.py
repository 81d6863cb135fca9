"""The clips that `train_tiny.py` learns from and is tested on, in GoPro's layout.

Windows of the sample's scenes, 128 x 96 pixels from the middle of each frame. Two scenes are known,
the two others are new. Training and "new motion" look at the known scenes at other times, so the
camera and the cut-out move in other ways over the same photographs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajectory_builder.averaging import mean_of_window
from trajectory_builder.images import encode_png
from trajectory_builder.sample import render_frame

WIDTH, HEIGHT = 128, 96
N_FRAMES = 13
PAIRS = 5
FRAMES_APART = 90  # between the first frames of two clips, 0.375 s: clips never share a frame
TRAIN_CLIPS, TEST_CLIPS = 8, 2
KNOWN = {"garage": "GOPR9001_07_00", "table": "GOPR9003_11_03"}
NEW = {"cat": "GOPR9002_11_00", "launch": "GOPR9005_11_00"}
Image = NDArray[np.uint8]


def frame(scene: str, rank: float) -> Image:
    """The middle of a scene's frame at any time, counted in frames of 240 a second."""
    whole = render_frame((KNOWN | NEW)[scene], rank)
    top, left = (whole.shape[0] - HEIGHT) // 2, (whole.shape[1] - WIDTH) // 2
    return np.ascontiguousarray(whole[top : top + HEIGHT, left : left + WIDTH])


def clips() -> list[tuple[str, str, str, int]]:
    """(split, clip, scene, first rank) of all clips."""
    found = []
    for number, scene in enumerate(KNOWN | NEW):
        known = scene in KNOWN
        for take in range(TRAIN_CLIPS * known + TEST_CLIPS):
            split = "train" if known and take < TRAIN_CLIPS else "test"
            name = f"GOPR91{number}{take:01d}_{N_FRAMES}_00"
            found.append((split, name, scene, take * FRAMES_APART))
    return found


def scene_of(clip: str) -> str:
    """The scene that a clip shows."""
    return next(scene for _, name, scene, _ in clips() if name == clip)


def first_rank(clip: str) -> int:
    """The scene's time at the clip's first frame."""
    return next(rank for _, name, _, rank in clips() if name == clip)


def make(folder: Path) -> Path:
    """Write the clips and let `trajbuild expand` make every trajectory; returns the data set."""
    out = folder / "data"
    if (out / "build.json").is_file():
        return out
    for split, name, scene, start in clips():
        images = [frame(scene, start + rank) for rank in range(PAIRS * N_FRAMES)]
        for rank, image in enumerate(images):
            _write(folder / "GOPRO_Large_all" / split / name / f"{rank + 1:06d}.png", image)
        for pair in range(PAIRS):
            window = images[pair * N_FRAMES : (pair + 1) * N_FRAMES]
            pairs = folder / "GOPRO_Large" / split / name
            _write(pairs / "blur" / f"{pair + 1:06d}.png", mean_of_window(window))
            _write(pairs / "sharp" / f"{pair + 1:06d}.png", window[N_FRAMES // 2])
    command = [sys.executable, "-m", "trajectory_builder", "expand"]
    command += ["--src", str(folder / "GOPRO_Large"), "--out", str(out), "--expand-test"]
    subprocess.run([*command, "--recipe", "full-trajectory", "--jobs", "1"], check=True)
    return out


def _write(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))
