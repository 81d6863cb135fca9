"""How far a build is can be seen on a real terminal, shard by shard, and never goes back."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import psutil
from gopro_tree import wait_for

from trajectory_builder.disk.atomic import FAULT_VARIABLE, SIGNAL_VARIABLE

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import kill_fuzz
import small_gopro

CLIP = {"train/GOPR0001_11_00": 16}  # two shards


def command(source, out, *options):
    return [sys.executable, "-m", "trajectory_builder", "expand", "--src", str(source), "--out",
            str(out), *options]  # fmt: skip


class Terminal:
    """A command whose stderr is a terminal, and what it has written there so far.

    Each of its processes stands still when it comes to the step `stop_at`.
    """

    def __init__(self, arguments, stop_at):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=theirs,
            env=os.environ | {FAULT_VARIABLE: stop_at, SIGNAL_VARIABLE: "SIGSTOP"},
        )  # fmt: skip
        os.close(theirs)
        self.told = ""
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours):
        try:
            while piece := os.read(ours, 4096):
                self.told += piece.decode(errors="replace")
        except OSError:  # nobody has the terminal's other end any more
            os.close(ours)

    def wait_for_stopped_workers(self, count):
        """Its workers, once `count` of them stand still at the step that they were told of."""

        def stopped():
            assert self.process.poll() is None, f"has ended, and no worker stopped: {self.told}"
            workers = map(psutil.Process, kill_fuzz.loky_workers(self.process.pid))
            still = [worker for worker in workers if worker.status() == psutil.STATUS_STOPPED]
            return still if len(still) == count else None

        return wait_for(stopped)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()  # where a test failed; workers that stand still die with it

    def end(self):
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        return code


def counts(told, total):
    return [int(count) for count in re.findall(rf"(\d+)/{total} ", told)]


def test_a_terminal_sees_a_build_advance_shard_by_shard(tmp_path):
    source, _ = small_gopro.make(tmp_path, {"train/GOPR0001_11_00": 48})  # six shards
    order = command(source, tmp_path / "out", "--jobs", "2", "--check", "off")
    with Terminal(order, stop_at="before-marker:2") as terminal:
        workers = terminal.wait_for_stopped_workers(2)
        time.sleep(1.5)  # a shorter job shows nothing
        for worker in workers:
            worker.resume()
        assert terminal.end() == 0, terminal.told
    seen = counts(terminal.told, 6 * 32)
    assert seen == sorted(seen)
    assert {count % 32 for count in seen} == {0}
    assert len(set(seen)) > 1
    assert seen[-1] == 6 * 32


def test_a_check_of_all_pixels_shows_how_far_it_is(tmp_path):
    source, _ = small_gopro.make(tmp_path, CLIP)
    order = command(source, tmp_path / "out", "--jobs", "2", "--check", "full")
    with Terminal(order, stop_at="pair-checked:1") as terminal:
        workers = terminal.wait_for_stopped_workers(2)
        time.sleep(1.5)  # a shorter job shows nothing
        for worker in workers:
            worker.resume()
        assert terminal.end() == 0, terminal.told
    assert counts(terminal.told, 16)[-1] == 16
    assert "official pairs compared" in terminal.told
