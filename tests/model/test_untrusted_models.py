"""Models and inputs of strangers: nothing hangs, nothing grows, every refusal is in words."""

import json
import os
import shutil
import struct

import pytest
from PIL import Image
from small_model import cli, folder_of

from fidediff_model.errors import WeightsError
from fidediff_model.restore.records import RECORD_FILE, read_records
from fidediff_model.weights.vgg import load_vgg16

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def model(tmp_path):
    """A copy of the tiny model, which a test may spoil."""
    return shutil.copytree(folder_of(), tmp_path / "model")


def restore(model, tmp_path, capsys):
    """Restore one picture: the exit code, and what was said on stderr."""
    Image.new("RGB", (32, 24), (90, 120, 40)).save(tmp_path / "a.png")
    code = cli("restore", tmp_path / "a.png", "--model", model, "--out", tmp_path / "out",
               "--device", "cpu")  # fmt: skip
    return code, capsys.readouterr().err


def pipe_in_place_of(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize(
    "name",
    ["config.json", "base/pytorch_lora_weights.safetensors", "base/prompt.safetensors",
     "kernel_estimator/model.safetensors", "control/model.safetensors",
     "timestep_regressor/model.safetensors"],
)  # fmt: skip
def test_a_pipe_in_a_model_folder_is_one_error(model, tmp_path, capsys, name):
    pipe_in_place_of(model / name)
    code, said = restore(model, tmp_path, capsys)
    assert code in (1, 2)
    assert "cure:" in said
    assert "has a bug" not in said


def test_a_pipe_as_input_is_one_error(tmp_path, capsys):
    pipe_in_place_of(tmp_path / "b.png")
    code = cli("restore", tmp_path / "b.png", "--model", folder_of(), "--out", tmp_path / "out")
    assert code in (1, 2)
    assert "has a bug" not in capsys.readouterr().err


def test_a_pipe_in_place_of_the_record_is_no_record(tmp_path):
    pipe_in_place_of(tmp_path / RECORD_FILE)
    assert read_records(tmp_path) == {}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pipe_in_place_of_a_backbone_is_one_error(tmp_path, suffix):
    pipe_in_place_of(tmp_path / f"vgg{suffix}")
    with pytest.raises(WeightsError, match="regular file"):
        load_vgg16(tmp_path / f"vgg{suffix}")


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"kernel": {"channels": [1_000_000, 1_000_000]}}},
        {"config": {"kernel": {"channels": [-8, 16]}}},
        {"config": {"lora": {"rank": 100_000_000}}},
        {"config": {"base": {"unet_channels": [0, 0, 0, 0]}}},
        {"config": {"base": {"prompt_tokens": 1e9}}},
        {"config": {"control": {"channels": float("nan")}}},
        {"parts": [["kernel_estimator"]]},
        {"parts": [None, {}]},
        {"base_model": "random:" + "9" * 24},
        {"base_model": "x" * 100_000},
        {"base_model": ""},
        {"version": [1]},
        {"card": 7},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_an_absurd_config_is_one_error_or_no_matter(model, tmp_path, capsys, change):
    file = model / "config.json"
    values = json.loads(file.read_text())
    for key, value in change.items():
        if key == "config":
            for group, settings in value.items():
                values["config"][group] |= settings
        else:
            values[key] = value
    file.write_text(json.dumps(values))
    code, said = restore(model, tmp_path, capsys)
    assert "has a bug" not in said
    assert len(said) < 20_000
    assert code in (0, 1, 2)
    assert code == 0 or "cure:" in said


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "9" * 6000, "\xff\xfe", ""])
def test_a_config_that_is_no_json_is_one_error(model, tmp_path, capsys, text):
    (model / "config.json").write_bytes(text.encode("latin-1"))
    code, said = restore(model, tmp_path, capsys)
    assert code == 2
    assert "is not a FideDiff model folder" in said or "another kind" in said


def header(**entry):
    """A safetensors file of a header alone."""
    text = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        header(dtype="F32", shape=[2**40, 2**40], data_offsets=[0, 4]),
        header(dtype="F32", shape=[-1], data_offsets=[0, 4]),
        header(dtype="F32", shape=[2**31], data_offsets=[0, 2**33]),
        header(dtype="I64", shape=[0], data_offsets=[0, 0]),
        struct.pack("<Q", 5000) + b"[" * 5000,
        b"",
    ],
    ids=["2^63", "2^40", "overflow", "negative", "beyond the file", "empty", "nested", "nothing"],
)
def test_an_absurd_safetensors_header_is_one_error(model, tmp_path, capsys, content):
    (model / "kernel_estimator/model.safetensors").write_bytes(content)
    code, said = restore(model, tmp_path, capsys)
    assert code in (1, 2)
    assert "kernel_estimator" in said
    assert "cure:" in said
    assert "has a bug" not in said
