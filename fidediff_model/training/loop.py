"""What the three stages share: the steps of a run, and what happens between two of them.

A stage calls these functions in this order; none of them calls back.

    state = loop.begin(run, model, trained, optimizers, keeps)
    with loop.running(state):
        for batches in loop.steps(state):
            ...                                       gradients, loop.clip_and_step
            loop.finish_step(state, batches, measures)
            if loop.must_validate(state):
                loop.keep_if_better(state, report)
            loop.save_if_due(state)
        return loop.finish(state)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fidediff_model.config import to_dict
from fidediff_model.data.batches import Batch, SkipLog
from fidediff_model.data.trajectories import make_loader
from fidediff_model.model.card import Card
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.training import checkpoint, optim, processes, setup
from fidediff_model.training.checkpoint import Progress, Resumable
from fidediff_model.training.log import Measures, RunLog, Sums
from fidediff_model.training.optim import Ema, Parameters
from fidediff_model.training.settings import reporting_disk_errors
from fidediff_model.training.setup import Run
from fidediff_model.training.validation import Choice, Report, Scores
from trajectory_builder.errors import ExitCode

MODEL = "model"
LAST = "model-last"


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
        model: the complete model, unwrapped.
        trained: parameters by optimizer and name.
        optimizers: by name: `model`, and `discriminator` where there is one.
        keeps: which model is kept.
        resumable: what a checkpoint contains.
        ema: averages of what the optimizer `model` trains; None where switched off.
        log: the log files; None but in the first process.
        step: steps done.
        best: scores of the model that is kept; empty before the first validation.
        signal: SIGTERM or SIGINT once it has come, else 0.
        stop: no further step may begin.
        saver: the thread that publishes checkpoints.
        saving: the checkpoint that it is at.
    """

    run: Run
    model: FideDiff
    trained: Mapping[str, Parameters]
    optimizers: Mapping[str, torch.optim.Optimizer]
    keeps: Choice
    resumable: Resumable
    ema: Ema | None
    log: RunLog | None = None
    sums: Sums = field(default_factory=Sums)
    skipped: SkipLog = field(default_factory=SkipLog)
    best: Scores = field(default_factory=dict)
    step: int = 0
    started: float = field(default_factory=time.monotonic)
    signal: int = 0
    stop: bool = False
    saver: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    saving: Future[Path] | None = None


def begin(
    run: Run,
    model: FideDiff,
    trained: Mapping[str, Parameters],
    optimizers: Mapping[str, torch.optim.Optimizer],
    keeps: Choice,
) -> State:
    """Lock the folder, make averages, read the checkpoint if there is one, open the logs.

    Args:
        run: opened.
        model: the complete model, unwrapped.
        trained: parameters by optimizer and name.
        optimizers: by the same names, `model` among them.
        keeps: which model is kept.

    Raises:
        UserError: the run took another number of trajectories per step.
    """
    settings = run.settings
    if run.is_main:
        run.lock = setup.lock(run.run_dir)
    ema = Ema(trained["model"], settings.ema) if settings.ema else None
    tensors: dict[str, Mapping[str, Tensor]] = {
        "trained" if name == "model" else name: dict(parameters)
        for name, parameters in trained.items()
    }
    if ema is not None:
        tensors["ema"] = ema.averages
    resumable = Resumable(tensors, dict(optimizers))
    state = State(run, model, trained, optimizers, keeps, resumable, ema)
    log_bytes = _resume(state, run.checkpoint) if run.checkpoint is not None else 0
    if run.is_main:
        state.log = RunLog(
            run.run_dir,
            steps=settings.steps,
            done=state.step,
            log_bytes=log_bytes,
            tensorboard=settings.tensorboard,
        )
        if state.step:
            state.log.say(f"resuming after step {state.step:,} of {settings.steps:,}")
        elif run.validation is not None:
            state.log.note(keeps.reason)
    return state


