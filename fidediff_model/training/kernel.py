"""Stage 2, kernel: M learns kernels that turn the sharp image into the blur.

L = L1(M(I_blur) * I_sharp, I_blur)      (arXiv 2510.01641; the base takes no part)
"""

from __future__ import annotations

from torch import nn

from fidediff_model.data.batches import DeviceBatch, to_device
from fidediff_model.scores.losses import reblur_loss
from fidediff_model.training import loop, optim, setup, validation
from fidediff_model.training.log import Measures
from fidediff_model.training.loop import Outcome
from fidediff_model.training.request import Request
from fidediff_model.training.setup import Run
from fidediff_model.training.validation import BY_REBLUR, Choice

KEEPS = Choice(BY_REBLUR, "the best model by reblur error is kept, since that is the loss")


def train(request: Request) -> Outcome:
    """Train the kernel estimator beside a trained base; `model/` then contains both.

    Raises:
        UserError: what cannot be trained, or a loss that is not finite.
    """
    run = setup.open_run("kernel", request)
    setup.seed_process(run)
    model = setup.open_model(run, setup.open_base(run), add=["kernel_estimator"])
    model.train_only("kernel")
    estimator: nn.Module = model.part("kernel_estimator")
    parameters = optim.trainable(estimator)
    group = optim.Group(parameters.values(), run.settings.learning_rate)
    optimizer = optim.make(run.settings, group)
    wrapped = run.accelerator.prepare(estimator)
    state = loop.begin(run, model, {"model": parameters}, {"model": optimizer}, KEEPS)
    with loop.running(state):
        for batches in loop.steps(state):
            measured = [
                learn(run, wrapped, to_device(batch, run.accelerator.device))
                for batch in loop.micro_batches(state, [wrapped], batches)
            ]
            norm = loop.clip_and_step(state, "model")
            loop.finish_step(state, batches, {**loop.average(measured), "grad_norm": norm})
            if loop.must_validate(state):
                with loop.averaged(state):
                    report = validation.of_kernels(run, estimator)
                loop.keep_if_better(state, report)
            loop.save_if_due(state)
        return loop.finish(state)


def learn(run: Run, wrapped: nn.Module, batch: DeviceBatch) -> Measures:
    """Gradients of one micro-batch."""
    loss = reblur_loss(wrapped(batch.blur), batch.target, batch.blur)
    run.accelerator.backward(loss / run.settings.accumulate)
    return {"loss": loss.detach()}
