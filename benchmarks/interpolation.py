"""Blur of frames drawn by optical flow, against the true blur.

    python benchmarks/interpolation.py --out benchmarks/results/interpolation

The sample's clips are rendered at 240 frames a second. Every eighth frame, 30 a second, is what a
slow camera would have; the true blur is the mean of all. Held against it, as PSNR over the whole
picture, higher is better:

- frames: the mean of those slow frames that lie in the window, no interpolation;
- cross-fade: the seven frames in between faded from one neighbour to the other;
- flow: the seven frames in between drawn by `interpolation.between` (`--interpolate 7`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from expand import machine, table
from skimage.metrics import peak_signal_noise_ratio

from trajectory_builder.pixels import interpolation, motion
from trajectory_builder.sample import scenes

SKIP = 8
SIZES = (5, 9, 13, 17, 25)
PLACES = (24, 40)


def blurs(clip: str, center: int, n: int) -> dict[str, np.ndarray[Any, Any]]:
    """The true mean of n frames round `center`, and the three made of every eighth frame."""
    ranks = range(center - n // 2, center + n // 2 + 1)
    slow = range(center - SKIP * 2, center + SKIP * 2 + 1, SKIP)
    seen = {rank: scenes.render_frame(clip, rank) for rank in slow}
    drawn, faded = dict(seen), dict(seen)
    for rank in list(slow)[:-1]:
        first, last = seen[rank], seen[rank + SKIP]
        between = interpolation.between(first, last, SKIP - 1)
        for k in range(1, SKIP):
            drawn[rank + k] = between[k - 1]
            faded[rank + k] = first * (1 - k / SKIP) + last * (k / SKIP)
    inside = [seen[rank] for rank in ranks if rank in seen]
    return {
        "true": np.mean([scenes.render_frame(clip, rank) for rank in ranks], axis=0),
        "frames": np.mean(inside, axis=0),
        "cross-fade": np.mean([faded[rank] for rank in ranks], axis=0),
        "flow": np.mean([drawn[rank] for rank in ranks], axis=0),
    }


def neighbours_px(clip: str, center: int) -> float:
    """How far the picture moves from one slow frame to the next: the 95th percentile, pixels."""
    pair = [motion.small(scenes.render_frame(clip, center + at)) for at in (0, SKIP)]
    return motion.displacement(pair[0], pair[1])[1]


def measure(clips: list[str]) -> list[dict[str, Any]]:
    """PSNR of each way, by n."""
    rows = []
    for n in SIZES:
        scores: dict[str, list[float]] = {"frames": [], "cross-fade": [], "flow": []}
        for clip in clips:
            for center in PLACES:
                made = blurs(clip, center, n)
                for name, values in scores.items():
                    # Rounded as they would be written, which also bounds a perfect score.
                    true, other = np.rint(made["true"]), np.rint(made[name])
                    score = peak_signal_noise_ratio(true, other, data_range=255)
                    values.append(min(float(score), 60.0))
        row: dict[str, Any] = {"n at 240 fps": n}
        row |= {f"{name}, dB": round(statistics.mean(v), 2) for name, v in scores.items()}
        gain = statistics.mean(scores["flow"]) - statistics.mean(scores["frames"])
        rows.append(row | {"flow over frames, dB": round(gain, 2)})
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    clips = [clip.name for clip in scenes.CLIPS][: given.clips]
    moved = [neighbours_px(clip, PLACES[0]) for clip in clips]
    rows = measure(clips)
    frames = [scenes.render_frame(clips[0], rank) for rank in (24, 32)]
    started = time.perf_counter()
    interpolation.between(frames[0], frames[1], SKIP - 1)
    each = (time.perf_counter() - started) / (SKIP - 1)
    report = {
        "machine": machine(),
        "load": round(os.getloadavg()[0], 2),
        "rows": rows,
        "neighbours_px": [round(value, 1) for value in moved],
        "ms_a_drawn_frame": round(1000 * each),
    }
    if given.out:
        text = [
            "# Interpolation against the true blur", "",
            f"{report['machine']}. {len(clips)} clips of the sample, {len(PLACES)} places each,"
            f" {scenes.WIDTH} x {scenes.HEIGHT} pixels; neighbouring slow frames lie"
            f" {min(moved):.1f} to {max(moved):.1f} px apart (95th percentile). Made by"
            " `benchmarks/interpolation.py`, which says what each column is.", "",
            *table(rows),
        ]  # fmt: skip
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.with_suffix(".md").write_text("\n".join(text))
        given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
