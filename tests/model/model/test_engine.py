"""Device, type and threads of a model at work; GPUs are doubles where a test needs one."""

import os
from contextlib import nullcontext

import joblib
import pytest
import torch
from small_model import cli

from fidediff_model.doctor import precisions
from fidediff_model.model.engine import NARROW, choose_dtype, choose_threads
from fidediff_model.training.processes import resolve_precision
from trajectory_builder.errors import UsageError

GPU = torch.device("cuda")


@pytest.fixture
def emulating_gpu(monkeypatch):
    """A card such as the T4, which has no bf16 and emulates it when asked."""

    def is_supported(including_emulation=True):
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)


def test_auto_restores_in_fp32_where_bf16_is_emulated(emulating_gpu, caplog):
    assert choose_dtype("auto", GPU) == torch.float32
    assert "only emulates bf16" in caplog.text
    assert "--dtype fp16" in caplog.text


def test_auto_trains_in_fp32_where_bf16_is_emulated(emulating_gpu, caplog):
    assert resolve_precision("auto") == "fp32"
    assert "training in fp16 is not offered" in caplog.text


def test_training_in_emulated_bf16_is_refused(emulating_gpu):
    with pytest.raises(UsageError, match="this GPU has none"):
        resolve_precision("bf16")


def test_doctor_says_why_a_card_trains_in_fp32():
    assert precisions(bf16=True) == "bf16, fp32"
    assert "emulates bf16" in precisions(bf16=False)


@pytest.fixture
def threads(monkeypatch):
    """No wish of the user's; the number of threads is set back at the end."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", [NARROW - 1, NARROW])
def test_a_narrow_model_takes_one_thread_and_any_other_all_cores(threads, width):
    torch.set_num_threads(3)
    choose_threads(width)
    cores = joblib.cpu_count(only_physical_cores=True)
    assert torch.get_num_threads() == (1 if width < NARROW else cores)


def test_the_users_number_of_threads_stays(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    choose_threads(1)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("before", "after"), [("", "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_a_command_lets_waiting_threads_sleep(monkeypatch, before, after):
    monkeypatch.setenv("OMP_WAIT_POLICY", before)
    if not before:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert cli("--version") == 0
    assert os.environ["OMP_WAIT_POLICY"] == after
