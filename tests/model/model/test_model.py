import copy
import json
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch

from fidediff_model import config
from fidediff_model.errors import ModelError
from fidediff_model.model import presets
from fidediff_model.model.base import LORA_FILE
from fidediff_model.model.card import Card
from fidediff_model.model.discriminator import build_discriminator
from fidediff_model.model.fidediff import PARTS, FideDiff, build
from fidediff_model.model.tiles import TilePlan
from fidediff_model.weights import sd21
from trajectory_builder.errors import UserError

TINY = presets.preset("tiny")
SMALL = replace(TINY, kernel=replace(TINY.kernel, kernel_size=5))


def settings(variant: str = "filter", stride: int = 4) -> config.ModelConfig:
    control = replace(SMALL.control, variant=variant)
    return replace(SMALL, control=control, codec=config.CodecConfig(stride))


@cache
def built(variant: str, stride: int, parts: tuple) -> FideDiff:
    chosen = settings(variant, stride)
    weights = sd21.load_base("random:1", chosen.base)
    return build(chosen, weights, parts=parts, seed=1).eval()


def make(variant: str = "filter", stride: int = 4, parts=PARTS) -> FideDiff:
    """A model of one's own; a copy, since building 280 updates takes a second."""
    return copy.deepcopy(built(variant, stride, parts))


def stirred(*args, **kwargs) -> FideDiff:
    """A model all of whose trainable parts have moved, as after training."""
    model = make(*args, **kwargs)
    generator = torch.Generator().manual_seed(4)
    lora = {id(p) for p in model.base.lora_parameters()} | {id(model.base.prompt)}
    frozen = {id(p) for p in [*model.base.parameters(), *model.codec.parameters()]} - lora
    for parameter in model.parameters():
        if id(parameter) not in frozen:
            parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    return model


def image(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width, generator=generator) * 2 - 1


def restore(model: FideDiff, blur: torch.Tensor, t=None, **kwargs):
    with torch.no_grad():
        return model(blur, t, **kwargs)


@pytest.fixture(scope="module")
def model() -> FideDiff:
    return stirred()


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


# shapes of every output, odd sizes included


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (33, 95), (70, 41)])
def test_image_kernels_and_timesteps_have_the_size_of_the_blur(stride, size):
    out = restore(make(stride=stride), image(*size, batch=2))
    assert out.image.shape == (2, 3, *size)
    assert out.kernels.shape == (2, 25, *size)
    assert out.t_hat.shape == (2,)


@pytest.mark.parametrize(("stride", "cells"), [(4, (16, 24)), (8, (8, 16))])
def test_sharp_latent_has_one_cell_a_stride(stride, cells):
    out = restore(make(stride=stride), image(61, 95))
    assert out.z0_hat.shape == (1, 4, *cells)


def test_prompt_has_77_tokens_of_the_bases_width(model):
    assert model.base.prompt.shape == (1, 77, 8)


def test_kernels_of_each_pixel_sum_to_one(model):
    sums = restore(model, image(33, 40)).kernels.sum(dim=1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_all_outputs_are_float32(model):
    out = restore(model, image(32, 32))
    assert {x.dtype for x in (out.image, out.t_hat, out.kernels, out.z0_hat)} == {torch.float32}


def test_estimated_timesteps_lie_on_the_schedule(model):
    t_hat = restore(model, image(40, 40, batch=3)).t_hat
    assert ((t_hat >= 0) & (t_hat <= 999)).all()


# the step


def test_step_is_the_formula_applied_to_the_unets_output():
    model = stirred("none", parts=())
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.0, 200.0])
    with torch.no_grad():
        eps, got = model.base(z, t), model.step(z, t)
    abar = torch.tensor([0.999150, 0.753692]).view(2, 1, 1, 1)
    want = (z - (1 - abar).sqrt() * eps) / abar.sqrt()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["none", "vanilla", "addition", "align", "filter"])
@pytest.mark.parametrize("stride", [4, 8])
def test_fresh_control_leaves_the_base_models_bits(variant, stride):
    alone, steered = make("none", stride, parts=()), make(variant, stride)
    blur = image(40, 56)
    want, got = restore(alone, blur, 200.0), restore(steered, blur, 200.0)
    assert torch.equal(got.image, want.image)
    assert torch.equal(got.z0_hat, want.z0_hat)


