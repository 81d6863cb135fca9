"""What a run says on the terminal while it trains."""

import os
import pty
import re
import signal
import sys
import termios
import threading
import time
from contextlib import suppress

import pytest
from training_runs import make_data, request

from fidediff_model.training import base
from fidediff_model.training.log import RunLog


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def test_the_bar_shows_steps_remaining_time_loss_and_the_next_validation(tmp_path, monkeypatch):
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    with open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        log = RunLog(tmp_path, steps=4, done=1, log_bytes=0, tensorboard=False)
        log.show(next_validation="4")
        log.write(2, "train", {"loss": 0.25, "grad_norm": 3.0})
        time.sleep(0.3)  # longer than the bar's pause between two drawings
        log.advance()
        log.close()
    written = b""
    with suppress(OSError):  # the other end is closed
        while block := os.read(master, 4096):
            written += block
    os.close(master)
    text = written.decode()
    assert "2/4" in text
    assert re.search(r"\d\d:\d\d<\d\d:\d\d", text)  # elapsed<remaining
    assert re.search(r"step/s|s/step", text)
    assert "next_validation=4, loss=0.25" in text


def test_a_resumed_run_says_from_which_step(tmp_path, data, capsys):
    base.train(request(tmp_path / "run", data, steps=1))
    assert "resuming" not in capsys.readouterr().err
    base.train(request(tmp_path / "run", resume=True, steps=2))
    assert "resuming after step 1 of 2" in capsys.readouterr().err


def test_ctrl_c_says_at_once_that_the_step_will_be_saved(tmp_path, data, capfd):
    def interrupt():
        while not (tmp_path / "run/speed.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    asked = request(tmp_path / "run", data, steps=10_000, save_every=10_000)
    with pytest.raises(KeyboardInterrupt):
        base.train(asked)
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("step-*/whole.json")
    step = int(checkpoint.parent.name.removeprefix("step-"))
    assert f"SIGINT: saving after step {step:,}; once more ends at once" in capfd.readouterr().err
