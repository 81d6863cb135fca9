"""Scores on the held-out split, a panel of pictures, and which of two models is kept.

Each process scores its share of the trajectories; the means are over all of them. Crops are the
same at each validation, so the scores of a run can be compared with one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fidediff_model.data.batches import DeviceBatch, collate, to_device
from fidediff_model.data.trajectories import TrajectoryDataset
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.model.reblur import reblur
from fidediff_model.scores.losses import without_rim
from fidediff_model.scores.metrics import as_uint8, psnr, ssim, trajectory_gap
from fidediff_model.scores.perceptual import LPIPS
from fidediff_model.training import log, processes
from fidediff_model.training.log import Picture
from fidediff_model.training.settings import TrainSettings
from fidediff_model.training.setup import Run

Scores = dict[str, float]
_SMALLEST_SSIM = 11  # pixels; the side of its window
_PANEL_ROWS = 4


class Report(NamedTuple):
    """A validation: scores, empty without a held-out split, and a panel of the first trajectory."""

    scores: Scores
    panel: Picture | None


@dataclass(frozen=True)
class Criterion:
    """The validation score that decides which model is kept, and its direction."""

    score: str
    larger: bool

    def is_better(self, scores: Mapping[str, float], best: Mapping[str, float]) -> bool:
        """Whether `scores` beat `best`; anything beats nothing."""
        if self.score not in scores:
            return False
        if self.score not in best:
            return True
        now, before = scores[self.score], best[self.score]
        return now > before if self.larger else now < before


BY_PSNR = Criterion("psnr", larger=True)
BY_LPIPS = Criterion("lpips", larger=False)
BY_REBLUR = Criterion("reblur", larger=False)
BY_T_ERROR = Criterion("t_error", larger=False)


class Choice(NamedTuple):
    """How the model that is kept is chosen, None for the last; and why, for the log."""

    criterion: Criterion | None
    reason: str


def choice(settings: TrainSettings) -> Choice:
    """How a stage that restores images chooses the model that it keeps (our choice).

    PSNR rewards the mean of all sharp images that a blur may come from, which a perceptual loss
    and D train away from; so it decides only where neither trains.
    """
    if settings.keep_best_by == "last":
        return Choice(None, "the last model is kept, as asked")
    if settings.keep_best_by != "auto":
        criterion = BY_PSNR if settings.keep_best_by == "psnr" else BY_LPIPS
        return Choice(criterion, f"the best model by {criterion.score} is kept, as asked")
    if settings.perceptual in ("lpips", "ea-lpips"):
        return Choice(BY_LPIPS, "the best model by lpips is kept, since the loss contains it")
    if settings.perceptual == "none" and settings.gan_weight == 0:
        return Choice(BY_PSNR, "the best model by psnr is kept, since the loss is L1 alone")
    return Choice(None, "the last model is kept, since no score suits the loss")


@torch.no_grad()
def of_images(run: Run, model: FideDiff, lpips: LPIPS | None) -> Report:
    """Scores of restored images, and a panel.

    The timestep is the manifest's while the model has no T, and estimated as soon as it has one.
    """
    model.eval()
    estimates = model.timestep_regressor is not None
    scores: list[Scores] = []
    panel: Picture | None = None
    for batch in _trajectories(run):
        with run.accelerator.autocast():
            restored = model(batch.blur, None if estimates else batch.timestep)
        t_hat = restored.t_hat if estimates else None
        scores.append(image_scores(batch, restored.image, t_hat, lpips))
        if panel is None:
            words = [
                f"t {t:.0f}, used {used:.0f}"
                for t, used in zip(batch.timestep, restored.t_hat, strict=True)
            ]
            panel = _panel(batch, restored.image, restored.kernels, words)
    if run.settings.checkpointing != "none":
        model.train()  # diffusers checkpoints in train mode only
    return Report(_means(run, scores), panel)


@torch.no_grad()
def of_kernels(run: Run, estimator: nn.Module) -> Report:
    """The reblur error of held-out pairs beside that of identity kernels, and a panel."""
    scores: list[Scores] = []
    panel: Picture | None = None
    for batch in _trajectories(run):
        with run.accelerator.autocast():
            kernels = estimator(batch.blur)
        reblurred = reblur(batch.target, kernels)
        images = {"reblur": reblurred, "reblur_identity": batch.target}
        errors = {n: without_rim(image - batch.blur, kernels) for n, image in images.items()}
        scores.append({name: float(error.abs().mean()) for name, error in errors.items()})
        if panel is None:
            words = [f"t {t:.0f}: blur, reblur, sharp, kernels" for t in batch.timestep]
            panel = _panel(batch, reblurred, kernels, words)
    return Report(_means(run, scores), panel)


def image_scores(
    batch: DeviceBatch, restored: Tensor, t_hat: Tensor | None, lpips: LPIPS | None
) -> Scores:
    """Means over one trajectory's points; `_blur` is the blurry input's own score."""
    values: dict[str, list[float]] = {}
    for blur, image, sharp in zip(batch.blur, restored, batch.target, strict=True):
        shown = [as_uint8(torch.nan_to_num(x)) for x in (blur, image, sharp)]
        values.setdefault("psnr", []).append(psnr(shown[1], shown[2]))
        values.setdefault("psnr_blur", []).append(psnr(shown[0], shown[2]))
        if min(image.shape[-2:]) >= _SMALLEST_SSIM:
            values.setdefault("ssim", []).append(ssim(shown[1], shown[2]))
            values.setdefault("ssim_blur", []).append(ssim(shown[0], shown[2]))
    scores = {name: sum(each) / len(each) for name, each in values.items()}
    if len(restored) > 1:
        scores["trajectory_gap"] = trajectory_gap(restored.clamp(-1, 1))
    if lpips is not None:
        scores["lpips"] = float(lpips(restored, batch.target).mean())
    if t_hat is not None:
        scores["t_error"] = float((t_hat - batch.timestep).abs().mean())
    return scores


def _trajectories(run: Run) -> Iterator[DeviceBatch]:
    """This process's share of the held-out trajectories, the points of one at a time."""
    dataset = run.validation
    if dataset is None:
        return
    accelerator = run.accelerator
    count = min(run.settings.validation_trajectories, len(dataset))
    for number in range(accelerator.process_index, count, accelerator.num_processes):
        # Spread over the set (7919 is prime): neighbours show nearly the same picture.
        yield _distinct(dataset, (number * 7919) % len(dataset), accelerator.device)


def _distinct(dataset: TrajectoryDataset, place: int, device: torch.device) -> DeviceBatch:
    """A trajectory's points, each once: a short trajectory repeats them to fill a draw."""
    batch = collate([dataset[place]])
    first = [batch["sample_id"].index(name) for name in dict.fromkeys(batch["sample_id"])]
    points = to_device(batch, device)
    return DeviceBatch(
        points.blur[first], points.sharp, points.timestep[first], points.trajectory[first]
    )


def _panel(
    batch: DeviceBatch, images: Tensor, kernels: Tensor | None, words: Sequence[str]
) -> Picture:
    """Rows of blur, image and sharp, with the kernels where there are any."""
    rows = [
        log.row(
            [batch.blur[number], images[number], batch.target[number]],
            kernels=None if kernels is None else kernels[number],
            words=words[number],
        )
        for number in range(min(len(batch.blur), _PANEL_ROWS))
    ]
    return log.stack(rows)


def _means(run: Run, own: list[Scores]) -> Scores:
    """Means over the held-out trajectories of all processes."""
    every = [scores for share in processes.from_all(run.accelerator, own) for scores in share]
    names = dict.fromkeys(name for scores in every for name in scores)
    columns = {name: [s[name] for s in every if name in s] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}
