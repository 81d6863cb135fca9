"""Small data sets and quick runs of the tiny preset, for the tests of training."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from fidediff_model.training.request import Request
from trajectory_builder import manifest

HEIGHT, WIDTH, CROP = 36, 44, 32
QUICK = {
    "crop": CROP,
    "batch": 2,
    "points": 2,
    "workers": 0,
    "steps": 2,
    "warmup_steps": 0,
    "log_every": 1,
    "save_every": 1,
    "keep": 9,
    "validate_every": 0,
    "tensorboard": False,
}
SPAWNED = []  # so that a failing test leaves none behind
IMAGES = {**QUICK, "perceptual": "none", "gan_weight": 0.0}


def make_data(folder, *, train=4, held_out=0, n_frames=(3, 5, 7), size=(HEIGHT, WIDTH), **changes):
    """Write a data set of textures that move a pixel a frame; `changes` go into every row."""
    for split, count in (("train", train), ("validation", held_out)):
        rows = [
            row | changes
            for number in range(count)
            for row in _trajectory(folder / split, split, number, n_frames, size)
        ]
        if rows or split == "train":
            (folder / split).mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(rows, schema=manifest.SCHEMA)
            manifest.write(table, folder / split / manifest.FILE_NAME, {"recipe": "small"})
    return folder


def _trajectory(home, split, number, n_frames, size):
    height, width = size
    name = f"{split}{number}"
    random = np.random.default_rng([number, len(split)])
    small = random.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    strip = cv2.resize(small, (width + max(n_frames), height), interpolation=cv2.INTER_CUBIC)
    frames = [strip[:, k : k + width] for k in range(max(n_frames))]
    middle = max(n_frames) // 2
    _write(home / f"sharp/{name}/000001.png", frames[middle])
    for n in n_frames:
        window = frames[middle - n // 2 : middle + n // 2 + 1]
        blur = np.rint(np.mean(window, axis=0)).astype(np.uint8)
        _write(home / f"blur/{name}/000001_n{n:02d}.png", blur)
        yield {
            "sample_id": f"{name}/000001/n{n:02d}",
            "trajectory_id": f"{name}/000001",
            "split": split,
            "clip_id": name,
            "n_frames": n,
            "timestep": (n - 1) * 20,
            "native_n_frames": max(n_frames),
            "backward_n_frames": [1, *(m for m in n_frames if m < n)],
            "blur_file_name": f"blur/{name}/000001_n{n:02d}.png",
            "sharp_file_name": f"sharp/{name}/000001.png",
            "origin": "averaged",
            "average_domain": "srgb",
            "width": width,
            "height": height,
            "blur_sha256": f"blur {name} {n}",
            "sharp_sha256": f"sharp {name}",
            "blur_bytes": 1,
            "sharp_bytes": 1,
        }


def _write(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rgb[..., ::-1])


def request(run_dir, data=None, *, stage="base", start=None, resume=False, **settings):
    """A request for a quick run of the tiny preset over random base weights."""
    return Request(
        run_dir=run_dir,
        data=data,
        base_model="random:0" if stage == "base" and not resume else None,
        start=start,
        settings=settings if resume else {**(QUICK if stage == "kernel" else IMAGES), **settings},
        preset="tiny",
        resume=resume,
    )


def command(run_dir, data, *, stage="base", start=None, **settings):
    """The same as a command line."""
    given = {**(QUICK if stage == "kernel" else IMAGES), **settings}
    words = [sys.executable, "-m", "fidediff_model.cli", "train", stage]
    words += ["--data", str(data), "--run-dir", str(run_dir)]
    words += ["--from", str(start)] if start else ["--preset", "tiny", "--base-model", "random:0"]
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def spawn(words, **environment):
    """Start a command with one thread, in a process group of its own; stderr can be read."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, env=env, text=True, start_new_session=True, **pipes)
    SPAWNED.append(process)
    return process


def spawn_two(words):
    """Start a command as two processes that train together over gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [spawn(words, RANK=str(r), LOCAL_RANK=str(r), **shared) for r in range(2)]


def files_of(folder: Path):
    """Relative name -> bytes of all files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
