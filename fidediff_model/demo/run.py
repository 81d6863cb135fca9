"""Minutes on a CPU: the sample, the shipped model on new blurs, and the same model trained on.

`small` restores blurs of clips that nothing was trained on; then LoRA learns on the blurs of the
sample's other clips, and the same blurs are restored again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fidediff_model.data.batches import collate, to_device
from fidediff_model.data.rules import DrawRules
from fidediff_model.data.trajectories import TrajectoryDataset
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.scores.metrics import as_uint8, psnr
from fidediff_model.training import base, log
from fidediff_model.training.request import Request
from fidediff_model.weights import shipped
from trajectory_builder import manifest
from trajectory_builder.errors import UserError

STEPS = 200
_SETTINGS: dict[str, object] = {
    "crop": 96, "batch": 2, "points": 2, "workers": 0, "learning_rate": 2e-4, "warmup_steps": 10,
    "schedule": "cosine", "ema": 0.95, "perceptual": "none", "gan_weight": 0.0, "log_every": 10,
    "save_every": 50, "validation_split": "test", "keep_best_by": "last",
}  # fmt: skip
"""Our choice: two minutes on two cores. The last model is kept, so that none is chosen by the test
clips whose curve is drawn."""
_SHOWN = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoReport:
    """The result of the demo.

    Attributes:
        picture: blurry, restored, restored after training on, and sharp side by side.
        model: folder of the model that was trained on.
        psnr_blurry: mean over the test blurs, in dB.
        psnr_small: mean of their restorations by `small`.
        psnr_trained: mean of their restorations by the model that was trained on.
        curve: (step, PSNR of centre crops of the test blurs).
    """

    picture: Path
    model: Path
    psnr_blurry: float
    psnr_small: float
    psnr_trained: float
    curve: tuple[tuple[int, float], ...]


def run(out: Path, *, say: Say, scale: float = 1.0) -> DemoReport:
    """Run all parts in `out`; a second call resumes where the first ended.

    Args:
        out: new, or a demo's folder.
        say: called with a line before each part.
        scale: multiplies the number of training steps.
    """
    say("1/3 sample: photographs moved before a 240 fps camera, expanded to trajectories")
    data = _make_data(out)
    say("2/3 training: small, the model of the package, learns on the blurs of the train clips")
    steps = max(2, round(STEPS * scale))
    settings = {**_SETTINGS, "steps": steps, "validate_every": max(1, steps // 4)}
    base.train(Request(out / "trained", data, start=Path(shipped.NAME), settings=settings))
    say("3/3 restoring: the blurs of the test clips, by small and by the trained model")
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
    trained = out / "trained" / "model"
    models = [FideDiff.load(folder).eval() for folder in (shipped.model_folder(), trained)]
    test = TrajectoryDataset(manifest.read(data), DrawRules(crop=192, augment=False), split="test")
    rows, scores = [], []
    for number in range(len(test)):
        batch = to_device(collate([test[number]]), "cpu")
        by_small, by_trained = (model(batch.blur, batch.timestep) for model in models)
        estimated = models[0](batch.blur)
        shown = [batch.blur, by_small.image.clamp(-1, 1), by_trained.image.clamp(-1, 1)]
        sharp = as_uint8(batch.target[0])
        scores.append([psnr(as_uint8(image[0]), sharp) for image in shown])
        if number < _SHOWN:
            kernels = None if estimated.kernels is None else estimated.kernels[0]
            t, t_hat = float(batch.timestep), float(estimated.t_hat)
            words = f"blurry, small, trained on, sharp, kernels; t {t:.0f}, t_hat {t_hat:.0f}"
            images = [image[0] for image in (*shown, batch.target)]
            rows.append(log.row(images, kernels=kernels, words=words))
    picture = out / "before_after.png"
    log.write_picture(picture, log.stack(rows))
    blurry, small, trained_on = (sum(dbs) / len(scores) for dbs in zip(*scores, strict=True))
    return DemoReport(picture, trained, blurry, small, trained_on, _curve(out / "trained"))


def _curve(run_dir: Path) -> tuple[tuple[int, float], ...]:
    """(step, PSNR) of each validation of a run."""
    lines = map(json.loads, (run_dir / log.LOG).read_text().splitlines())
    return tuple((line["step"], line["psnr"]) for line in lines if line["kind"] == "validation")
