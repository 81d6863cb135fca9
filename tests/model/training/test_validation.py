"""Validation: scores and panels of held-out crops against computations by hand, and what they
decide."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio
from training_runs import CROP, make_data, request

from fidediff_model.data.batches import collate, to_device
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.scores.metrics import as_uint8
from fidediff_model.training import base, control, kernel
from fidediff_model.training.datasets import open_datasets
from fidediff_model.training.settings import TrainSettings
from fidediff_model.training.validation import BY_LPIPS, BY_PSNR
from trajectory_builder import manifest

SCORED = {"validate_every": 2, "validation_trajectories": 1, "steps": 2, "ema": 0.5}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), held_out=1)


@pytest.fixture(scope="module")
def held_out(data):
    """The points of the only held-out trajectory."""
    settings = TrainSettings(crop=CROP, workers=0, batch=2)
    _, validation = open_datasets(manifest.read(data), settings)
    return to_device(collate([validation[0]]), "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    home = tmp_path_factory.mktemp("runs")
    rate = {"learning_rate": 1e-2}
    base.train(request(home / "base", data, **SCORED, **rate))
    kernel.train(
        request(home / "kernel", data, stage="kernel", start=home / "base", **SCORED, **rate)
    )
    control.train(
        request(home / "control", data, stage="control", start=home / "kernel", **SCORED, **rate)
    )
    return home


def scores(run_dir):
    lines = map(json.loads, (run_dir / "log.jsonl").read_text().splitlines())
    return next(line for line in lines if line["kind"] == "validation")


def mean_psnr(images, sharps):
    pairs = [
        (as_uint8(sharp), as_uint8(image)) for image, sharp in zip(images, sharps, strict=True)
    ]
    return np.mean([peak_signal_noise_ratio(sharp, image) for sharp, image in pairs])


def test_the_stage_base_is_scored_with_averaged_weights_and_the_given_t(runs, held_out):
    model = FideDiff.load(runs / "base/model-last")
    with torch.no_grad():
        image = model(held_out.blur, held_out.timestep).image
    found = scores(runs / "base")
    assert found["psnr"] == pytest.approx(mean_psnr(image, held_out.target), abs=1e-3)
    assert found["psnr_blur"] == pytest.approx(mean_psnr(held_out.blur, held_out.target), abs=1e-6)
    # Otherwise the averages could not be told from the last weights.
    folder = runs / "base/checkpoints/step-000002"
    live, averages = (
        load_file(folder / "trained.safetensors"),
        load_file(folder / "ema.safetensors"),
    )
    assert any(not torch.allclose(live[name], averages[name], atol=1e-4) for name in averages)


def test_the_stage_control_is_scored_with_the_estimated_t(runs, held_out):
    model = FideDiff.load(runs / "control/model-last")
    with torch.no_grad():
        restored = model(held_out.blur)
    found = scores(runs / "control")
    assert found["psnr"] == pytest.approx(mean_psnr(restored.image, held_out.target), abs=1e-3)
    error = float((restored.t_hat - held_out.timestep).abs().mean())
    assert found["t_error"] == pytest.approx(error, rel=1e-4)
    assert error > 1


def test_kernels_are_scored_beside_the_sharp_image_itself(runs, held_out):
    rim = (..., slice(CROP // 4, -(CROP // 4)), slice(CROP // 4, -(CROP // 4)))
    expected = float((held_out.target - held_out.blur)[rim].abs().mean())
    size = FideDiff.load(runs / "kernel/model").config.kernel.kernel_size
    assert size // 2 >= CROP // 4  # so that the rim is a quarter of each side
    assert scores(runs / "kernel")["reblur_identity"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("criterion", "better", "worse"),
    [(BY_PSNR, {"psnr": 30.0}, {"psnr": 29.0}), (BY_LPIPS, {"lpips": 0.1}, {"lpips": 0.2})],
)
def test_better_is_larger_psnr_and_smaller_lpips(criterion, better, worse):
    assert criterion.is_better(better, worse)
    assert not criterion.is_better(worse, better)
    assert criterion.is_better(worse, {})
