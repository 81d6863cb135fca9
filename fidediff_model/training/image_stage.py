"""What the stages base and control share: one optimiser step on restored images, and its scores.

L = L1 + lambda1 x L_perceptual + lambda2 x L_G (+ L_time), D trained in turn (arXiv 2510.01641)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fidediff_model.data.batches import Batch, DeviceBatch, to_device
from fidediff_model.model.discriminator import Discriminator
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.scores.losses import ReconstructionLoss
from fidediff_model.scores.perceptual import LPIPS
from fidediff_model.training import loop, optim, pictures, processes, validation
from fidediff_model.training.adversarial import (
    average,
    backward_discriminator,
    image_loss,
    trainable,
)
from fidediff_model.training.loop import Outcome, Picture, Scores, State
from fidediff_model.training.start import Run
from fidediff_model.weights.sd21 import BaseWeights

_PANEL_ROWS = 4


class Stepped(NamedTuple):
    """What a stage's step gives of a batch of blurs; `time_loss` only in the stage control.

    Where T learns alone there is no image and no latent.
    """

    image: Tensor | None  # (N, 3, H, W)
    z0_hat: Tensor | None  # (N, 4, h, w)
    t_hat: Tensor  # (N,)
    time_loss: Tensor | None = None


def fit(
    run: Run, stepper: nn.Module, discriminator: Discriminator | None, *, best_is: str = "psnr"
) -> Outcome:
    """Train what of `stepper` is trainable, to the run's last step.

    Args:
        run: opened.
        stepper: (blur, t) -> `Stepped`, with the whole model as its attribute `model`.
        discriminator: D, or None.
        best_is: the validation score that decides which model is kept.
    """
    if run.loss is None:
        raise TypeError("a stage that restores images has a loss")
    loss = run.loss
    model: FideDiff = stepper.model  # type: ignore[assignment]  # a module's attributes are Any
    settings, accelerator = run.settings, run.accelerator
    if settings.gradient_checkpointing:
        checkpoint_gradients(model)
    parameters, heads = dict(trainable(stepper)), trainable(discriminator)
    optimizers = {
        "model": (
            optim.make(settings, parameters.values(), rate=settings.learning_rate),
            settings.learning_rate,
        )
    }
    wrapped, wrapped_d = accelerator.prepare(stepper), None
    loss.to(accelerator.device)
    if discriminator is not None:
        rate = settings.discriminator_rate
        optimizers["discriminator"] = (optim.make(settings, heads.values(), rate=rate), rate)
        wrapped_d = accelerator.prepare(discriminator)
    state = State(
        run,
        model,
        parameters,
        optimizers,
        lambda: validate(run, model, loss),
        best_is=best_is,
    )
    loop.begin(state, {"discriminator": discriminator} if discriminator else {})
    with loop.running(state):
        for step, batches in loop.steps(state):
            playing = discriminator if step > settings.gan_start else None
            measured = [
                learn(state, wrapped, loss, playing, wrapped_d, batch)
                for batch in loop.micro_batches(state, [wrapped, wrapped_d], batches)
            ]
            measures = average(measured)
            measures["grad_norm"] = loop.clip_and_step(state, "model", parameters, batches)
            if playing is not None:
                norm = loop.clip_and_step(state, "discriminator", heads, batches)
                measures["grad_norm_discriminator"] = norm
            loop.finish_step(state, step, measures)
        return loop.finish(state)


def learn(
    state: State,
    wrapped: nn.Module,
    loss: ReconstructionLoss,
    discriminator: Discriminator | None,
    wrapped_d: nn.Module | None,
    batch: Batch,
) -> dict[str, float]:
    """Gradients of one micro-batch: the model's with D frozen, then D's."""
    settings, accelerator = state.run.settings, state.run.accelerator
    on_device = to_device(batch, accelerator.device)
    t = on_device.timestep
    restored: Stepped = wrapped(on_device.blur, t)
    total = torch.zeros((), device=t.device)
    measures: dict[str, float] = {}
    if restored.image is not None and restored.z0_hat is not None:
        total, measures = image_loss(
            loss,
            discriminator,
            settings,
            image=restored.image,
            sharp=on_device.sharp,
            z0_hat=restored.z0_hat,
            t=t,
        )
    if restored.time_loss is not None:
        total = total + settings.time_weight * restored.time_loss
        measures["time"] = float(restored.time_loss.detach())
        measures["t_error"] = float((restored.t_hat.detach() - t).abs().mean())
    measures["loss"] = float(total.detach())
    loop.refuse_non_finite(total, batch, state.step + 1)
    accelerator.backward(total / settings.accumulate)
    if discriminator is not None and wrapped_d is not None and restored.z0_hat is not None:
        with torch.no_grad():
            z_0 = state.model.codec.encode(on_device.sharp)
        measures |= backward_discriminator(
            accelerator, wrapped_d, settings, z_0=z_0, z0_hat=restored.z0_hat, t=t
        )
    return measures


def validate(run: Run, model: FideDiff, loss: ReconstructionLoss) -> tuple[Scores, Picture | None]:
    """Scores of the held-out split, and a picture of its first trajectory.

    t is given while the model has no T, and estimated as soon as it has.
    """
    lpips = loss.distance if isinstance(loss.distance, LPIPS) else None
    rows: list[Picture] = []
    model.eval()

    def score(batch: DeviceBatch) -> Scores:
        """Scores of one batch; rows of the picture are taken from the first."""
        estimates = model.timestep_regressor is not None
        with run.accelerator.autocast():
            found = model(batch.blur, None if estimates else batch.timestep)
        for number in range(min(len(batch.blur), _PANEL_ROWS) if not rows else 0):
            images = [batch.blur[number], found.image[number], batch.sharp[number]]
            kernels = None if found.kernels is None else found.kernels[number]
            words = f"t {batch.timestep[number]:.0f}, used {found.t_hat[number]:.0f}"
            rows.append(pictures.row(images, kernels=kernels, words=words))
        t_hat = found.t_hat if estimates else None
        return validation.image_scores(batch, found.image, t_hat, lpips)

    scores = validation.mean_scores(run, score)
    if run.settings.gradient_checkpointing:
        model.train()
    return scores, pictures.stack(rows) if rows else None


def make_discriminator(run: Run, weights: BaseWeights) -> Discriminator | None:
    """D over clean base weights, or None where lambda2 is 0; before a model is built of them."""
    if run.settings.gan_weight == 0:
        return None
    from fidediff_model.model.fidediff import build_discriminator

    made = build_discriminator(run.config.model, weights, seed=run.settings.seed)
    made.encoder.to(processes.frozen_dtype(run.settings.precision))
    if run.config.model.discriminator.train_encoder:
        made.float()
    return made


def cast_frozen(model: FideDiff, run: Run) -> None:
    """Bring the frozen UNet and VAE to the run's precision; what trains stays float32."""
    dtype = processes.frozen_dtype(run.settings.precision)
    for part in (model.base.unet, model.codec.vae):
        if dtype != torch.float32:
            part.to(dtype)
    model.base.widen_trained()


def checkpoint_gradients(model: FideDiff) -> None:
    """Compute activations again in the backward pass; diffusers does so in train mode only."""
    parts: list[Any] = [model.base.unet, model.codec.vae]
    if model.control is not None:
        parts.append(model.control.controlnet)
    for part in parts:
        part.enable_gradient_checkpointing()
    model.train()
