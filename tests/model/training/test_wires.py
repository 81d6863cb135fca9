"""Each wire of a stage carries the right value: one step of a real run against a computation by
hand, term by term and gradient by gradient.

`tests/mutations.py` breaks one wire at a time and demands that these tests fail.
"""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from training_runs import CROP, make_data, request

from fidediff_model.data.batches import to_device
from fidediff_model.data.trajectories import make_loader
from fidediff_model.model import presets
from fidediff_model.model.discriminator import build_discriminator
from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.model.kernels import pool_kernels
from fidediff_model.scores.losses import ReconstructionLoss
from fidediff_model.training import base, control, kernel
from fidediff_model.training.base import BaseStep
from fidediff_model.training.datasets import draw_rules, open_datasets
from fidediff_model.training.optim import trainable
from fidediff_model.training.settings import TrainSettings
from fidediff_model.weights.sd21 import load_base
from fidediff_model.weights.vgg import open_vgg16
from trajectory_builder import manifest

TINY = presets.preset("tiny")
ABAR = DDPMScheduler(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
).alphas_cumprod
ONE_STEP = {"steps": 1, "ema": 0.0, "clip": 1e9, "identity": 0.0, "batch": 2}
# Weights that no other constant of the code equals.
WEIGHTS = {
    "l1_weight": 0.7, "perceptual_weight": 0.35, "gan_weight": 0.3, "perceptual": "ea-lpips",
    "vgg16": "random-for-tests",
}  # fmt: skip
NO_VGG = WEIGHTS | {"perceptual": "none", "vgg16": ""}
IMAGES_ALONE = NO_VGG | {"gan_weight": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("wires")


@pytest.fixture(scope="module")
def data(home):
    return make_data(home / "data", train=4)


@pytest.fixture(scope="module")
def batch(data):
    """The first batch of every run."""
    settings = TrainSettings(crop=CROP, identity=0.0, workers=0, validate_every=0)
    train, _ = open_datasets(manifest.read(data), settings)
    return to_device(next(iter(make_loader(train, batch_size=2, steps=1))), "cpu")


def measures(run_dir, kind="train"):
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return next(line for line in lines if line["kind"] == kind)


def gradients(run_dir, name="model"):
    """The gradients of the first step: AdamW's first moment is then a tenth of each."""
    folder = run_dir / "checkpoints/step-000001"
    stored = load_file(folder / f"optimizer-{name}.safetensors")
    indices = sorted(int(k.split(".")[0]) for k in stored if k.endswith(".exp_avg"))
    return [10 * stored[f"{i}.exp_avg"] for i in indices]


def same_gradients(found, parameters):
    """Whether stored gradients are those that the parameters have."""
    expected = [p.grad for p in parameters if p.grad is not None]
    assert len(found) == len(expected)
    largest = max(float(g.abs().max()) for g in expected)
    assert largest > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * largest, rtol=1e-3)


def clean():
    return load_base("random:0", TINY.base, prompt_start=TINY.prompt.start)


def restored(model, blur, t, k_in=None):
    """z0_hat = (z_t - sqrt(1 - abar) eps) / sqrt(abar), and its image, by diffusers' schedule."""
    z_t = model.codec.encode(blur).detach()
    residuals = None
    if model.control is not None:
        residuals = model.control(z_t, t, model.base.prompt, k_in=k_in, image=None)
    low = torch.lerp(torch.log(ABAR / (1 - ABAR))[t.floor().long()],
                     torch.log(ABAR / (1 - ABAR))[t.ceil().long()], t - t.floor())  # fmt: skip
    abar = torch.sigmoid(low).view(-1, 1, 1, 1)
    z0_hat = (z_t - (1 - abar).sqrt() * model.base(z_t, t, residuals)) / abar.sqrt()
    return model.codec.decode(z0_hat, (CROP, CROP)), z0_hat