def _resume(state: State, path: Path) -> int:
    """Load a checkpoint; returns the length that log.jsonl had."""
    run = state.run
    progress = checkpoint.load(path, state.resumable, rank=run.accelerator.process_index)
    if progress.trajectories_per_step != trajectories_per_step(run):
        raise processes.unequal_batches(progress.trajectories_per_step, trajectories_per_step(run))
    state.step, state.best = progress.step, dict(progress.best)
    state.sums = Sums(progress.sums)
    return progress.log_bytes


@contextmanager
def running(state: State) -> Iterator[None]:
    """Wraps the steps: defers signals to the end of a step, reports lost processes, full disks."""
    run = state.run
    with ExitStack() as stack:
        stack.callback(run.close)
        stack.callback(state.saver.shutdown)
        stack.enter_context(reporting_disk_errors(run.run_dir))
        stack.enter_context(processes.reporting_lost_ones(run.accelerator.num_processes))
        stack.enter_context(processes.deferring_signals(partial(_note_signal, state)))
        yield


def trajectories_per_step(run: Run) -> int:
    """Trajectories that one optimiser step takes, over all processes."""
    settings = run.settings
    return settings.batch * settings.accumulate * int(run.accelerator.num_processes)


def steps(state: State) -> Iterator[list[Batch]]:
    """The batches of each step from the next to the last, until time or a signal stops it.

    The order of draws is a function of seed and step alone.
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
        for optimizer in state.optimizers.values():
            optim.set_rates(optimizer, settings, state.step + 1)
        yield taken


def micro_batches(
    state: State, wrapped: Sequence[nn.Module | None], batches: Sequence[Batch]
) -> Iterator[Batch]:
    """The batches of a step; gradients travel between processes with the last one only.

    DDP reduces gradients in every backward unless asked not to; all but the last of a step would
    send partial sums that nobody uses.
    """
    for number, batch in enumerate(batches):
        with ExitStack() as stack:
            for module in wrapped if number < len(batches) - 1 else ():
                if module is not None:
                    stack.enter_context(state.run.accelerator.no_sync(module))
            yield batch


def average(measured: Sequence[Measures]) -> Measures:
    """Means over the micro-batches of a step."""
    names = dict.fromkeys(name for measures in measured for name in measures)
    return {n: torch.stack([m[n].float() for m in measured if n in m]).mean() for n in names}


def clip_and_step(state: State, name: str) -> Tensor:
    """Clip the gradients of an optimizer's parameters, step, clear; the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(state.trained[name].values(), state.run.settings.clip)
    state.optimizers[name].step()
    state.optimizers[name].zero_grad(set_to_none=True)
    return norm.detach()


