"""Short runs of the stages on the tiny preset: what trains, what each switch changes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training_runs import CROP, make_data, request

from fidediff_model.data.batches import collate
from fidediff_model.errors import TrainingError
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.training import base, control, datasets, kernel
from fidediff_model.training.settings import TrainSettings
from trajectory_builder.errors import ExitCode, UserError


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), held_out=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """The run folders of the three stages, one after the other."""
    home = tmp_path_factory.mktemp("runs")
    scored = {"validate_every": 2, "validation_trajectories": 2}
    base.train(request(home / "base", data, gan_weight=0.5, **scored))
    given = {"stage": "kernel", "start": home / "base"}
    kernel.train(request(home / "kernel", data, **given, **scored))
    given = {"stage": "control", "start": home / "kernel", "tensorboard": True}
    control.train(request(home / "control", data, **given, **scored))
    return home


def _lines(run_dir, kind):
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def _trained(run_dir, step=1):
    return load_file(run_dir / f"checkpoints/step-{step:06d}/trained.safetensors")


def _first_moments(run_dir):
    tensors = load_file(run_dir / "checkpoints/step-000001/optimizer-model.safetensors")
    return torch.cat([v.flatten() for k, v in sorted(tensors.items()) if k.endswith("exp_avg")])


def test_the_stage_base_trains_lora_and_prompt_alone(runs):
    names = _trained(runs / "base")
    assert all("lora_" in name or name.endswith("base.prompt") for name in names)
    assert any(name.endswith("base.prompt") for name in names)


def test_each_stage_adds_its_parts_to_the_model(runs):
    parts = [FideDiff.load(runs / s / "model").parts for s in ("base", "kernel", "control")]
    assert parts == [
        [],
        ["kernel_estimator"],
        ["kernel_estimator", "timestep_regressor", "control"],
    ]


def test_the_stage_control_leaves_base_and_kernel_estimator_as_they_were(runs):
    for part in ("base", "kernel_estimator"):
        for path in (runs / "kernel/model" / part).glob("*.safetensors"):
            # Tensors, not bytes: the file's own head lists its entries in any order.
            before, after = load_file(path), load_file(runs / "control/model" / part / path.name)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_discriminator_learns_in_turn(runs):
    folder = runs / "base/checkpoints"
    first, second = (
        load_file(folder / f"step-{step:06d}/discriminator.safetensors") for step in (1, 2)
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_validation_scores_the_blur_beside_the_restored_image(runs):
    (scores,) = _lines(runs / "control", "validation")
    assert {"psnr", "psnr_blur", "ssim", "ssim_blur", "trajectory_gap", "t_error"} <= set(scores)


def test_validation_of_kernels_compares_with_identity(runs):
    (scores,) = _lines(runs / "kernel", "validation")
    assert scores["reblur_identity"] > 0


def test_a_panel_of_pictures_is_written(runs):
    assert (runs / "control/panels/step-000002.png").stat().st_size > 1000


def test_tensorboard_shows_losses_rates_speed_memory_and_a_panel(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(runs / "control/tensorboard")).Reload().Tags()
    train = {f"train/{name}" for name in ("loss", "time", "t_error", "grad_norm", "rate_model")}
    speed = {"speed/images_per_second", "speed/memory_mib"}
    scores = {"validation/psnr", "validation/trajectory_gap"}
    assert train | speed | scores <= set(board["scalars"])
    assert board["images"] == ["panel"]


def test_the_log_has_no_clock_in_it(runs):
    keys = {key for line in _lines(runs / "base", "train") for key in line}
    assert not keys & {"time_stamp", "seconds", "seconds_per_step", "images_per_second"}


def test_a_model_card_names_data_and_settings(runs, data):
    text = (runs / "control/model/README.md").read_text()
    assert f"| Data | {data.name} |" in text
    assert str(data) not in text  # a place of this machine
    assert "learning_rate" in text


def test_the_same_command_again_has_nothing_left_to_do(runs, data):
    before = (runs / "base/log.jsonl").read_bytes()
    scored = {"validate_every": 2, "validation_trajectories": 2}
    outcome = base.train(request(runs / "base", data, gan_weight=0.5, **scored))
    assert outcome.step == 2
    assert (runs / "base/log.jsonl").read_bytes() == before


def test_another_stage_in_the_run_folder_is_refused(runs, data):
    with pytest.raises(UserError) as told:
        kernel.train(request(runs / "base", data, stage="kernel", start=runs / "base"))
    assert told.value.exit_code == ExitCode.OTHER_CONFIG


def test_a_resumed_run_takes_its_settings_from_its_config(tmp_path, data):
    base.train(request(tmp_path / "run", data, steps=1))
    outcome = base.train(request(tmp_path / "run", resume=True, steps=2))
    assert outcome.step == 2
    assert len(_lines(tmp_path / "run", "train")) == 2


def test_when_the_time_is_up_the_run_saves_and_stops(tmp_path, data):
    asked = request(tmp_path / "run", data, steps=9, max_train_minutes=1e-6, save_every=9)
    outcome = base.train(asked)
    assert (outcome.finished, outcome.step) == (False, 1)
    assert (tmp_path / "run/checkpoints/step-000001/whole.json").is_file()


def test_a_loss_that_is_no_number_names_the_pairs(tmp_path, data):
    with pytest.raises(TrainingError) as told:
        base.train(request(tmp_path / "run", data, steps=9, learning_rate=1e30, clip=1e30))
    assert "/000001/n" in told.value.where


def _draws(data, **settings):
    found = datasets.manifest.read(data)
    given = {"crop": CROP, "batch": 2, "workers": 0, "validate_every": 0, **settings}
    train, _ = datasets.open_datasets(found, TrainSettings(**given))
    return collate([train[number] for number in range(len(train))])


def test_a_fixed_timestep_is_that_of_every_blur(data):
    batch = _draws(data, timestep_of="fixed", fixed_timestep=123.0, points=3)
    assert set(batch["timestep"].tolist()) == {123.0}
    assert set(batch["n_frames"].tolist()) == {3, 5, 7}


def test_native_points_have_their_own_timesteps(data):
    batch = _draws(data, points_of="native", identity=0.0)
    assert set(batch["n_frames"].tolist()) == {7}
    assert set(batch["timestep"].tolist()) == {120.0}


def test_points_is_the_number_of_blurs_of_a_trajectory(data):
    assert len(_draws(data, points=3, identity=0.0)["sample_id"]) == 3 * 4


def test_identity_points_are_the_sharp_image_at_timestep_0(data):
    batch = _draws(data, identity=1.0)
    assert not batch["timestep"].any()
    assert torch.equal(batch["blur"], batch["sharp"][batch["trajectory"]])


@pytest.mark.parametrize(
    "switch",
    [{"points_of": "native"}, {"timestep_of": "fixed"}, {"points": 1}, {"identity": 1.0},
     {"timestep_of": "fixed", "fixed_timestep": 900.0}],
    ids=["native", "fixed", "points", "identity", "fixed timestep"],
)  # fmt: skip
def test_each_consistency_switch_changes_the_gradient(tmp_path, data, switch):
    before = {"timestep_of": "fixed"} if "fixed_timestep" in switch else {}
    base.train(request(tmp_path / "plain", data, steps=1, **before))
    base.train(request(tmp_path / "switched", data, steps=1, **switch))
    plain, switched = (_first_moments(tmp_path / name) for name in ("plain", "switched"))
    assert float((plain - switched).norm() / plain.norm()) > 1e-3


@pytest.mark.parametrize("variant", ["none", "vanilla"])
def test_a_control_variant_can_be_chosen_in_its_stage(tmp_path, runs, data, variant):
    asked = request(tmp_path / "run", data, stage="control", start=runs / "kernel", steps=1)
    control.train(replace(asked, model={"control.variant": variant}))
    loaded = FideDiff.load(tmp_path / "run/model")
    assert loaded.config.control.variant == variant


@pytest.mark.parametrize("which", ["vae", "all"])
def test_checkpointing_gives_the_same_gradients(tmp_path, data, which):
    for name, checkpointing in (("plain", "none"), ("lean", which)):
        base.train(request(tmp_path / name, data, steps=1, checkpointing=checkpointing))
    plain, lean = (_first_moments(tmp_path / name) for name in ("plain", "lean"))
    assert torch.allclose(plain, lean, rtol=1e-4, atol=1e-9)


def test_without_a_control_t_learns_alone(tmp_path, runs, data):
    asked = request(
        tmp_path / "run", data, stage="control", start=runs / "kernel", steps=2, gan_weight=0.5,
        log_every=1, validate_every=1, validation_trajectories=2,
    )  # fmt: skip
    control.train(replace(asked, model={"control.variant": "none"}))
    assert all("timestep_regressor" in name for name in _trained(tmp_path / "run"))
    # No image is restored to learn from, so there is no loss on one and nothing for D.
    for line in _lines(tmp_path / "run", "train"):
        assert {"time", "t_error", "loss"} <= set(line)
        assert not {"l1", "generator", "discriminator"} & set(line)
    scores = _lines(tmp_path / "run", "validation")
    kept = json.loads((tmp_path / "run/model/config.json").read_text())["card"]["scores"]
    assert kept["t_error"] == min(line["t_error"] for line in scores)


def test_the_control_goes_on_with_a_t_that_learnt_alone(tmp_path, runs, data):
    alone = request(tmp_path / "alone", data, stage="control", start=runs / "kernel", steps=1)
    control.train(replace(alone, model={"control.variant": "none"}))
    asked = request(
        tmp_path / "run", data, stage="control", start=tmp_path / "alone", steps=1,
        learning_rate=1e-12,
    )  # fmt: skip
    control.train(replace(asked, model={"control.variant": "filter"}))
    before = FideDiff.load(tmp_path / "alone/model").timestep_regressor.state_dict()
    loaded = FideDiff.load(tmp_path / "run/model")
    assert loaded.control is not None
    for name, value in loaded.timestep_regressor.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-7, rtol=0)
    fresh = FideDiff.load(runs / "control/model").timestep_regressor.state_dict()
    assert any(not torch.allclose(fresh[n], before[n], atol=1e-7) for n in before)
