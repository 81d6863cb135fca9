"""Stage 1, base: LoRA and prompt learn z_t -> z_0 in one step, for every point of a trajectory.

The loss and the step are in `image_stage`, which the stage control shares.
"""

from __future__ import annotations

from torch import Tensor, nn

from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.training import image_stage, optim, setup, validation
from fidediff_model.training.image_stage import Stepped
from fidediff_model.training.loop import Outcome
from fidediff_model.training.request import Request


class BaseStep(nn.Module):
    """One step with the timestep given, as DDP wants it: one module, one forward."""

    def __init__(self, model: FideDiff) -> None:
        super().__init__()
        self.model = model

    def forward(self, blur: Tensor, t: Tensor) -> Stepped:
        """Restore (N, 3, H, W) at timesteps (N,)."""
        restored = self.model(blur, t)
        return Stepped(restored.image, restored.z0_hat, restored.t_hat)


def train(request: Request) -> Outcome:
    """Train the base from pre-trained weights, or train the base of a model on.

    The run folder then contains `model/`, with all parts of the model that it started from.

    Raises:
        UserError: what cannot be trained, or a loss that is not finite.
    """
    run = setup.open_run("base", request)
    setup.seed_process(run)
    weights = setup.open_base(run)
    # D copies the encoder of the clean UNet, so it comes before LoRA goes in.
    discriminator = image_stage.make_discriminator(run, weights)
    if run.config.start:
        model = setup.open_model(run, weights, add=())
    else:
        model = build(run.config.model, weights, seed=run.settings.seed)
    image_stage.cast_frozen(model, run)
    model.train_only("base")
    groups = [optim.Group(optim.trainable(model).values(), run.settings.learning_rate)]
    keeps = validation.choice(run.settings)
    return image_stage.fit(run, BaseStep(model), discriminator, groups, keeps)