def finish_step(state: State, batches: Sequence[Batch], measures: Measures) -> None:
    """Count the step, average its weights, log what is due.

    Raises:
        TrainingError: a measure since the last line of the log is not finite.
    """
    settings = state.run.settings
    state.step += 1
    if state.ema is not None:
        state.ema.update(state.step)
    state.sums.add(state.step, measures, [name for b in batches for name in b["sample_id"]])
    if state.log is not None:
        state.log.advance()
        if state.run.validation is not None and settings.validate_every:
            due = -(-state.step // settings.validate_every) * settings.validate_every
            state.log.show(next_validation=f"{min(due, settings.steps):,}")
    if state.step % settings.log_every == 0:
        _log(state)


def _log(state: State) -> None:
    rates = {f"rate_{n}": o.param_groups[0]["lr"] for n, o in state.optimizers.items()}
    for group in state.optimizers["model"].param_groups[1:]:
        rates["rate_new"] = group["lr"]
    means = {**state.sums.means(), **rates}
    if state.log is not None:
        state.log.write(state.step, "train", means)
        images = trajectories_per_step(state.run) * state.run.train.rules.points
        state.log.write_speed(state.step, images)


def must_validate(state: State) -> bool:
    """Whether the step that ended is one after which the model is scored."""
    settings = state.run.settings
    if not settings.validate_every:
        return False
    return state.step == settings.steps or state.step % settings.validate_every == 0


def keep_if_better(state: State, report: Report) -> None:
    """Log a validation, and save the averaged weights as the model if they are the best so far."""
    # No weight that a loss of nan or inf reached may become the model.
    state.sums.read()
    if state.log is not None:
        if report.scores:
            state.log.write(state.step, "validation", report.scores)
        if report.panel is not None:
            state.log.write_panel(state.step, report.panel)
    criterion = state.keeps.criterion
    if criterion is None:
        state.best = report.scores
    elif criterion.is_better(report.scores, state.best):
        state.best = report.scores
        save_model(state, state.run.run_dir / MODEL)


def save_if_due(state: State) -> None:
    """Write a checkpoint where one is due, and leave after a signal.

    Raises:
        SystemExit: SIGTERM came; everything is saved.
        KeyboardInterrupt: SIGINT came; everything is saved.
    """
    settings = state.run.settings
    _ask_to_stop(state)
    is_due = state.step == settings.steps or state.step % settings.save_every == 0
    if is_due or state.stop:
        save(state)
    if state.signal:
        wait_for_checkpoint(state)
        if state.log is not None:
            state.log.close()
        if state.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(int(ExitCode.TERMINATED))


def save(state: State) -> None:
    """Start a checkpoint of everything that a resume needs; a thread flushes and names it.

    Raises:
        TrainingError: a measure is not finite, or the disk refuses this checkpoint or the last.
    """
    run = state.run
    wait_for_checkpoint(state)
    progress = Progress(
        step=state.step,
        trajectories_per_step=trajectories_per_step(run),
        processes=int(run.accelerator.num_processes),
        log_bytes=state.log.size() if state.log is not None else 0,
        best=state.best,
        # Reading them raises on nan and inf, so no such weight reaches a checkpoint.
        sums=state.sums.read(),
    )
    generators = processes.from_all(run.accelerator, checkpoint.generator_states())
    if run.is_main:
        path = checkpoint.write(run.run_dir, progress, state.resumable, generators)
        keep = run.settings.keep
        state.saving = state.saver.submit(checkpoint.publish, path, state.step, keep=keep)
    run.accelerator.wait_for_everyone()


def wait_for_checkpoint(state: State) -> None:
    """Wait until the checkpoint under way is complete. Raises as `save` does."""
    if state.saving is not None:
        state.saving.result()


def save_model(state: State, folder: Path) -> None:
    """Write the model with the averaged weights and its card; the first process does."""
    if not state.run.is_main:
        return
    config, metadata = state.run.config, state.run.train.manifest.metadata
    card = Card(
        manifest=config.data,
        recipe=metadata.get("recipe", ""),
        recipe_digest=metadata.get("config_sha256", ""),
        stage=config.stage,
        steps=state.step,
        settings={"base_model": config.base_model, **to_dict(config.settings)},
        scores=state.best,
    )
    with averaged(state):
        state.model.save(folder, card=card)


def finish(state: State) -> Outcome:
    """Save the last model, which is also the best where no validation chose one; end in order."""
    wait_for_checkpoint(state)
    save_model(state, state.run.run_dir / LAST)
    if not state.best or state.keeps.criterion is None:
        save_model(state, state.run.run_dir / MODEL)
    if state.log is not None:
        state.log.close()
    processes.end(state.run.accelerator)
    is_finished = state.step >= state.run.settings.steps
    return Outcome(state.run.run_dir, state.step, is_finished, state.best)


@contextmanager
def averaged(state: State) -> Iterator[None]:
    """Inside, the model has its averaged weights."""
    with nullcontext() if state.ema is None else state.ema.swapped_in():
        yield


def _ask_to_stop(state: State) -> None:
    """Stop all processes at the same step, or one would wait for another that has left."""
    minutes = state.run.settings.max_train_minutes
    is_over = minutes > 0 and time.monotonic() - state.started > minutes * 60
    is_over, has_signal = processes.any_of(state.run.accelerator, is_over, state.signal != 0)
    if has_signal and not state.signal:
        state.signal = signal.SIGTERM  # another process received it
    state.stop = is_over or has_signal


def _note_signal(state: State, number: signal.Signals) -> None:
    state.signal = number
    text = f"\n{number.name}: saving after step {state.step + 1:,}; once more ends at once\n"
    if state.run.is_main:
        # Not through the bar: the signal may have come while it has its lock.
        os.write(sys.stderr.fileno(), text.encode())