def test_timestep_given_is_the_timestep_used(model):
    assert restore(model, image(32, 32), 240.0).t_hat.tolist() == [240.0]


def test_timestep_changes_the_restored_image(model):
    blur = image(32, 32)
    assert not torch.allclose(restore(model, blur, 120.0).image, restore(model, blur, 240.0).image)


def test_estimate_given_back_as_t_gives_the_same_image(model):
    blur = image(50, 70)
    first = restore(model, blur)
    again = restore(model, blur, model.timestep(blur))
    torch.testing.assert_close(again.t_hat, first.t_hat)
    torch.testing.assert_close(again.image, first.image, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [4, 8])
def test_dropping_the_kernels_does_not_change_the_image(stride):
    model, blur = stirred(stride=stride), image(50, 70)
    kept, dropped = restore(model, blur), restore(model, blur, keep_kernels=False)
    assert dropped.kernels is None
    torch.testing.assert_close(dropped.image, kept.image, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dropped.t_hat, kept.t_hat)


def test_strips_do_not_change_the_image(model):
    blur = image(70, 50)
    whole, strips = restore(model, blur), restore(model, blur, plan=TilePlan(strip_rows=8))
    torch.testing.assert_close(strips.image, whole.image, rtol=1e-3, atol=1e-4)


def test_image_does_not_depend_on_its_neighbour_in_the_batch(model):
    pair = image(40, 40, batch=2)
    torch.testing.assert_close(
        restore(model, pair).image[:1], restore(model, pair[:1]).image, rtol=1e-3, atol=1e-4
    )


# what a model may lack


def test_model_of_the_base_stage_restores_at_a_given_timestep():
    out = restore(make(parts=()), image(32, 32), 200.0)
    assert out.kernels is None


def test_model_of_the_base_stage_says_which_part_estimates_t():
    with pytest.raises(ModelError) as caught:
        restore(make(parts=()), image(32, 32))
    assert caught.value.what == "this model has no kernel_estimator"
    assert "timestep=200" in caught.value.cure


def test_model_without_a_regressor_says_which_stage_trains_it():
    with pytest.raises(ModelError) as caught:
        restore(make(parts=("kernel_estimator",)), image(32, 32))
    assert caught.value.what == "this model has no timestep_regressor"
    assert "fidediff train control" in caught.value.cure


@pytest.mark.parametrize("t", [-1.0, 1000.0, float("nan"), torch.zeros(3), torch.zeros(2, 1)])
def test_impossible_timestep_is_refused(model, t):
    with pytest.raises(ModelError) as caught:
        restore(model, image(32, 32, batch=2), t)
    assert caught.value.where == "timestep"


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_blur_of_another_shape_is_refused(model, shape):
    with pytest.raises(ModelError, match="not \\(B, 3, H, W\\)"):
        restore(model, torch.zeros(shape))


def test_blur_of_bytes_is_refused(model):
    with pytest.raises(ModelError, match="uint8"):
        restore(model, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


# training


def names_trained(model: FideDiff, stage: str) -> set[str]:
    wanted = {id(p) for p in model.train_only(stage)}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if id(p) in wanted}
    return {n.split(".")[0] for n in trained}


def test_base_stage_trains_lora_and_prompt_only():
    model = make()
    assert names_trained(model, "base") == {"base"}
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in n or n == "base.prompt" for n in trained)


def test_kernel_stage_trains_the_kernel_estimator_only():
    assert names_trained(make(), "kernel") == {"kernel_estimator"}


def test_control_stage_trains_control_and_regressor_only():
    assert names_trained(make(), "control") == {"control", "timestep_regressor"}


def test_control_stage_of_a_model_without_control_names_the_part():
    model = make(parts=("kernel_estimator", "timestep_regressor"))
    with pytest.raises(ModelError, match="no control"):
        model.train_only("control")


def test_control_stage_with_variant_none_trains_the_regressor_alone():
    assert names_trained(make("none"), "control") == {"timestep_regressor"}


