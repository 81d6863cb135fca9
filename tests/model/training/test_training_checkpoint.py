"""Checkpoints, moving averages and the log: what a resume relies on."""

import json
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fidediff_model.errors import TrainingError
from fidediff_model.training import checkpoint
from fidediff_model.training.checkpoint import Progress, Resumable
from fidediff_model.training.log import RunLog, Sums
from fidediff_model.training.optim import Ema


def _resumable(seed=0):
    torch.manual_seed(seed)
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tensors = {"trained": dict(layer.named_parameters())}
    return Resumable(tensors, {"model": optimizer})


def _save(folder, step, keep=3):
    states = [checkpoint.generator_states()]
    written = checkpoint.write(folder, Progress(step), _resumable(step), states)
    return checkpoint.publish(written, step, keep=keep)


def test_loading_brings_back_weights_and_moments(tmp_path):
    path = _save(tmp_path, 1)
    other = _resumable(5)
    checkpoint.load(path, other, rank=0)
    saved = _resumable(1)
    for name, tensor in saved.tensors["trained"].items():
        assert torch.equal(tensor, other.tensors["trained"][name])
    left, right = (r.optimizers["model"].state_dict()["state"] for r in (saved, other))
    assert torch.equal(left[0]["exp_avg_sq"], right[0]["exp_avg_sq"])


def test_loading_brings_back_the_state_of_torchs_generator(tmp_path):
    path = _save(tmp_path, 1)
    expected = torch.rand(3)
    checkpoint.load(path, _resumable(1), rank=0)
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_holds_no_pickle(tmp_path):
    path = _save(tmp_path, 1)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}


def test_a_written_checkpoint_is_none_before_it_is_published(tmp_path):
    written = checkpoint.write(
        tmp_path, Progress(1), _resumable(1), [checkpoint.generator_states()]
    )
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path) != checkpoint.publish(written, 1, keep=3)
    assert checkpoint.newest(tmp_path).name == "step-000001"


def test_streamed_tensors_are_what_the_library_reads(tmp_path):
    tensors = {
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "half": torch.rand(3, 5).to(torch.bfloat16),
        "turned": torch.rand(4, 6).t(),
        "empty": torch.zeros(0, 3),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    checkpoint._save_tensors(tmp_path / "a.safetensors", tensors)
    stored = load_file(tmp_path / "a.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def test_only_the_newest_k_checkpoints_stay(tmp_path):
    for step in (9, 10, 11, 12):
        _save(tmp_path, step, keep=2)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000011", "step-000012"]


def _truncate(path):
    payload = (path / "trained.safetensors").read_bytes()
    (path / "trained.safetensors").write_bytes(payload[:-1])


def _flip(path):
    payload = bytearray((path / "trained.safetensors").read_bytes())
    payload[-1] ^= 1
    (path / "trained.safetensors").write_bytes(payload)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip,
        lambda path: (path / "whole.json").unlink(),
        lambda path: (path / "whole.json").write_text("{"),
        lambda path: (path / "optimizer-model.json").unlink(),
    ],
    ids=["truncated", "one bit", "no marker", "half a marker", "a file gone"],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    whole, broken = _save(tmp_path, 1), _save(tmp_path, 2)
    damage(broken)
    assert checkpoint.newest(tmp_path) == whole


def test_a_checkpoint_without_its_final_name_is_never_taken(tmp_path):
    path = _save(tmp_path, 1)
    shutil.move(path, path.with_name(".tmp-1-abcd"))
    assert checkpoint.newest(tmp_path) is None


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    good = _save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(TrainingError) as told:
            _save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room" in told.value.cure
    assert checkpoint.newest(tmp_path) == good
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_checkpoint_of_another_structure_is_refused(tmp_path):
    path = _save(tmp_path, 1)
    other = Resumable({"trained": {"weight": torch.zeros(5)}}, {})
    with pytest.raises(TrainingError, match="another structure"):
        checkpoint.load(path, other, rank=0)


def test_averages_follow_the_written_formula():
    parameter = nn.Parameter(torch.tensor([1.0]))
    ema, expected = Ema({"w": parameter}, 0.5), 1.0
    for step, value in enumerate((2.0, -3.0, 4.0), start=1):
        parameter.data = torch.tensor([value])
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(ema.averages["w"]) == pytest.approx(expected, rel=1e-6)


def test_swapping_averages_in_and_out_keeps_every_bit():
    parameter = nn.Parameter(torch.rand(7))
    before = parameter.detach().clone()
    ema = Ema({"w": parameter}, 0.9)
    ema.averages["w"].zero_()
    with ema.swapped_in(), ema.swapped_in():
        assert not parameter.any()
    assert torch.equal(parameter, before)


def test_resuming_drops_the_lines_after_the_checkpoint(tmp_path):
    log = RunLog(tmp_path, steps=9, done=0, log_bytes=0, tensorboard=False)
    log.write(1, "train", {"loss": 0.5})
    kept = log.size()
    log.write(2, "train", {"loss": 0.4})
    log.close()
    RunLog(tmp_path, steps=9, done=1, log_bytes=kept, tensorboard=False).close()
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]


def _measures(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_means_of_the_log_start_anew_after_each_line():
    sums = Sums()
    sums.add(1, _measures(loss=1.0), ["a"])
    sums.add(2, _measures(loss=3.0, late=5.0), ["b"])
    assert sums.means() == {"loss": 2.0, "late": 5.0}
    sums.add(3, _measures(loss=7.0), ["c"])
    assert sums.means() == {"loss": 7.0}


def test_sums_survive_a_checkpoint():
    sums = Sums()
    sums.add(1, _measures(loss=1.0), ["a"])
    stored = json.loads(json.dumps(sums.read()))
    again = Sums(stored)
    again.add(2, _measures(loss=2.0), ["b"])
    assert again.means() == {"loss": 1.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measure_that_is_not_finite_names_its_step_and_pairs(value):
    sums = Sums()
    sums.add(6, _measures(loss=1.0), ["a"])
    sums.add(7, _measures(loss=value), ["b", "c"])
    with pytest.raises(TrainingError, match="the loss of step 7") as caught:
        sums.read()
    assert caught.value.where == "pairs b, c"
