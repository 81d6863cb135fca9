"""What a run tells while it trains: log.jsonl, speed.jsonl, TensorBoard, a progress bar.

`log.jsonl` holds what the run computed and nothing of the clock, so a run that was killed and
resumed writes the very bytes of one that was not. Clock and memory go to `speed.jsonl`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

LOG = "log.jsonl"
SPEED = "speed.jsonl"
LINE_SECONDS = 30.0


class RunLog:
    """The log files of one run; only the first process has one.

    Args:
        run_dir: where they lie.
        steps: the run's last step, for the bar.
        done: steps done before, on resuming.
        log_bytes: length of log.jsonl at that step; what lies behind it is dropped.
        tensorboard: write `tensorboard/` too.
    """

    def __init__(
        self, run_dir: Path, *, steps: int, done: int, log_bytes: int, tensorboard: bool
    ) -> None:
        from tqdm import tqdm

        self.path = run_dir / LOG
        self._speed_path = run_dir / SPEED
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(log_bytes)
        self._board = _board(run_dir, done) if tensorboard else None
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=steps,
            initial=done,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=terminal,
            ascii=None if terminal else True,
            mininterval=0.2 if terminal else LINE_SECONDS,
            maxinterval=1.0 if terminal else LINE_SECONDS,
            delay=0 if terminal else LINE_SECONDS,
        )
        self._last = (done, time.monotonic())

    def size(self) -> int:
        """Bytes of log.jsonl now, on disk."""
        return self.path.stat().st_size

    def advance(self) -> None:
        """One more step is done."""
        self._bar.update(1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """One line of log.jsonl, and the same numbers for TensorBoard.

        Args:
            step: training steps done.
            kind: train or validation.
            values: name to number.
        """
        line = {"step": step, "kind": kind, **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = ("loss", "psnr", "reblur")
        told = {k: f"{v:.4g}" for k, v in values.items() if k in shown}
        self._bar.set_postfix(told, refresh=False)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def write_speed(self, step: int, images_a_step: int) -> None:
        """Images a second since the last call, and the greatest memory so far."""
        before, then = self._last
        now = time.monotonic()
        self._last = (step, now)
        seconds = max(now - then, 1e-9)
        values = {
            "images_per_second": round((step - before) * images_a_step / seconds, 3),
            "seconds_per_step": round(seconds / max(step - before, 1), 4),
            "memory_mib": _memory_mib(),
        }
        with self._speed_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"speed/{name}", value, step)

    def picture(self, step: int, name: str, picture: npt.NDArray[np.uint8]) -> None:
        """Show a picture (H, W, 3) in TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """End the bar and flush the boards."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _board(run_dir: Path, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # What was shown after the checkpoint is shown again.
    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=done + 1)


def _memory_mib() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


class Sums:
    """Sums of what was measured since the last line of the log; they survive in a checkpoint.

    Args:
        stored: name -> [sum, count], as `stored` gives it.
    """

    def __init__(self, stored: Mapping[str, list[float]] | None = None) -> None:
        self.stored: dict[str, list[float]] = {k: list(v) for k, v in (stored or {}).items()}

    def add(self, values: Mapping[str, float]) -> None:
        """Take in the measures of one step."""
        for name, value in values.items():
            total = self.stored.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += 1

    def means(self) -> dict[str, float]:
        """The means, and start anew."""
        found = {name: total / count for name, (total, count) in self.stored.items()}
        self.stored = {}
        return found
