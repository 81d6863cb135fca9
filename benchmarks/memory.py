"""Memory of a training step of `sd21`, computed: no GPU and no weights are needed.

    python benchmarks/memory.py
    python benchmarks/memory.py --device cuda      the same steps, measured on a GPU

Weights, moments and averages are counted: 2 bytes a frozen weight in bf16, 18 a trained one
(float32 weight, two moments, average, and the half of its gradient that is not measured).
Activations and gradients are measured: a whole step (forward, EA-LPIPS, backward, D's turn) runs
on the meta device, which has shapes and no data, and a dispatch mode adds up the storages that
live at once. Everything runs in bf16 there as it would under autocast, VGG16 in float32; attention
counts as a kernel that keeps no scores (flash or memory-efficient), which is what CUDA takes. Not
in it: the CUDA context (about 0.5 GiB), workspaces of convolutions, fragmentation.
Writes results/memory.md and memory.json; with `--device cuda`, where D, AdamW and the averages are
real and a step is timed as well, memory-DEVICE.md and .json.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from fidediff_model.model import presets
from fidediff_model.model.discriminator import (
    build_discriminator,
    discriminator_loss,
    frozen,
    generator_loss,
)
from fidediff_model.model.fidediff import build
from fidediff_model.model.step import PARTS
from fidediff_model.scores.losses import ReconstructionLoss
from fidediff_model.training.base import BaseStep
from fidediff_model.training.control import ControlStep
from fidediff_model.training.image_stage import checkpoint_gradients
from fidediff_model.weights.sd21 import random_base
from fidediff_model.weights.vgg import VGG16

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
CROP = 256  # 512 at the network's input for latent_stride 4
CASES = [
    # stage, images per batch, --checkpointing
    ("base", 1, "none"),
    ("base", 1, "vae"),
    ("base", 1, "all"),
    ("base", 2, "all"),
    ("base", 8, "vae"),
    ("base", 8, "all"),
    ("control", 1, "none"),
    ("control", 1, "vae"),
    ("control", 1, "all"),
]


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that live at once, besides those of the given modules."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: Any = WeakIdKeyDictionary()
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known[storage] = True
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


class _Attention(torch.autograd.Function):
    """Shapes and saved tensors of an attention that keeps no scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _no_autocast(*given: Any, **named: Any) -> Any:
    return nullcontext()


def measure(preset: str, stage: str, images: int, checkpointing: str) -> dict[str, float]:
    """GiB by kind for one step."""
    config = presets.preset(preset)
    with torch.device("meta"):
        stepper, discriminator, loss = _build(config, stage)
        checkpoint_gradients(stepper.model, checkpointing)  # type: ignore[arg-type]
        with LiveBytes(stepper, discriminator, loss) as live:
            _step(stepper, discriminator, loss, images)
    trained = sum(p.numel() for p in stepper.parameters() if p.requires_grad)
    frozen_ones = sum(p.numel() for p in stepper.parameters() if not p.requires_grad)
    heads = sum(p.numel() for p in discriminator.heads.parameters())
    encoder = sum(p.numel() for p in discriminator.encoder.parameters())
    told = {
        "frozen weights": 2 * (frozen_ones + encoder),
        "trained, moments, average": 18 * trained + 14 * heads,
        "VGG16": 4 * sum(p.numel() for p in loss.parameters()),
        "activations, gradients": live.peak,
    }
    told["together"] = sum(told.values())
    return {name: round(size / GIB, 2) for name, size in told.items()}


def measure_on_gpu(preset: str, stage: str, images: int, checkpointing: str) -> dict[str, float]:
    """GiB at the peak of whole steps, those that torch took from the device, seconds a step."""
    config = presets.preset(preset)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with torch.device("cuda"):
        stepper, discriminator, loss = _build(config, stage, trained=torch.float32)
        checkpoint_gradients(stepper.model, checkpointing)  # type: ignore[arg-type]
        learnt = [
            p for p in (*stepper.parameters(), *discriminator.parameters()) if p.requires_grad
        ]
        averages = [p.detach().clone() for p in learnt]
        optimizer = torch.optim.AdamW(learnt, lr=1e-5)
        begun = 0.0
        for number in range(5):
            if number == 2:  # the first steps allocate
                torch.cuda.synchronize()
                begun = time.perf_counter()
            with torch.autocast("cuda", dtype=torch.bfloat16):
                _step(stepper, discriminator, loss, images)
            optimizer.step()
            optimizer.zero_grad()
            torch._foreach_lerp_(averages, [p.detach() for p in learnt], 0.001)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - begun) / 3
    peaks = {
        "measured": torch.cuda.max_memory_allocated(),
        "taken from the device": torch.cuda.max_memory_reserved(),
    }
    return {name: round(size / GIB, 2) for name, size in peaks.items()} | {
        "seconds a step": round(seconds, 3)
    }


