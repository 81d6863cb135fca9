"""FideDiff in Python: one step from any point of a blur trajectory back to the sharp image.

The public API on one screen; each name is imported on first use, so that importing the package
does not import torch:

    FideDiff                                 the model: load(folder), restore(image, timestep)
    Restored                                 what one step gives: image, t_hat, kernels, z0_hat
    train_base, train_kernel, train_control  a stage, of a TrainRequest; an Outcome with its scores
    TrainRequest                             data, run folder and settings of a stage
    TrajectoryDataset, DrawRules             crops of trajectories, aligned over their points
    preset(name) -> ModelConfig              `sd21`, `tiny` or `small`
    make_practice_base(data, folder, ...)    a small base of one's own images, in place of SD 2.1
    kernel_mosaic(kernels)                   a picture of M's kernels over an image
    psnr, ssim, trajectory_gap               scores
    z0_hat, alpha_bar                        the arithmetic of the step

`fidediff_model.model.reblur.reblur` filters a sharp image with one kernel per pixel.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fidediff_model.data.rules import DrawRules
    from fidediff_model.data.trajectories import TrajectoryDataset
    from fidediff_model.demo.practice import make as make_practice_base
    from fidediff_model.model.diffusion import alpha_bar, z0_hat
    from fidediff_model.model.fidediff import FideDiff
    from fidediff_model.model.kernels import kernel_mosaic
    from fidediff_model.model.presets import preset
    from fidediff_model.model.step import Restored
    from fidediff_model.scores.metrics import psnr, ssim, trajectory_gap
    from fidediff_model.training.base import train as train_base
    from fidediff_model.training.control import train as train_control
    from fidediff_model.training.kernel import train as train_kernel
    from fidediff_model.training.request import Request as TrainRequest

__all__ = [
    "DrawRules",
    "FideDiff",
    "Restored",
    "TrainRequest",
    "TrajectoryDataset",
    "alpha_bar",
    "kernel_mosaic",
    "make_practice_base",
    "preset",
    "psnr",
    "ssim",
    "train_base",
    "train_control",
    "train_kernel",
    "trajectory_gap",
    "z0_hat",
]

_HOMES = {
    "DrawRules": ("data.rules", "DrawRules"),
    "FideDiff": ("model.fidediff", "FideDiff"),
    "Restored": ("model.step", "Restored"),
    "TrainRequest": ("training.request", "Request"),
    "TrajectoryDataset": ("data.trajectories", "TrajectoryDataset"),
    "alpha_bar": ("model.diffusion", "alpha_bar"),
    "kernel_mosaic": ("model.kernels", "kernel_mosaic"),
    "make_practice_base": ("demo.practice", "make"),
    "preset": ("model.presets", "preset"),
    "psnr": ("scores.metrics", "psnr"),
    "ssim": ("scores.metrics", "ssim"),
    "train_base": ("training.base", "train"),
    "train_control": ("training.control", "train"),
    "train_kernel": ("training.kernel", "train"),
    "trajectory_gap": ("scores.metrics", "trajectory_gap"),
    "z0_hat": ("model.diffusion", "z0_hat"),
}


def __getattr__(name: str) -> Any:
    """Import a public name's home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
