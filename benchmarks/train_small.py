"""Train the model `small` from nothing, on generated scenes alone. Resumable.

    python benchmarks/train_small.py --folder DIR [--scale 1.0] [--export OUT]
    torchrun --nproc-per-node 2 benchmarks/train_small.py --folder DIR --only pretrain

`pretrain` trains the whole UNet over a linear codec, `readers` M and T on true kernels, `data`
makes trajectories of scenes by `trajbuild generate`, and `base` is FideDiff's first stage on them,
as `fidediff train base` runs it. `--export` joins the parts into the folder that ships;
`small_proof.py` then scores it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import small_data
import small_kernels
import small_pretrain
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fidediff_model import config
from fidediff_model.model import presets
from fidediff_model.model.card import Card
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.model.kernels import KernelEstimator
from fidediff_model.model.timestep import TimestepRegressor
from fidediff_model.training import base, checkpoint
from fidediff_model.training.request import Request
from fidediff_model.weights import shipped
from fidediff_model.weights.sd21 import load_base, seeded
from trajectory_builder.sources.dead_leaves import draw_scene

PARTS = ("pretrain", "readers", "data", "base")
STEPS = {"pretrain": 7700, "readers": 3600, "base": 40}
SCENES, FIRST_SCENE = 400, 2_000_000
BASE: dict[str, Any] = {
    "crop": 128, "batch": 4, "points": 1, "identity": 0.0, "learning_rate": 1e-4,
    "schedule": "cosine", "warmup_steps": 10, "ema": 0.9, "workers": 0, "precision": "fp32",
    "perceptual": "none", "gan_weight": 0.0, "validate_every": 0, "log_every": 10,
}  # fmt: skip
"""The pre-trained UNet already is a one-step deblurrer, so that this stage has little to add."""


def main() -> None:
    """Do what is not done yet."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps")
    options.add_argument("--only", default=",".join(PARTS), help="such as pretrain,readers")
    options.add_argument("--export", type=Path, help="write the shipped folder there")
    options.add_argument("--threads", type=int, default=1, help="1: torch wastes a second one")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    home: Path = given.folder
    for part in given.only.split(","):
        steps = max(2, round(STEPS.get(part, 0) * given.scale))
        if part == "pretrain":
            pretrain(home, steps)
        elif part == "readers":
            train_readers(home, steps)
        elif part == "data":
            make_data(home)
        else:
            train_base(home, steps)
    if given.export:
        export(home, given.export)


def pretrain(home: Path, steps: int) -> None:
    """Pre-train the UNet and save it with the codec as `base-model`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = small_pretrain.start(*small_pretrain.new_unet())
    small_pretrain.pretrain(model, home / "pretrain", steps, device=device, say=print)
    if int(os.environ.get("RANK", 0)) == 0:
        small_pretrain.save_base(model, home / "pretrain", home / "base-model")


def make_data(home: Path) -> None:
    """Trajectories of scenes with their true kernels."""
    scenes = home / "scenes"
    scenes.mkdir(parents=True, exist_ok=True)
    for seed in range(FIRST_SCENE, FIRST_SCENE + SCENES):
        if not (file := scenes / f"scene{seed}.png").exists():
            cv2.imwrite(str(file), draw_scene(seed, 192, 192)[..., ::-1])
    subprocess.run(
        [sys.executable, "-m", "trajectory_builder", "generate", "--stills", "--src", str(scenes),
         "--out", str(home / "set"), "--n-frames", "3,5,7,9,11,13,15", "--blur-px", "6.3..18",
         "--split", "train=0.95,validation=0.05"],
        check=True,
    )  # fmt: skip


def readers() -> tuple[KernelEstimator, TimestepRegressor]:
    """M and T of the preset, from a seed."""
    small = presets.preset("small")
    with seeded(0):
        m = KernelEstimator(**config.settings_of(small, "kernel_estimator"))
        return m, TimestepRegressor(**config.settings_of(small, "timestep_regressor"))


def train_readers(home: Path, steps: int) -> None:
    """M and T, on true kernels."""
    m, t = readers()
    small_kernels.train(m, home / "readers", steps, print)
    m.load_state_dict(_newest_mean(home / "readers"))
    small_kernels.train_regressor(m, t, print)
    save_file(m.state_dict(), home / "readers" / "m.safetensors")
    save_file(t.state_dict(), home / "readers" / "t.safetensors")


def train_base(home: Path, steps: int) -> None:
    """FideDiff's first stage: LoRA and prompt, on trajectories."""
    base.train(
        Request(
            run_dir=home / "base",
            data=home / "set",
            base_model=str(home / "base-model"),
            settings={**BASE, "steps": steps},
            preset="small",
        )
    )


def export(home: Path, out: Path) -> None:
    """Write the shipped folder: base and model in half precision, a card, and their digests."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(home / "base-model", out / "base")
    for file in sorted((out / "base").rglob("*.safetensors")):
        _halve(file)
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    model = FideDiff.load(home / "base" / "model", base_model=home / "base-model")
    model.kernel_estimator, model.timestep_regressor = _trained_readers(home / "readers")
    weights = load_base(out / "base", model.config.base, prompt_start="normal")
    model.base_model, model.base_fingerprint = shipped.NAME, weights.fingerprint
    model.save(out / "model", card=_card())
    for file in sorted((out / "model").rglob("*.safetensors")):
        _halve(file)
    shipped.write_digests(out)


def _card() -> Card:
    """What the shipped model was made of; scores are those of the table, where it exists."""
    table = Path(__file__).parent / "results" / "train_small.json"
    scores = json.loads(table.read_text())["scores"] if table.is_file() else {}
    settings = {
        "licence": "Apache-2.0",
        "data": "scenes drawn by trajectory_builder.sources.dead_leaves; no photograph",
        "command": "benchmarks/train_small.py --folder DIR --export OUT",
        "seeds": f"scenes from {small_data.FIRST_TRAINING_SCENE} on; weights and batches 0",
        "steps": STEPS,
        "trained": "the whole UNet (pretrain), then LoRA and prompt (base); M and T (readers);"
        " no control",
        "machine": "two shared CPU cores",
    }
    return Card("drawn scenes", stage="base", steps=STEPS["base"], settings=settings, scores=scores)


def _trained_readers(run_dir: Path) -> tuple[KernelEstimator, TimestepRegressor]:
    m, t = readers()
    m.load_state_dict(load_file(run_dir / "m.safetensors"))
    t.load_state_dict(load_file(run_dir / "t.safetensors"))
    return m, t


def _newest_mean(run_dir: Path) -> dict[str, Tensor]:
    newest = checkpoint.newest(run_dir)
    if newest is None:
        raise SystemExit(f"{run_dir} has no checkpoint")
    return load_file(newest / "ema.safetensors")


def _halve(file: Path) -> None:
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    save_file({k: v.half().contiguous() for k, v in load_file(file).items()}, file, metadata)


if __name__ == "__main__":
    main()
