"""Does it learn? A tiny FideDiff on a CPU, all three stages, against what it must beat.

    python benchmarks/train_tiny.py [--folder DIR] [--threads 2] [--scale 1.0] [--only-table]

Clips of the sample's scenes (`tiny_data`), a base model trained on them (`practice`), then
`fidediff train` for: base with and without consistency, kernel, control with the filter and
without. Scores on two held-out sets: new motion over known scenes, and new scenes. Run it again to
go on after an interruption. Writes benchmarks/results/train_tiny.md, .json and .png.

`--scale` multiplies all numbers of steps: 1.0 is meant for an hour on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_data
import tiny_truth
import torch
import train_tiny_notes
import train_tiny_table
from expand import machine
from torch import Tensor
from train_tiny_table import KNOWN_SET, LEVELS, Scores

from fidediff_model import config as model_config
from fidediff_model.config import ModelConfig
from fidediff_model.demo import practice
from fidediff_model.model import folder as model_folder
from fidediff_model.model import presets
from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.model.reblur import reblur
from fidediff_model.model.step import Part
from fidediff_model.scores.metrics import as_uint8, psnr, ssim, trajectory_gap
from fidediff_model.training import base, control, kernel
from fidediff_model.training.request import Request
from fidediff_model.weights.sd21 import random_base
from trajectory_builder import manifest
from trajectory_builder.images.pictures import read_rgb8

RESULTS = Path(__file__).parent / "results"
# Wider than the preset tiny where width is nearly free on a CPU, with LoRA of full rank: over a
# base this weak, low-rank updates are too few numbers. Everything else is the preset's.
MODEL: dict[str, Any] = {
    "base.unet_channels": [16, 32, 64, 64],
    "base.prompt_width": 16,
    "base.prompt_tokens": 8,
    "base.vae_channels": [8, 16, 32, 32],
    "lora.rank": 32,
    "lora.alpha": 32,
    "kernel.channels": [16, 32, 64],
    "timestep.channels": [32, 64],
    "control.channels": 16,
}


@dataclass(frozen=True)
class Plan:
    """How much is trained: on two CPU cores within the hour, on a GPU in ten minutes.

    Attributes:
        steps: of the base model's two parts and of each run.
        batch: crops a step.
        timestep: settings of the run `timestep` that differ: T alone is cheap a step.
        workers: processes that read crops.
        clips: training clips of a known scene beyond those that both plans have.
        model: values of the model's config that differ from `MODEL`.
    """

    steps: dict[str, int]
    batch: int
    timestep: dict[str, int]
    workers: int
    clips: int
    model: dict[str, Any]


PLANS = {
    "cpu": Plan(
        {"vae": 2000, "unet": 400, "base": 1600, "kernel": 1500, "timestep": 1200,
         "control": 500, "base-off": 1600},
        batch=4, timestep={"batch": 16}, workers=0, clips=0, model={},
    ),
    "cuda": Plan(
        {"vae": 2000, "unet": 400, "base": 450, "kernel": 2000, "timestep": 1000,
         "control": 250, "base-off": 450},
        batch=64, timestep={"batch": 48, "crop": 96, "validation_trajectories": 24},
        workers=7, clips=300, model={"kernel.channels": [32, 64, 128]},
    ),
}  # fmt: skip
SHARED: dict[str, Any] = {
    "crop": 64, "warmup_steps": 20, "schedule": "cosine", "ema": 0.99, "precision": "fp32",
    "validation_trajectories": 8, "log_every": 20, "save_every": 100,
}  # fmt: skip
# No VGG16 file and no discriminator: both trade PSNR for looks, and PSNR is what is asked here.
# The base's crops are not turned: the question is new motion over the same pictures. Those of the
# control are, since T must not know pictures but kernels.
IMAGES = {"perceptual": "none", "gan_weight": 0.0, "learning_rate": 1.5e-3, "augment": False}


def main() -> None:
    """Train what is not trained yet, score, write the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--folder", type=Path, default=Path("train_tiny"))
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--scale", type=float, default=1.0)
    options.add_argument("--every", type=int, default=1, help="deconvolve each EVERYth only")
    options.add_argument("--only-table", action="store_true", help="score what stands")
    options.add_argument("--only-train", action="store_true", help="leave the table to later")
    options.add_argument("--runs", default="", help="train these alone, such as base,kernel")
    options.add_argument("--name", default="train_tiny", help="of the table's files")
    options.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    home = given.folder
    data = tiny_data.make(home, PLANS[_device()].clips)
    if not given.only_table:
        train_all(
            home,
            data,
            given.scale,
            given.threads,
            given.runs.split(",") if given.runs else list(RUNS),
        )
    if given.only_train:
        return
    told = {
        "machine": f"{machine()}, {given.threads} threads",
        "trained_on": train_tiny_notes.trained_on(home),
        "structure": asdict(_config().base),
        "torch": torch.__version__,
        "scale": given.scale,
        "base_kept": _has_base(home),
        "deconvolved_every": given.every,
        "steps": train_tiny_notes.steps_done(home, RUNS),
        "crops": train_tiny_notes.crops(home, RUNS),
        "kernel_channels": train_tiny_notes.kernel_channels(home),
        "clips": len(set(manifest.read(data / "train").table["clip_id"].to_pylist())),
        "t_error_of_lengths": tiny_data.t_error_of_lengths(),
        "seconds": train_tiny_notes.seconds(home),
        "vae": (home / "vae.log").read_text().splitlines(),
        "runs": {
            name: train_tiny_notes.curve(home / name) for name in RUNS if (home / name).is_dir()
        },
        "table": score_all(home, data, given.every),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{given.name}.json").write_text(json.dumps(told, indent=1) + "\n")
    (given.out / f"{given.name}.md").write_text(train_tiny_table.to_markdown(told, given.name))
    train_tiny_table.plot(told["runs"], given.out / f"{given.name}.png")


def train_all(home: Path, data: Path, scale: float, threads: int, names: list[str]) -> None:
    """The base model and the runs; finished ones are passed over, cut ones go on."""
    plan = PLANS[_device()]
    steps = {name: max(2, round(count * scale)) for name, count in plan.steps.items()}
    (home / "vae.log").touch()
    with train_tiny_notes.noting_seconds(home, "base-model"):
        practice.make(
            data, home / "base-model", _config().base, vae_steps=steps["vae"],
            unet_steps=steps["unet"], say=_sayer(home / "vae.log"), batch=plan.batch,
            device=_device(),
        )  # fmt: skip
    for name in names:
        module, before, changes, model = RUNS[name]
        settings = {**SHARED, **({} if module is kernel else IMAGES), **changes}
        settings |= {"batch": plan.batch, "workers": plan.workers, "steps": steps[name]}
        settings |= plan.timestep if name == "timestep" else {}
        with train_tiny_notes.noting_seconds(home, name):
            module.train(
                Request(
                    run_dir=home / name,
                    data=data,
                    base_model=None if before else str(home / "base-model"),
                    start=home / before if before else None,
                    settings={**settings, "validate_every": max(steps[name] // 8, 1)},
                    model=model if before else MODEL | plan.model,
                    preset="tiny",
                )
            )
        torch.set_num_threads(threads)


READERS: tuple[Part, ...] = ("kernel_estimator", "timestep_regressor")
RUNS: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any]]] = {
    "base": (base, "", {"points": 1, "identity": 0.05}, {}),
    "kernel": (kernel, "base", {"points": 1, "identity": 0.0, "learning_rate": 2e-3}, {}),
    # T wants more examples than whole steps of the control are worth: it learns alone first.
    "timestep": (
        control, "kernel",
        {"points": 1, "identity": 0.0, "augment": True, "learning_rate": 3e-3},
        {"control.variant": "none"},
    ),
    "control": (
        control, "timestep", {"points": 1, "identity": 0.0, "augment": True},
        {"control.variant": "filter"},
    ),
    "base-off": (base, "", {"points_of": "native", "timestep_of": "fixed"}, {}),
}  # fmt: skip
"""Run -> (stage, the run before, settings that differ, values of the model's config)."""


