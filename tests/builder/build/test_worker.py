"""What a worker is: set up once, light to start, at work for a whole build and gone after it."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from trajectory_builder.build import workers

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import small_gopro

FAULTS = """
import resource, sys
import numpy as np
from trajectory_builder.build import workers

if sys.argv[1] == "set up":
    workers.set_up()
for round in range(21):
    if round == 1:  # the first round's memory is new to either
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones((720, 1280, 3), np.uint8) for _ in range(12)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap can be told so")
def test_a_set_up_worker_is_not_given_new_pages_for_each_image() -> None:
    # 20 rounds of 12 frames are 162,000 pages of 4 KiB, or 324 huge ones.
    assert page_faults("set up") * 4 < page_faults("plain")


def test_opencv_has_one_thread_in_a_set_up_worker() -> None:
    told = "import cv2; from trajectory_builder.build import workers; workers.set_up()"
    code = f"{told}; print(cv2.getNumThreads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) == 1


def process_id(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_the_same_workers_serve_one_job_after_another() -> None:
    first, second = (
        set(workers.each(process_id, [0.2] * 4, jobs=2, keep_workers=True)) for _ in range(2)
    )
    assert len(first) == 2
    assert second == first
    workers.end_workers()


def is_at_work(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_end_even_where_one_of_them_can_no_longer_be_asked(blow: signal.Signals) -> None:
    there = set(workers.each(process_id, [0.2] * 4, jobs=2, keep_workers=True))
    os.kill(min(there), blow)
    # In a thread: asked to end, the other would wait for a lock that the first holds.
    ending = threading.Thread(target=workers.end_workers, daemon=True)
    ending.start()
    ending.join(timeout=20)
    assert not ending.is_alive()
    assert not [pid for pid in there if is_at_work(pid)]


def test_no_thread_of_the_workers_goes_on_when_they_have_ended() -> None:
    # It gives semaphores back, and a program that ends before would have them reported as leaked.
    for _ in range(3):
        list(workers.each(process_id, [0.01] * 4, jobs=2))
        assert "QueueFeederThread" not in [thread.name for thread in threading.enumerate()]


def test_a_worker_of_expand_imports_neither_tables_nor_footage() -> None:
    told = "import sys; from trajectory_builder.build import alignment_worker, retry"
    code = f"{told}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = set(done.stdout.split())
    assert "trajectory_builder.build.shard" in loaded
    assert not loaded & {"pyarrow", "pandas", "trajectory_builder.build.footage_shard", "skimage"}


BUILD = """
import os, sys
from pathlib import Path
import kill_fuzz
from trajectory_builder.build import alignment, run
from trajectory_builder.plan import gopro, recipe

source, out = map(Path, sys.argv[1:3])
chosen = gopro.plan_gopro(source, recipe.load_recipe("fidediff-7877"))
chosen = alignment.settle(chosen, out, level="full", jobs=2, plan_again=lambda corrections: chosen)
print(len(kill_fuzz.loky_workers(os.getpid())))
run.build_plan(chosen, out, run.BuildOptions(jobs=2, backend=sys.argv[3], progress=False))
print(len(kill_fuzz.loky_workers(os.getpid())))
"""


def told_by(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a program tells that is given a small source and an output folder."""
    source, _ = small_gopro.make(folder, {"train/GOPR0001_11_00": 16})
    words = [sys.executable, "-c", program, str(source), str(folder / "out"), *arguments]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(words, capture_output=True, check=True, text=True, env=os.environ | path)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_end_with_the_build_and_not_with_the_program(tmp_path: Path, backend: str) -> None:
    assert told_by(BUILD, tmp_path, backend).stdout.split() == ["2", "0"]


REFUSED = """
import os, sys
import kill_fuzz
from filelock import FileLock
from trajectory_builder.cli import main

source, out = sys.argv[1:3]
os.makedirs(f"{out}/.trajbuild")
with FileLock(f"{out}/.trajbuild/lock"):
    try:
        main(["expand", "--src", source, "--out", out, "--jobs", "2", "--check", "full"])
    except SystemExit as end:
        print(end.code, len(kill_fuzz.loky_workers(os.getpid())))
"""


def test_workers_of_the_check_end_where_the_build_is_refused(tmp_path: Path) -> None:
    done = told_by(REFUSED, tmp_path)
    assert "another builder is at work in this folder" in done.stderr
    assert done.stdout.split() == ["1", "0"]
