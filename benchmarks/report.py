"""Seconds and bytes of `trajbuild report` for 10,000 rows of 1280 x 720.

The data set has GoPro's shape: 22 clips for training with four pairs per trajectory, 11 for testing
with one, frames of about 1.2 MB. A few trajectories of each
clip are made of photographs under a camera shake; the others are hard links to these, since the
report opens a sample only. The floor is measured in the same run: reading the manifest, and
decoding and reducing the same images with the same reader, one after the other.

    python benchmarks/report.py --out benchmarks/results/report [--rows 10000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from expand import machine, table
from numpy.typing import NDArray

from trajectory_builder import manifest
from trajectory_builder.images import png

SIZE = (720, 1280)
LEVELS = (5, 7, 9, 11)
CLIPS = 33
REAL_PER_CLIP = 2
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")


def photograph(name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One of scikit-image's photographs, enlarged to cover `size` (height, width), with grain."""
    from skimage import data

    image = np.asarray(getattr(data, name)())[..., :3]
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    shape = (round(image.shape[1] * scale) + 1, round(image.shape[0] * scale) + 1)
    large = cv2.resize(image, shape, interpolation=cv2.INTER_CUBIC)[: size[0], : size[1]]
    grain = np.random.default_rng(7).normal(0, 1.7, large.shape)
    return np.clip(large + grain, 0, 255).astype(np.uint8)


def shaken_frames(clip: int, place: int, count: int) -> list[NDArray[np.uint8]]:
    """`count` frames of a photograph under a smooth camera shake of its own."""
    random = np.random.default_rng([clip, place])
    height, width = SIZE
    scene = photograph(PHOTOGRAPHS[clip % len(PHOTOGRAPHS)], (height + 160, width + 160))
    if clip // len(PHOTOGRAPHS) % 2:
        scene = np.ascontiguousarray(scene[:, ::-1])
    velocity = random.uniform(-2.6, 2.6, 2)
    start = random.uniform(70, 90, 2)
    frames = []
    for i in range(count):
        left, top = start + velocity * i + 1.5 * np.sin(i / 3 + clip)
        move = np.array([[1, 0, -left], [0, 1, -top]], np.float32)
        frames.append(np.asarray(cv2.warpAffine(scene, move, (width, height)), np.uint8))
    return frames