def score_all(home: Path, data: Path, every: int) -> dict[str, dict[str, Scores]]:
    """Set -> row -> means; rows of models that are not there are left out."""
    ended = [name for name in RUNS if (home / name / "model").is_dir()]
    models = {name: _open(home / name) for name in ended} if _has_base(home) else {}
    readers = {name: _open_readers(home / name) for name in ended if RUNS[name][1]}
    guess = _constant_guess(data)
    found: dict[str, dict[str, list[Scores]]] = {}
    for number, (clip, rows) in enumerate(_trajectories(data)):
        known = tiny_data.clip(clip).scene in tiny_data.KNOWN
        name = KNOWN_SET if known else "new scenes"
        told = score_trajectory(models, readers, rows, clip, guess, deconvolved=number % every == 0)
        for row, scores in told.items():
            found.setdefault(name, {}).setdefault(row, []).append(scores)
    return {name: {r: _mean(s) for r, s in rows.items()} for name, rows in found.items()}


@torch.inference_mode()
def score_trajectory(
    models: dict[str, FideDiff],
    readers: dict[str, FideDiff],
    rows: list[dict[str, Any]],
    clip: str,
    guess: float,
    *,
    deconvolved: bool,
) -> dict[str, Scores]:
    """Row of the table -> scores of one trajectory's blurs."""
    blurs = torch.cat([row["blur"] for row in rows])
    sharp = rows[0]["sharp"]
    t = torch.tensor([float(row["timestep"]) for row in rows])
    answers: dict[str, Callable[[], Tensor]] = {"blurry input": lambda: blurs}
    with torch.inference_mode(False), torch.no_grad():
        true = [tiny_truth.true_kernels(clip, row["n_frames"]) for row in rows]
        if deconvolved:
            answers["deconvolution, true kernels"] = lambda: _deconvolved(blurs, true)
        extra: dict[str, Scores] = {}
        if "kernel" in readers:
            estimator = readers["kernel"].kernel_estimator
            own = [estimator(b[None]) for b in blurs]  # type: ignore[misc]
            if deconvolved:
                answers["deconvolution, kernels of M"] = lambda: _deconvolved(blurs, own)
            extra["reblur"] = _reblur_scores(blurs, sharp, own, true)
    if "base" in models:
        codec = models["base"].codec
        answers["VAE alone, of the sharp image"] = lambda: _there_and_back(codec, sharp, blurs)
        answers["base"] = lambda: models["base"](blurs, t).image
    if "base-off" in models:
        answers["base, consistency off"] = lambda: models["base-off"](blurs, 200.0).image
    if "control" in models:
        restored = models["control"](blurs)
        answers["full, filter"] = lambda: restored.image
        answers["full, no control"] = lambda: _without_control(
            models["control"], blurs, restored.t_hat
        )
    if "control" in readers or "timestep" in readers:
        reader = readers["control" if "control" in readers else "timestep"]
        extra["timestep"] = {
            "t_error": float((reader.timestep(blurs) - t).abs().mean()),
            "t_error_constant": float((guess - t).abs().mean()),
        }
    told = {row: _image_scores(answer(), sharp) for row, answer in answers.items()}
    return told | extra


