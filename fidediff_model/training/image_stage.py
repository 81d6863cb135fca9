"""What the stages base and control share: one optimiser step on restored images.

    L = L1 + lambda1 L_perceptual + lambda2 L_G (+ time_weight L_time)      (arXiv 2510.01641)
    L_D = on real latents E(sharp) against z0_hat, in turn with the model

Within a micro-batch the model's backward comes first, with D frozen, so that its gradient reaches
no parameter of D; then D's, on latents detached from the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fidediff_model.data.batches import Batch, DeviceBatch, to_device
from fidediff_model.model.diffusion import LAST_TIMESTEP, roots
from fidediff_model.model.discriminator import (
    Discriminator,
    build_discriminator,
    discriminator_loss,
    frozen,
    generator_loss,
)
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.scores.losses import ReconstructionLoss, reblur_loss
from fidediff_model.scores.perceptual import LPIPS
from fidediff_model.training import loop, optim, processes, validation
from fidediff_model.training.log import Measures
from fidediff_model.training.loop import Outcome, State
from fidediff_model.training.optim import Group
from fidediff_model.training.settings import TrainSettings
from fidediff_model.training.setup import Run
from fidediff_model.training.validation import Choice
from fidediff_model.weights.sd21 import BaseWeights


class Stepped(NamedTuple):
    """The result of a stage's step on a batch of blurs.

    Where T learns alone there is no image and no latent.
    """

    image: Tensor | None  # (N, 3, H, W)
    z0_hat: Tensor | None  # (N, 4, h, w)
    t_hat: Tensor  # (N,)
    time_loss: Tensor | None = None  # in the stage control
    kernels: Tensor | None = None  # (N, K, H, W), where M trains too


def fit(
    run: Run,
    stepper: nn.Module,
    discriminator: Discriminator | None,
    groups: Sequence[Group],
    keeps: Choice,
) -> Outcome:
    """Train `stepper`'s trainable parameters, and D's, until the last step.

    Args:
        run: opened.
        stepper: (blur, t) -> `Stepped`, with the complete model as its attribute `model`.
        discriminator: D, or None.
        groups: the trainable parameters of `stepper` with their learning rates.
        keeps: which model is kept.
    """
    if run.loss is None:
        raise TypeError("a stage that restores images has a loss")
    loss, settings, accelerator = run.loss, run.settings, run.accelerator
    model: FideDiff = stepper.model  # type: ignore[assignment]  # a module's attributes are Any
    checkpoint_gradients(model, settings.checkpointing)
    trained = {"model": optim.trainable(stepper)}
    optimizers = {"model": optim.make(settings, *groups)}
    if discriminator is not None:
        trained["discriminator"] = optim.trainable(discriminator)
        group = Group(trained["discriminator"].values(), settings.discriminator_rate)
        optimizers["discriminator"] = optim.make(settings, group)
    loss.to(accelerator.device)
    learner = Learner(
        run,
        model,
        loss,
        wrapped=accelerator.prepare(stepper),
        discriminator=discriminator,
        wrapped_d=None if discriminator is None else accelerator.prepare(discriminator),
    )
    state = loop.begin(run, model, trained, optimizers, keeps)
    with loop.running(state):
        for batches in loop.steps(state):
            loop.finish_step(state, batches, learner.step(state, batches))
            if loop.must_validate(state):
                lpips = loss.distance if isinstance(loss.distance, LPIPS) else None
                with loop.averaged(state):
                    report = validation.of_images(run, model, lpips)
                loop.keep_if_better(state, report)
            loop.save_if_due(state)
        return loop.finish(state)


class Learner(NamedTuple):
    """What computes the gradients of a step.

    Attributes:
        run: settings and accelerator.
        model: the complete model, unwrapped.
        loss: L1 and the perceptual distance.
        wrapped: the stage's step as `prepare` returned it.
        discriminator: D, or None.
        wrapped_d: D as `prepare` returned it.
    """

    run: Run
    model: FideDiff
    loss: ReconstructionLoss
    wrapped: nn.Module
    discriminator: Discriminator | None
    wrapped_d: nn.Module | None

    def step(self, state: State, batches: list[Batch]) -> Measures:
        """One optimiser step over micro-batches, the model's and then D's."""
        plays = self.discriminator is not None and state.step >= self.run.settings.gan_start
        measured = [
            self._learn(to_device(batch, self.run.accelerator.device), plays=plays)
            for batch in loop.micro_batches(state, [self.wrapped, self.wrapped_d], batches)
        ]
        measures = loop.average(measured)
        measures["grad_norm"] = loop.clip_and_step(state, "model")
        if plays:
            measures["grad_norm_discriminator"] = loop.clip_and_step(state, "discriminator")
        return measures

    def _learn(self, batch: DeviceBatch, *, plays: bool) -> Measures:
        """Gradients of one micro-batch: the model's with D frozen, then D's if it plays."""
        run, settings, t = self.run, self.run.settings, batch.timestep
        stepped: Stepped = self.wrapped(batch.blur, t)
        total = torch.zeros((), device=t.device)
        measures: Measures = {}
        z_0 = self._sharp_latents(batch) if plays or settings.l1_in == "latents" else None
        if stepped.image is not None and stepped.z0_hat is not None:
            discriminator = self.discriminator if plays else None
            total, measures = image_loss(
                self.loss,
                discriminator,
                settings,
                batch,
                image=stepped.image,
                z0_hat=stepped.z0_hat,
                z_0=z_0,
            )
        if stepped.time_loss is not None:
            total = total + settings.time_weight * stepped.time_loss
            measures["time"] = stepped.time_loss.detach()
            measures["t_error"] = (stepped.t_hat.detach() - t).abs().mean()
        if stepped.kernels is not None:
            reblur = reblur_loss(stepped.kernels, batch.target, batch.blur)
            total = total + settings.kernel_weight * reblur
            measures["reblur"] = reblur.detach()
        measures["loss"] = total.detach()
        run.accelerator.backward(total / settings.accumulate)
        if plays and self.wrapped_d is not None and z_0 is not None and stepped.z0_hat is not None:
            measures |= backward_discriminator(
                run.accelerator, self.wrapped_d, settings, z_0=z_0, z0_hat=stepped.z0_hat, t=t
            )
        return measures

    @torch.no_grad()
    def _sharp_latents(self, batch: DeviceBatch) -> Tensor:
        """E(sharp) of each point, (N, 4, h, w); each sharp image is encoded once."""
        return self.model.codec.encode(batch.sharp)[batch.trajectory]


def image_loss(
    loss: ReconstructionLoss,
    discriminator: Discriminator | None,
    settings: TrainSettings,
    batch: DeviceBatch,
    *,
    image: Tensor,
    z0_hat: Tensor,
    z_0: Tensor | None = None,
) -> tuple[Tensor, Measures]:
    """L1 + lambda1 L_perceptual + lambda2 L_G, and its terms.

    Args:
        loss: L1 of images, whose weight is 0 where L1 is of latents, and the perceptual distance.
        discriminator: D unwrapped, or None while it does not play.
        settings: the weights.
        batch: the sharp images and timesteps.
        image: (N, 3, H, W), restored.
        z0_hat: (N, 4, h, w).
        z_0: (N, 4, h, w), the sharp images' latents, where L1 is of latents.
    """
    terms = loss(image, batch.sharp, batch.trajectory)
    total = terms.total
    measures = {"l1": terms.l1.detach()}
    if z_0 is not None and settings.l1_in == "latents":
        latents = functional.l1_loss(z0_hat, z_0)
        total = total + settings.l1_weight * latents
        measures["l1_latents"] = latents.detach()
    if loss.distance is not None:
        measures["perceptual"] = terms.perceptual.detach()
    if discriminator is not None:
        with frozen(discriminator):
            seen, t = seen_by_discriminator(settings, z0_hat, batch.timestep)
            adversarial = generator_loss(discriminator(seen, t), settings.gan_loss)
            total = total + settings.gan_weight * adversarial
        measures["generator"] = adversarial.detach()
    return total, measures


def seen_by_discriminator(settings: TrainSettings, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The latents that D judges, and the timesteps that it is conditioned on.

    With `gan_noise` these are sqrt(abar_s) z + sqrt(1 - abar_s) eps at a random s: D can then not
    win by details that the schedule would drown (our choice; the paper names no noise).
    """
    if settings.gan_noise == "none":
        return z, t
    s = torch.rand(len(z), device=z.device) * LAST_TIMESTEP
    signal, noise = (r.view(-1, 1, 1, 1) for r in roots(s))
    return signal * z + noise * torch.randn_like(z), s


