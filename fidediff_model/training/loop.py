"""What the three stages share: steps, and all that happens between two of them.

for step, batches in loop.steps(state):
    ...                                    one optimiser step over `batches`
    loop.finish_step(state, step, measures)
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fidediff_model.data.batches import Batch, SkipLog
from fidediff_model.data.trajectories import make_loader
from fidediff_model.errors import TrainingError
from fidediff_model.model.card import Card
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.training import checkpoint, optim, pictures, processes, run_folder
from fidediff_model.training.checkpoint import Resumable
from fidediff_model.training.ema import Ema
from fidediff_model.training.log import RunLog, Sums
from fidediff_model.training.start import Run, card_settings
from trajectory_builder.errors import ExitCode, shorten

MODEL = "model"
LAST = "model-last"
Scores = dict[str, float]
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes:
        run_dir: its folder.
        step: steps done.
        finished: False when the time was up before the last step.
        scores: of the model that is kept; empty without validation.
    """

    run_dir: Path
    step: int
    finished: bool
    scores: Scores


@dataclass
class State:
    """A run under way: what changes from step to step.

    Attributes:
        run: what does not change.
        model: the whole model, unwrapped.
        parameters: what trains, by name.
        optimizers: by name; each with its learning rate before the schedule.
        validate: gives scores of the held-out split and a picture; None without one.
        best_is: `psnr` (greatest), `reblur` or `t_error` (least): which score decides.
    """

    run: Run
    model: FideDiff
    parameters: dict[str, nn.Parameter]
    optimizers: dict[str, tuple[torch.optim.Optimizer, float]]
    validate: Callable[[], tuple[Scores, Picture | None]]
    best_is: str
    ema: Ema | None = None
    log: RunLog | None = None
    resumable: Resumable = field(default_factory=lambda: Resumable({}, {}))
    sums: Sums = field(default_factory=Sums)
    skipped: SkipLog = field(default_factory=SkipLog)
    best: Scores = field(default_factory=dict)
    step: int = 0
    started: float = field(default_factory=time.monotonic)
    signal: int = 0
    stop: bool = False


def begin(state: State, extra: Mapping[str, nn.Module] | None = None) -> State:
    """Make averages, read the checkpoint where there is one, open the logs.

    Args:
        state: a new state.
        extra: further modules whose trainable parameters are kept, such as the discriminator.

    Raises:
        UserError: the run took another number of trajectories a step.
    """
    run, settings = state.run, state.run.settings
    if run.is_main:
        run.lock = run_folder.lock(run.run_dir)
    state.ema = Ema(state.parameters, settings.ema) if settings.ema else None
    tensors: dict[str, Mapping[str, Tensor]] = {"trained": dict(state.parameters)}
    if state.ema is not None:
        tensors["ema"] = state.ema.averages
    for name, module in (extra or {}).items():
        tensors[name] = {k: p for k, p in module.named_parameters() if p.requires_grad}
    optimizers = {name: pair[0] for name, pair in state.optimizers.items()}
    state.resumable = Resumable(tensors, optimizers)
    log_bytes = 0
    if run.checkpoint is not None:
        log_bytes = _resume(state, run.checkpoint)
    if run.is_main:
        state.log = RunLog(
            run.run_dir,
            steps=settings.steps,
            done=state.step,
            log_bytes=log_bytes,
            tensorboard=settings.tensorboard,
        )
    return state


@contextmanager
def running(state: State) -> Iterator[None]:
    """Round the steps: signals wait for a step's end; a dead process, a full disk are told of."""
    run = state.run
    with ExitStack() as stack:
        stack.callback(run.close)
        stack.enter_context(run_folder.telling_a_full_disk(run.run_dir))
        stack.enter_context(processes.telling_lost_ones(run.accelerator.num_processes))
        stack.enter_context(_noting_signals(state))
        yield


