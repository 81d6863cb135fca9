"""What a step must not do twice, counted: encodings, passes of VGG16, reads from the device."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import make_data, request

from fidediff_model.training import image_stage, loop, optim, setup
from fidediff_model.training.base import BaseStep
from fidediff_model.training.image_stage import Learner
from fidediff_model.training.validation import BY_PSNR, Choice


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Reads(TorchDispatchMode):
    """Counts reads of a number out of a tensor, each of which waits for a GPU's queue."""

    def __init__(self, but):
        super().__init__()
        self.but = but  # storages on the host by design: AdamW's own step counters
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += args[0].untyped_storage().data_ptr() not in self.but
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Images through E and VGG16, passes of VGG16 and reads, in one step of the stage base."""
    home = tmp_path_factory.mktemp("costs")
    settings = {"perceptual": "ea-lpips", "vgg16": "random-for-tests", "gan_weight": 0.5,
                "batch": 2, "points": 3, "ema": 0.9, "log_every": 99, "save_every": 99}  # fmt: skip
    run = setup.open_run("base", request(home / "run", make_data(home / "data"), **settings))
    weights = setup.open_base(run)
    discriminator = image_stage.make_discriminator(run, weights)
    model = setup.build(run.config.model, weights, seed=0)
    model.train_only("base")
    stepper = BaseStep(model)
    trained = {"model": optim.trainable(stepper), "discriminator": optim.trainable(discriminator)}
    optimizers = {
        name: optim.make(run.settings, optim.Group(p.values(), 1e-4)) for name, p in trained.items()
    }
    learner = Learner(run, model, run.loss, stepper, discriminator, discriminator)
    state = loop.begin(run, model, trained, optimizers, Choice(BY_PSNR, ""))
    counts = Counter()

    def count(name):
        def hook(module, args):
            counts[name] += 1
            counts[f"{name} images"] += len(args[0])

        return hook

    model.codec.vae.encoder.register_forward_pre_hook(count("encoder"))
    run.loss.distance.backbone.register_forward_pre_hook(count("vgg"))
    batches = loop.steps(state)
    loop.finish_step(state, first := next(batches), learner.step(state, first))
    counts.clear()
    counters = {
        values["step"].untyped_storage().data_ptr()
        for optimizer in optimizers.values()
        for values in optimizer.state.values()
    }
    second = next(batches)
    with Reads(counters) as reads:
        loop.finish_step(state, second, learner.step(state, second))
    counts["reads"] = reads.count
    run.close()
    return counts


def test_each_sharp_crop_is_encoded_once_per_trajectory(counted):
    # 2 trajectories of 3 points: 6 blurs and 2 sharp images.
    assert counted["encoder images"] == 6 + 2


def test_images_and_edges_go_through_vgg16_in_one_pass(counted):
    assert counted["vgg"] == 2  # the restored images, and the sharp ones


def test_features_of_a_sharp_crop_are_computed_once_per_trajectory(counted):
    assert counted["vgg images"] == 2 * (6 + 2)


def test_a_step_reads_nothing_from_the_device(counted):
    assert counted["reads"] == 0