def _without_control(model: FideDiff, blurs: Tensor, t_hat: Tensor) -> Tensor:
    """M, T and base as they are, the residuals left out: they train beside a frozen base."""
    control, model.control = model.control, None
    try:
        return model(blurs, t_hat).image
    finally:
        model.control = control


def _image_scores(images: Tensor, sharp: Tensor) -> Scores:
    shown, truth = [as_uint8(image.clamp(-1, 1)) for image in images], as_uint8(sharp[0])
    scores = {f"psnr_{n}": psnr(x, truth) for n, x in zip(LEVELS, shown, strict=True)}
    scores["psnr"] = float(np.mean([psnr(x, truth) for x in shown]))
    scores["ssim"] = float(np.mean([ssim(x, truth) for x in shown]))
    scores["gap"] = trajectory_gap(images.clamp(-1, 1))
    return scores


def _reblur_scores(blurs: Tensor, sharp: Tensor, own: list[Tensor], true: list[Tensor]) -> Scores:
    def error(kernels: list[Tensor]) -> float:
        again = torch.cat([reblur(sharp, k) for k in kernels])
        return float((again - blurs).abs().mean())

    identity = float((sharp - blurs).abs().mean())
    return {"M": error(own), "identity": identity, "true": error(true)}


def _deconvolved(blurs: Tensor, kernels: list[Tensor]) -> Tensor:
    with torch.inference_mode(False):
        pairs = zip(blurs, kernels, strict=True)
        return torch.cat([tiny_truth.deconvolve(b[None].clone(), k.clone()) for b, k in pairs])


def _there_and_back(codec: Any, sharp: Tensor, blurs: Tensor) -> Tensor:
    height, width = sharp.shape[-2:]
    image: Tensor = codec.decode(codec.encode(sharp), (height, width))
    return image.expand(len(blurs), -1, -1, -1)


def _trajectories(data: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """(clip, its rows of `LEVELS` with images) of the test split."""
    found = manifest.read(data / "test")
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(found.rows()):
        if row["n_frames"] in LEVELS:
            for key in ("blur", "sharp"):
                row[key] = _tensor(found.file(number, f"{key}_file_name"))
            rows.setdefault(row["trajectory_id"], []).append(row)
    return [
        (name.split("/")[0], sorted(g, key=lambda r: r["n_frames"])) for name, g in rows.items()
    ]


def _tensor(path: Path) -> Tensor:
    pixels = np.array(read_rgb8(path))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def _constant_guess(data: Path) -> float:
    """The median t of the training rows: the best constant for an absolute error."""
    table = manifest.read(data / "train").table
    chosen = [r["timestep"] for r in table.to_pylist() if r["n_frames"] in LEVELS]
    return float(np.median(chosen))


def _open(run_dir: Path) -> FideDiff:
    return FideDiff.load(run_dir / "model").eval().requires_grad_(False)


def _open_readers(run_dir: Path) -> FideDiff:
    """M and T of a run, which read blurs alone: its base model need not be there."""
    folder = run_dir / "model"
    config = model_config.from_dict(model_folder.read_config(folder)["config"])
    parts = [part for part in READERS if (folder / part).is_dir()]
    model = build(config, random_base(config.base), parts=parts)
    for part in parts:
        model_folder.load_part(folder / part, getattr(model, part))
    return model.eval().requires_grad_(False)


def _has_base(home: Path) -> bool:
    """Whether the base model that the runs were trained over is still there."""
    return (home / "base-model").is_dir()


def _mean(scores: list[Scores]) -> Scores:
    return {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}


def _config() -> ModelConfig:
    return model_config.changed(presets.preset("tiny"), MODEL, where="MODEL")


def _sayer(path: Path) -> Callable[[str], None]:
    def say(line: str) -> None:
        print(line, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")

    return say


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
