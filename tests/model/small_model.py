"""A tiny model with all parts on disk, whose trained parts have moved, and the CLI in-process."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from fidediff_model.cli import main
from fidediff_model.model import presets
from fidediff_model.model.fidediff import PARTS, FideDiff, build
from fidediff_model.weights import sd21
from trajectory_builder import manifest

TINY = presets.preset("tiny")
SMALL = replace(TINY, kernel=replace(TINY.kernel, kernel_size=5))


@cache
def folder_of(parts: tuple = PARTS) -> Path:
    """A model folder that all tests of a process share; nobody writes into it."""
    torch.set_num_threads(1)
    weights = sd21.load_base("random:1", SMALL.base)
    model = build(SMALL, weights, parts=parts, seed=1)
    generator = torch.Generator().manual_seed(4)
    moved = [*model.base.lora_parameters(), *(model.control.parameters() if model.control else [])]
    for parameter in moved:
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    folder = Path(tempfile.mkdtemp(prefix="small_model_")) / "model"
    model.save(folder)
    return folder


@cache
def loaded() -> FideDiff:
    """The same model in memory; nobody changes it."""
    return FideDiff.load(folder_of())


def cli(*args) -> int:
    """Run `fidediff` as a user does, in this process; the exit code."""
    try:
        main([str(arg) for arg in args])
    except SystemExit as end:
        return int(end.code or 0)
    raise AssertionError("main always exits")


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft blobs and edges (H, W, 3) uint8, as little like noise as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (-(-height // 12), -(-width // 12), 3))
    big = np.kron(coarse, np.ones((12, 12, 1)))[:height, :width]
    ramp = np.linspace(0, 60, width)[None, :, None]
    return np.clip(0.75 * big + ramp, 0, 255).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 as (1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(image / 127.5 - 1).float().permute(2, 0, 1)[None].contiguous()


def write_set(folder: Path, *, counts=(3, 5), trajectories=2, size=(40, 48)) -> Path:
    """A small `trajbuild` folder with one split: means of a scene that moves 2 pixels a frame."""
    rows = []
    for number in range(trajectories):
        clip, name = f"CLIP{number}", f"{number:06d}"
        wide = scene(size[0], size[1] + 40, seed=number)
        frames = [wide[:, 2 * i : 2 * i + size[1]] for i in range(max(counts))]
        middle = max(counts) // 2
        sharp = f"sharp/{clip}/{name}.png"
        save_png(folder / "test" / sharp, frames[middle])
        for n in counts:
            window = frames[middle - n // 2 : middle + n // 2 + 1]
            blur = f"blur/{clip}/{name}_n{n:02d}.png"
            mean = np.rint(np.mean(window, axis=0)).astype(np.uint8)
            save_png(folder / "test" / blur, mean)
            rows.append(_row(f"{clip}/{name}", n, counts, blur, sharp, size))
    table = pa.Table.from_pylist(rows, schema=manifest.SCHEMA)
    manifest.write(table, folder / "test" / manifest.FILE_NAME, {"recipe": "small"})
    return folder


def save_png(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def _row(trajectory: str, n: int, counts: tuple, blur: str, sharp: str, size: tuple) -> dict:
    return {
        "sample_id": f"{trajectory}/n{n:02d}",
        "trajectory_id": trajectory,
        "split": "test",
        "clip_id": trajectory.split("/")[0],
        "n_frames": n,
        "timestep": (n - 1) * 20,
        "native_n_frames": max(counts),
        "backward_n_frames": [1, *(m for m in counts if m < n)],
        "blur_file_name": blur,
        "sharp_file_name": sharp,
        "origin": "averaged",
        "average_domain": "srgb",
        "width": size[1],
        "height": size[0],
        "blur_sha256": f"{trajectory}{n}",
        "sharp_sha256": trajectory,
        "blur_bytes": 1,
        "sharp_bytes": 1,
    }
