"""Training input beside plain PNG decoding: samples a second and core.

    python benchmarks/loader.py [--trajectories 12] [--seconds 5] [--out benchmarks/results]

Makes a small data set of 1280 x 720 PNGs (a photograph scaled up, with noise), then counts, one
after the other on the same files: plain decoding by OpenCV, strict decoding by `read_rgb8`, draws
in this process, and draws through loader processes. One sample is one blur with its sharp image;
k points of a trajectory share the decoding of their sharp image.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from skimage.data import astronaut

from fidediff_model.data.rules import DrawRules
from fidediff_model.data.sampler import TrajectorySampler
from fidediff_model.data.trajectories import TrajectoryDataset, make_loader
from trajectory_builder import manifest
from trajectory_builder.images.pictures import read_rgb8

POINTS = (7, 9, 11, 13)
HEIGHT, WIDTH = 720, 1280


def make_set(folder: Path, trajectories: int) -> list[Path]:
    """Write images and manifest; returns the blurs' paths."""
    random = np.random.default_rng(0)
    photograph = cv2.resize(astronaut(), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    rows, blurs = [], []
    for number in range(trajectories):
        noise = random.normal(0, 2, photograph.shape)
        image = np.clip(photograph + noise, 0, 255).astype(np.uint8)
        for name in ("sharp", *(f"n{n:02d}" for n in POINTS)):
            path = folder / f"{number:06d}_{name}.png"
            path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
            blurs += [path] if name != "sharp" else []
        rows += [_row(number, n) for n in POINTS]
    table = pa.Table.from_pylist(rows, schema=manifest.SCHEMA)
    manifest.write(table, folder / manifest.FILE_NAME, {})
    return blurs


def _row(number: int, n: int) -> dict[str, Any]:
    return {
        "sample_id": f"clip/{number:06d}/n{n:02d}",
        "trajectory_id": f"clip/{number:06d}",
        "split": "train",
        "clip_id": "clip_id",
        "n_frames": n,
        "timestep": (n - 1) * 20,
        "native_n_frames": max(POINTS),
        "backward_n_frames": [1, *(m for m in POINTS if m < n)],
        "blur_file_name": f"{number:06d}_n{n:02d}.png",
        "sharp_file_name": f"{number:06d}_sharp.png",
        "origin": "averaged",
        "average_domain": "srgb",
        "width": WIDTH,
        "height": HEIGHT,
        "blur_sha256": "",
        "sharp_sha256": f"{number}",
        "blur_bytes": 0,
        "sharp_bytes": 0,
    }


def rate(work: Iterator[int], seconds: float) -> float:
    """Units of work a second; the first piece (caches, worker start) is not counted."""
    next(work)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += next(work)
    return done / (time.perf_counter() - start)


def _decoded(read: Callable[[Path], Any], paths: list[Path]) -> Iterator[int]:
    for path in itertools.cycle(paths):
        read(path)
        yield 1


def _drawn(dataset: TrajectoryDataset) -> Iterator[int]:
    for draw in TrajectorySampler(len(dataset)):
        yield len(dataset[draw]["sample_id"])


def _loaded(dataset: TrajectoryDataset, workers: int) -> Iterator[int]:
    for batch in make_loader(dataset, batch_size=4, workers=workers):
        yield len(batch["sample_id"])


def run(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every way on the same files: units a second."""
    blurs = make_set(folder, options.trajectories)
    source = manifest.read(folder)
    rows: list[dict[str, Any]] = []

    def add(way: str, unit: str, cores: int, work: Iterator[int]) -> None:
        found = rate(work, options.seconds)
        rows.append(
            {"way": way, "unit": unit, "cores": cores, "per_second_and_core": found / cores}
        )

    add("OpenCV, decoding alone", "images", 1, _decoded(lambda p: cv2.imread(str(p)), blurs))
    add("read_rgb8, decoding alone", "images", 1, _decoded(read_rgb8, blurs))
    for points in (1, 4):
        rules = DrawRules(crop=options.crop, points=points)
        dataset = TrajectoryDataset(source, rules)
        add(f"draws of {points} points, no workers", "samples", 1, _drawn(dataset))
        for workers in (1, 2):
            way = f"loader of {points} points, {workers} workers"
            add(way, "samples", workers, _loaded(dataset, workers))
    return rows


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"# Training input, {WIDTH} x {HEIGHT} PNG, crop {report['crop']}",
        "",
        f"{report['machine']}, torch {report['torch']}, OpenCV {report['opencv']}. A sample of one"
        " point costs two decodings, of four points five quarters.",
        "",
        "| way | a second and core | decodings needed | of the decoder's own rate |",
        "|---|---|---|---|",
    ]
    decoder = report["results"][1]["per_second_and_core"]
    for row in report["results"]:
        images = 1.0 if row["unit"] == "images" else 2.0 if "1 points" in row["way"] else 1.25
        found = row["per_second_and_core"]
        lines.append(
            f"| {row['way']} | {found:.1f} {row['unit']} | {images:g}"
            f" | {found * images / decoder:.2f} |"
        )
    if report["note"]:
        lines += ["", report["note"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each way")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--note", default="", help="a sentence for the table")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder), options)
    report = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "crop": options.crop,
        "note": options.note,
        "results": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loader.json").write_text(json.dumps(report, indent=2) + "\n")
    table = _table(report)
    (options.out / "loader.md").write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
