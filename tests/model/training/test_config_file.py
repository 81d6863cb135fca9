"""`--set` and `--config`: every value can be given, and nothing given is ignored."""

from pathlib import Path

import pytest
import yaml

from fidediff_model import config
from fidediff_model.model import presets
from fidediff_model.training.request import Request, parse_sets, with_config_file
from fidediff_model.training.settings import RunConfig, TrainSettings, write_config
from fidediff_model.training.validation import choice
from trajectory_builder.errors import UsageError


def _refusal(call, *args):
    with pytest.raises(UsageError) as caught:
        call(*args)
    return caught.value


def test_a_value_of_the_model_can_be_set():
    values = parse_sets(["model.kernel.kernel_size=11", "settings.clip=0.5"], "base")
    assert values.model == {"kernel.kernel_size": 11}
    assert values.settings == {"clip": 0.5}


def test_a_mistyped_name_is_refused_with_the_nearest():
    error = _refusal(parse_sets, ["model.kernel.kernel_siez=11"], "base")
    assert error.cure == "give model.kernel.kernel_size"


def test_a_setting_of_another_stage_cannot_be_set():
    assert "settings.gan_weight" in _refusal(parse_sets, ["settings.gan_weight=1"], "kernel").what


def test_a_number_with_an_exponent_is_a_number():
    settings = config.changed(TrainSettings(), {"learning_rate": "1e-4"}, where="x.yaml")
    assert settings.learning_rate == 1e-4


def _file(folder, text):
    (folder / "mine.yaml").write_text(text)
    return Request(folder / "run", config_file=folder / "mine.yaml")


def test_the_config_of_a_run_is_read_as_a_whole(tmp_path):
    settings = TrainSettings(clip=0.25)
    run = RunConfig("base", "DATA", "", "random:3", "", "", settings, presets.preset("tiny"))
    write_config(tmp_path, run)
    request = with_config_file(
        "base", Request(tmp_path / "r", config_file=tmp_path / "config.yaml")
    )
    assert (request.data, request.base_model) == (Path("DATA"), "random:3")
    assert config.changed(TrainSettings(), request.settings, where="") == settings
    assert config.changed(presets.preset("sd21"), request.model, where="") == presets.preset("tiny")


@pytest.mark.parametrize(
    ("stage", "values", "text"),
    [("kernel", {"stage": "base", "settings": {}}, "of the stage base"),
     ("base", {"settings": {}, "datum": "x"}, "unknown setting: datum"),
     ("kernel", {"gan_weight": 0.9}, "does not use gan_weight"),
     ("base", {"settings": {"clop": 1}}, "unknown setting: clop"),
     ("base", {"model": {"kernel": {"size": 3}}}, "unknown setting: kernel.size")],
)  # fmt: skip
def test_what_a_file_would_lose_is_refused(tmp_path, stage, values, text):
    error = _refusal(with_config_file, stage, _file(tmp_path, yaml.safe_dump(values)))
    assert text in error.what
    assert "mine.yaml" in error.where


@pytest.mark.parametrize(
    ("changes", "score"),
    [({}, "lpips"), ({"perceptual": "none", "gan_weight": 0.0}, "psnr"),
     ({"perceptual": "dists"}, None), ({"keep_best_by": "psnr"}, "psnr"),
     ({"keep_best_by": "last"}, None)],
)  # fmt: skip
def test_the_model_that_is_kept_suits_the_loss(changes, score):
    criterion = choice(TrainSettings(**changes)).criterion
    assert (criterion.score if criterion else None) == score