def backward_discriminator(
    accelerator: Any,
    wrapped: nn.Module,
    settings: TrainSettings,
    *,
    z_0: Tensor,
    z0_hat: Tensor,
    t: Tensor,
) -> Measures:
    """D's loss on sharp latents and on the model's, and its gradients.

    Both halves go through one forward: DDP expects one forward per backward. D normalises each
    image by itself, so the halves do not mix.

    Args:
        accelerator: accelerate's.
        wrapped: D as `prepare` returned it.
        settings: kind of loss, and into how many batches a step is divided.
        z_0: (N, 4, h, w), latents of the sharp images.
        z0_hat: the same shape; detached here.
        t: (N,).
    """
    latents, times = torch.cat([z_0, z0_hat.detach()]), torch.cat([t, t])
    logits = wrapped(*seen_by_discriminator(settings, latents, times))
    count = z_0.shape[0]
    real, fake = [x[:count] for x in logits], [x[count:] for x in logits]
    loss = discriminator_loss(real, fake, settings.gan_loss)
    accelerator.backward(loss / settings.accumulate)
    return {
        "discriminator": loss.detach(),
        "logit_real": _mean(real),
        "logit_fake": _mean(fake),
    }


def _mean(logits: list[Tensor]) -> Tensor:
    return torch.stack([x.detach().float().mean() for x in logits]).mean()


def make_discriminator(run: Run, weights: BaseWeights) -> Discriminator | None:
    """D over clean base weights, or None where lambda2 is 0; before a model is built on them."""
    if run.settings.gan_weight == 0:
        return None
    discriminator = build_discriminator(run.config.model, weights, seed=run.settings.seed)
    discriminator.encoder.to(processes.frozen_dtype(run.settings.precision))
    if run.config.model.discriminator.train_encoder:
        discriminator.float()
    return discriminator


def cast_frozen(model: FideDiff, run: Run) -> None:
    """Cast the frozen UNet and VAE to the run's precision; what trains stays float32."""
    dtype = processes.frozen_dtype(run.settings.precision)
    for part in (model.base.unet, model.codec.vae):
        if dtype != torch.float32:
            part.to(dtype)
    model.base.widen_trained()


def checkpoint_gradients(model: FideDiff, which: Literal["none", "vae", "all"]) -> None:
    """Recompute activations in the backward pass: those of the VAE, or of UNet and control too.

    The VAE works at 64 times the pixels of a latent and keeps most of the memory of a step.
    """
    if which == "none":
        return
    parts: list[Any] = [model.codec.vae]
    if which == "all":
        parts.append(model.base.unet)
        if model.control is not None:
            parts.append(model.control.controlnet)
    for part in parts:
        part.enable_gradient_checkpointing()
    model.train()  # diffusers checkpoints in train mode only
