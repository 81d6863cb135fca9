"""The exponential moving average of the trained weights, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Moving averages of some parameters, by name.

    The decay rises as (1 + s) / (10 + s) at step s, so that the first steps, far from where
    training ends, are soon forgotten. In bfloat16 an average would stand still.

    Args:
        parameters: the live parameters, float32.
        decay: what it rises to, in (0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.averages = {k: p.detach().float().clone() for k, p in parameters.items()}
        self._is_in = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after training step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.averages[name].lerp_(parameter.float(), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the parameters hold the averages; after it, the same bits as before.

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
