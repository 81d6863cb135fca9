"""Counted FLOPs of a training step of `sd21`, and what they mean in hours.

    python benchmarks/train_flops.py

Forward and backward of the whole model on the meta device under torch's FlopCounterMode, with the
loss on the image and EA-LPIPS; one multiply-add is 2. The hours assume a share of the peak that the
table names: they are estimates until they are measured. Writes results/train_flops.md and .json.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fidediff_model.model import presets
from fidediff_model.model.fidediff import build
from fidediff_model.model.step import PARTS
from fidediff_model.scores.losses import ReconstructionLoss
from fidediff_model.training.base import BaseStep
from fidediff_model.training.control import ControlStep
from fidediff_model.weights.sd21 import random_base
from fidediff_model.weights.vgg import VGG16

RESULTS = Path(__file__).parent / "results"
CROP = 256
SHARE = 0.4
# Dense bf16 peaks in TFLOP/s, from the makers' data sheets.
DEVICES = {"RTX 4090 (24 GB)": 165.0, "A100": 312.0, "H100": 989.0}
STEPS, IMAGES = 100_000, 8


def count(stage: str) -> float:
    """TFLOP of one image's forward and backward in a stage, crop 256 at latent_stride 4."""
    config = presets.preset("sd21")
    counter: Any = FlopCounterMode(display=False)
    with torch.device("meta"):
        blur = torch.rand(1, 3, CROP, CROP)
        if stage == "kernel":
            model = build(config, random_base(config.base), parts=["kernel_estimator"])
            model.train_only("kernel")
            with counter:
                kernels = model.kernel_estimator(blur)  # type: ignore[misc]
                kernels.sum().backward()
            return float(counter.get_total_flops()) / 1e12
        model = build(config, random_base(config.base), parts=PARTS if stage == "control" else ())
        model.train_only(stage)  # type: ignore[arg-type]
        stepper: Any = (
            ControlStep(model, estimated=False) if stage == "control" else BaseStep(model)
        )
        loss = ReconstructionLoss(VGG16("meta"), perceptual="ea-lpips").to("meta")
        with counter:
            restored = stepper(blur, torch.full((1,), 200.0))
            loss(restored.image, torch.rand(1, 3, CROP, CROP)).total.backward()
    return float(counter.get_total_flops()) / 1e12


def main() -> None:
    """Count the stages and write the table."""
    # The meta device knows no autocast, not even how to switch it off.
    torch.autocast = lambda *given, **named: nullcontext()  # type: ignore[assignment,misc]
    found = {stage: round(count(stage), 2) for stage in ("base", "kernel", "control")}
    told = {"crop": CROP, "latent_stride": 4, "tflop_an_image": found, "share": SHARE}
    lines = [
        "# FLOPs of a training step, sd21",
        "",
        f"Forward and backward of one image, crop {CROP} at latent_stride 4, EA-LPIPS, without D"
        " and gradient checkpointing (which adds a forward: about a third), counted on the meta"
        f" device by `benchmarks/train_flops.py`. Hours: {STEPS:,} steps of {IMAGES} images at"
        f" {SHARE:.0%} of the bf16 peak on the data sheet; estimated, not measured.",
        "",
        "| stage | TFLOP an image | " + " | ".join(f"hours, {d}" for d in DEVICES) + " |",
        "|" + "---|" * (len(DEVICES) + 2),
    ]
    for stage, size in found.items():
        hours = [size * IMAGES * STEPS / (peak * SHARE) / 3600 for peak in DEVICES.values()]
        cells = " | ".join(f"{h:.1f}" for h in hours)
        lines.append(f"| {stage} | {size:.2f} | {cells} |")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train_flops.json").write_text(json.dumps(told, indent=1) + "\n")
    (RESULTS / "train_flops.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
