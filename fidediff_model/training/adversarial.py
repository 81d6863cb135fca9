"""L_G and D's own step: real latents of sharp images against z0_hat, in turn with the model.

Within one micro-batch the model's backward comes first, with D frozen, so that its gradient
reaches no parameter of D; then D's, on latents cut off from the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fidediff_model.model.discriminator import (
    Discriminator,
    discriminator_loss,
    frozen,
    generator_loss,
)
from fidediff_model.scores.losses import ReconstructionLoss
from fidediff_model.training.settings import TrainSettings

Measures = dict[str, float]


def image_loss(
    loss: ReconstructionLoss,
    discriminator: Discriminator | None,
    settings: TrainSettings,
    *,
    image: Tensor,
    sharp: Tensor,
    z0_hat: Tensor,
    t: Tensor,
) -> tuple[Tensor, Measures]:
    """L1 + lambda1 x perceptual + lambda2 x L_G, and what it is made of.

    Args:
        loss: L1 and the perceptual distance.
        discriminator: D unwrapped, or None while it does not play.
        settings: the weights.
        image: (N, 3, H, W), restored.
        sharp: the same shape.
        z0_hat: (N, 4, h, w).
        t: (N,) of the blurs.
    """
    terms = loss(image, sharp)
    total = terms.total
    measures = {"l1": float(terms.l1.detach())}
    if loss.distance is not None:
        measures["perceptual"] = float(terms.perceptual.detach())
    if discriminator is not None:
        with frozen(discriminator):
            adversarial = generator_loss(discriminator(z0_hat, t), settings.gan_loss)
            total = total + settings.gan_weight * adversarial
        measures["generator"] = float(adversarial.detach())
    return total, measures


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

    One forward takes both halves: DDP counts forwards, and D's norms look at one image each.

    Args:
        accelerator: accelerate's.
        wrapped: D as `prepare` gave it.
        settings: kind of loss, and into how many batches a step is divided.
        z_0: (N, 4, h, w), latents of the sharp images.
        z0_hat: the same shape; detached here.
        t: (N,).
    """
    logits = wrapped(torch.cat([z_0, z0_hat.detach()]), torch.cat([t, t]))
    count = z_0.shape[0]
    real, fake = [x[:count] for x in logits], [x[count:] for x in logits]
    loss = discriminator_loss(real, fake, settings.gan_loss)
    accelerator.backward(loss / settings.accumulate)
    return {
        "discriminator": float(loss.detach()),
        "logit_real": _mean(real),
        "logit_fake": _mean(fake),
    }


def average(measured: list[Measures]) -> Measures:
    """Means over the micro-batches of a step."""
    names = dict.fromkeys(name for one in measured for name in one)
    return {n: sum(m[n] for m in measured if n in m) / sum(n in m for m in measured) for n in names}


def trainable(module: nn.Module | None) -> Mapping[str, nn.Parameter]:
    """The parameters of a module that train, by name."""
    if module is None:
        return {}
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _mean(logits: list[Tensor]) -> float:
    return float(torch.stack([x.detach().float().mean() for x in logits]).mean())
