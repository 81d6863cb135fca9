"""Draw docs/images/trajectory.jpg: a trajectory from sharp to n = 13, and a model's answer.

    python docs/images/trajectory.py
    python docs/images/trajectory.py --model train_tiny/control/model --minutes 60

Without a model: a trajectory of the sample. With the one that benchmarks/train_tiny.py trained: a
trajectory of its held-out clips, moments of a scene that it was trained on at other moments, and
what it makes of the longest blur. `--minutes` is how long it was trained, which the picture tells.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from trajectory_builder import nested_means, timestep
from trajectory_builder.images.png import Pixels
from trajectory_builder.sample import render_frame

CLIP, CENTRE = "GOPR9004_13_00", 19
NUMBERS = (1, 5, 9, 13)
DETAIL = (slice(60, 180), slice(112, 272))  # 160 x 120 of 384 x 216: blur shows in small pictures
PANEL = (384, 288)
GRAY = (40, 40, 40)
OUT = Path(__file__).with_name("trajectory.jpg")


def main() -> None:
    """Write the picture."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--model", type=Path, help="folder of the model that answers")
    options.add_argument("--minutes", type=int, help="how long it was trained")
    options.add_argument("--out", type=Path, default=OUT)
    given = options.parse_args()
    if given.model is None:
        picture = _row(_labelled({n: mean[DETAIL] for n, mean in _sample_means().items()}))
    elif given.minutes is None:
        options.error("--model needs --minutes: the picture tells how long it was trained")
    else:
        picture = _with_answer(given.model, given.minutes)
    ok, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not ok:
        raise SystemExit("the picture could not be encoded")
    given.out.write_bytes(data.tobytes())


def _sample_means() -> Mapping[int, Pixels]:
    reach = max(NUMBERS) // 2
    frames = [render_frame(CLIP, rank) for rank in range(CENTRE - reach, CENTRE + reach + 1)]
    return nested_means(frames, NUMBERS)


def _with_answer(model: Path, minutes: int) -> Pixels:
    """The trajectory of a held-out clip, the answer to its longest blur, and a line below.

    Of the clips the one whose answer gains the median, so that the picture is neither the best nor
    the worst of what the model does.
    """
    from fidediff_model import FideDiff, psnr

    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import tiny_data

    loaded = FideDiff.load(model)
    # A model of the stage base has no regressor to read t off the blur: it is told.
    t = None if loaded.timestep_regressor else timestep(max(NUMBERS))
    found: list[tuple[float, Mapping[int, Pixels], Pixels]] = []
    for clip in tiny_data.clips():
        if clip.split == "test" and clip.scene in tiny_data.KNOWN:
            frames = [tiny_data.frame(clip.scene, clip.start + k) for k in range(max(NUMBERS))]
            means = nested_means(frames, NUMBERS)
            longest = means[max(NUMBERS)]
            answer = loaded.restore(longest, t)
            found.append((psnr(answer, means[1]) - psnr(longest, means[1]), means, answer))
    found.sort(key=lambda one: one[0])
    _, means, answer = found[len(found) // 2]
    longest = means[max(NUMBERS)]
    panels = _labelled(means)
    panels[-1] = (longest, f"{panels[-1][1]}: {psnr(longest, means[1]):.1f} dB")
    panels.append((answer, f"restored from n = 13: {psnr(answer, means[1]):.1f} dB"))
    row = _row(panels)
    words = (
        f"A tiny model, trained {minutes} minutes on a CPU on other moments of this scene;"
        f" {tiny_data.WIDTH} x {tiny_data.HEIGHT} pixels, PSNR against the sharp frame,"
        f" the median of {len(found)} held-out clips."
    )
    return np.vstack([row, _line(words, row.shape[1])])


def _labelled(means: Mapping[int, Pixels]) -> list[tuple[Pixels, str]]:
    return [
        (mean, "sharp, t = 0" if n == 1 else f"n = {n}, t = {timestep(n)}")
        for n, mean in means.items()
    ]


def _row(panels: list[tuple[Pixels, str]]) -> Pixels:
    """RGB panels, enlarged, with their words below, side by side, as BGR."""
    columns = []
    for image, words in panels:
        large = cv2.resize(image[..., ::-1], PANEL, interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(large, 0, 0, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
        columns.append(np.vstack([framed, _line(words, framed.shape[1])]))
    return np.hstack(columns)


def _line(words: str, width: int) -> Pixels:
    line = np.full((40, width, 3), 255, np.uint8)
    cv2.putText(line, words, (8, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, GRAY, 1, cv2.LINE_AA)
    return line


if __name__ == "__main__":
    main()
