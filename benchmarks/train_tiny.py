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
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tiny_data
import tiny_truth
import torch
from torch import Tensor

from fidediff_model import config as model_config
from fidediff_model import practice
from fidediff_model.image_files import read_image
from fidediff_model.metrics import as_uint8, psnr, ssim, trajectory_gap
from fidediff_model.model import FideDiff
from fidediff_model.reblur import reblur
from fidediff_model.training import base, control, kernel
from fidediff_model.training.start import Request
from trajectory_builder import manifest

RESULTS = Path(__file__).parent / "results"
LEVELS = (7, 11, 13)
# A little wider than the preset tiny in the UNet, with LoRA of full rank: over a base this weak,
# low-rank updates are too few numbers. Everything else is the preset's.
MODEL: dict[str, Any] = {
    "base.unet_channels": [16, 32, 64, 64],
    "base.unet_groups": 8,
    "base.prompt_width": 16,
    "base.prompt_tokens": 8,
    "lora.rank": 32,
    "lora.alpha": 32,
}
STEPS = {"vae": 700, "unet": 400, "base": 1500, "kernel": 1000, "control": 400}
SHARED: dict[str, Any] = {
    "crop": 64, "batch": 4, "workers": 0, "warmup_steps": 20, "schedule": "cosine", "ema": 0.99,
    "validation_split": "test", "validation_trajectories": 12, "log_every": 20, "save_every": 100,
}  # fmt: skip
# No VGG16 file and no discriminator: both trade PSNR for looks, and PSNR is what is asked here.
IMAGES = {"perceptual": "none", "gan_weight": 0.0, "learning_rate": 1e-3}
Scores = dict[str, float]


