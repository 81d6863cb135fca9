"""Scores on the held-out split: PSNR, SSIM, the trajectory gap, the error of t, the reblur error.

Each process scores its share of the trajectories; the means are over all of them. Crops are the
same at each validation, so scores of a run can be compared with one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fidediff_model.data.batches import DeviceBatch, collate, to_device
from fidediff_model.data.trajectories import TrajectoryDataset
from fidediff_model.scores.metrics import as_uint8, psnr, ssim, trajectory_gap
from fidediff_model.scores.perceptual import LPIPS
from fidediff_model.training import processes
from fidediff_model.training.start import Run

Scores = dict[str, float]
_SMALLEST_SSIM = 11


def trajectories(run: Run) -> Iterator[DeviceBatch]:
    """This process's share of the held-out trajectories, the points of one at a time."""
    dataset = run.validation
    if dataset is None:
        return
    accelerator = run.accelerator
    count = min(run.settings.validation_trajectories, len(dataset))
    for number in range(accelerator.process_index, count, accelerator.num_processes):
        yield _distinct(dataset, number, accelerator.device)


def _distinct(dataset: TrajectoryDataset, number: int, device: Any) -> DeviceBatch:
    """A trajectory's points, each once: a short trajectory repeats them to fill a batch."""
    # Spread over the set: neighbouring trajectories show nearly the same picture.
    place = (number * 7919) % len(dataset)
    batch = collate([dataset[place]])
    first = [batch["sample_id"].index(name) for name in dict.fromkeys(batch["sample_id"])]
    whole = to_device(batch, device)
    return DeviceBatch(*(part[first] for part in whole))


def image_scores(
    batch: DeviceBatch, restored: Tensor, t_hat: Tensor | None, lpips: LPIPS | None
) -> Scores:
    """Means over one trajectory's points; `_blur` is the blurry input's own score."""
    found: dict[str, list[float]] = {}
    for blur, image, sharp in zip(batch.blur, restored, batch.sharp, strict=True):
        shown = [as_uint8(torch.nan_to_num(x)) for x in (blur, image, sharp)]
        found.setdefault("psnr", []).append(psnr(shown[1], shown[2]))
        found.setdefault("psnr_blur", []).append(psnr(shown[0], shown[2]))
        if min(image.shape[-2:]) >= _SMALLEST_SSIM:
            found.setdefault("ssim", []).append(ssim(shown[1], shown[2]))
            found.setdefault("ssim_blur", []).append(ssim(shown[0], shown[2]))
    scores = {name: sum(values) / len(values) for name, values in found.items()}
    if len(restored) > 1:
        scores["trajectory_gap"] = trajectory_gap(restored.clamp(-1, 1))
    if lpips is not None:
        scores["lpips"] = float(lpips(restored, batch.sharp).mean())
    if t_hat is not None:
        scores["t_error"] = float((t_hat - batch.timestep).abs().mean())
    return scores


def mean_scores(run: Run, score: Callable[[DeviceBatch], Scores]) -> Scores:
    """Means of a score over all held-out trajectories of all processes."""
    own = [score(batch) for batch in trajectories(run)]
    every = [scores for share in processes.from_all(run.accelerator, own) for scores in share]
    names = dict.fromkeys(name for scores in every for name in scores)
    columns = {name: [s[name] for s in every if name in s] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}
