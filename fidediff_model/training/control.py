"""Stage 3, control: the kernel control and the regressor T learn beside the frozen base and M.

    L = L1 + lambda1 x L_perceptual + lambda2 x L_G + L_time, t_hat = T(M(I)) (arXiv 2510.01641)

D starts anew here: a model folder does not hold it. Which t the UNet is told while T is still
learning is not published: the manifest's by default, or T's own estimate.

With the control's variant `none` T alone learns, and since no loss on images reaches it, none is
computed: such a step costs a small part of a whole one. A run may start from one of those, too, and
goes on with its T (ours).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fidediff_model.model import folder as model_folder
from fidediff_model.model.codec import pad_to_multiple
from fidediff_model.model.fidediff import PARTS, FideDiff, build
from fidediff_model.model.kernels import pool_kernels
from fidediff_model.scores.losses import timestep_loss
from fidediff_model.training import image_stage, start
from fidediff_model.training.image_stage import Stepped
from fidediff_model.training.loop import Outcome
from fidediff_model.training.start import Request, Run
from fidediff_model.weights.sd21 import BaseWeights


class ControlStep(nn.Module):
    """One step of the whole model, and L_time.

    Args:
        model: with M, T and, unless its variant is `none`, the control.
        estimated: tell the UNet t_hat instead of the given t; no gradient reaches T that way.
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
        told = t_hat.detach() if self.estimated else t
        z0_hat = model.step(z_t, told, k_in=k_in, blur=padded)
        height, width = blur.shape[-2:]
        image = model.codec.decode(z0_hat, (height, width))
        return Stepped(image, z0_hat, t_hat, time_loss)


def train(request: Request) -> Outcome:
    """Train control and T from the stage kernel's model; `model/` then holds the whole FideDiff.

    Raises:
        UserError: what cannot be trained, or a loss that is no number.
    """
    run = start.open_run("control", request)
    start.seed_process(run)
    weights = start.open_base(run)
    alone = run.config.model.control.variant == "none"
    discriminator = None if alone else image_stage.make_discriminator(run, weights)
    model = _build(run, weights)
    image_stage.cast_frozen(model, run)
    model.train_only("control")
    stepper = ControlStep(model, estimated=run.settings.control_timestep == "estimated")
    return image_stage.fit(run, stepper, discriminator, best_is="t_error" if alone else "psnr")


def _build(run: Run, weights: BaseWeights) -> FideDiff:
    """The model before with T, where it had none, and control; their settings may be our own."""
    folder = Path(run.config.start)
    model = build(run.config.model, weights, parts=PARTS, seed=run.settings.seed)
    model.base.load(folder / "base")
    if model.kernel_estimator is not None:
        model_folder.load_part(folder / "kernel_estimator", model.kernel_estimator)
    trained_before = model_folder.read_config(folder)["parts"]
    if model.timestep_regressor is not None and "timestep_regressor" in trained_before:
        model_folder.load_part(folder / "timestep_regressor", model.timestep_regressor)
    return model.eval()
