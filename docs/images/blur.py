"""Draw docs/images/blur-*.jpg: good blur, and what goes wrong, from a scene of the sample.

python docs/images/blur.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from trajectory_builder.images.png import Pixels
from trajectory_builder.sample import render_frame

CLIP, OTHER, CENTRE = "GOPR9004_13_00", "GOPR9002_11_00", 19
DETAIL = (slice(60, 180), slice(112, 272))  # 160 x 120 of 384 x 216
SIZE = (320, 240)
GRAY = (40, 40, 40)
WORDS = {
    "good": "good: even streaks",
    "ghosts": "bad: copies, too few frames a second",
    "soft": "bad: sharp image with a long exposure",
    "cut": "left out: a cut",
}
SLOW = 8
"""Frames of the sample, 240 a second, per frame of a slow camera: 30 a second."""


def mean(ranks: Iterable[float], clip: str = CLIP) -> Pixels:
    """The mean of frames of a clip; ranks may lie between two frames."""
    frames = [render_frame(clip, rank).astype(np.float32) for rank in ranks]
    return np.rint(np.mean(frames, axis=0)).astype(np.uint8)


def pictures() -> dict[str, Pixels]:
    """Name -> picture (H, W, 3) RGB."""
    span = range(CENTRE - 6, CENTRE + 7)
    cut = [render_frame(CLIP, r) for r in span][:7] + [render_frame(OTHER, r) for r in span][7:]
    return {
        "good": mean(span),
        "ghosts": mean(CENTRE + SLOW * k for k in (-2, -1, 0, 1, 2)),
        "soft": mean(CENTRE + k / 2 for k in range(-5, 6)),
        "cut": np.rint(np.mean(np.float32(cut), axis=0)).astype(np.uint8),
    }


def main(folder: Path) -> None:
    """Write the pictures into a folder."""
    for name, picture in pictures().items():
        detail = cv2.resize(picture[DETAIL][..., ::-1], SIZE, interpolation=cv2.INTER_CUBIC)
        line = np.full((28, SIZE[0], 3), 255, np.uint8)
        cv2.putText(line, WORDS[name], (4, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, GRAY, 1, cv2.LINE_AA)
        labelled = np.vstack([detail, line])
        data = cv2.imencode(".jpg", labelled, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        (folder / f"blur-{name}.jpg").write_bytes(data.tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
