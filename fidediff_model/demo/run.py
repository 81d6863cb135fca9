"""The complete chain in minutes on a CPU: sample, practice base, three short stages, one picture.

The result is not good at deblurring: the model is a thousandth of the real one's size and sees a
few hundred crops. It shows which command makes what.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fidediff_model.data.batches import collate, to_device
from fidediff_model.data.rules import DrawRules
from fidediff_model.data.trajectories import TrajectoryDataset
from fidediff_model.demo import practice
from fidediff_model.model import presets
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.scores.metrics import as_uint8, psnr
from fidediff_model.training import base, control, kernel, log
from fidediff_model.training.request import Request
from trajectory_builder import manifest
from trajectory_builder.errors import UserError

# Our choice: each about a minute on two cores.
STEPS = {"vae": 200, "unet": 100, "base": 80, "kernel": 80, "control": 20}
_SHARED: dict[str, object] = {
    "crop": 64, "batch": 2, "points": 2, "workers": 0, "warmup_steps": 5, "ema": 0.95,
    "save_every": 1000, "validate_every": 0, "log_every": 10,
}  # fmt: skip
_IMAGES: dict[str, object] = {"perceptual": "none", "gan_weight": 0.0, "learning_rate": 1e-3}
_SHOWN = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoReport:
    """The result of the demo.

    Attributes:
        picture: blur, restored and sharp side by side.
        model: folder of the complete model.
        psnr_blur: mean of the blurs in the picture, in dB.
        psnr_restored: mean of their restorations.
    """

    picture: Path
    model: Path
    psnr_blur: float
    psnr_restored: float


def run(out: Path, *, say: Say, scale: float = 1.0) -> DemoReport:
    """Run the chain in `out`; a second call resumes where the first ended.

    Args:
        out: new, or a demo's folder.
        say: called with a line before each part.
        scale: multiplies all numbers of steps.
    """
    steps = {name: max(2, round(count * scale)) for name, count in STEPS.items()}
    say("1/6 sample: photographs moved before a 240 fps camera, expanded to trajectories")
    data = _make_data(out)
    say("2/6 practice base: a tiny VAE and UNet, in place of Stable Diffusion 2.1")
    practice.make(
        data, out / "base-model", presets.preset("tiny").base,
        vae_steps=steps["vae"], unet_steps=steps["unet"], say=say,
    )  # fmt: skip
    say("3/6 stage base: LoRA and prompt learn one step back")
    base.train(
        Request(
            out / "base",
            data,
            base_model=str(out / "base-model"),
            settings={**_SHARED, **_IMAGES, "steps": steps["base"]},
            model={"lora.rank": 16, "lora.alpha": 16},
            preset="tiny",
        )
    )
    say("4/6 stage kernel: M learns to reblur")
    settings: dict[str, object] = {**_SHARED, "steps": steps["kernel"], "learning_rate": 1e-3}
    kernel.train(Request(out / "kernel", data, start=out / "base", settings=settings))
    say("5/6 stage control: kernels steer the step, T reads the timestep")
    settings = {**_SHARED, **_IMAGES, "steps": steps["control"]}
    control.train(Request(out / "control", data, start=out / "kernel", settings=settings))
    say("6/6 restore: blurs of a scene that training never saw")
    return _restore(out, data)


def _make_data(out: Path) -> Path:
    """Run the builder's own commands: the model half uses only its manifest."""
    sample, data = out / "sample", out / "data"
    for words in (
        ["sample", "--out", str(sample)],
        ["expand", "--src", str(sample / "GOPRO_Large"), "--out", str(data)],
    ):
        command = [sys.executable, "-m", "trajectory_builder", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                f"trajbuild {words[0]} ended with {done.returncode}",
                where=done.stderr.strip().splitlines()[0] if done.stderr.strip() else str(out),
                cure="choose a new folder with --out",
            )
    return data


@torch.no_grad()
def _restore(out: Path, data: Path) -> DemoReport:
    model = FideDiff.load(out / "control" / "model")
    rules = DrawRules(crop=192, augment=False)
    shown = TrajectoryDataset(manifest.read(data), rules, split="test")
    batch = to_device(collate([shown[number] for number in range(_SHOWN)]), "cpu")
    restored = model(batch.blur)
    rows, before, after = [], [], []
    for number in range(_SHOWN):
        images = [batch.blur[number], restored.image[number].clamp(-1, 1), batch.target[number]]
        kernels = None if restored.kernels is None else restored.kernels[number]
        t, t_hat = batch.timestep[number], restored.t_hat[number]
        words = f"blurry, restored, sharp, kernels; t {t:.0f}, t_hat {t_hat:.0f}"
        rows.append(log.row(images, kernels=kernels, words=words))
        blur, image, sharp = map(as_uint8, images)
        before.append(psnr(blur, sharp))
        after.append(psnr(image, sharp))
    picture = out / "before_after.png"
    log.write_picture(picture, log.stack(rows))
    means = [sum(values) / len(values) for values in (before, after)]
    return DemoReport(picture, out / "control" / "model", *means)
