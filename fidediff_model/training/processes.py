"""Device, precision, and the processes that train together.

accelerate finds the other processes through the environment of `torchrun` or `accelerate launch`.
"""

from __future__ import annotations

import datetime
import gc
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from fidediff_model.errors import TrainingError
from fidediff_model.model.engine import has_bf16
from fidediff_model.training.settings import Precision
from trajectory_builder.errors import ExitCode, UsageError, UserError

LOST_AFTER = datetime.timedelta(minutes=10)
"""How long a process waits for the others before it gives up (our choice)."""

log = logging.getLogger(__name__)
_LOST = re.compile(
    "connection (closed|reset|refused)|closed by peer|broken pipe|timed out|timeout|gloo|nccl",
    re.IGNORECASE,
)


def resolve_precision(wanted: Precision) -> Precision:
    """Turn `auto` into bf16 on a GPU that computes in it, else into fp32.

    Raises:
        UsageError: bf16 was asked for and no GPU here computes in it.
    """
    can = has_bf16(torch.device("cuda"))
    if wanted == "auto":
        if torch.cuda.is_available() and not can:
            log.warning(
                "this GPU only emulates bf16, so the run is in fp32: training in fp16 is not"
                " offered, and --checkpointing vae saves memory"
            )
        return "bf16" if can else "fp32"
    if wanted == "bf16" and not can:
        gpu = torch.cuda.is_available()
        raise UsageError(
            "bf16 was asked for and " + ("this GPU has none" if gpu else "there is no GPU"),
            where="precision",
            cure="give --precision fp32, or train on a GPU with bf16; on a CPU bf16 is slower",
        )
    return wanted


def start(precision: Precision) -> Any:
    """An `Accelerator` for this process, in bf16 or fp32; joins the other processes if any."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    cpu = not torch.cuda.is_available()
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LOST_AFTER)],
    )


def frozen_dtype(precision: Precision) -> torch.dtype:
    """The type of frozen weights."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


@contextmanager
def reporting_lost_ones(processes: int) -> Iterator[None]:
    """Turn errors of gloo and NCCL about a dead peer into one that says so.

    Raises:
        TrainingError: another process of the run ended.
    """
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or not _LOST.search(str(error)):
            raise
        raise TrainingError(
            "another process of this run ended or does not answer, so this one ends too",
            where=str(error).strip().splitlines()[0][:120],
            cure="look at the other one's output; the same command resumes from the newest"
            " checkpoint",
        ) from error


@contextmanager
def deferring_signals(note: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Inside, the first SIGTERM or SIGINT calls `note`; the current step ends and is saved.

    A second one ends the process at once. Python runs handlers in the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in wanted}

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        note(signal.Signals(number))

    for number in wanted:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, before[number])


def any_of(accelerator: Any, *flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process; a collective, so all must call it."""
    if accelerator.num_processes == 1:
        return list(flags)
    set_here = torch.tensor([float(flag) for flag in flags], device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(set_here, reduction="sum").tolist()]


def from_all(accelerator: Any, value: Any) -> list[Any]:
    """The values of all processes, by rank; a collective, so all must call it."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    gathered: list[Any] = gather_object([value])
    return gathered


def end(accelerator: Any) -> None:
    """Leave the process group in order.

    Without the wait and the collection, gloo's threads aborted one run in three after all work was
    done: a DDP module collected at interpreter exit outlives the group that it belongs to.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.free_memory()
        gc.collect()
    accelerator.end_training()


def unequal_batches(before: int, now: int) -> UserError:
    """The error of a resume whose step takes another number of trajectories."""
    return UserError(
        f"a step of this run takes {before} trajectories, this command would take {now}",
        where="batch x accumulate x processes",
        cure="change --batch or --accumulate so that the product stays, or start a new --run-dir",
        exit_code=ExitCode.OTHER_CONFIG,
    )
