"""Optimizers, the learning rate as a function of the step, and averaged weights."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fidediff_model.training.settings import TrainSettings
from trajectory_builder.errors import UsageError

Parameters = Mapping[str, nn.Parameter]


def trainable(module: nn.Module | None) -> dict[str, nn.Parameter]:
    """The parameters of a module that train, by name."""
    named = [] if module is None else module.named_parameters()
    return {name: p for name, p in named if p.requires_grad}


class Group(NamedTuple):
    """Parameters with one learning rate, which `set_rates` multiplies by the schedule's factor."""

    parameters: Iterable[nn.Parameter]
    rate: float


def make(settings: TrainSettings, *groups: Group) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit kind from bitsandbytes, which keeps moments in a quarter of the memory.

    Args:
        settings: which of the two, and its weight decay.
        groups: parameters to train; empty ones are dropped.

    Raises:
        UsageError: the 8-bit kind was asked for and bitsandbytes or a GPU is absent.
    """
    lists = [(list(group.parameters), group.rate) for group in groups]
    dicts = [{"params": p, "initial_lr": rate, "lr": rate} for p, rate in lists if p]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(dicts, weight_decay=settings.weight_decay)
    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "adamw8bit needs bitsandbytes and a GPU, and one of them is absent",
            where="optimizer",
            cure="pip install bitsandbytes on a machine with a GPU, or give --optimizer adamw",
        )
    library: Any = import_module("bitsandbytes")
    optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(
        dicts, weight_decay=settings.weight_decay
    )
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, settings: TrainSettings, step: int) -> None:
    """Set the learning rate of a step in all groups of an optimizer that `make` made."""
    factor = rate_factor(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def rate_factor(settings: TrainSettings, step: int) -> float:
    """Factor on the learning rate at a step, counted from 1.

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


class Ema:
    """Exponential moving averages of the trained weights, in float32, by name.

    avg <- decay avg + (1 - decay) weight. The decay rises as (1 + s) / (10 + s) at step s, so that
    the first steps, far from where training ends, are soon forgotten. In bfloat16, whose spacing
    near 1 is 2^-8, an average with a decay of 0.999 would never move.

    Args:
        parameters: the live parameters, float32.
        decay: what it rises to, in (0, 1).
    """

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.averages = {k: p.detach().float().clone() for k, p in parameters.items()}
        self._is_in = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after training step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = [p.float() for p in self.parameters.values()]
        # A few launches instead of one per tensor: the UNet's update has hundreds.
        torch._foreach_lerp_(list(self.averages.values()), weights, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the parameters have the averages; after it, the same bits as before.

        May be nested: only the outermost swaps.
        """
        if self._is_in:
            yield
            return
        self._is_in = True
        kept: dict[str, Tensor] = {k: p.detach().clone() for k, p in self.parameters.items()}
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(kept)
            self._is_in = False

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
