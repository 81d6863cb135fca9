"""A model folder names its base weights without a path of the machine, and finds them again."""

import json
import shutil
import sys

import pytest
from small_model import SMALL

from fidediff_model.errors import ModelError, WeightsError
from fidediff_model.model.base_name import located, portable, without_places
from fidediff_model.model.card import Card
from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.weights import base_folder, sd21


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base folder, and a model saved over it in another folder beside it."""
    home = tmp_path_factory.mktemp("places")
    drawn = sd21.random_base(SMALL.base)
    base_folder.write_base(home / "weights/base", drawn.unet, drawn.vae)
    weights = sd21.load_base(home / "weights/base", SMALL.base, prompt_start="normal")
    card = Card(
        manifest=str(home / "data/set"),
        stage="base",
        settings={"vgg16": str(home / "vgg16.pth"), "deep": {"list": [str(home / "x"), 0.5]}},
    )
    build(SMALL, weights).save(home / "run/model", card=card)
    return home


def texts(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_no_file_of_a_model_names_a_place_of_the_machine(places):
    for name, content in texts(places / "run/model").items():
        assert str(places).encode() not in content, name
        assert str(places.parent).encode() not in content, name


def test_the_base_is_named_relative_to_the_model(places):
    values = json.loads((places / "run/model/config.json").read_text())
    assert values["base_model"] == "../../weights/base"
    assert values["card"]["manifest"] == "set"
    assert values["card"]["settings"] == {"vgg16": "vgg16.pth", "deep": {"list": ["x", 0.5]}}


def test_the_model_loads_from_anywhere_and_moved_together(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FideDiff.load(places / "run/model")
    shutil.copytree(places, tmp_path / "moved")
    loaded = FideDiff.load(tmp_path / "moved/run/model")
    assert loaded.base_model == str(tmp_path / "moved/weights/base")


def test_the_model_moved_alone_asks_for_its_base(places, tmp_path):
    shutil.copytree(places / "run/model", tmp_path / "deep/below/model")
    with pytest.raises(ModelError) as caught:
        FideDiff.load(tmp_path / "deep/below/model")
    assert "--base-model" in caught.value.cure


def test_a_base_that_shares_only_the_root_is_named_without_its_place(tmp_path):
    assert portable("/somewhere/else/sd21", tmp_path) == "sd21"
    with pytest.raises(ModelError, match="not their place") as caught:
        located("sd21", tmp_path)
    assert "--base-model" in caught.value.cure


@pytest.mark.parametrize("name", ["owner/name", "small", "random:3"])
def test_a_name_of_the_hub_or_of_ours_stays(name, tmp_path):
    assert portable(name, tmp_path) == name
    assert located(name, tmp_path) == name


def test_a_base_inside_the_model_folder_is_found(tmp_path):
    stored = portable(str(tmp_path / "base-model"), tmp_path)
    assert stored == "./base-model"
    assert located(stored, tmp_path) == str(tmp_path / "base-model")


def test_an_absolute_path_of_earlier_models_still_serves(tmp_path):
    assert located(str(tmp_path), tmp_path / "model") == str(tmp_path)


def test_settings_keep_all_but_places():
    values = {"a": "/x/y", "b": "x/y", "c": 3, "d": ["/q/r"]}
    assert without_places(values) == {"a": "y", "b": "x/y", "c": 3, "d": ["r"]}


# A model of someone else


@pytest.fixture
def from_the_hub(places, tmp_path, monkeypatch):
    """A stranger's model that names a hub id which is not in the local cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = shutil.copytree(places / "run/model", tmp_path / "stranger")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"base_model": "evil/base"}))
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Every request to the hub, none of which is made."""
    import huggingface_hub

    names = []

    def record(name, *, local_files_only=False, **rest):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        names.append(name)
        raise OSError("no network in this test")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    return names


def test_a_hub_id_of_a_strangers_model_is_not_fetched(from_the_hub, asked):
    with pytest.raises(ModelError, match="nothing was fetched") as caught:
        FideDiff.load(from_the_hub)
    assert "--allow-download" in caught.value.cure
    assert asked == []


def restore(folder, tmp_path, *options):
    from fidediff_model.cli import main

    words = ["restore", tmp_path / "a.png", "--model", folder, "--out", tmp_path / "out"]
    words += ["--timestep", 100]
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), *options])
    return ended.value.code


def test_restore_fetches_nothing_without_leave(from_the_hub, asked, tmp_path, capsys):
    assert restore(from_the_hub, tmp_path) == 2
    assert "--allow-download" in capsys.readouterr().err
    assert asked == []


def test_restore_fetches_with_leave(from_the_hub, asked, tmp_path):
    restore(from_the_hub, tmp_path, "--allow-download")
    assert asked == ["evil/base"]


@pytest.mark.parametrize(("answer", "fetched"), [("y\n", ["evil/base"]), ("n\n", [])])
def test_a_person_at_a_terminal_is_asked(
    from_the_hub, asked, tmp_path, capsys, monkeypatch, answer, fetched
):
    from io import StringIO

    terminal = StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    restore(from_the_hub, tmp_path)
    assert "fetch the base weights evil/base" in capsys.readouterr().err
    assert asked == fetched


# Weights that are no numbers


def test_weights_with_nan_are_refused_by_name(places, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(places, tmp_path / "copy") / "run/model"
    file = copy / "base/prompt.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(file).items()}, file)
    with pytest.raises(WeightsError, match="not numbers"):
        FideDiff.load(copy)
