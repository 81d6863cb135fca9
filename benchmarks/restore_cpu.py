"""What restoring costs on a CPU: `tiny` variant by variant, and `sd21` in one line.

    python benchmarks/restore_cpu.py [--size 640x360] [--threads N] [--sd21] [--out FOLDER]

Random base weights. Also measures what bfloat16 costs in quality on `tiny`: the PSNR of its
restorations against the sharp image, less that in float32, over scenes made here. Writes
`restore_cpu.json` and `restore_cpu.md`. `--sd21` needs about 8 GB of memory and some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fidediff_model.evaluate.benchmark import BenchmarkRequest, make_model, run, to_markdown
from fidediff_model.model.engine import Settings, make_ready
from fidediff_model.scores import metrics
from fidediff_model.scores.metrics import to_tensor

SCENES = 4
CPU = torch.device("cpu")


def scene(seed: int, height: int = 180, width: int = 320) -> np.ndarray:
    """Blobs and edges (H, W, 3) uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (-(-height // 12), -(-width // 12), 3))
    big = np.kron(coarse, np.ones((12, 12, 1)))[:height, :width]
    return np.clip(0.75 * big + np.linspace(0, 60, width)[None, :, None], 0, 255).astype(np.uint8)


def moved(image: np.ndarray, pixels: int = 9) -> np.ndarray:
    """The mean of the image at `pixels` horizontal positions."""
    shifts = range(-(pixels // 2), pixels // 2 + 1)
    return np.rint(np.mean([np.roll(image, s, 1) for s in shifts], axis=0)).astype(np.uint8)


def cost_of_bfloat16() -> dict[str, Any]:
    """Mean PSNR against the sharp image in both types, and between the two."""
    found: dict[str, list[np.ndarray]] = {}
    for dtype in ("fp32", "bf16"):
        ready = make_ready(make_model("tiny", "random:0", CPU), Settings(device="cpu", dtype=dtype))
        found[dtype] = [
            metrics.as_uint8(ready.run(to_tensor(moved(scene(seed)))[None]).images[0])
            for seed in range(SCENES)
        ]
    psnr = {
        dtype: float(np.mean([metrics.psnr(image, scene(i)) for i, image in enumerate(images)]))
        for dtype, images in found.items()
    }
    between = [metrics.psnr(a, b) for a, b in zip(*found.values(), strict=True)]
    return {"psnr": psnr, "loss_db": psnr["fp32"] - psnr["bf16"], "between_db": np.mean(between)}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sd21", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # so that no model chooses its own
    torch.set_num_threads(options.threads)
    width, height = (int(part) for part in options.size.split("x"))
    tiny = BenchmarkRequest(
        preset="tiny", size=(height, width), dtypes=("fp32", "bf16"), device="cpu",
        repeats=options.repeats, warm_up=1,
    )  # fmt: skip
    results = [run(tiny)]
    quality = cost_of_bfloat16()
    if options.sd21:
        sd21 = BenchmarkRequest(
            size=(256, 256), latent_stride=8, control="none", device="cpu", repeats=1,
            warm_up=1,
        )  # fmt: skip
        results.append(run(sd21))
    text = "\n".join(to_markdown(result) for result in results)
    text += (
        f"\nbfloat16 on `tiny`: PSNR {quality['psnr']['bf16']:.4f} dB against"
        f" {quality['psnr']['fp32']:.4f} dB in float32, a loss of {quality['loss_db']:.4f} dB"
        f" over {SCENES} scenes; the two outputs differ by {quality['between_db']:.1f} dB.\n"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "restore_cpu.md").write_text(text)
    content = {"results": [asdict(result) for result in results], "bfloat16": quality}
    (options.out / "restore_cpu.json").write_text(json.dumps(content, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