def main() -> None:
    """Train what is not trained yet, score, write the table."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--folder", type=Path, default=Path("train_tiny"))
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--scale", type=float, default=1.0)
    options.add_argument("--every", type=int, default=1, help="score only each EVERYth trajectory")
    options.add_argument("--only-table", action="store_true", help="score what stands")
    options.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    home = given.folder
    begun = time.monotonic()
    data = tiny_data.make(home)
    if not given.only_table:
        train_all(home, data, given.scale, given.threads)
    told = {
        "machine": f"{platform.processor() or platform.machine()}, {given.threads} threads",
        "torch": torch.__version__,
        "scale": given.scale,
        "steps": {name: max(2, round(count * given.scale)) for name, count in STEPS.items()},
        "seconds": _seconds(home, time.monotonic() - begun),
        "vae": (home / "vae.log").read_text().splitlines(),
        "runs": {name: _curve(home / name) for name in RUNS if (home / name).is_dir()},
        "table": score_all(home, data, given.every),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "train_tiny.json").write_text(json.dumps(told, indent=1) + "\n")
    (given.out / "train_tiny.md").write_text(to_markdown(told))
    plot(told["runs"], given.out / "train_tiny.png")


def train_all(home: Path, data: Path, scale: float, threads: int) -> None:
    """The base model and the five runs; finished ones are passed over, cut ones go on."""
    steps = {name: max(2, round(count * scale)) for name, count in STEPS.items()}
    (home / "vae.log").touch()
    practice.make(
        data, home / "base-model", _config().base,
        vae_steps=steps["vae"], unet_steps=steps["unet"], say=_sayer(home / "vae.log"),
    )  # fmt: skip
    for name, (module, before, changes) in RUNS.items():
        stage = module.__name__.rpartition(".")[2]
        count = steps[stage]
        settings = {**SHARED, **(changes if stage == "kernel" else {**IMAGES, **changes})}
        settings |= {"steps": count, "validate_every": max(count // 10, 1)}
        begun = time.monotonic()
        module.train(
            Request(
                run_dir=home / name,
                data=data,
                base_model=str(home / "base-model") if stage == "base" else None,
                start=home / before if before else None,
                settings={k: v for k, v in settings.items() if not k.startswith("control.")},
                model=MODEL if stage == "base" else
                {k: v for k, v in changes.items() if k.startswith("control.")},
                preset="tiny",
            )
        )  # fmt: skip
        with (home / "seconds.jsonl").open("a") as file:
            file.write(json.dumps({"run": name, "seconds": time.monotonic() - begun}) + "\n")
        torch.set_num_threads(threads)


RUNS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "base": (base, "", {"points": 2, "identity": 0.05}),
    "base-off": (base, "", {"consistency": False, "batch": 8}),
    "kernel": (kernel, "base", {"points": 1, "learning_rate": 2e-3}),
    "control": (control, "kernel", {"points": 1, "learning_rate": 5e-4}),
    "control-none": (
        control,
        "kernel",
        {"points": 1, "learning_rate": 5e-4, "control.variant": "none"},
    ),
}
"""Run -> (stage, the run before, what differs); both bases see 8 blurs a step."""


def score_all(home: Path, data: Path, every: int) -> dict[str, dict[str, Scores]]:
    """Set -> row -> means; rows of models that are not there are left out."""
    models = {name: _open(home / name) for name in RUNS if (home / name / "model").is_dir()}
    guess = _constant_guess(data)
    found: dict[str, dict[str, list[Scores]]] = {}
    for clip, pair, rows in _trajectories(data)[::every]:
        known = tiny_data.scene_of(clip) in tiny_data.KNOWN
        name = "new motion, known scenes" if known else "new scenes"
        told = score_trajectory(models, rows, clip, pair, guess)
        for row, scores in told.items():
            found.setdefault(name, {}).setdefault(row, []).append(scores)
    return {name: {r: _mean(s) for r, s in rows.items()} for name, rows in found.items()}


@torch.inference_mode()
def score_trajectory(
    models: dict[str, FideDiff],
    rows: list[dict[str, Any]],
    clip: str,
    pair: int,
    guess: float,
) -> dict[str, Scores]:
    """Row of the table -> scores of one trajectory's blurs."""
    blurs = torch.cat([row["blur"] for row in rows])
    sharp = rows[0]["sharp"]
    t = torch.tensor([float(row["timestep"]) for row in rows])
    answers: dict[str, Callable[[], Tensor]] = {"blurry input": lambda: blurs}
    with torch.inference_mode(False), torch.no_grad():
        true = [tiny_truth.true_kernels(clip, pair, row["n_frames"]) for row in rows]
        answers["deconvolution, true kernels"] = lambda: _deconvolved(blurs, true)
        extra: dict[str, Scores] = {}
        if "kernel" in models:
            estimator = models["kernel"].kernel_estimator
            own = [estimator(b[None]) for b in blurs]
            answers["deconvolution, kernels of M"] = lambda: _deconvolved(blurs, own)
            extra["reblur"] = _reblur_scores(blurs, sharp, own, true)
    if "base" in models:
        codec = models["base"].codec
        answers["VAE alone, of the sharp image"] = lambda: _there_and_back(codec, sharp, blurs)
        answers["base"] = lambda: models["base"](blurs, t).image
    if "base-off" in models:
        answers["base, consistency off"] = lambda: models["base-off"](blurs, 200.0).image
    for name in ("control", "control-none"):
        if name in models:
            restored = models[name](blurs)
            answers[{"control": "full, filter"}.get(name, "full, no control")] = (
                lambda image=restored.image: image
            )
            if name == "control":
                extra["timestep"] = {
                    "t_error": float((restored.t_hat - t).abs().mean()),
                    "t_error_constant": float((guess - t).abs().mean()),
                }
    told = {row: _image_scores(answer(), sharp) for row, answer in answers.items()}
    return told | extra


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


def _trajectories(data: Path) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """(clip, number of the pair, its rows of `LEVELS` with images) of the test split."""
    found = manifest.read(data / "test")
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(found.rows()):
        if row["n_frames"] in LEVELS:
            for key in ("blur", "sharp"):
                row[key] = _tensor(found.file(number, f"{key}_file_name"))
            rows.setdefault(row["trajectory_id"], []).append(row)
    return [
        (name.split("/")[0], int(name.split("/")[1]) - 1, sorted(g, key=lambda r: r["n_frames"]))
        for name, g in rows.items()
    ]