def trajectories_a_step(run: Run) -> int:
    """Trajectories that one optimiser step takes, over all processes."""
    settings = run.settings
    return settings.batch * settings.accumulate * int(run.accelerator.num_processes)


def steps(state: State) -> Iterator[tuple[int, list[Batch]]]:
    """(step, its batches) from the next step to the last one, until time or a signal stops it.

    Steps count from 1. The order of draws is a function of seed and step alone.
    """
    run, settings = state.run, state.run.settings
    loader = make_loader(
        run.train,
        batch_size=settings.batch,
        workers=settings.workers,
        first_step=state.step * settings.accumulate,
        steps=max(settings.steps - state.step, 0) * settings.accumulate,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
    )
    batches = iter(loader)
    while state.step < settings.steps and not state.stop:
        taken = [next(batches) for _ in range(settings.accumulate)]
        for batch in taken:
            state.skipped.add(batch)
        _set_rates(state, state.step + 1)
        yield state.step + 1, taken


def micro_batches(
    state: State, wrapped: Sequence[nn.Module | None], batches: list[Batch]
) -> Iterator[Batch]:
    """The batches of a step; gradients travel between processes with the last one only."""
    for number, batch in enumerate(batches):
        with ExitStack() as stack:
            for module in wrapped if number < len(batches) - 1 else ():
                if module is not None:
                    stack.enter_context(state.run.accelerator.no_sync(module))
            yield batch


def refuse_non_finite(loss: Tensor, batch: Batch, step: int) -> None:
    """Stop on a loss that is no number, before it reaches a weight.

    Raises:
        TrainingError: naming the batch's pairs.
    """
    if not math.isfinite(loss.item()):
        raise TrainingError(
            f"the loss of step {step:,} is {loss.item()}",
            where=f"pairs {shorten(batch['sample_id'], at_most=16)}",
            cure="look at these pairs; then lower --learning-rate or --clip, or give --precision"
            " fp32, and go on with --resume from the newest checkpoint",
        )


def clip_and_step(
    state: State, name: str, parameters: Mapping[str, nn.Parameter], batches: list[Batch]
) -> float:
    """Clip the gradients of an optimizer's parameters, step, clear; gives the norm before.

    Raises:
        TrainingError: the norm is no number.
    """
    norm = nn.utils.clip_grad_norm_(parameters.values(), state.run.settings.clip)
    refuse_non_finite(norm, batches[-1], state.step + 1)
    optimizer, _ = state.optimizers[name]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


def finish_step(state: State, step: int, measures: Mapping[str, float]) -> None:
    """Average, log, validate, save: in an order that a killed run repeats to the bit.

    Raises:
        SystemExit: SIGTERM came; everything is saved.
        KeyboardInterrupt: SIGINT came; everything is saved.
    """
    settings = state.run.settings
    state.step = step
    if state.ema is not None:
        state.ema.update(step)
    state.sums.add(measures)
    if state.log is not None:
        state.log.advance()
    if step % settings.log_every == 0:
        _log(state)
    last = step == settings.steps
    if settings.validate_every and (last or step % settings.validate_every == 0):
        validate(state)
    _ask_to_stop(state)
    if last or state.stop or step % settings.save_every == 0:
        save(state)
    if state.signal:
        _leave(state)


def validate(state: State) -> None:
    """Score the averaged weights on the held-out split and keep the model if it is the best."""
    with averaged(state), torch.no_grad():
        scores, picture = state.validate()
    if state.log is not None:
        if scores:
            state.log.write(state.step, "validation", scores)
        if picture is not None:
            state.log.picture(state.step, "panel", picture)
            pictures.write(state.run.run_dir / "panels", state.step, picture)
    if scores and _is_better(state, scores):
        state.best = scores
        save_model(state, state.run.run_dir / MODEL)


