"""Commands of the model on a full disk: one error that names the place, nothing half-written."""

import os
import subprocess

import numpy as np
import pytest
from PIL import Image
from small_model import cli, folder_of, loaded


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 KiB, three quarters of them taken; skips where it cannot be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a disk needs root")
    (place / "ballast").write_bytes(bytes(48 << 10))
    yield place
    subprocess.run(["umount", str(place)], check=True)


def one_error(code, said, place):
    assert code == 1
    assert "has a bug" not in said
    assert said.count("error: ") == 1
    assert str(place) in said.split("where:")[1]
    assert "cure:" in said
    assert [path.name for path in place.rglob(".tmp-*")] == []


@pytest.fixture
def noise(tmp_path):
    """A picture and its blur, too large for the disk."""
    random = np.random.default_rng(0)
    for name in ("blur", "sharp"):
        (tmp_path / name).mkdir()
        values = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / name / "a.png")
    return tmp_path


def test_restore(noise, disk, capsys):
    code = cli(
        "restore",
        noise / "blur",
        "--model",
        folder_of(),
        "--out",
        disk / "out",
        "--strength",
        "0",
        "--timestep",
        "100",
        "--control",
        "none",
        "--device",
        "cpu",
    )
    one_error(code, capsys.readouterr().err, disk)  # fmt: skip


def test_evaluate(noise, disk, capsys):
    code = cli(
        "evaluate",
        "--data",
        noise / "blur",
        "--data",
        noise / "sharp",
        "--baseline",
        "blurry",
        "--metrics",
        "psnr,ssim",
        "--out",
        disk / "out",
    )
    one_error(code, capsys.readouterr().err, disk)  # fmt: skip


def test_a_model_that_does_not_fit_leaves_nothing(disk):
    with pytest.raises(OSError, match="No space left on device") as caught:
        loaded().save(disk / "model")
    assert str(disk) in str(caught.value)
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_an_output_that_is_a_file_is_one_error(noise, capsys):
    (noise / "file").write_text("x")
    code = cli("restore", noise / "blur", "--model", folder_of(), "--out", noise / "file",
               "--device", "cpu")  # fmt: skip
    said = capsys.readouterr().err
    assert code in (1, 2)
    assert "has a bug" not in said
    assert os.path.isfile(noise / "file")
