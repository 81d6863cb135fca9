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
from fidediff_model.model.kernels import pool_kernels
from fidediff_model.scores.losses import timestep_loss
from fidediff_model.training import image_stage, setup
from fidediff_model.training.image_stage import Stepped
from fidediff_model.training.loop import Outcome
from fidediff_model.training.setup import Request
from fidediff_model.training.validation import BY_PSNR, BY_T_ERROR


class ControlStep(nn.Module):
    """One step of the whole model, and L_time.

    Args:
        model: with M, T and, unless its variant is `none`, the control.
        estimated: give the UNet t_hat instead of the manifest's t; no gradient reaches T that way.
    """

    def __init__(self, model: FideDiff, *, estimated: bool) -> None:
        super().__init__()
        self.model = model
        self.estimated = estimated

    def forward(self, blur: Tensor, t: Tensor) -> Stepped:
        """Restore (N, 3, H, W) whose timesteps are (N,); without a control there is t_hat alone."""
        model = self.model
        estimator, regressor = model.kernel_estimator, model.timestep_regressor
        if estimator is None or regressor is None:
            raise TypeError("the stage control needs M and T")
        padded = pad_to_multiple(blur, model.codec.multiple)
        stride = model.codec.latent_stride
        with torch.no_grad():
            cells = estimator.pooled(padded, regressor.pool)  # (N, K, H/4, W/4); M is frozen
        t_hat = regressor(cells, pooled=True)
        time_loss = timestep_loss(t_hat, t)
        if model.control is None:
            return Stepped(None, None, t_hat, time_loss)
        with torch.no_grad():
            z_t = model.codec.encode(padded)
        k_in = pool_kernels(cells, stride // regressor.pool)
        used = t_hat.detach() if self.estimated else t
        z0_hat = model.step(z_t, used, k_in=k_in, blur=padded)
        height, width = blur.shape[-2:]
        image = model.codec.decode(z0_hat, (height, width))
        return Stepped(image, z0_hat, t_hat, time_loss)


def train(request: Request) -> Outcome:
    """Train control and T from the stage kernel's model; `model/` is then the complete FideDiff.

    Raises:
        UserError: what cannot be trained, or a loss that is not finite.
    """
    run = setup.open_run("control", request)
    setup.seed_process(run)
    weights = setup.open_base(run)
    alone = run.config.model.control.variant == "none"
    # D copies the encoder of the clean UNet, so it comes before LoRA goes in.
    discriminator = None if alone else image_stage.make_discriminator(run, weights)
    model = setup.open_model(run, weights, add=["timestep_regressor", "control"])
    image_stage.cast_frozen(model, run)
    model.train_only("control")
    stepper = ControlStep(model, estimated=run.settings.control_timestep == "estimated")
    return image_stage.fit(run, stepper, discriminator, BY_T_ERROR if alone else BY_PSNR)
