"""Per-pixel filtering side by side: `reblur`, unfold + einsum, and a plain loop under autograd.

    python benchmarks/reblur.py [--side 256] [--repeat 5] [--threads 2] [--out benchmarks/results]

Each way runs in a process of its own, forward and backward to the kernels, at batch 1 and three
channels with 19 x 19 taps. Time is the best of the repeats; memory is the greatest resident size
(Linux) or allocation (CUDA) over what was in use with the inputs at hand. All ways must agree to
1e-5 before anything is reported. On a CUDA device the compiled path is timed too.

The floor beside them is what the machine takes to hand out and fill memory of the size of the
kernels' gradient once: no way can be faster, and on a virtual machine it is much of the whole.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fidediff_model.model.reblur import reblur

SIZE = 19


def by_unfold(sharp: Tensor, kernels: Tensor) -> Tensor:
    padded = functional.pad(sharp, (SIZE // 2,) * 4, mode="replicate")
    windows = functional.unfold(padded, SIZE).view(*sharp.shape[:2], SIZE**2, *sharp.shape[2:])
    return torch.einsum("bkhw,bckhw->bchw", kernels, windows)


def by_loop(sharp: Tensor, kernels: Tensor) -> Tensor:
    """The formula tap by tap, under autograd."""
    height, width = sharp.shape[2:]
    padded = functional.pad(sharp, (SIZE // 2,) * 4, mode="replicate")
    total = torch.zeros_like(sharp)
    for tap in range(SIZE**2):
        dy, dx = divmod(tap, SIZE)
        window = padded[:, :, dy : dy + height, dx : dx + width]
        total = total + kernels[:, tap : tap + 1] * window
    return total


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reblur": lambda sharp, kernels: reblur(sharp, kernels, fused=False),
    "reblur, compiled": lambda sharp, kernels: reblur(sharp, kernels, fused=True),
    "unfold + einsum": by_unfold,
    "loop under autograd": by_loop,
}


def inputs(side: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sharp = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    logits = torch.rand(1, SIZE**2, side, side, generator=generator)
    return sharp.to(device), logits.softmax(1).to(device).requires_grad_()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _reset_peak(device: str) -> int:
    """Forget the greatest memory so far; returns the bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # Linux: 5 resets the greatest resident size (proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _peak_bytes(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def memory_floor(side: int, repeat: int, device: str) -> float:
    """Seconds to allocate and fill what the kernels' gradient needs, the best of the repeats."""
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        torch.empty(SIZE**2 * side**2, device=device).fill_(1.0)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(way: str, side: int, repeat: int, device: str) -> dict[str, object]:
    """One way in this process: seconds, bytes, and a fingerprint of result and gradient."""
    run = WAYS[way]
    small = inputs(24, device)
    run(*small).sum().backward()
    sharp, kernels = inputs(side, device)
    _wait(device)
    before = _reset_peak(device)
    seconds, forward = [], []
    for _ in range(repeat):
        kernels.grad = None
        start = time.perf_counter()
        blurred = run(sharp, kernels)
        _wait(device)
        middle = time.perf_counter()
        blurred.square().sum().backward()
        _wait(device)
        seconds.append(time.perf_counter() - start)
        forward.append(middle - start)
    gradient = kernels.grad
    return {
        "way": way,
        "seconds": min(seconds),
        "forward_seconds": min(forward),
        "peak_bytes": _peak_bytes(device) - before,
        "probe": blurred.detach().flatten()[:: side + 1].tolist(),
        "gradient_probe": [] if gradient is None else gradient.flatten()[:: side**2 + 97].tolist(),
    }


def _in_own_process(way: str, options: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, __file__, "--one", way, "--side", str(options.side)]
    # The loop takes seconds a round; once is enough to rank it.
    repeat = 1 if way == "loop under autograd" else options.repeat
    command += ["--repeat", str(repeat), "--threads", str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def _check_agreement(results: list[dict[str, object]]) -> None:
    first = results[0]
    for other in results[1:]:
        for key in ("probe", "gradient_probe"):
            torch.testing.assert_close(
                torch.tensor(other[key]), torch.tensor(first[key]), atol=1e-5, rtol=1e-4
            )


def _table(report: dict[str, object], results: list[dict[str, object]]) -> str:
    lines = [
        f"# Per-pixel filtering, 3 x {report['side']} x {report['side']}, 19 x 19 taps",
        "",
        f"{report['machine']}, torch {report['torch']}, {report['threads']} threads,"
        f" {report['device']}. Forward and backward to the kernels; the kernels' gradient itself is"
        f" {report['gradient_mib']:.0f} MiB, and this machine takes {report['floor_seconds']:.3f} s"
        " to hand out and fill that much once (the floor).",
        "",
        "| way | seconds | forward alone | times `reblur` | peak over the inputs |",
        "|---|---|---|---|---|",
    ]
    base = float(str(results[0]["seconds"]))
    for row in results:
        seconds = float(str(row["seconds"]))
        forward, peak = float(str(row["forward_seconds"])), int(str(row["peak_bytes"]))
        lines.append(
            f"| {row['way']} | {seconds:.3f} | {forward:.3f} | {seconds / base:.1f}"
            f" | {peak / 2**20:.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure each way in its own process and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="reblur", help="of the two files")
    parser.add_argument("--one", choices=list(WAYS), help="measure one way, print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.one:
        print(json.dumps(measure(options.one, options.side, options.repeat, device)))
        return
    compiled = device == "cuda" and importlib.util.find_spec("triton") is not None
    ways = [way for way in WAYS if compiled or way != "reblur, compiled"]
    results = [_in_own_process(way, options) for way in ways]
    _check_agreement(results)
    for row in results:
        del row["probe"], row["gradient_probe"]
    report: dict[str, object] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "threads": options.threads,
        "side": options.side,
        "floor_seconds": memory_floor(options.side, options.repeat, device),
        "gradient_mib": SIZE**2 * options.side**2 * 4 / 2**20,
        "results": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(json.dumps(report, indent=2) + "\n")
    table = _table(report, results)
    (options.out / f"{options.name}.md").write_text(table)
    print(table, end="")


if __name__ == "__main__":
    main()
