"""The model that ships: whole, of its committed quality, used when no other is named."""

import json
import shutil

import numpy as np
import pytest
import torch

from fidediff_model.errors import ModelError
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.scores.metrics import as_uint8, psnr, to_tensor
from fidediff_model.weights import shipped
from trajectory_builder.sources.dead_leaves import draw_scene

# Scene, n, direction of the motion -> PSNR in dB, as committed with the weights.
COMMITTED = {
    (3, 7, (0, 1)): 30.535,
    (4, 11, (1, 0)): 25.198,
    (6, 11, (1, 0)): 26.714,
    (8, 9, (1, -1)): 26.035,
}
LARGEST_BYTES = 30_000_000


def crop(seed: int, n: int, direction: tuple[int, int]):
    """A scene that moves one pixel a frame, and its middle frame."""
    scene, (dy, dx) = draw_scene(seed, 160, 160), direction
    frames = [
        scene[16 + dy * k : 144 + dy * k, 16 + dx * k : 144 + dx * k]
        for k in range(-(n // 2), n // 2 + 1)
    ]
    blur = np.rint(np.mean(frames, axis=0)).astype(np.uint8)
    return blur, frames[n // 2]


@pytest.fixture(scope="module")
def model():
    return FideDiff.load(shipped.model_folder())


@pytest.mark.parametrize("case", list(COMMITTED))
def test_restorations_are_as_good_as_committed(model, case):
    seed, n, direction = case
    blur, sharp = crop(seed, n, direction)
    with torch.no_grad():
        image = model(to_tensor(blur)[None], 20.0 * (n - 1)).image
    restored = psnr(as_uint8(image[0].clamp(-1, 1)), sharp)
    assert restored >= COMMITTED[case] - 0.05
    assert restored > psnr(blur, sharp)


def test_it_is_loaded_by_its_name_unless_a_folder_here_has_it(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = FideDiff.load("small")
    assert named.base_fingerprint == model.base_fingerprint
    (tmp_path / "small").mkdir()
    with pytest.raises(ModelError):
        FideDiff.load("small")


def test_every_file_has_its_digest_and_all_fit_a_wheel():
    shipped.check(shipped.FOLDER)
    files = [p for p in shipped.FOLDER.rglob("*") if p.is_file()]
    listed = json.loads((shipped.FOLDER / shipped.DIGESTS).read_text())
    assert {p.relative_to(shipped.FOLDER).as_posix() for p in files} - {shipped.DIGESTS} == set(
        listed
    )
    assert sum(p.stat().st_size for p in files) < LARGEST_BYTES


@pytest.fixture
def copied(tmp_path, monkeypatch):
    shutil.copytree(shipped.FOLDER, tmp_path / "small")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "small")
    return tmp_path / "small"


def test_a_damaged_file_is_one_clear_error(copied):
    file = copied / "model/base/prompt.safetensors"
    payload = bytearray(file.read_bytes())
    payload[-1] ^= 1
    file.write_bytes(payload)
    with pytest.raises(ModelError, match="the model small is damaged") as caught:
        shipped.model_folder()
    assert caught.value.where == str(file)
    assert "pip install" in caught.value.cure


def test_a_model_of_another_version_is_one_clear_error(copied):
    file = copied / "model/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 99}))
    shipped.write_digests(copied)
    with pytest.raises(ModelError, match="format version 99"):
        FideDiff.load(shipped.model_folder())


def test_an_installation_without_the_model_is_one_clear_error(copied):
    shutil.rmtree(copied)
    with pytest.raises(ModelError, match="missing or incomplete"):
        shipped.base_folder()


def test_small_over_another_base_is_refused():
    with pytest.raises(ModelError, match="was trained over small"):
        FideDiff.load(shipped.model_folder(), base_model="random:0")