@pytest.mark.parametrize("stage", ["base", "kernel", "control"])
def test_gradient_reaches_only_what_the_stage_trains(stage):
    model = stirred().train()
    trained = {id(p) for p in model.train_only(stage)}
    out = model(image(32, 32))
    (out.image.square().mean() + out.t_hat.mean() + out.kernels.square().mean()).backward()
    with_gradient = [p for p in model.parameters() if p.grad is not None]
    assert with_gradient
    assert all(id(p) in trained for p in with_gradient)
    assert sum(p.grad.abs().sum() > 0 for p in with_gradient) > 0.9 * len(trained)


def test_discriminator_is_made_before_the_model_takes_the_weights():
    weights = sd21.random_base(SMALL.base)
    assert build_discriminator(SMALL, weights)(torch.randn(1, 4, 8, 8), torch.zeros(1))
    build(SMALL, weights)
    with pytest.raises(UserError, match="already carries LoRA"):
        build_discriminator(SMALL, weights)


# inference


def test_prepared_model_gives_the_same_image():
    model, blur = stirred(), image(40, 56)
    want = restore(model, blur)
    got = restore(model.prepare_for_inference(), blur)
    difference = (got.image - want.image).norm() / want.image.norm()
    assert difference < 1e-4


def test_prepared_model_has_nothing_to_train():
    model = make().prepare_for_inference()
    assert not any(p.requires_grad for p in model.parameters())


def test_bfloat16_model_stays_near_the_float32_image():
    blur = image(40, 56)
    want = restore(stirred(), blur, 200.0)
    got = restore(stirred().prepare_for_inference(dtype=torch.bfloat16), blur, 200.0)
    assert got.image.dtype == torch.float32
    # 8 bits of mantissa through a random network of 8 channels: 7 % measured, 10 % allowed.
    assert (got.image - want.image).norm() / want.image.norm() < 0.1


def test_prepared_model_refuses_to_be_saved(tmp_path):
    with pytest.raises(UserError, match="fused"):
        make().prepare_for_inference().save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# folders


def same_bits(one: FideDiff, other: FideDiff) -> bool:
    blur = image(45, 37)
    a, b = restore(one, blur), restore(other, blur)
    return all(
        torch.equal(x, y)
        for x, y in ((a.image, b.image), (a.t_hat, b.t_hat), (a.kernels, b.kernels))
    )


def test_loaded_model_gives_the_same_bits(model, saved):
    assert same_bits(FideDiff.load(saved), model)


@pytest.mark.parametrize("variant", ["none", "vanilla", "addition", "align"])
def test_every_variant_survives_its_folder(variant, tmp_path):
    before = stirred(variant)
    before.save(tmp_path / "m")
    assert same_bits(FideDiff.load(tmp_path / "m"), before)


def test_folder_holds_what_the_design_names(saved):
    files = {p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()}
    assert files == {
        "README.md",
        "config.json",
        "base/config.json",
        "base/prompt.safetensors",
        f"base/{LORA_FILE}",
        "kernel_estimator/config.json",
        "kernel_estimator/model.safetensors",
        "timestep_regressor/config.json",
        "timestep_regressor/model.safetensors",
        "control/config.json",
        "control/model.safetensors",
    }


def test_base_weights_are_named_and_not_copied(saved):
    assert json.loads((saved / "config.json").read_text())["base_model"] == "random:1"


def test_card_names_data_recipe_settings_and_scores(model, tmp_path):
    card = Card(
        manifest="GoPro",
        recipe="fidediff-7877",
        recipe_digest="abc123",
        stage="base",
        steps=1000,
        settings={"learning_rate": 5e-5},
        scores={"GoPro PSNR": 28.79},
    )
    model.save(tmp_path / "m", card=card)
    text = (tmp_path / "m/README.md").read_text()
    for word in ("GoPro", "fidediff-7877 abc123", "base, 1,000 steps", "28.79", "learning_rate"):
        assert word in text


def test_model_of_the_base_stage_is_continued_with_fresh_parts(tmp_path):
    stirred(parts=()).save(tmp_path / "m")
    model = FideDiff.load(tmp_path / "m", add=("kernel_estimator",))
    assert model.parts == ["kernel_estimator"]


