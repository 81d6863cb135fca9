"""Build `sd21` with random weights and restore one image end to end on the CPU.

    python benchmarks/sd21_cpu.py [--size 256] [--stride 8]

Proves that every part works at its real size: memory about 8 GB, some minutes on two cores. The
weights are random, so the image means nothing; the seconds are for orientation, not for claims.
Writes `results/sd21_cpu.md` beside this file.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time
from dataclasses import replace
from pathlib import Path

import torch

from fidediff_model.config import CodecConfig
from fidediff_model.model import presets
from fidediff_model.model.fidediff import build
from fidediff_model.model.step import PARTS
from fidediff_model.weights.sd21 import random_base

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def main() -> None:
    """Build, restore, check shapes, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--stride", type=int, default=8, choices=(4, 8))
    options = parser.parse_args()
    settings = replace(presets.preset("sd21"), codec=CodecConfig(options.stride))
    start = time.perf_counter()
    model = build(settings, random_base(settings.base), parts=PARTS)
    built = time.perf_counter() - start
    parameters = sum(p.numel() for p in model.parameters())
    model.prepare_for_inference()
    blur = torch.rand(1, 3, options.size, options.size) * 2 - 1
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            out = model(blur)
        seconds.append(time.perf_counter() - start)
    if out.image.shape != blur.shape or not bool(out.image.isfinite().all()):
        raise SystemExit("the restored image has another shape or is not finite")
    cells = options.size // options.stride
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = [
        "# sd21 with random weights, end to end on a CPU",
        "",
        "Written by `benchmarks/sd21_cpu.py`. The machine was shared with other work: the seconds "
        "show that it runs, not how fast.",
        "",
        "| what | value |",
        "|---|---|",
        f"| machine | {processor()}, {torch.get_num_threads()} threads |",
        f"| torch | {torch.__version__}, float32 |",
        f"| image | {options.size} x {options.size}, latent stride {options.stride} |",
        f"| parameters, all parts and LoRA | {parameters:,} |",
        f"| built in | {built:.0f} s |",
        f"| restored in | first {seconds[0]:.1f} s, second {seconds[1]:.1f} s |",
        f"| peak memory | {peak:.1f} GiB |",
        f"| image out | {tuple(out.image.shape)}, finite |",
        f"| kernels | {tuple(out.kernels.shape) if out.kernels is not None else None} |",
        f"| z0_hat | {tuple(out.z0_hat.shape)}, {cells} cells a side before padding |",
        f"| t_hat | {out.t_hat.item():.1f} (untrained) |",
        "",
    ]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sd21_cpu.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