def _tensor(path: Path) -> Tensor:
    pixels = np.array(read_image(path))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def _constant_guess(data: Path) -> float:
    """The median t of the training rows: the best constant for an absolute error."""
    table = manifest.read(data / "train").table
    chosen = [r["timestep"] for r in table.to_pylist() if r["n_frames"] in LEVELS]
    return float(np.median(chosen))


def _open(run_dir: Path) -> FideDiff:
    return FideDiff.load(run_dir / "model").eval().requires_grad_(False)


def _mean(scores: list[Scores]) -> Scores:
    return {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}


def _curve(run_dir: Path) -> list[dict[str, Any]]:
    log = run_dir / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return [line for line in lines if line["kind"] == "validation"]


def _config() -> Any:
    values = model_config.to_dict(model_config.preset("tiny"))
    for dotted, value in MODEL.items():
        group, _, name = dotted.partition(".")
        values[group][name] = value
    return model_config.from_dict(values)


def _sayer(path: Path) -> Callable[[str], None]:
    def say(line: str) -> None:
        print(line, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(line + "\n")

    return say


def _seconds(home: Path, this: float) -> dict[str, float]:
    path = home / "seconds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {line["run"]: round(line["seconds"]) for line in lines} | {"this command": round(this)}


def to_markdown(told: dict[str, Any]) -> str:
    """The honest table."""
    lines = [
        "# Does a tiny FideDiff learn?",
        "",
        f"`benchmarks/train_tiny.py --scale {told['scale']}`, {told['machine']}, torch"
        f" {told['torch']}. Steps: {json.dumps(told['steps'])}.",
        f"Structure: {json.dumps(asdict(_config().base))}, LoRA rank 32.",
        "Base model: a VAE and a UNet trained on the training clips first; there is no tiny"
        " Stable Diffusion. No perceptual loss, no discriminator.",
        f"Clips of {tiny_data.WIDTH} x {tiny_data.HEIGHT} pixels, n = {LEVELS}; PSNR and SSIM are"
        " means over images, on 8-bit RGB.",
        "The VAE's own row bounds every row of a model: no restoration can be better than"
        " what the VAE gives back of the sharp image.",
        "",
    ]
    if told["scale"] < 0.5:
        lines += [
            f"**This run took {told['scale']:.1%} of the steps: it shows that the chain runs and"
            " that the yardsticks are right, not what a tiny model can learn.**",
            "",
        ]
    for name, rows in told["table"].items():
        lines += [f"## {name}", "", "| | PSNR | " + " | ".join(f"n = {n}" for n in LEVELS)
                  + " | SSIM | trajectory gap |", "|" + "---|" * (len(LEVELS) + 4)]  # fmt: skip
        for row, s in rows.items():
            if "psnr" in s:
                levels = " | ".join(f"{s[f'psnr_{n}']:.2f}" for n in LEVELS)
                cells = f"{s['psnr']:.2f} | {levels} | {s['ssim']:.3f} | {s['gap']:.4f}"
                lines.append(f"| {row} | {cells} |")
        if "reblur" in rows:
            s = rows["reblur"]
            lines += ["", f"Reblur error (mean L1 in [-1, 1]): M {s['M']:.4f}, identity kernels"
                      f" {s['identity']:.4f}, true kernels {s['true']:.4f}."]  # fmt: skip
        if "timestep" in rows:
            s = rows["timestep"]
            lines += ["", f"Error of t: T {s['t_error']:.1f}, constant guess"
                      f" {s['t_error_constant']:.1f}."]  # fmt: skip
        lines.append("")
    lines += ["Seconds: " + json.dumps(told["seconds"]), "", "Learning curves: `train_tiny.png`;"
              " pre-training of the base model:", "", "```", *told["vae"], "```", ""]  # fmt: skip
    return "\n".join(lines)


def plot(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """PSNR of the held-out crops over training steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, curve in runs.items():
        points = [(line["step"], line["psnr"] - line["psnr_blur"]) for line in curve
                  if "psnr" in line]  # fmt: skip
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.axhline(0, color="gray", linewidth=1)
    axes.set(xlabel="training steps", ylabel="dB over the blurry input, held-out crops")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