def test_saving_again_replaces_the_whole_folder(tmp_path):
    make().save(tmp_path / "m")
    make(parts=()).save(tmp_path / "m")
    assert not (tmp_path / "m/control").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="nothing was written"):
        make(parts=()).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("permissions_hold")
def test_failed_save_keeps_the_former_model(model, tmp_path):
    model.save(tmp_path / "m")
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied"):
        make(parts=()).save(tmp_path / "m")
    tmp_path.chmod(0o700)
    assert same_bits(FideDiff.load(tmp_path / "m"), model)


def test_save_that_fails_half_way_leaves_the_former_model_alone(model, tmp_path):
    model.save(tmp_path / "m")
    other = make()
    other.base.fuse()  # such a base refuses to be saved after the folder was begun
    with pytest.raises(UserError):
        other.save(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert same_bits(FideDiff.load(tmp_path / "m"), model)


def refusal(folder, **kwargs) -> UserError:
    with pytest.raises(UserError) as caught:
        FideDiff.load(folder, **kwargs)
    assert all((caught.value.what, caught.value.where, caught.value.cure))
    return caught.value


def edit(saved, **values) -> None:
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_absent_folder_is_refused(tmp_path):
    assert "is not a FideDiff model folder" in refusal(tmp_path / "absent").what


def test_run_folder_leads_to_the_model_inside(saved):
    assert str(saved) in refusal(saved.parent).cure


def test_base_model_given_as_a_model_leads_to_the_right_flag(tmp_path):
    (tmp_path / "unet").mkdir()
    assert "--base-model" in refusal(tmp_path).cure


def test_foreign_model_is_refused(saved):
    edit(saved, format="other")
    assert "another kind of model" in refusal(saved).what


@pytest.mark.parametrize(("version", "cure"), [(0, "older release"), (2, "newer release")])
def test_other_format_version_is_refused_by_number(saved, version, cure):
    edit(saved, version=version)
    error = refusal(saved)
    assert f"format version {version}" in error.what
    assert cure in error.cure


def test_other_base_weights_are_refused_by_both_names(saved):
    error = refusal(saved, base_model="random:2")
    assert "trained over random:1, random:2 is another base" in error.what


def test_part_that_this_release_does_not_know_is_refused(saved):
    edit(saved, parts=["kernel_estimator", "time_machine"])
    assert "time_machine" in refusal(saved).what


def test_missing_weights_of_a_part_are_named(saved):
    shutil.rmtree(saved / "control")
    assert "the weights of control are missing" in refusal(saved).what


def test_truncated_weights_of_a_part_are_refused(saved):
    file = saved / "kernel_estimator/model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "damaged" in refusal(saved).what


def test_weights_of_another_setting_are_refused(saved):
    values = json.loads((saved / "config.json").read_text())
    values["config"]["timestep"]["channels"] = [8, 8]
    edit(saved, **values)
    assert "timestep_regressor do not fit" in refusal(saved).what


def test_small_starts_as_the_identity_of_its_codec_when_the_unet_is_silent():
    small = presets.preset("small")
    weights = sd21.random_base(small.base)
    torch.nn.init.zeros_(weights.unet.conv_out.weight)
    torch.nn.init.zeros_(weights.unet.conv_out.bias)
    model = build(small, weights).eval()
    z = torch.randn(2, 32, 8, 8)
    for t in (0.0, 40.0, 280.0):
        with torch.no_grad():
            torch.testing.assert_close(model.step(z, torch.tensor([t, t])), z, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["vanilla", "addition", "align", "filter"])
def test_small_takes_every_control_and_starts_as_its_base(variant):
    small = presets.preset("small")
    small = replace(small, control=replace(small.control, variant=variant))
    model = build(small, sd21.random_base(small.base), parts=list(PARTS)).eval()
    blur = torch.rand(1, 3, 40, 44) * 2 - 1
    with torch.no_grad():
        steered = model(blur, 200.0)
        model.control = None
        assert torch.equal(steered.image, model(blur, 200.0).image)
