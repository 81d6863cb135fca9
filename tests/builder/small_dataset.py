"""A small real data set for tests: PNG files that are true means of frames, a manifest, a card.

`make(folder)` writes the folder as `trajbuild expand` would leave it. Images and rows are made
here, not by the build, so that the tools which read data sets are tested without it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trajectory_builder import manifest
from trajectory_builder.build import record

FPS = 240.0
CLIPS = {"train": ("GOPR0001_11_00", "GOPR0002_11_00"), "test": ("GOPR0003_11_00",)}


def make(
    folder: Path,
    *,
    clips: dict[str, tuple[str, ...]] | None = None,
    trajectories: int = 2,
    n_frames: tuple[int, ...] = (7, 9, 11),
    size: tuple[int, int] = (36, 48),
    seed: int = 0,
) -> Path:
    """Write a data set below `folder` and return it.

    Args:
        folder: made if absent.
        clips: clip names a split; by default two of train and one of test.
        trajectories: trajectories a clip; two clips never share a picture.
        n_frames: odd numbers; the largest is the official pair of each trajectory.
        size: height and width in pixels.
        seed: other seeds give other pictures under the same names.
    """
    manifests: dict[str, dict[str, Any]] = {}
    for split, names in (clips or CLIPS).items():
        home = folder / split
        rows = [
            row
            for clip in names
            for index in range(trajectories)
            for row in _trajectory(home, split, clip, index, n_frames, size, seed)
        ]
        table = pa.Table.from_pylist(rows, schema=manifest.SCHEMA)
        digest = manifest.write(table, home / manifest.FILE_NAME, {"recipe": "small"})
        manifests[f"{split}/{manifest.FILE_NAME}"] = {"sha256": digest, "rows": len(rows)}
    card = "---\nlicense: cc-by-4.0\n---\n# A small data set\n\nMade by a test.\n"
    (folder / "README.md").write_text(card)
    seal(folder, manifests)
    return folder


def seal(folder: Path, manifests: dict[str, dict[str, Any]]) -> None:
    """Write build.json for manifests and the card that stand."""
    digest = hashlib.sha256((folder / "README.md").read_bytes()).hexdigest()
    content = {"format_version": 2, "manifests": manifests, "files": {"README.md": digest}}
    record.write_build(folder, content)


def rewrite(folder: Path, split: str, table: pa.Table, **metadata: str) -> None:
    """Replace a split's manifest and seal the folder again."""
    build = json.loads((folder / "build.json").read_text())["manifests"]
    name = f"{split}/{manifest.FILE_NAME}"
    digest = manifest.write(table, folder / name, {"recipe": "small"} | metadata)
    seal(folder, build | {name: {"sha256": digest, "rows": table.num_rows}})


def replaced(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    """The table with other values in one column."""
    at = table.column_names.index(column)
    field = table.schema.field(column)
    return table.set_column(at, field, pa.array(values, field.type))


def frames_of(clip: str, index: int, count: int, size: tuple[int, int], seed: int) -> list[Any]:
    """`count` frames (H, W, 3) uint8 of one coloured texture that moves a pixel a frame."""
    name = hashlib.sha256(f"{clip}/{index}/{seed}".encode()).digest()
    random = np.random.default_rng(int.from_bytes(name[:8], "big"))
    height, width = size
    texture = random.integers(0, 256, (height, width + count, 3)).astype(np.float32)
    texture = cv2.GaussianBlur(texture, (0, 0), 1.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return [texture[:, shift : shift + width] for shift in range(count)]


def _trajectory(
    home: Path,
    split: str,
    clip: str,
    index: int,
    n_frames: tuple[int, ...],
    size: tuple[int, int],
    seed: int,
) -> list[dict[str, Any]]:
    longest = max(n_frames)
    frames = frames_of(clip, index, longest, size, seed)
    middle = longest // 2
    pair = f"{index * longest + 1:06d}"
    sharp = _write(home, f"sharp/{clip}/{pair}.png", frames[middle])
    rows = []
    for n in sorted(n_frames):
        window = np.stack(frames[middle - n // 2 : middle + n // 2 + 1]).astype(np.float64)
        mean = np.floor(window.mean(axis=0) + 0.5).astype(np.uint8)
        official = n == longest
        blur = _write(home, f"blur/{clip}/{pair}_n{n:02d}.png", mean)
        rows.append(
            {
                "sample_id": f"{clip}/{pair}/n{n:02d}",
                "trajectory_id": f"{clip}/{pair}",
                "split": split,
                "clip_id": clip,
                "n_frames": n,
                "timestep": (n - 1) * 20,
                "native_n_frames": longest,
                "backward_n_frames": [1, *(k for k in sorted(n_frames) if k < n)],
                "blur_file_name": blur[0],
                "sharp_file_name": sharp[0],
                "origin": "official" if official else "averaged",
                "average_domain": "srgb",
                "first_index": index * longest + middle - n // 2,
                "center_index": index * longest + middle,
                "center_frame": f"{index * longest + middle:06d}.png",
                "width": size[1],
                "height": size[0],
                "fps": FPS,
                "exposure_ms": 1000 * n / FPS,
                "motion_px": float(n - 1),
                "blur_sha256": blur[1],
                "sharp_sha256": sharp[1],
                "blur_pixel_sha256": None if official else hashlib.sha256(mean).hexdigest(),
                "blur_bytes": blur[2],
                "sharp_bytes": sharp[2],
            }
        )
    return rows


def _write(home: Path, name: str, rgb: NDArray[np.uint8]) -> tuple[str, str, int]:
    """Write an RGB image; its relative name, SHA-256 and size in bytes."""
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = cv2.imencode(".png", np.ascontiguousarray(rgb[:, :, ::-1]))[1].tobytes()
    path.write_bytes(content)
    return name, hashlib.sha256(content).hexdigest(), len(content)
