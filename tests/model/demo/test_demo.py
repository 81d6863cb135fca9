"""`fidediff demo` and `fidediff doctor`, as a user calls them."""

import json
import subprocess
import sys

import cv2
import pytest
import torch
from click.testing import CliRunner
from training_runs import make_data

from fidediff_model.cli import fidediff
from fidediff_model.demo import practice
from fidediff_model.model import presets
from fidediff_model.weights.sd21 import load_base
from trajectory_builder.images.pictures import read_rgb8


@pytest.mark.slow
def test_the_demo_leaves_a_picture_and_says_what_to_open(tmp_path):
    words = [sys.executable, "-m", "fidediff_model.cli", "demo", "--scale", "0.01"]
    done = subprocess.run(
        [*words, "--out", str(tmp_path / "demo")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "demo/before_after.png"
    assert f"open   {picture}" in done.stdout
    assert "by small" in done.stdout
    assert done.stdout.count("  step ") == 2
    assert cv2.imread(str(picture)).shape[0] > 3 * 192


def test_doctor_names_versions_and_where_vgg16_comes_from():
    done = CliRunner().invoke(fidediff, ["doctor", "--json"])
    found = {one["name"]: one["value"] for one in json.loads(done.output)["findings"]}
    # The wheel of a CUDA build names CUDA inside torch alone, not in its metadata.
    assert found["torch"] in (torch.__version__, torch.__version__.partition("+")[0])
    assert "vgg16-397923af.pth" in found["vgg16"]


def test_doctor_ends_with_1_when_the_vgg16_file_is_another(tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"not a network")
    words = [sys.executable, "-m", "fidediff_model.cli", "doctor", "--vgg16"]
    done = subprocess.run(
        [*words, str(tmp_path / "vgg.pth")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cure:" in done.stdout


def test_a_practice_base_is_a_base_model_that_can_be_loaded(tmp_path):
    data = make_data(tmp_path / "data", size=(64, 72))
    base = presets.preset("tiny").base
    practice.make(data, tmp_path / "base", base, vae_steps=2, unet_steps=2, say=lambda line: None)
    weights = load_base(tmp_path / "base", base, prompt_start="normal")
    assert weights.vae.config.scaling_factor != pytest.approx(0.18215)
    assert read_rgb8(next(data.glob("train/sharp/*/*.png"))).shape == (64, 72, 3)


WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from fidediff_model.cli import main; main()"
)
COMMANDS = (
    "demo --out D", "restore a.png --model M --out D", "evaluate --model M --data D --out S",
    "scan --model M --data D --out S", "benchmark --preset tiny", "train base --run-dir R",
)  # fmt: skip
# One process for all commands: starting one each would take most of the time.
EACH_WITHOUT_TORCH = """
import contextlib, io, json, sys
sys.modules["torch"] = None
from fidediff_model.cli import main
ended = {}
for line in sys.argv[1:]:
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            main(line.split())
        except SystemExit as end:
            ended[line] = [int(end.code), stderr.getvalue()]
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended_without_torch(tmp_path_factory):
    """Command -> (exit code, stderr), and the folder in which they ran."""
    folder = tmp_path_factory.mktemp("empty")
    words = [sys.executable, "-c", EACH_WITHOUT_TORCH, *COMMANDS]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), folder


@pytest.mark.parametrize("command", COMMANDS)
def test_without_torch_a_command_says_what_to_install(ended_without_torch, command):
    code, stderr = ended_without_torch[0][command]
    assert code == 2, stderr
    assert stderr.splitlines()[0] == "error: torch is not installed"
    assert 'cure:  pip install "fidediff[model]"' in stderr


def test_without_torch_no_command_writes_anything(ended_without_torch):
    assert list(ended_without_torch[1].iterdir()) == []


def test_doctor_without_torch_lists_what_is_missing(tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    told = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert {"python", "torch", "diffusers", "cpu", "memory", "vgg16"} <= told.keys()
    assert "torch" in told["vgg16"]["value"]


def test_mistyped_command_suggests_the_nearest():
    words = [sys.executable, "-m", "fidediff_model.cli", "trian"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command 'trian'. Did you mean train?" in done.stderr
