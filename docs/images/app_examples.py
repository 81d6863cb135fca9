"""Draw the blurred examples of `fidediff app`: means of frames of drawn scenes that move.

python docs/images/app_examples.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from trajectory_builder.images.png import Pixels
from trajectory_builder.sources.dead_leaves import draw_scene

SIZE = (480, 640)
EXAMPLES = (("leaves-7-frames", 3, 7, (0, 1)), ("leaves-11-frames", 6, 11, (1, 1)),
            ("leaves-13-frames", 21, 13, (1, 0)))  # fmt: skip
"""Name, seed of the scene, frames averaged, and motion in pixels per frame, down and right."""
OUT = Path(__file__).parents[2] / "fidediff_model" / "app" / "examples"


def blur(seed: int, n: int, motion: tuple[int, int]) -> Pixels:
    """The mean of n frames of a scene, which moves by `motion` from one to the next."""
    (height, width), (dy, dx) = SIZE, motion
    scene = draw_scene(seed, height + n * dy, width + n * dx).astype(np.float64)
    frames = [scene[dy * k : dy * k + height, dx * k : dx * k + width] for k in range(n)]
    return np.asarray(np.rint(np.mean(frames, axis=0)), np.uint8)


def main() -> None:
    """Write the pictures."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--out", type=Path, default=OUT)
    out = options.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, seed, n, motion in EXAMPLES:
        pixels = blur(seed, n, motion)[:, :, ::-1]
        content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (out / f"{name}.jpg").write_bytes(content.tobytes())


if __name__ == "__main__":
    main()
