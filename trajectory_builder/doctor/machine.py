"""The machine: codecs and their speed, cores, memory, and the GPU that torch would use.

Nothing but the standard library is imported before it is known that the packages work.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trajectory_builder.doctor import Finding
from trajectory_builder.doctor.packages import torch_build

FRAME = (720, 1280)
ROUNDS = 5
WORKER_BYTES = 200 << 20
"""What a worker may need for 720p (the project's own budget)."""

_TORCH_ASKS = """
import json, torch
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
mps = bool(getattr(torch.backends, "mps", None) and torch.backends.mps.is_available())
print(json.dumps(devices or (["Apple GPU (mps)"] if mps else [])))
"""


def codecs() -> Finding:
    """Write and read a synthetic 720p PNG with the codecs in use; median milliseconds of each.

    A codec that does not give back the same pixels blocks: averages would be wrong.
    """
    import numpy as np

    from trajectory_builder.images import png

    frame = _synthetic_frame()
    used = png.codecs()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.png"
        path.write_bytes(png.encode_png(frame))
        same = bool(np.array_equal(png.read_frame(path).pixels, frame))
        decode_ms = _milliseconds(lambda: png.read_frame(path))
    values: dict[str, Any] = {
        **used,
        "encode_ms": _milliseconds(lambda: png.encode_png(frame)),
        "decode_ms": decode_ms,
        "exact": same,
    }
    text = (
        f"1280 x 720 PNG: read in {values['decode_ms']:.1f} ms by {used['reader']},"
        f" written in {values['encode_ms']:.1f} ms by {used['writer']}"
    )
    if not same:
        cure = f"pip install --force-reinstall {used['reader'].split()[0]}"
        return Finding("codecs", "blocks", f"{text}, but the pixels differ", cure, values)
    slow = [
        package
        for package, name in (("kornia-rs", used["reader"]), ("isal", used["writer"]))
        if not name.startswith(package)
    ]
    cure = f"pip install {' '.join(slow)} for faster builds" if slow else ""
    return Finding("codecs", "note" if slow else "good", text, cure, values)


def cores() -> Finding:
    """Cores that this process may use, and what a container's quota leaves of them."""
    usable, quota = usable_cores(), _cpu_quota()
    values = {"usable": usable, "machine": os.cpu_count(), "quota": quota}
    text = f"{usable} of {os.cpu_count()} cores usable"
    if quota is not None and quota < usable:
        jobs = max(1, round(quota))
        text += f", and the container is held to {quota:.1f} of them"
        return Finding("cores", "note", text, f"give --jobs {jobs}", values)
    return Finding("cores", "good", text, values=values)


def memory() -> Finding:
    """Memory that is free, against what a worker a core needs."""
    free, needed = _free_memory(), usable_cores() * WORKER_BYTES
    if free is None:
        return Finding("memory", "good", "free memory is not known on this system")
    values = {"free_bytes": free, "needed_bytes": needed}
    text = f"{free / 1e9:.1f} GB free, {usable_cores()} workers need about {needed / 1e9:.1f} GB"
    if free < WORKER_BYTES:
        return Finding("memory", "blocks", text, "end other programs first", values)
    if free < needed:
        return Finding("memory", "note", text, f"give --jobs {free // WORKER_BYTES}", values)
    return Finding("memory", "good", text, values=values)


def gpu() -> Finding:
    """Whether torch sees a GPU; only the model half needs one.

    Torch itself is asked, in a process of its own, only where a device or driver is there at all;
    otherwise what it was built for says enough.
    """
    built = torch_build()
    devices = _driver_devices()
    values: dict[str, Any] = {"torch": built, "driver": devices}
    if not built:
        cure = "pip install 'fidediff[model]' to train or restore; the builder needs no torch"
        return Finding("gpu", "good", "torch is not installed", cure, values)
    name = f"torch {built['version']}"
    if not devices:
        cure = "train and restore on a machine with a GPU; building data needs none"
        return Finding("gpu", "good", f"{name}, and no GPU on this machine", cure, values)
    seen = _ask_torch()
    values["seen"] = seen
    if seen:
        return Finding("gpu", "good", f"{name} sees {', '.join(seen)}", values=values)
    text = f"{name} does not see the GPU that the driver names: {', '.join(devices)}"
    cure = "run `nvidia-smi`; the driver may be older than the CUDA that torch was built for"
    if not (built["cuda"] or built["hip"]):
        cure = "install a build of torch for your GPU: see https://pytorch.org/get-started/locally"
    return Finding("gpu", "note", text, cure, values)


def usable_cores() -> int:
    """The cores that this process may use: how many workers a build starts."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _synthetic_frame() -> Any:
    """(H, W, 3) uint8 with slopes, edges and grain, about as hard to code as a photograph."""
    import numpy as np

    rows, columns = np.mgrid[: FRAME[0], : FRAME[1]]
    slopes = np.stack([rows / 4, columns / 6, (rows + columns) / 9], axis=2)
    squares = 40 * ((rows // 60 + columns // 80) % 2)[..., None]
    grain = np.random.default_rng(0).normal(0, 2, (*FRAME, 3))
    return np.clip(slopes + squares + grain, 0, 255).astype(np.uint8)


def _milliseconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return round(1000 * sorted(taken)[ROUNDS // 2], 2)


def _cpu_quota() -> float | None:
    """Cores that a control group (version 2) allows, None without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _free_memory() -> int | None:
    """Bytes that may still be taken: of the machine, or of the control group if that is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return max(0, min(free, limit - used))
    except (OSError, ValueError):
        return free


def _driver_devices() -> list[str]:
    """GPUs that a driver names, [] where there is none."""
    if sys.platform == "darwin":
        return ["Apple GPU"] if os.uname().machine == "arm64" else []
    if Path("/dev/kfd").exists():
        return ["an AMD GPU"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        said = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.stdout.splitlines() if line.strip()]


def _ask_torch() -> list[str]:
    try:
        said = subprocess.run(
            [sys.executable, "-c", _TORCH_ASKS], capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        devices: list[str] = json.loads(said.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []
    return devices
