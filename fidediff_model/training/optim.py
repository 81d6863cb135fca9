"""Optimizers and the learning rate as a function of the step."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import nn

from fidediff_model.training.settings import TrainSettings
from trajectory_builder.errors import UsageError


def make(
    settings: TrainSettings, parameters: Iterable[nn.Parameter], *, rate: float
) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit kind from bitsandbytes, which keeps moments in a quarter of the memory.

    Raises:
        UsageError: the 8-bit kind was asked for and bitsandbytes or a GPU is absent.
    """
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=settings.weight_decay)
    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "adamw8bit needs bitsandbytes and a GPU, and one of them is not there",
            where="optimizer",
            cure="pip install bitsandbytes on a machine with a GPU, or give --optimizer adamw",
        )
    library: Any = import_module("bitsandbytes")
    made: torch.optim.Optimizer = library.optim.AdamW8bit(
        parameters, lr=rate, weight_decay=settings.weight_decay
    )
    return made


def rate_factor(settings: TrainSettings, step: int) -> float:
    """What the learning rate is multiplied with at a step, counted from 1.

    Linear from 0 over `warmup_steps`; then constant, or down to 0 at the last step along a line or
    half a cosine. A function of the step alone, so that resuming needs no scheduler's state.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    left = max(settings.steps - settings.warmup_steps, 1)
    done = min((step - settings.warmup_steps) / left, 1.0)
    if settings.schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
