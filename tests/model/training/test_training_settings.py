"""Settings and run folders: what is refused, what may change, what is written."""

import json
import resource
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from training_runs import command, make_data, request

from fidediff_model import config
from fidediff_model.cli import fidediff
from fidediff_model.model import presets
from fidediff_model.training import base, control, datasets, kernel, optim, settings, setup
from fidediff_model.training.request import Request
from fidediff_model.training.settings import TrainSettings
from trajectory_builder.errors import ExitCode, OutputError, UsageError, UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), held_out=1)


def _refusal(train, asked):
    with pytest.raises(Exception, match=r".") as caught:
        train(asked)
    assert not isinstance(caught.value, TypeError | KeyError | AttributeError)
    return caught.value


def test_fp16_training_is_refused_with_the_reason():
    with pytest.raises(UsageError) as caught:
        TrainSettings(precision="fp16")
    assert "loss scale" in caught.value.where


def test_bf16_without_a_gpu_is_refused(tmp_path, data):
    error = _refusal(base.train, request(tmp_path / "run", data, precision="bf16"))
    assert "bf16" in error.what
    assert "fp32" in error.cure


def test_unknown_settings_are_named():
    with pytest.raises(UsageError, match="unknown setting: learning_rat") as caught:
        config.changed(TrainSettings(), {"learning_rat": 1.0}, where="x.yaml")
    assert caught.value.cure == "give learning_rate"


@pytest.mark.parametrize("value", ["fast", True, 0.5])
def test_a_value_of_another_kind_is_refused(value):
    with pytest.raises(UsageError, match="steps cannot be"):
        config.changed(TrainSettings(), {"steps": value}, where="x.yaml")


def test_a_perceptual_loss_without_its_file_stops_before_the_run_begins(tmp_path, data):
    error = _refusal(base.train, request(tmp_path / "run", data, perceptual="ea-lpips"))
    assert "VGG16" in error.what
    assert not (tmp_path / "run").exists()


def test_a_manifest_without_training_rows_is_refused(tmp_path):
    empty = make_data(tmp_path / "data", train=0, held_out=1)
    error = _refusal(base.train, request(tmp_path / "run", empty))
    assert "train" in error.what


def test_one_trajectory_is_less_than_a_batch_of_two(tmp_path):
    single = make_data(tmp_path / "data", train=1)
    error = _refusal(base.train, request(tmp_path / "run", single))
    assert error.what == "a batch of 2 trajectories is more than the 1 of the set"


def test_a_crop_larger_than_the_images_is_refused(tmp_path, data):
    error = _refusal(base.train, request(tmp_path / "run", data, crop=64))
    assert "smaller than the crop" in error.what


def test_missing_image_files_end_the_run_with_their_names(tmp_path):
    gone = make_data(tmp_path / "data")
    for path in gone.glob("train/blur/*/*.png"):
        path.unlink()
    error = _refusal(base.train, request(tmp_path / "run", gone))
    assert "000001_n" in str(error)


def test_a_timestep_beyond_999_is_refused(tmp_path):
    late = make_data(tmp_path / "data", timestep=1200)
    error = _refusal(base.train, request(tmp_path / "run", late, identity=0.0))
    assert "999" in str(error)


def test_a_base_model_that_is_not_there_is_refused(tmp_path, data):
    asked = request(tmp_path / "run", data)
    absent = replace(asked, base_model=str(tmp_path / "sd21"))
    assert "there is no folder" in _refusal(base.train, absent).what


def test_a_base_model_that_predicts_v_is_refused_before_the_run_begins(tmp_path, data):
    for part in ("unet", "vae", "scheduler"):
        (tmp_path / "sd21" / part).mkdir(parents=True)
    schedule = {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}
    (tmp_path / "sd21/scheduler/scheduler_config.json").write_text(json.dumps(schedule))
    asked = request(tmp_path / "run", data)
    other = replace(asked, base_model=str(tmp_path / "sd21"))
    assert _refusal(base.train, other).what == "the base model predicts v, not epsilon"
    assert not (tmp_path / "run").exists()


def test_a_manifest_without_trajectories_is_refused(tmp_path):
    loose = make_data(tmp_path / "data", n_frames=(7,), timestep=None)
    error = _refusal(base.train, request(tmp_path / "run", loose))
    assert "states a timestep" in error.what


