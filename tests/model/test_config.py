import json
from dataclasses import fields, is_dataclass, replace

import pytest

from fidediff_model import config
from fidediff_model.config import ModelConfig
from fidediff_model.model import presets
from trajectory_builder.errors import UsageError


def leaves(value: object, prefix: str = "") -> list[str]:
    names = []
    for f in fields(value):
        inner = getattr(value, f.name)
        names += leaves(inner, f"{prefix}{f.name}.") if is_dataclass(inner) else [prefix + f.name]
    return names


@pytest.mark.parametrize("name", ["tiny", "sd21"])
def test_preset_survives_json(name):
    assert config.from_dict(json.loads(config.to_json(presets.preset(name)))) == presets.preset(
        name
    )


def test_every_setting_has_a_source():
    assert set(config.SOURCES) == set(leaves(presets.preset("sd21")))


def test_every_source_is_paper_prior_or_ours():
    assert {mark for mark, _ in config.SOURCES.values()} == {"paper", "prior", "ours"}


def test_json_has_one_setting_a_line():
    assert '  "latent_stride": 4' in config.to_json(presets.preset("sd21"))


def test_config_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        presets.preset("tiny").preset = "other"  # type: ignore[misc]


def test_unknown_preset_names_the_ones_there_are():
    with pytest.raises(UsageError) as caught:
        presets.preset("large")
    assert "sd21, tiny" in caught.value.cure
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("codec", "latent_stride"), 16, "codec.latent_stride"),
        (("kernel", "kernel_size"), 18, "kernel.kernel_size"),
        (("control", "variant"), "magic", "control.variant"),
        (("base", "unet_channels"), [8, 16, 16, 16], "base.unet_channels"),
        (("base", "vae_channels"), [8, 16, 16], "base.vae_channels"),
        (("base", "vae_groups"), 3, "base.vae_channels"),
        (("lora", "rank"), 0, "lora.rank"),
        (("lora", "rank"), "16", "lora.rank"),
        (("lora", "rank"), True, "lora.rank"),
    ],
)
def test_impossible_value_is_refused_by_name(path, value, named):
    values = config.to_dict(presets.preset("tiny"))
    values[path[0]][path[1]] = value
    with pytest.raises(UsageError) as caught:
        config.from_dict(values)
    assert named in caught.value.where
    assert caught.value.cure


def test_unknown_setting_is_refused_by_name():
    values = config.to_dict(presets.preset("tiny"))
    values["lora"]["dropout"] = 0.1
    with pytest.raises(UsageError, match="unknown settings: dropout"):
        config.from_dict(values)


def test_missing_setting_is_refused_by_name():
    values = config.to_dict(presets.preset("tiny"))
    del values["codec"]
    with pytest.raises(UsageError, match="missing settings: codec"):
        config.from_dict(values)


@pytest.mark.parametrize("values", [None, [], 3, "{", {"a": 1}])
def test_other_values_give_an_error_with_all_three_parts(values):
    with pytest.raises(UsageError) as caught:
        config.from_dict(values, where="config.json")
    assert all((caught.value.what, caught.value.where, caught.value.cure))


@pytest.mark.parametrize("variant", ["none", "vanilla", "addition", "align", "filter"])
def test_every_row_of_the_control_ablation_is_a_setting(variant):
    tiny = presets.preset("tiny")
    changed = replace(tiny, control=replace(tiny.control, variant=variant))
    assert isinstance(changed, ModelConfig)


def test_config_of_an_older_release_means_the_defaults():
    values = config.to_dict(presets.preset("tiny"))
    for name in config.ADDED_LATER:
        del values["base"][name]
    assert config.from_dict(values) == presets.preset("tiny")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("base", "unet_channels"), [10**6, 2 * 10**6, 4 * 10**6, 4 * 10**6]),
        (("base", "unet_channels"), [-8, -16, -32, -32]),
        (("base", "unet_heads"), [0, 0, 0, 0]),
        (("base", "unet_heads"), [3, 3, 3, 3]),
        (("base", "prompt_tokens"), 10**9),
        (("base", "latent_channels"), 0),
        (("base", "vae_patch"), -1),
        (("lora", "rank"), 10**8),
        (("lora", "alpha"), float("nan")),
        (("kernel", "kernel_size"), 99_999),
        (("kernel", "channels"), []),
        (("kernel", "channels"), [8] * 100),
        (("kernel", "channels"), [0, 8]),
        (("timestep", "channels"), [10**6]),
        (("control", "channels"), float("inf")),
        (("control", "points"), 0),
        (("discriminator", "head_channels"), 10**400),
    ],
)
def test_absurd_numbers_are_refused_before_anything_is_built(path, value):
    values = config.to_dict(presets.preset("tiny"))
    values[path[0]][path[1]] = value
    with pytest.raises(UsageError) as caught:
        config.from_dict(values)
    assert path[1] in caught.value.where
    assert caught.value.cure
