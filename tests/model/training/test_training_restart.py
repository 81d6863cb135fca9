"""Runs that are killed, stopped or shared between processes, as real processes."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from training_runs import SPAWNED, command, files_of, make_data, spawn, spawn_two

PATIENCE = 900  # seconds for a process on a busy machine


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), train=5, held_out=2)


@pytest.fixture(autouse=True)
def _leave_no_process_behind():
    yield
    for process in SPAWNED:
        process.kill()
        process.communicate()
    SPAWNED.clear()


def _wait_for(path, process):
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


def _finish(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_kills_change_no_bit_of_weights_optimizer_averages_random_state_and_log(
    tmp_path, data
):
    settings = {"steps": 7, "gan_weight": 0.5, "validate_every": 3, "log_every": 2}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    one = spawn(command(straight, data, **settings))
    for step in (1, 3, 5):
        process = spawn(command(killed, data, **settings))
        _wait_for(killed / f"checkpoints/step-{step:06d}", process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    _finish(spawn(command(killed, data, **settings)))
    _finish(one)
    left, right = (files_of(f / "checkpoints/step-000007") for f in (straight, killed))
    assert {"trained.safetensors", "ema.safetensors", "optimizer-model.safetensors"} <= left.keys()
    assert {"discriminator.safetensors", "random-0.safetensors", "state.json"} <= left.keys()
    assert left == right
    assert (straight / "log.jsonl").read_bytes() == (killed / "log.jsonl").read_bytes()
    # Of model/ the tensors: safetensors writes the entries of a header in no fixed order.
    for path in (straight / "model").rglob("*.safetensors"):
        one, other = load_file(path), load_file(killed / path.relative_to(straight))
        assert all(torch.equal(one[name], other[name]) for name in one | other)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_terminated_run_saves_the_step_it_is_at(tmp_path, data, workers):
    settings = {"steps": 10_000, "save_every": 10_000, "workers": workers}
    process = spawn(command(tmp_path / "run", data, **settings))
    _wait_for(tmp_path / "run/speed.jsonl", process)
    # As `timeout` and cluster schedulers do: to the readers of crops as well.
    os.killpg(process.pid, signal.SIGTERM)
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, message
    assert "Traceback" not in message
    assert "SIGTERM: saving after step" in message
    assert [p.name for p in (tmp_path / "run/checkpoints").glob("step-*/whole.json")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_have_the_gradients_of_one_with_the_doubled_batch(tmp_path, data):
    # The one process takes its doubled batch in pieces of the same size: two images at once round
    # otherwise than one after the other, 6e-5 of the largest here without any second process.
    settings = {"steps": 1, "gan_weight": 0.5, "clip": 1e9, "batch": 1}
    for process in spawn_two(command(tmp_path / "two", data, **settings, accumulate=2)):
        _finish(process)
    _finish(spawn(command(tmp_path / "one", data, **settings, accumulate=4)))
    for name in ("model", "discriminator"):
        # After the first step AdamW's first moment is a tenth of the gradient.
        file = f"checkpoints/step-000001/optimizer-{name}.safetensors"
        one, two = load_file(tmp_path / "one" / file), load_file(tmp_path / "two" / file)
        moments = [key for key in one if key.endswith("exp_avg")]
        largest = max(float(one[key].abs().max()) for key in moments)
        assert largest > 0
        for key in moments:
            assert float((one[key] - two[key]).abs().max()) <= 1e-6 * largest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_process_ends_the_others_with_a_word(tmp_path, data):
    first, second = spawn_two(command(tmp_path / "run", data, steps=100_000, save_every=100_000))
    _wait_for(tmp_path / "run/speed.jsonl", first)
    second.send_signal(signal.SIGKILL)
    _, message = first.communicate(timeout=PATIENCE)
    assert first.returncode == 1
    assert "error: another process of this run ended" in message