def _build(
    config: Any, stage: str, trained: torch.dtype = torch.bfloat16
) -> tuple[Any, Any, nn.Module]:
    weights = random_base(config.base)
    discriminator = build_discriminator(config, weights).to(torch.bfloat16)
    model = build(config, weights, parts=PARTS if stage == "control" else ())
    model.train_only(stage)  # type: ignore[arg-type]
    stepper = ControlStep(model, estimated=False) if stage == "control" else BaseStep(model)
    here = torch.empty(0).device
    loss = ReconstructionLoss(VGG16("meta"), perceptual="ea-lpips").to_empty(device=here)
    stepper.to(torch.bfloat16)
    for module in (stepper, discriminator):
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(trained)
    for part in (model.kernel_estimator, model.timestep_regressor):
        if part is not None:
            part.float()
    return stepper, discriminator, loss


def _step(stepper: Any, discriminator: Any, loss: nn.Module, images: int) -> None:
    blur, sharp = (torch.rand(images, 3, CROP, CROP) for _ in range(2))
    t = torch.full((images,), 200.0)
    restored = stepper(blur, t)
    total = loss(restored.image, sharp).total
    with frozen(discriminator):
        total = total + 0.5 * generator_loss(discriminator(restored.z0_hat, t), "hinge")
    total.backward()
    fake = restored.z0_hat.detach()
    del restored, total
    with torch.no_grad():
        z_0 = stepper.model.codec.encode(sharp)
    logits = discriminator(torch.cat([z_0, fake]), torch.cat([t, t]))
    real, other = [x[:images] for x in logits], [x[images:] for x in logits]
    discriminator_loss(real, other, "hinge").backward()


def main() -> None:
    """Measure all cases and write the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--preset", default="sd21", choices=list(presets.PRESETS))
    options.add_argument("--out", type=Path, default=RESULTS)
    options.add_argument("--device", default="meta", choices=["meta", "cuda"])
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.device == "cuda":
        _on_gpu(given.preset, given.out)
        return
    torch.set_num_threads(1)
    attend: Any = lambda q, k, v, **given: _Attention.apply(q, k, v)  # noqa: E731
    torch.nn.functional.scaled_dot_product_attention = attend
    # The meta device knows no autocast, not even how to switch it off.
    torch.autocast = _no_autocast  # type: ignore[assignment,misc]
    rows = []
    for stage, images, checkpointing in CASES:
        found = measure(given.preset, stage, images, checkpointing)
        rows.append({"stage": stage, "images": images, "checkpointing": checkpointing} | found)
        print(json.dumps(rows[-1]), flush=True)
    told = {"preset": given.preset, "crop": CROP, "torch": torch.__version__, "rows": rows}
    (given.out / "memory.json").write_text(json.dumps(told, indent=1) + "\n")
    (given.out / "memory.md").write_text(to_markdown(told))


def _on_gpu(preset: str, out: Path) -> None:
    rows = []
    for stage, images, checkpointing in CASES:
        found = measure_on_gpu(preset, stage, images, checkpointing)
        rows.append({"stage": stage, "images": images, "checkpointing": checkpointing} | found)
        print(json.dumps(rows[-1]), flush=True)
    device = torch.cuda.get_device_name()
    told = {"preset": preset, "crop": CROP, "device": device, "torch": torch.__version__}
    name = "memory-" + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    (out / f"{name}.json").write_text(json.dumps(told | {"rows": rows}, indent=1) + "\n")
    lines = [
        f"# Memory of a training step, {preset}, measured",
        "",
        f"`benchmarks/memory.py --device cuda` on {device}, torch {told['torch']}, random weights."
        f" Crop {CROP} at latent_stride 4, EA-LPIPS, D, averages, AdamW, bf16 autocast; five"
        " steps, the last three timed.",
        "Measured is the peak of what tensors take; taken from the device is the peak of torch's"
        " own reserve; the CUDA context comes on top.",
        "",
        *_table(rows),
    ]
    (out / f"{name}.md").write_text("\n".join(lines) + "\n")


def to_markdown(told: dict[str, Any]) -> str:
    """The table, with what it does not hold."""
    lines = [
        f"# Memory of a training step, {told['preset']}",
        "",
        f"Crop {told['crop']} at latent_stride 4 (512 x 512 at the network's input), EA-LPIPS, D,"
        " EMA, AdamW, bf16.",
        "Weights counted, activations measured on the meta device by"
        f" `benchmarks/memory.py` (torch {told['torch']}); what a GPU took stands in"
        " memory-nvidia-h100-80gb-hbm3.md.",
        "To be added: the CUDA context, workspaces of convolutions, fragmentation; CUDA's autocast"
        " also computes norms in float32, which can add up to as much again as the activations.",
        "",
        "GiB at the peak:",
        "",
        *_table(told["rows"]),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    kinds = [k for k in rows[0] if k not in ("stage", "images", "checkpointing")]
    lines = [
        "| stage | images | checkpointing | " + " | ".join(kinds) + " |",
        "|" + "---|" * (len(kinds) + 3),
    ]
    for row in rows:
        on = row["checkpointing"]
        cells = " | ".join(f"{row[k]:.2f}" for k in kinds)
        lines.append(f"| {row['stage']} | {row['images']} | {on} | {cells} |")
    return lines


if __name__ == "__main__":
    main()