def reblur_by_hand(sharp, kernels, blur):
    """The mean absolute reblur error inside the rim, by a loop over the taps."""
    size = round(kernels.shape[1] ** 0.5)
    wide = torch.nn.functional.pad(sharp, [size // 2] * 4, mode="replicate")
    total = torch.zeros_like(sharp)
    for tap in range(size * size):
        row, column = divmod(tap, size)
        moved = wide[..., row : row + CROP, column : column + CROP]
        total = total + kernels[:, tap : tap + 1] * moved
    rim = min(size // 2, CROP // 4)
    inside = (..., slice(rim, CROP - rim), slice(rim, CROP - rim))
    return (total - blur)[inside].abs().mean()


def hinge(real, fake):
    terms = [(1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(real, fake, strict=True)]
    return sum(terms) / len(terms)


def level_mean(logits):
    return sum(x.mean() for x in logits) / len(logits)


# Stage 1.


@pytest.fixture(scope="module")
def base_run(home, data):
    base.train(request(home / "base", data, **ONE_STEP, **WEIGHTS))
    return home / "base"


@pytest.fixture(scope="module")
def base_by_hand(batch):
    """(terms of the loss, model with gradients, D with gradients)."""
    weights = clean()
    discriminator = build_discriminator(TINY, weights, seed=0)
    model = build(TINY, weights, seed=0)
    model.train_only("base")
    t = batch.timestep
    image, z0_hat = restored(model, batch.blur, t)
    distance = ReconstructionLoss(open_vgg16("random-for-tests", needed_by="a test"))
    terms = {
        "l1": (image - batch.target).abs().mean(),
        "perceptual": distance(image, batch.target).perceptual,
        "generator": -level_mean(discriminator(z0_hat, t)),
    }
    terms["loss"] = 0.7 * terms["l1"] + 0.35 * terms["perceptual"] + 0.3 * terms["generator"]
    terms["loss"].backward()
    discriminator.zero_grad()
    real = discriminator(model.codec.encode(batch.target), t)
    fake = discriminator(z0_hat.detach(), t)
    terms |= {"discriminator": hinge(real, fake), "logit_real": level_mean(real),
              "logit_fake": level_mean(fake)}  # fmt: skip
    terms["discriminator"].backward()
    return terms, model, discriminator


@pytest.mark.parametrize(
    "name",
    ["l1", "perceptual", "generator", "loss", "discriminator", "logit_real", "logit_fake"],
)
def test_each_term_of_the_stage_base_is_that_by_hand(base_run, base_by_hand, name):
    expected = float(base_by_hand[0][name].detach())
    assert measures(base_run)[name] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_gradients_of_lora_and_prompt_are_those_by_hand(base_run, base_by_hand):
    same_gradients(gradients(base_run), trainable(BaseStep(base_by_hand[1])).values())


def test_gradients_of_the_discriminator_are_those_by_hand(base_run, base_by_hand):
    discriminator = base_by_hand[2]
    same_gradients(gradients(base_run, "discriminator"), trainable(discriminator).values())


def test_micro_batches_have_the_gradients_of_their_mean(home, data, base_run):
    split = ONE_STEP | {"batch": 1, "accumulate": 2}
    base.train(request(home / "split", data, **split, **WEIGHTS))
    for name in ("model", "discriminator"):
        together, apart = gradients(base_run, name), gradients(home / "split", name)
        largest = max(float(g.abs().max()) for g in together)
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3 * largest, rtol=1e-3)


@pytest.mark.parametrize("kind", ["lpips", "dists"])
def test_the_perceptual_distance_is_the_one_asked_for(home, data, batch, kind):
    changes = WEIGHTS | {"perceptual": kind, "gan_weight": 0.0}
    base.train(request(home / kind, data, **ONE_STEP, **changes))
    with torch.no_grad():
        image, _ = restored(build(TINY, clean(), seed=0), batch.blur, batch.timestep)
        vgg = open_vgg16("random-for-tests", needed_by="a test")
        expected = ReconstructionLoss(vgg, perceptual=kind)(image, batch.target).perceptual
    assert measures(home / kind)["perceptual"] == pytest.approx(float(expected), rel=1e-4)


def test_both_sides_of_the_gan_have_the_loss_asked_for(home, data, base_run):
    base.train(request(home / "softplus", data, **ONE_STEP, **WEIGHTS, gan_loss="softplus"))
    plain, soft = measures(base_run), measures(home / "softplus")
    for name in ("logit_real", "logit_fake"):
        assert soft[name] == pytest.approx(plain[name], rel=1e-5)
    # softplus(-x) > -x, the hinge's generator loss, and both of D's terms differ from relu's.
    assert soft["generator"] > plain["generator"]
    assert abs(soft["discriminator"] - plain["discriminator"]) > 1e-3


def test_l1_of_latents_is_the_distance_of_z0_hat_from_the_sharp_latent(home, data, batch):
    changes = NO_VGG | {"gan_weight": 0.0, "l1_in": "latents"}
    base.train(request(home / "latents", data, **ONE_STEP, **changes))
    model = build(TINY, clean(), seed=0)
    with torch.no_grad():
        _, z0_hat = restored(model, batch.blur, batch.timestep)
        expected = float((z0_hat - model.codec.encode(batch.target)).abs().mean())
    found = measures(home / "latents")
    assert found["l1_latents"] == pytest.approx(expected, rel=1e-4)
    assert found["loss"] == pytest.approx(0.7 * expected, rel=1e-4)


def test_noise_changes_what_the_discriminator_sees_but_not_the_image(home, data, base_run):
    base.train(request(home / "noise", data, **ONE_STEP, **WEIGHTS, gan_noise="random"))
    plain, noisy = measures(base_run), measures(home / "noise")
    assert noisy["l1"] == pytest.approx(plain["l1"], rel=1e-6)
    for name in ("generator", "logit_real", "logit_fake"):
        assert abs(noisy[name] - plain[name]) > 1e-4


def test_the_discriminator_plays_from_its_first_step_on(home, data):
    changes = NO_VGG | {"gan_start": 1, "steps": 2}
    base.train(request(home / "late", data, **ONE_STEP | changes))
    lines = map(json.loads, (home / "late/log.jsonl").read_text().splitlines())
    assert ["generator" in line for line in lines if line["kind"] == "train"] == [False, True]


def test_each_optimizer_has_its_own_rate_and_the_weight_decay(home, data):
    changes = {"learning_rate": 3e-4, "discriminator_rate": 7e-4, "weight_decay": 0.03}
    base.train(request(home / "rates", data, **ONE_STEP, **NO_VGG, **changes))
    folder = home / "rates/checkpoints/step-000001"
    for name, rate in (("model", 3e-4), ("discriminator", 7e-4)):
        (group,) = json.loads((folder / f"optimizer-{name}.json").read_text())["groups"]
        assert (group["lr"], group["weight_decay"]) == (rate, 0.03)


def test_the_warm_up_counts_steps_from_one(home, data):
    changes = IMAGES_ALONE | {"steps": 3, "warmup_steps": 4, "learning_rate": 1e-4}
    base.train(request(home / "warm-up", data, **ONE_STEP | changes))
    lines = map(json.loads, (home / "warm-up/log.jsonl").read_text().splitlines())
    rates = [line["rate_model"] for line in lines if line["kind"] == "train"]
    assert rates == pytest.approx([0.25e-4, 0.5e-4, 0.75e-4])


def test_the_encoder_of_the_discriminator_trains_where_it_is_asked_to(home, data):
    asked = request(home / "encoder", data, **ONE_STEP, **NO_VGG)
    base.train(replace(asked, model={"discriminator.train_encoder": True}))
    names = load_file(home / "encoder/checkpoints/step-000001/discriminator.safetensors")
    assert any(name.startswith("encoder.") for name in names)


def test_clipping_bounds_the_norm_of_the_gradient(home, data):
    base.train(request(home / "clip", data, **ONE_STEP | NO_VGG | {"clip": 0.01}))
    norm = torch.cat([g.flatten() for g in gradients(home / "clip")]).norm()
    assert measures(home / "clip")["grad_norm"] > 0.01
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("folder", ["model", "model-last"])
def test_the_saved_model_has_the_averaged_weights(home, data, folder):
    run = home / "ema"
    if not run.is_dir():
        settings = {"steps": 2, "ema": 0.5, "learning_rate": 1e-2}
        base.train(request(run, data, **settings))
    averages = load_file(run / "checkpoints/step-000002/ema.safetensors")
    live = load_file(run / "checkpoints/step-000002/trained.safetensors")
    saved = dict(BaseStep(FideDiff.load(run / folder)).named_parameters())
    for name, average in averages.items():
        torch.testing.assert_close(saved[name].detach(), average, atol=0, rtol=0)
    assert any(not torch.equal(averages[name], live[name]) for name in averages)


# Stage 2.


@pytest.fixture(scope="module")
def kernel_run(home, data, base_run):
    kernel.train(request(home / "kernel", data, stage="kernel", start=base_run, **ONE_STEP))
    return home / "kernel"


@pytest.fixture(scope="module")
def kernel_by_hand(base_run, batch):
    model = FideDiff.load(base_run / "model", add=["kernel_estimator"])
    model.train_only("kernel")
    loss = reblur_by_hand(batch.target, model.kernel_estimator(batch.blur), batch.blur)
    loss.backward()
    return loss, model.kernel_estimator


def test_the_loss_of_the_stage_kernel_is_that_by_hand(kernel_run, kernel_by_hand):
    assert measures(kernel_run)["loss"] == pytest.approx(
        float(kernel_by_hand[0].detach()), rel=1e-5
    )


def test_gradients_of_the_kernel_estimator_are_those_by_hand(kernel_run, kernel_by_hand):
    same_gradients(gradients(kernel_run), trainable(kernel_by_hand[1]).values())


def test_new_parts_are_those_of_the_seed(home, data, base_run, batch):
    asked = request(home / "seed", data, stage="kernel", start=base_run, **ONE_STEP, seed=3)
    kernel.train(asked)
    settings = TrainSettings(crop=CROP, identity=0.0, workers=0, validate_every=0, seed=3)
    train, _ = open_datasets(manifest.read(data), settings)
    drawn = to_device(next(iter(make_loader(train, batch_size=2, steps=1))), "cpu")
    model = FideDiff.load(base_run / "model", add=["kernel_estimator"], seed=3)
    with torch.no_grad():
        kernels = model.kernel_estimator(drawn.blur)
        expected = float(reblur_by_hand(drawn.target, kernels, drawn.blur))
    assert measures(home / "seed")["loss"] == pytest.approx(expected, rel=1e-5)


# Stage 3.


@pytest.fixture(scope="module", params=["given", "estimated"])
def control_run(request, home, data, batch, kernel_run):
    """(run folder, terms by hand, model with gradients) for each t that the UNet may get."""
    run_dir = home / f"control-{request.param}"
    settings = {"time_weight": 3.0, "kernel_weight": 2.0, "new_rate_factor": 4.0,
                "learning_rate": 1e-4, "control_timestep": request.param}  # fmt: skip
    control.train(asked(run_dir, data, kernel_run, **ONE_STEP, **NO_VGG, **settings))
    discriminator = build_discriminator(TINY, clean(), seed=0)
    model = FideDiff.load(
        kernel_run / "model", base_model=clean(), add=["timestep_regressor", "control"]
    )
    model.train_only("control")
    model.kernel_estimator.requires_grad_(True)
    kernels = model.kernel_estimator(batch.blur)
    t, stride = batch.timestep, model.codec.latent_stride
    t_hat = model.timestep_regressor(kernels)
    used = t if request.param == "given" else t_hat.detach()
    image, z0_hat = restored(model, batch.blur, used, pool_kernels(kernels, stride))
    terms = {
        "l1": (image - batch.target).abs().mean(),
        "generator": -level_mean(discriminator(z0_hat, t)),
        "time": (t_hat - t).abs().mean() / 1000,
        "t_error": (t_hat - t).abs().mean(),
        "reblur": reblur_by_hand(batch.target, kernels, batch.blur),
    }
    terms["loss"] = 0.7 * terms["l1"] + 0.3 * terms["generator"] + 3 * terms["time"]
    terms["loss"] = terms["loss"] + 2 * terms["reblur"]
    terms["loss"].backward()
    return run_dir, terms, model


def asked(run_dir, data, start, **settings):
    return request(run_dir, data, stage="control", start=start, **settings)


@pytest.mark.parametrize("name", ["l1", "generator", "time", "t_error", "reblur", "loss"])
def test_each_term_of_the_stage_control_is_that_by_hand(control_run, name):
    run_dir, terms, _ = control_run
    expected = float(terms[name].detach())
    assert measures(run_dir)[name] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_gradients_of_the_stage_control_are_those_by_hand(control_run):
    run_dir, _, model = control_run
    found = gradients(run_dir)
    # The optimizer lists what is copied before what is new.
    stepper = control.ControlStep(model, estimated=False)
    groups = control.parameter_groups(stepper, TrainSettings())
    same_gradients(found, [p for group in groups for p in group.parameters])


def test_new_parts_have_their_own_learning_rate(control_run):
    line = measures(control_run[0])
    assert line["rate_model"] == pytest.approx(1e-4)
    assert line["rate_new"] == pytest.approx(4e-4)


def test_what_is_new_is_t_the_filter_and_the_zero_convolutions(control_run):
    stepper = control.ControlStep(control_run[2], estimated=False)
    copied, new = control.parameter_groups(stepper, TrainSettings())
    names = {id(p): name for name, p in stepper.named_parameters()}
    assert {names[id(p)].split(".")[1] for p in copied.parameters} == {
        "control",
        "kernel_estimator",
    }
    kinds = {".".join(names[id(p)].split(".")[1:4]) for p in new.parameters}
    assert {k.split(".")[0] for k in kinds} == {"timestep_regressor", "control"}
    assert "control.controlnet.controlnet_down_blocks" in kinds


def test_the_kernel_estimator_is_frozen_unless_its_loss_has_a_weight(home, data, kernel_run):
    settings = ONE_STEP | NO_VGG | {"gan_weight": 0.0}
    control.train(asked(home / "frozen", data, kernel_run, **settings))
    names = load_file(home / "frozen/checkpoints/step-000001/trained.safetensors")
    assert not any("kernel_estimator" in name for name in names)


def test_draws_follow_the_settings():
    changes = {"crop": 17, "points": 3, "identity": 0.25, "augment": False, "seed": 9}
    rules = draw_rules(TrainSettings(**changes))
    assert {name: getattr(rules, name) for name in changes} == changes
    native = draw_rules(TrainSettings(points_of="native", points=3))
    assert (native.points_of, native.points) == ("native", 1)


def test_a_fixed_timestep_reaches_the_draws():
    rules = draw_rules(TrainSettings(timestep_of="fixed", fixed_timestep=123.0))
    assert (rules.timestep_of, rules.fixed_timestep, rules.identity) == ("fixed", 123.0, 0.0)