def make_data_set(folder: Path, rows: int, *, clips: int = CLIPS) -> Path:
    """Write a data set of `rows` pairs and return its folder."""
    train = 2 * clips // 3
    a_clip = -(-rows // (train * len(LEVELS) + clips - train))
    left = rows
    for split, chosen in (("train", range(train)), ("test", range(train, clips))):
        table: list[dict[str, Any]] = []
        for clip in chosen:
            name = f"GOPR{300 + clip:04d}_11_{clip % 4:02d}"
            real = [
                _real_trajectory(folder / split, name, clip, place)
                for place in range(min(REAL_PER_CLIP, a_clip))
            ]
            for index in range(a_clip):
                table += _rows(folder / split, split, name, clip, index, real)
        table = table[: max(0, left)]
        left -= len(table)
        content = pa.Table.from_pylist(table, schema=manifest.SCHEMA)
        manifest.write(content, folder / split / manifest.FILE_NAME, {"recipe": "benchmark"})
    (folder / "build.json").write_text(json.dumps({"recipe": {"name": "benchmark"}}))
    return folder


def _real_trajectory(home: Path, name: str, clip: int, place: int) -> dict[int, tuple[Path, int]]:
    frames = shaken_frames(clip, place, max(LEVELS))
    middle = len(frames) // 2
    made: dict[int, tuple[Path, int]] = {}
    for n in (1, *LEVELS):
        window = np.stack(frames[middle - n // 2 : middle + n // 2 + 1]).astype(np.uint16)
        mean = ((window.sum(axis=0) + n // 2) // n).astype(np.uint8)
        path = home / "real" / f"{name}_{place}_{n:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        payload = png.encode_png(mean)
        path.write_bytes(payload)
        made[n] = (path, len(payload))
    return made


def _rows(
    home: Path,
    split: str,
    name: str,
    clip: int,
    index: int,
    real: list[dict[int, tuple[Path, int]]],
) -> list[dict[str, Any]]:
    pair = f"{index * 11 + 1:06d}"
    source = real[index % len(real)]
    sharp = _link(source[1][0], home / f"sharp/{name}/{pair}.png")
    center = index * 11 + 5
    levels = LEVELS if split == "train" else LEVELS[-1:]
    found = []
    for n in levels:
        blur = _link(source[n][0], home / f"blur/{name}/{pair}_n{n:02d}.png")
        found.append(
            {
                "sample_id": f"{name}/{pair}/n{n:02d}", "trajectory_id": f"{name}/{pair}",
                "split": split, "clip_id": name, "n_frames": n, "timestep": (n - 1) * 20,
                "native_n_frames": 11, "backward_n_frames": [1, *(k for k in levels if k < n)],
                "blur_file_name": blur.relative_to(home).as_posix(),
                "sharp_file_name": sharp.relative_to(home).as_posix(),
                "origin": "official" if n == 11 else "averaged", "average_domain": "srgb",
                "first_index": center - n // 2, "center_index": center,
                "center_frame": f"{center:06d}.png", "width": SIZE[1], "height": SIZE[0],
                "fps": 240.0, "exposure_ms": 1000 * n / 240,
                "motion_px": (n - 1) * (0.4 + 0.1 * (clip * 7 + index * 3 % 17)),
                "blur_sha256": _digest(blur), "sharp_sha256": _digest(sharp),
                "blur_pixel_sha256": None, "blur_bytes": source[n][1],
                "sharp_bytes": source[1][1] + index % 7,
            }
        )  # fmt: skip
    return found


def _link(source: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.link(source, path)
    return path


def _digest(path: Path) -> str:
    # Of the name: links to one file must not look like one file in many trajectories.
    return hashlib.sha256(path.as_posix().encode()).hexdigest()


def measure(folder: Path, repeat: int) -> dict[str, Any]:
    """Whole processes, start-up included; the best of `repeat`."""
    out = folder / "report.html"
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "trajectory_builder", "report", str(folder), "--out", str(out)],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    rows = manifest.read(folder)
    reading = time.perf_counter() - start
    return {
        "rows": len(rows), "seconds": round(min(seconds), 2), "bytes": out.stat().st_size,
        "floor_seconds": round(reading + _decode_alone(rows), 2),
    }  # fmt: skip


def _decode_alone(rows: manifest.Manifest) -> float:
    """Seconds to decode what the report decodes, on one core, and to do nothing with it."""
    from trajectory_builder.report import sampling

    chosen = sampling.trajectories(rows.table)
    names = [(row, "blur_file_name") for c in chosen for row in c.rows]
    names += [(c.rows[-1], "sharp_file_name") for c in chosen]
    names += [(row, "sharp_file_name") for row in sampling.sharp_sample(rows.table, chosen)]
    start = time.perf_counter()
    for row, column in names:
        png.read_frame(rows.file(row, column))
    return time.perf_counter() - start


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="keep the data set here")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    given = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        if not (folder / "train").exists():
            make_data_set(folder, given.rows)
        figures = measure(folder, given.repeat)
    figures["ratio_to_floor"] = round(figures["seconds"] / figures["floor_seconds"], 2)
    report = {"machine": machine(), "load": load, "repeat": given.repeat} | figures
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.with_suffix(".md").write_text(markdown(report))
        given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def markdown(report: dict[str, Any]) -> str:
    """The committed table."""
    rows = [
        {"what": f"`trajbuild report`, {report['rows']:,} rows of 1280 x 720, whole command",
         "is": f"{report['seconds']} s", "aim": "under 5 s"},
        {"what": "reading the manifest and decoding the same images, one core",
         "is": f"{report['floor_seconds']} s", "aim": ""},
        {"what": "the first by the second", "is": f"{report['ratio_to_floor']}", "aim": ""},
        {"what": "size of the page", "is": f"{report['bytes'] / 1e6:.2f} MB", "aim": "under 5 MB"},
    ]  # fmt: skip
    return "\n".join([
        "# Report", "",
        f"{report['machine']}; load before the start {report['load']}; best of {report['repeat']}."
        " Made by `benchmarks/report.py`.", "", *table(rows),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