def test_a_manifest_of_another_schema_version_is_refused(tmp_path):
    later = make_data(tmp_path / "data")
    path = later / "train/metadata.parquet"
    table = pq.read_table(path)
    version = {b"trajbuild.format_version": b"3"}
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | version), path)
    error = _refusal(base.train, request(tmp_path / "run", later))
    assert "schema version 3" in error.what


@pytest.mark.parametrize(("at_most", "begun"), [(500, False), (9000, True)])
def test_a_full_disk_is_reported_with_the_cure(tmp_path, data, at_most, begun):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_most, hard))
    try:
        error = _refusal(base.train, request(tmp_path / "run", data, steps=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "run the same command again" in error.cure
    assert (tmp_path / "run/config.yaml").exists() is begun


@pytest.mark.parametrize(("stage", "before"), [("kernel", "base"), ("control", "kernel")])
def test_a_stage_out_of_order_names_the_one_before(tmp_path, data, stage, before):
    module = {"kernel": kernel, "control": control}[stage]
    error = _refusal(module.train, request(tmp_path / "run", data, stage=stage))
    assert f"fidediff train {before}" in error.cure


def test_holding_out_a_split_that_is_not_there_is_refused(data):
    found = datasets.manifest.read(data)
    given = TrainSettings(crop=32, batch=1, validation_split="test")
    with pytest.raises(UsageError, match="cannot be held out"):
        datasets.open_datasets(found, given)


def _held_out(folder, clips, **settings):
    source = datasets.manifest.read(make_data(folder, train=clips))
    train, validation = datasets.open_datasets(source, TrainSettings(crop=32, batch=1, **settings))
    held_out = {validation._id(i) for i in range(len(validation))} if validation else set()
    return {train._id(i) for i in range(len(train))}, held_out


def test_a_set_without_validation_holds_a_tenth_of_its_clips_out(tmp_path, caplog):
    train, held_out = _held_out(tmp_path, 20)
    assert (len(train), len(held_out)) == (18, 2)
    assert not train & held_out
    assert "2 of 20 training clips are held out (--seed 0)" in caplog.text


def test_clips_that_are_held_out_depend_on_the_seed(tmp_path):
    both = [_held_out(tmp_path, 20, seed=seed)[1] for seed in (1, 2)]
    assert both[0] != both[1]


def test_a_set_of_few_clips_trains_without_validation_and_says_so(tmp_path, caplog):
    assert _held_out(tmp_path, 3) == ({f"train{i}/000001" for i in range(3)}, set())
    assert "no validation" in caplog.text


def test_without_validation_no_clip_is_held_out(tmp_path):
    train, held_out = _held_out(tmp_path, 20, validate_every=0)
    assert (len(train), len(held_out)) == (20, 0)


@pytest.mark.parametrize(
    ("words", "pair"),
    [([], ("all", "given")), (["--no-consistency"], ("native", "fixed")),
     (["--no-consistency", "--points-of", "all"], ("all", "fixed")),
     (["--timestep-of", "fixed"], ("all", "fixed"))],
)  # fmt: skip
def test_consistency_is_a_pair_of_switches(tmp_path, data, words, pair):
    call = command(tmp_path / "run", data, steps=1)[3:] + words
    assert CliRunner().invoke(fidediff, call).exit_code == 0
    stored = settings.read_config(tmp_path / "run").settings
    assert (stored.points_of, stored.timestep_of) == pair


def _config(**changes):
    given = {
        "stage": "base", "data": "d", "data_digest": "a", "base_model": "random:0", "start": "",
        "start_digest": "", "model": presets.preset("tiny"),
        "settings": TrainSettings(),
    }  # fmt: skip
    return settings.RunConfig(**{**given, **changes})


def test_a_run_folder_of_another_config_is_refused_with_the_difference(tmp_path):
    settings.write_config(tmp_path, _config())
    other = _config(settings=TrainSettings(learning_rate=1e-3))
    with pytest.raises(OutputError) as caught:
        settings.refuse_other(tmp_path, other, resume=False)
    assert caught.value.exit_code == ExitCode.OTHER_CONFIG
    assert "settings.learning_rate: 5e-05 -> 0.001" in caught.value.where


def test_resuming_with_an_unsafe_change_is_refused(tmp_path):
    settings.write_config(tmp_path, _config())
    other = _config(settings=TrainSettings(learning_rate=1e-3))
    with pytest.raises(OutputError):
        settings.refuse_other(tmp_path, other, resume=True)


def test_resuming_may_change_how_long_and_how_often(tmp_path):
    settings.write_config(tmp_path, _config())
    other = _config(settings=TrainSettings(steps=5, save_every=1, workers=0))
    settings.refuse_other(tmp_path, other, resume=True)


def test_a_schedule_that_leads_to_an_end_keeps_its_steps(tmp_path):
    settings.write_config(tmp_path, _config(settings=TrainSettings(schedule="cosine")))
    other = _config(settings=TrainSettings(schedule="cosine", steps=5))
    with pytest.raises(OutputError, match="another config"):
        settings.refuse_other(tmp_path, other, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="something else"):
        settings.refuse_other(tmp_path, _config(), resume=False)


def test_a_second_process_in_a_run_folder_is_refused(tmp_path):
    held = setup.lock(tmp_path)
    with pytest.raises(UsageError, match="another process trains"):
        setup.lock(tmp_path)
    held.release()


def test_config_yaml_holds_every_setting(tmp_path):
    settings.write_config(tmp_path, _config())
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["settings"] == config.to_dict(TrainSettings())


def test_flags_weigh_more_than_the_file_and_the_file_more_than_defaults(tmp_path, data):
    file = tmp_path / "mine.yaml"
    file.write_text("clip: 7.0\nkeep: 3\n")
    asked = request(tmp_path / "run", data, batch=1, steps=1)
    base.train(replace(asked, config_file=file, settings=asked.settings | {"keep": 5}))
    stored = settings.read_config(tmp_path / "run").settings
    assert (stored.clip, stored.keep, stored.weight_decay) == (7.0, 5, 0.01)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 0.5, 0]), ("cosine", [0.5, 1, 0.5, 0])],
)
def test_the_learning_rate_rises_then_follows_its_schedule(schedule, expected):
    given = TrainSettings(steps=10, warmup_steps=2, schedule=schedule)
    found = [optim.rate_factor(given, step) for step in (1, 2, 6, 10)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_8_bit_adamw_without_its_library_is_refused():
    with pytest.raises(UsageError, match="bitsandbytes"):
        optim.make(TrainSettings(optimizer="adamw8bit"))


SHORT = {"crop": 32, "batch": 2, "workers": 0, "perceptual": "none", "gan_weight": 0.0,
         "validate_every": 0, "tensorboard": False}  # fmt: skip


def test_a_short_run_of_a_small_preset_has_a_schedule_that_fits(tmp_path, data):
    def asked(steps):
        values = {**SHORT, "steps": steps}
        return Request(
            tmp_path / "run", data, base_model="random:0", settings=values, preset="tiny"
        )

    base.train(asked(1))
    stored = settings.read_config(tmp_path / "run").settings
    assert (stored.learning_rate, stored.save_every) == (1e-3, 200)
    assert (stored.warmup_steps, stored.log_every) == (1, 1)
    assert '"kind": "train"' in (tmp_path / "run/log.jsonl").read_text()
    assert "--resume" in _refusal(base.train, asked(30)).cure


def test_what_was_asked_for_is_not_shortened():
    long = TrainSettings(steps=100, warmup_steps=50, log_every=40)
    assert settings.fitted(long, {"warmup_steps", "log_every"}) == long
    assert settings.fitted(long, {"log_every"}) == replace(long, warmup_steps=10)
    assert settings.fitted(TrainSettings(), ()) == TrainSettings()


@pytest.mark.parametrize("stage", settings.STAGES)
@pytest.mark.parametrize("preset", ["tiny", "small", "sd21"])
def test_defaults_fit_the_length_of_a_run(stage, preset):
    default = settings.defaults(stage, preset)
    assert settings.fitted(default, ()) == default
    assert default.steps >= 10 * max(default.save_every, default.validate_every)


def test_large_checkpoints_are_written_less_often():
    every = [settings.defaults(stage, "sd21").save_every for stage in settings.STAGES]
    assert every == [1000, 1000, 5000]


@pytest.mark.parametrize("stage", settings.STAGES)
def test_help_marks_what_is_published(stage):
    text = CliRunner().invoke(fidediff, ["train", stage, "--help"], terminal_width=200).output
    assert "[paper" in text
    assert "[prior; default: 100000; tiny: 2000; small: 5000]" in text


def test_a_users_error_leaves_no_config_behind(tmp_path, data):
    with pytest.raises(UserError):
        base.train(request(tmp_path / "run", data, batch=99))
    assert not (tmp_path / "run").exists()


def test_help_of_train_does_not_import_torch():
    code = "import sys; from fidediff_model.cli import train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