def save(state: State) -> None:
    """A checkpoint of all that a resume needs."""
    run = state.run
    generators = processes.from_all(run.accelerator, checkpoint.generator_states())
    state.resumable.state = {
        "step": state.step,
        "best": state.best,
        "sums": state.sums.stored,
        "log_bytes": state.log.size() if state.log is not None else 0,
        "trajectories_a_step": trajectories_a_step(run),
        "processes": int(run.accelerator.num_processes),
    }
    if run.is_main:
        keep = run.settings.keep
        checkpoint.save(run.run_dir, state.step, state.resumable, generators, keep=keep)
    run.accelerator.wait_for_everyone()


def save_model(state: State, folder: Path) -> None:
    """Write the model with the averaged weights and its card; the first process does."""
    if not state.run.is_main:
        return
    config = state.run.config
    metadata = state.run.train.manifest.metadata
    card = Card(
        manifest=config.data,
        recipe=metadata.get("recipe", ""),
        recipe_digest=metadata.get("config_sha256", ""),
        stage=config.stage,
        steps=state.step,
        settings=card_settings(state.run),
        scores=state.best,
    )
    with averaged(state):
        state.model.save(folder, card=card)


def finish(state: State) -> Outcome:
    """The last model, the best one where no validation chose it, and an orderly end."""
    save_model(state, state.run.run_dir / LAST)
    if not state.best:
        save_model(state, state.run.run_dir / MODEL)
    if state.log is not None:
        state.log.close()
    processes.end(state.run.accelerator)
    finished = state.step >= state.run.settings.steps
    return Outcome(state.run.run_dir, state.step, finished, state.best)


@contextmanager
def averaged(state: State) -> Iterator[None]:
    """Inside, the model has its averaged weights."""
    with nullcontext() if state.ema is None else state.ema.swapped_in():
        yield


def _resume(state: State, path: Path) -> int:
    """Load a checkpoint; gives the length that log.jsonl had."""
    run = state.run
    checkpoint.load(path, state.resumable, rank=run.accelerator.process_index)
    stored = state.resumable.state
    if stored["trajectories_a_step"] != trajectories_a_step(run):
        raise processes.unequal_batches(stored["trajectories_a_step"], trajectories_a_step(run))
    state.step = int(stored["step"])
    state.best = stored["best"]
    state.sums = Sums(stored["sums"])
    return int(stored["log_bytes"])


def _set_rates(state: State, step: int) -> None:
    factor = optim.rate_factor(state.run.settings, step)
    for optimizer, rate in state.optimizers.values():
        optim.set_rate(optimizer, rate * factor)


def _log(state: State) -> None:
    rates = {f"rate_{n}": o.param_groups[0]["lr"] for n, (o, _) in state.optimizers.items()}
    means = {**state.sums.means(), **rates}
    if state.log is not None:
        state.log.write(state.step, "train", means)
        points = state.run.train.rules.points
        state.log.write_speed(state.step, trajectories_a_step(state.run) * points)


def _is_better(state: State, scores: Scores) -> bool:
    name = state.best_is
    if name not in scores:
        return False
    if not state.best:
        return True
    larger = scores[name] > state.best[name]
    return larger if name == "psnr" else scores[name] < state.best[name]


def _ask_to_stop(state: State) -> None:
    """All processes must agree, or one would wait for another that has left."""
    minutes = state.run.settings.max_train_minutes
    over = minutes > 0 and time.monotonic() - state.started > minutes * 60
    over, told = processes.any_of(state.run.accelerator, over, state.signal != 0)
    if told and not state.signal:
        state.signal = signal.SIGTERM  # another process was told to end
    state.stop = over or told


def _leave(state: State) -> None:
    if state.log is not None:
        state.log.close()
    if state.signal == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(int(ExitCode.TERMINATED))


@contextmanager
def _noting_signals(state: State) -> Iterator[None]:
    """SIGTERM and SIGINT let the step end and save; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in wanted}

    def note(number: int, frame: FrameType | None) -> None:
        state.signal = number
        signal.signal(number, before[signal.Signals(number)])

    for number in wanted:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, before[number])
