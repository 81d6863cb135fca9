"""The backbone file: what is read, what is refused and with which words."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from fidediff_model.errors import WeightsError
from fidediff_model.weights import vgg as vgg_module
from fidediff_model.weights.alexnet import open_alexnet, random_alexnet
from fidediff_model.weights.vgg import convert, load_vgg16, open_vgg16, random_vgg16


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    """A file laid out as torchvision's: the convolutions, then a classifier that is not needed."""
    tensors = random_vgg16(seed=1).state_dict() | {"classifier.0.weight": torch.zeros(4, 4)}
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(tensors, path)
    return path


def _parts(error):
    return error.value.what, error.value.where, error.value.cure


def test_pth_file_gives_its_weights(pth):
    loaded = load_vgg16(pth).state_dict()
    expected = random_vgg16(seed=1).state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_converted_file_holds_the_26_tensors(pth, tmp_path):
    assert len(load_file(convert(pth, tmp_path / "vgg16.safetensors"))) == 26


def test_converted_file_gives_the_same_features(pth, tmp_path):
    image = torch.rand(1, 3, 16, 16)
    converted = load_vgg16(convert(pth, tmp_path / "vgg16.safetensors"))
    assert torch.equal(converted(image)[4], load_vgg16(pth)(image)[4])


def test_conversion_does_not_replace_an_existing_file(pth, tmp_path):
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(WeightsError, match="exists already"):
        convert(pth, target)
    assert target.read_bytes() == b"mine"


def test_conversion_leaves_nothing_but_its_file(pth, tmp_path):
    convert(pth, tmp_path / "vgg16.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["vgg16.safetensors"]


def test_missing_setting_names_the_loss_and_both_cures():
    with pytest.raises(WeightsError) as error:
        open_vgg16(None, needed_by="EA-LPIPS")
    what, where, cure = _parts(error)
    assert "EA-LPIPS" in what
    assert where == "--vgg16"
    assert "vgg16-397923af.pth" in cure
    assert "do without EA-LPIPS" in cure
    assert "--perceptual none" in cure


def test_absent_file_is_named(tmp_path):
    with pytest.raises(WeightsError) as error:
        open_vgg16(tmp_path / "no.pth", needed_by="LPIPS")
    assert str(tmp_path / "no.pth") in error.value.where


def test_file_of_another_network_is_refused(pth, tmp_path):
    tensors = torch.load(pth, weights_only=True)
    tensors["features.16.weight"] = torch.zeros(256, 256, 3, 3)  # VGG19 has a convolution there
    path = tmp_path / "vgg19.pth"
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=r"features\.16\.weight"):
        load_vgg16(path)


def test_file_with_a_tensor_missing_is_refused(tmp_path):
    tensors = random_vgg16(seed=1).state_dict()
    del tensors["features.28.bias"]
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match=r"features\.28\.bias"):
        load_vgg16(tmp_path / "cut.safetensors")


def test_file_with_a_value_that_is_no_number_is_refused(tmp_path):
    tensors = random_vgg16(seed=1).state_dict()
    tensors["features.5.bias"][3] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="not numbers"):
        load_vgg16(tmp_path / "nan.safetensors")


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_file_that_runs_code_is_refused_without_running_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": _Hostile()}, "hostile.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_vgg16(tmp_path / "hostile.pth")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02 not a network")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_vgg16(tmp_path / name)


def test_random_backbone_says_that_it_is_one():
    backbone = open_vgg16("random-for-tests", needed_by="LPIPS")
    assert "random weights for tests" in backbone.source


def test_random_backbone_is_the_same_each_time():
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(random_vgg16(seed=3)(image)[4], random_vgg16(seed=3)(image)[4])


def test_random_backbone_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    open_vgg16("random-for-tests", needed_by="LPIPS")
    # Building layers draws from the global generator; a library must not shift the user's.
    assert torch.equal(torch.rand(3), expected)


def test_download_takes_the_file_that_is_in_the_cache(pth, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    cached = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    cached.write_bytes(pth.read_bytes())
    assert open_vgg16("download", needed_by="LPIPS").source == str(cached)


def test_failed_download_names_the_address_and_a_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    # A port on which nothing listens: the real way of failing without a network.
    address = "http://127.0.0.1:9/vgg16-397923af.pth"
    monkeypatch.setattr(vgg_module, "FILE", replace(vgg_module.FILE, url=address))
    with pytest.raises(WeightsError) as error:
        open_vgg16("download", needed_by="LPIPS")
    assert error.value.where == address
    assert "--vgg16 FILE" in error.value.cure
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_perceptual_modules_do_not_import_torchmetrics():
    code = (
        "import sys; from fidediff_model.scores.perceptual import LPIPS, DISTS;"
        "from fidediff_model.weights.vgg import random_vgg16;"
        "v = random_vgg16(0); LPIPS(v); DISTS(v);"
        "sys.exit('torchmetrics' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_file_of_vgg16_given_as_alexnet_is_refused(pth):
    with pytest.raises(WeightsError, match="the file is not of AlexNet") as error:
        open_alexnet(pth, needed_by="LPIPS (Alex)")
    assert "alexnet-owt-7be5be79.pth" in error.value.cure


def test_alexnet_file_gives_its_weights(tmp_path):
    expected = random_alexnet(seed=1).state_dict()
    torch.save(expected | {"classifier.1.weight": torch.zeros(4, 4)}, tmp_path / "alexnet.pth")
    loaded = open_alexnet(tmp_path / "alexnet.pth", needed_by="LPIPS (Alex)").state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_missing_alexnet_file_names_its_own_option():
    with pytest.raises(WeightsError) as error:
        open_alexnet(None, needed_by="LPIPS (Alex)")
    what, where, cure = _parts(error)
    assert "LPIPS (Alex) needs the AlexNet backbone" in what
    assert where == "--alexnet"
    assert "--lpips-net vgg" in cure
