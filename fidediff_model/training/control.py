"""Stage 3, control: the kernel control and the regressor T learn beside the frozen base and M.

    L = L1 + lambda1 L_perceptual + lambda2 L_G + time_weight L_time, t_hat = T(M(I))
                                                                        (arXiv 2510.01641)

D starts afresh: a model folder does not contain it. Which t the UNet gets while T is still learning
is not published; our choice is the manifest's, or T's own estimate as a setting.

With the control's variant `none` T learns alone, and since no loss on images reaches it, none is
computed: such a step costs a small part of a full one. A later run may start from that one and
continue with its T (our choice: the paper trains both together).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fidediff_model.model.codec import pad_to_multiple
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.model.step import read_kernels
from fidediff_model.scores.losses import timestep_loss
from fidediff_model.training import image_stage, optim, setup, validation
from fidediff_model.training.image_stage import Stepped
from fidediff_model.training.loop import Outcome
from fidediff_model.training.optim import Group
from fidediff_model.training.request import Request
from fidediff_model.training.settings import TrainSettings
from fidediff_model.training.validation import BY_T_ERROR, Choice

NEW_PARTS = ("timestep_regressor.", "control.block.", "controlnet.controlnet_")
"""Parts of names of parameters that this stage trains from scratch."""
T_ALONE = Choice(BY_T_ERROR, "the best model by error of t is kept, since T learns alone")


class ControlStep(nn.Module):
    """One step of the complete model, and L_time.

    Args:
        model: with M, T and, unless its variant is `none`, the control.
        estimated: give the UNet t_hat instead of the manifest's t; no gradient reaches T that way.
        train_kernels: return the kernels at full size too, for M's own loss; its gradients from
            image and t then reach M as well.
    """

    def __init__(self, model: FideDiff, *, estimated: bool, train_kernels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.estimated = estimated
        self.train_kernels = train_kernels

    def forward(self, blur: Tensor, t: Tensor) -> Stepped:
        """Restore (N, 3, H, W) whose timesteps are (N,); without a control there is t_hat alone."""
        model = self.model
        padded = pad_to_multiple(blur, model.codec.multiple)
        height, width = blur.shape[-2:]
        reading = read_kernels(model, padded, keep=self.train_kernels)
        t_hat, kernels = reading.t, reading.kernels
        if kernels is not None:
            kernels = kernels[..., :height, :width]
        time_loss = timestep_loss(t_hat, t)
        if model.control is None:
            return Stepped(None, None, t_hat, time_loss, kernels)
        with torch.no_grad():
            z_t = model.codec.encode(padded)
        # A gradient through t would train T on images; L_time alone trains it.
        used = t_hat.detach() if self.estimated else t
        z0_hat = model.step(z_t, used, k_in=reading.k_in, blur=padded)
        image = model.codec.decode(z0_hat, (height, width))
        return Stepped(image, z0_hat, t_hat, time_loss, kernels)


def train(request: Request) -> Outcome:
    """Train control and T from the stage kernel's model; `model/` is then the complete FideDiff.

    Raises:
        UserError: what cannot be trained, or a loss that is not finite.
    """
    run = setup.open_run("control", request)
    setup.seed_process(run)
    weights = setup.open_base(run)
    settings = run.settings
    alone = run.config.model.control.variant == "none"
    # D copies the encoder of the clean UNet, so it comes before LoRA goes in.
    discriminator = None if alone else image_stage.make_discriminator(run, weights)
    model = setup.open_model(run, weights, add=["timestep_regressor", "control"])
    image_stage.cast_frozen(model, run)
    model.train_only("control")
    if settings.kernel_weight > 0:
        model.part("kernel_estimator").requires_grad_(True)
    stepper = ControlStep(
        model,
        estimated=settings.control_timestep == "estimated",
        train_kernels=settings.kernel_weight > 0,
    )
    keeps = T_ALONE if alone else validation.choice(settings)
    return image_stage.fit(run, stepper, discriminator, parameter_groups(stepper, settings), keeps)


def parameter_groups(stepper: nn.Module, settings: TrainSettings) -> list[Group]:
    """What trains, in two groups: copies of trained weights, and what starts from scratch.

    The ControlNet's encoder is a copy of the UNet's; T, the filter and the zero convolutions are
    new, and a rate that is gentle enough for the copy would leave them behind (our choice).
    """
    trained = optim.trainable(stepper)
    is_new = {name: any(part in name for part in NEW_PARTS) for name in trained}
    copied = [p for name, p in trained.items() if not is_new[name]]
    new = [p for name, p in trained.items() if is_new[name]]
    rate = settings.learning_rate
    return [Group(copied, rate), Group(new, rate * settings.new_rate_factor)]
