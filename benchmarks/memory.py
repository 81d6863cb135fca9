"""Memory of a training step of `sd21`, computed: no GPU and no weights are needed.

    python benchmarks/memory.py

The whole step of the stages base and control (forward, losses with EA-LPIPS, backward, D's turn,
AdamW) runs with fake tensors, which have shapes and no data, under torch's own `MemTracker`. What
it reports is what torch's allocator would be asked for. Not in it: the CUDA context (about 0.5 GB),
workspaces of convolutions, and fragmentation; so a GPU needs some GB more. Writes
benchmarks/results/memory.md and .json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from fidediff_model import config as model_config
from fidediff_model.base_folder import unet_config, vae_config
from fidediff_model.discriminator import discriminator_loss, frozen, generator_loss
from fidediff_model.losses import ReconstructionLoss
from fidediff_model.model import build, build_discriminator
from fidediff_model.pretrained import BaseWeights
from fidediff_model.training.base import BaseStep
from fidediff_model.training.control import ControlStep
from fidediff_model.training.image_stage import checkpoint_gradients
from fidediff_model.vgg import VGG16

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
CROP = 256  # 512 at the network's input for latent_stride 4
CASES = [
    # stage, images a batch, gradient checkpointing
    ("base", 1, False),
    ("base", 1, True),
    ("base", 2, True),
    ("base", 8, True),
    ("control", 1, False),
    ("control", 1, True),
]


def measure(preset: str, stage: str, images: int, checkpointing: bool) -> dict[str, float]:
    """Peak bytes of two steps by kind, in GiB; bf16 frozen, float32 trained, as in training."""
    config = model_config.preset(preset)
    with FakeTensorMode(allow_non_fake_inputs=True):
        stepper, discriminator, loss = _build(config, stage)
        if checkpointing:
            checkpoint_gradients(stepper.model)
        trained = [p for p in stepper.parameters() if p.requires_grad]
        optimizers = [
            torch.optim.AdamW(trained),
            torch.optim.AdamW(discriminator.heads.parameters()),
        ]
        averages = [p.detach().clone() for p in trained]
        tracker: Any = MemTracker()
        tracker.track_external(stepper, discriminator, loss, *optimizers, *averages)
        with tracker:
            for _ in range(2):
                _step(stepper, discriminator, loss, optimizers, images)
        peak = tracker.get_tracker_snapshot("peak")
    device = next(iter(peak))
    kinds = {str(kind).rpartition(".")[2]: size / GIB for kind, size in peak[device].items()}
    return {name: round(size, 2) for name, size in kinds.items()}


def _build(config: Any, stage: str) -> tuple[Any, Any, nn.Module]:
    torch.set_default_dtype(torch.bfloat16)  # fake weights cannot be cast afterwards
    unet = diffusers.UNet2DConditionModel(**unet_config(config.base))
    vae = diffusers.AutoencoderKL(**vae_config(config.base))
    torch.set_default_dtype(torch.float32)
    prompt = torch.randn(1, config.base.prompt_tokens, config.base.prompt_width)
    weights = BaseWeights(unet.eval(), vae.eval(), prompt, "fake", "fake")
    discriminator = build_discriminator(config, weights)
    parts = ("kernel_estimator", "timestep_regressor", "control") if stage == "control" else ()
    model = build(config, weights, parts=parts)
    model.train_only(stage)  # type: ignore[arg-type]
    stepper = ControlStep(model, estimated=False) if stage == "control" else BaseStep(model)
    return stepper, discriminator, ReconstructionLoss(VGG16("fake"), perceptual="ea-lpips")


def _step(
    stepper: Any, discriminator: Any, loss: nn.Module, optimizers: list[Any], images: int
) -> None:
    blur, sharp = (torch.rand(images, 3, CROP, CROP) for _ in range(2))
    t = torch.full((images,), 200.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        restored = stepper(blur, t)
    total = loss(restored.image, sharp).total
    with frozen(discriminator):
        total = total + 0.5 * generator_loss(discriminator(restored.z0_hat, t), "hinge")
    total.backward()
    with torch.no_grad():
        z_0 = stepper.model.codec.encode(sharp)
    logits = discriminator(torch.cat([z_0, restored.z0_hat.detach()]), torch.cat([t, t]))
    discriminator_loss(
        [x[:images] for x in logits], [x[images:] for x in logits], "hinge"
    ).backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Measure all cases and write the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--preset", default="sd21", choices=list(model_config.PRESETS))
    options.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args()
    torch.set_num_threads(1)
    rows = []
    for stage, images, checkpointing in CASES:
        found = measure(given.preset, stage, images, checkpointing)
        rows.append(
            {"stage": stage, "images": images, "gradient_checkpointing": checkpointing} | found
        )
        print(json.dumps(rows[-1]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    told = {"preset": given.preset, "crop": CROP, "torch": torch.__version__, "rows": rows}
    (given.out / "memory.json").write_text(json.dumps(told, indent=1) + "\n")
    (given.out / "memory.md").write_text(to_markdown(told))


def to_markdown(told: dict[str, Any]) -> str:
    """The table, with what it does not hold."""
    kinds = [k for k in told["rows"][0] if k not in ("stage", "images", "gradient_checkpointing")]
    lines = [
        f"# Memory of a training step, {told['preset']}",
        "",
        f"Crop {told['crop']} at latent_stride 4 (512 x 512 at the network's input), EA-LPIPS, D,"
        " EMA, AdamW, bf16.",
        "Computed with fake tensors under torch's MemTracker by `benchmarks/memory.py`"
        f" (torch {told['torch']}); not yet measured on a GPU.",
        "Add the CUDA context, convolution workspaces and fragmentation: 1 to 3 GiB.",
        "",
        "GiB at the peak:",
        "",
        "| stage | images | checkpointing | " + " | ".join(kinds) + " |",
        "|" + "---|" * (len(kinds) + 3),
    ]
    for row in told["rows"]:
        on = "yes" if row["gradient_checkpointing"] else "no"
        cells = " | ".join(f"{row[k]:.2f}" for k in kinds)
        lines.append(f"| {row['stage']} | {row['images']} | {on} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
