"""Stage 2, kernel: M learns kernels that turn the sharp image into the blur.

L = L1(M(I_blur) * I_sharp, I_blur) (arXiv 2510.01641; the base takes no part)
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fidediff_model.data.batches import Batch, DeviceBatch, to_device
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.model.reblur import reblur
from fidediff_model.scores.losses import reblur_loss
from fidediff_model.training import loop, optim, pictures, start, validation
from fidediff_model.training.adversarial import average, trainable
from fidediff_model.training.loop import Outcome, Picture, Scores, State
from fidediff_model.training.start import Request, Run

_PANEL_ROWS = 4


def train(request: Request) -> Outcome:
    """Train the kernel estimator beside a trained base; `model/` then holds both.

    Raises:
        UserError: what cannot be trained, or a loss that is no number.
    """
    run = start.open_run("kernel", request)
    settings = run.settings
    start.seed_process(run)
    model = FideDiff.load(
        Path(run.config.start),
        base_model=start.open_base(run),
        add=["kernel_estimator"],
        seed=settings.seed,
    )
    model.train_only("kernel")
    estimator = model.kernel_estimator
    if estimator is None:
        raise TypeError("the model was built without its kernel estimator")
    parameters = dict(trainable(estimator))
    rate = settings.learning_rate
    optimizer = optim.make(settings, parameters.values(), rate=rate)
    wrapped = run.accelerator.prepare(estimator)
    state = State(
        run,
        model,
        parameters,
        {"model": (optimizer, rate)},
        lambda: validate(run, estimator),
        best_is="reblur",
    )
    loop.begin(state)
    with loop.running(state):
        for step, batches in loop.steps(state):
            measured = [
                learn(state, wrapped, batch)
                for batch in loop.micro_batches(state, [wrapped], batches)
            ]
            measures = average(measured)
            measures["grad_norm"] = loop.clip_and_step(state, "model", parameters, batches)
            loop.finish_step(state, step, measures)
        return loop.finish(state)


def learn(state: State, wrapped: nn.Module, batch: Batch) -> dict[str, float]:
    """Gradients of one micro-batch."""
    settings, accelerator = state.run.settings, state.run.accelerator
    on_device = to_device(batch, accelerator.device)
    loss = reblur_loss(wrapped(on_device.blur), on_device.sharp, on_device.blur)
    loop.refuse_non_finite(loss, batch, state.step + 1)
    accelerator.backward(loss / settings.accumulate)
    return {"loss": float(loss.detach())}


def validate(run: Run, estimator: nn.Module) -> tuple[Scores, Picture | None]:
    """The reblur error of held-out pairs beside that of identity kernels, and a picture."""
    rows: list[Picture] = []

    def score(batch: DeviceBatch) -> Scores:
        """Scores of one batch; rows of the picture are taken from the first."""
        with run.accelerator.autocast():
            kernels = estimator(batch.blur)
        again = reblur(batch.sharp, kernels)
        for number in range(min(len(batch.blur), _PANEL_ROWS) if not rows else 0):
            images = [batch.blur[number], again[number], batch.sharp[number]]
            words = f"t {batch.timestep[number]:.0f}: blur, reblur, sharp, kernels"
            rows.append(pictures.row(images, kernels=kernels[number], words=words))
        return {
            "reblur": float((again - batch.blur).abs().mean()),
            "reblur_identity": float((batch.sharp - batch.blur).abs().mean()),
        }

    with torch.no_grad():
        scores = validation.mean_scores(run, score)
    return scores, pictures.stack(rows) if rows else None
