"""Draw docs/images/trajectory.jpg: one trajectory of the sample from sharp to n = 13.

python docs/images/trajectory.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from trajectory_builder import nested_means, timestep
from trajectory_builder.sample import render_frame

CLIP, CENTRE = "GOPR9004_13_00", 19
NUMBERS = (1, 5, 9, 13)
OUT = Path(__file__).with_name("trajectory.jpg")


def main() -> None:
    """Write the picture."""
    reach = max(NUMBERS) // 2
    frames = [render_frame(CLIP, rank) for rank in range(CENTRE - reach, CENTRE + reach + 1)]
    means = nested_means(frames, NUMBERS)
    panels = []
    for n, mean in means.items():
        panel = np.full((mean.shape[0] + 34, mean.shape[1] + 8, 3), 255, np.uint8)
        panel[: mean.shape[0], 4:-4] = mean[..., ::-1]
        words = "sharp, t = 0" if n == 1 else f"n = {n}, t = {timestep(n)}"
        cv2.putText(panel, words, (8, mean.shape[0] + 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6,
                    (40, 40, 40), 1, cv2.LINE_AA)  # fmt: skip
        panels.append(panel)
    ok, data = cv2.imencode(".jpg", np.hstack(panels), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not ok:
        raise SystemExit("the picture could not be encoded")
    OUT.write_bytes(data.tobytes())


if __name__ == "__main__":
    main()
