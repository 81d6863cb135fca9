"""What a run reports while it trains: log.jsonl, speed.jsonl, TensorBoard, panels, a bar.

`log.jsonl` contains what the run computed and nothing of the clock, so a run that was killed and
resumed writes the same bytes as one that was not. Clock and memory go to `speed.jsonl`.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fidediff_model.errors import TrainingError
from fidediff_model.model.kernels import kernel_mosaic
from fidediff_model.scores.metrics import as_uint8
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import shorten

LOG = "log.jsonl"
SPEED = "speed.jsonl"
LINE_SECONDS = 30.0
Picture = npt.NDArray[np.uint8]
Measures = dict[str, Tensor]
"""Name -> scalar on the device: reading one there would wait for all work launched before it."""
_INK = (255, 255, 255)
_GAP = 4


class RunLog:
    """The log files of one run; only the first process has one.

    Args:
        run_dir: the folder of the files.
        steps: the run's last step, for the bar.
        done: steps done before, on resuming.
        log_bytes: length of log.jsonl at that step; what follows is dropped.
        tensorboard: write `tensorboard/` too.
    """

    def __init__(
        self, run_dir: Path, *, steps: int, done: int, log_bytes: int, tensorboard: bool
    ) -> None:
        from tqdm import tqdm

        self.run_dir = run_dir
        self.path = run_dir / LOG
        self.path.touch()
        # Lines after the checkpoint are computed again by the resumed run, to the same bytes.
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
        self._shown: dict[str, str] = {}
        self._last = (done, time.monotonic())

    def size(self) -> int:
        """Bytes of log.jsonl now, on disk."""
        return self.path.stat().st_size

    def advance(self) -> None:
        """Count one step as done."""
        self._bar.update(1)

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        if sys.stderr.isatty():
            self._bar.write(text, file=sys.stderr)
        else:  # the bar would be drawn after it, at the end of a line of the log
            sys.stderr.write(f"{text}\n")

    def show(self, **values: str) -> None:
        """Show values after the bar's rate and remaining time."""
        self._shown |= values
        self._bar.set_postfix(self._shown, refresh=False)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Append a line to log.jsonl, and the same numbers to TensorBoard.

        Args:
            step: training steps done.
            kind: train or validation.
            values: name to number.
        """
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        keys = ("loss", "psnr", "lpips", "reblur")
        self.show(**{k: f"{v:.4g}" for k, v in values.items() if k in keys})
        self._to_board(kind, values, step)

    def note(self, text: str) -> None:
        """Append a sentence to log.jsonl, and print it above the bar."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": 0, "kind": "note", "text": text}) + "\n")
        self.say(text)

    def write_speed(self, step: int, images_per_step: int) -> None:
        """Append images per second since the last call, and the greatest memory so far."""
        before, then = self._last
        now = time.monotonic()
        self._last = (step, now)
        seconds = max(now - then, 1e-9)
        values = {
            "images_per_second": round((step - before) * images_per_step / seconds, 3),
            "seconds_per_step": round(seconds / max(step - before, 1), 4),
            "memory_mib": _memory_mib(),
        }
        with (self.run_dir / SPEED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._to_board("speed", values, step)

    def write_panel(self, step: int, panel: Picture) -> None:
        """Write panels/step-000100.png, and show it (H, W, 3) in TensorBoard."""
        folder = self.run_dir / "panels"
        folder.mkdir(parents=True, exist_ok=True)
        write_picture(folder / f"step-{step:06d}.png", panel)
        if self._board is not None:
            self._board.add_image("panel", panel, step, dataformats="HWC")

    def close(self) -> None:
        """End the bar and flush the boards."""
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def _to_board(self, kind: str, values: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


def _board(run_dir: Path, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # What was shown after the checkpoint is shown again.
    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=done + 1)


def _memory_mib() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


class _Pending(NamedTuple):
    """Measures of a step that are still on the device, and the pairs that they are of."""

    step: int
    measures: Measures
    pairs: list[str]


class Sums:
    """Sums of what was measured since the last line of the log; they survive in a checkpoint.

    Measures stay on the device until `read`, so that no step waits for its own results.

    Args:
        stored: name -> (sum, count), as `read` returns it.
    """

    def __init__(self, stored: Mapping[str, Sequence[float]] | None = None) -> None:
        self._sums = {name: (total, int(count)) for name, (total, count) in (stored or {}).items()}
        self._pending: list[_Pending] = []

    def add(self, step: int, measures: Measures, pairs: list[str]) -> None:
        """Add the measures of a step; `pairs` are the samples that it learnt from."""
        self._pending.append(_Pending(step, measures, pairs))

    def read(self) -> dict[str, tuple[float, int]]:
        """Name -> (sum, count) of everything added since the last `means`.

        Raises:
            TrainingError: a measure is not finite; names its step and its pairs.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return self._sums
        # One transfer for all of them.
        scalars = [m.detach().float() for p in pending for m in p.measures.values()]
        values = iter(torch.stack(scalars).tolist())
        for step, measures, pairs in pending:
            for name in measures:
                value = next(values)
                if not math.isfinite(value):
                    raise _not_finite(name, value, step, pairs)
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + value, count + 1)
        return self._sums

    def means(self) -> dict[str, float]:
        """The means since the last call. Raises as `read` does."""
        means = {name: total / count for name, (total, count) in self.read().items()}
        self._sums = {}
        return means


def _not_finite(name: str, value: float, step: int, pairs: list[str]) -> TrainingError:
    return TrainingError(
        f"the {name} of step {step:,} is {value}",
        where=f"pairs {shorten(pairs, at_most=16)}",
        cure="look at these pairs; then lower --learning-rate or --clip, or give --precision"
        " fp32, and continue with --resume from the newest checkpoint",
    )


def row(images: Sequence[Tensor], *, kernels: Tensor | None = None, words: str = "") -> Picture:
    """Images of one size side by side, with a line of words below.

    Args:
        images: each (3, H, W) in [-1, 1].
        kernels: (K, H, W); drawn as a mosaic of the same height.
        words: such as "t 200, t_hat 187".
    """
    tiles = [as_uint8(torch.nan_to_num(image)) for image in images]
    height = tiles[0].shape[0]
    if kernels is not None:
        gray = kernel_mosaic(kernels, columns=6, zoom=2)
        side = cv2.resize(gray, (round(gray.shape[1] * height / gray.shape[0]), height))
        tiles.append(np.repeat(np.asarray(side, np.uint8)[..., None], 3, axis=2))
    gap = np.zeros((height, _GAP, 3), np.uint8)
    joined = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    band = np.zeros((16, joined.shape[1], 3), np.uint8)
    cv2.putText(band, words, (2, 12), cv2.FONT_HERSHEY_PLAIN, 0.8, _INK, 1, cv2.LINE_AA)
    return np.concatenate([joined, band])


def stack(rows: Sequence[Picture]) -> Picture:
    """Rows one below the other, padded to the widest."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in rows]
    return np.concatenate(padded)


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture (H, W, 3) as PNG under its name at once."""
    _, payload = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    write_atomic(path, payload.tobytes())
