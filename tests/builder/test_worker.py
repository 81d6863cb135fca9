"""What a worker does once: one OpenCV thread, freed memory kept, and it serves the whole build."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import pytest

from trajectory_builder import backends

FAULTS = """
import resource, sys
import numpy as np
from trajectory_builder import worker

if sys.argv[1] == "set up":
    worker.set_up()
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
    told = "import cv2; from trajectory_builder import worker; worker.set_up()"
    code = f"{told}; print(cv2.getNumThreads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) == 1


def process_id(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_the_same_workers_serve_one_job_after_another() -> None:
    first, second = (set(backends.each(process_id, [0.2] * 4, jobs=2)) for _ in range(2))
    assert len(first) == 2
    assert second == first
