"""`fidediff train base --from small`: the shipped model, trained on with one's own blurs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import IMAGES, make_data

from fidediff_model.errors import ModelError
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.training import base
from fidediff_model.training.request import Request
from fidediff_model.weights import shipped
from trajectory_builder.errors import UsageError

LORA = "base/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=2)


def on_small(run_dir, data, **changes):
    settings = {**IMAGES, "precision": "fp32", **changes.pop("settings", {})}
    start = Path(changes.pop("start", "small"))
    return Request(run_dir, data, start=start, settings=settings, **changes)


def test_it_begins_where_small_ends_and_keeps_its_other_parts(tmp_path, data):
    base.train(on_small(tmp_path / "run", data, settings={"learning_rate": 1e-12}))
    trained, small = FideDiff.load(tmp_path / "run/model"), FideDiff.load(shipped.model_folder())
    assert trained.parts == small.parts == ["kernel_estimator", "timestep_regressor"]
    blur = torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(trained(blur).image, small(blur).image, atol=1e-5)


def test_its_lora_learns_and_a_second_run_goes_on_from_the_first(tmp_path, data):
    base.train(on_small(tmp_path / "first", data))
    base.train(on_small(tmp_path / "second", data, start=tmp_path / "first"))
    files = [shipped.model_folder() / LORA, tmp_path / "first/model" / LORA]
    small, first = map(load_file, files)
    second = load_file(tmp_path / "second/model" / LORA)
    assert any(not torch.equal(small[name].float(), first[name].float()) for name in small)
    # Two steps of a warmed-up AdamW move a weight by about two learning rates.
    moved = [max(float((b[k].float() - a[k].float()).abs().max()) for k in a)
             for a, b in ((small, first), (first, second), (small, second))]  # fmt: skip
    assert moved[1] < 1.5 * moved[0]
    assert moved[2] > moved[0]


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"preset": "sd21"}, UsageError, "preset small, not sd21"),
        ({"base_model": "random:0"}, ModelError, "over other base weights"),
        ({"model": {"lora.rank": 32}}, UsageError, "lora.rank"),
        ({"model": {"base.latent_channels": 4}}, UsageError, "base.latent_channels"),
        ({"start": "nowhere"}, UsageError, "there is no model"),
    ],
)
def test_what_does_not_fit_small_is_refused(tmp_path, data, changes, error, what):
    with pytest.raises(error, match=what) as caught:
        base.train(on_small(tmp_path / "run", data, **changes))
    assert caught.value.where
    assert caught.value.cure
    assert not (tmp_path / "run/model").exists()
