"""The tie between a worker process and the builder that started it.

A module of its own that imports nothing heavy: a worker loads it first, so that it ends with its
builder even while it still imports the rest.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process when its parent dies (Linux); leave Ctrl-C to the parent.

    Without it loky's workers outlive a killed parent, finish their queue and write into a folder
    that a resumed build may already be using (joblib/loky#360, joblib/joblib#881).

    Args:
        parent: its process id; if it is gone already, this process ends at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Start workers that never see Ctrl-C, which a terminal sends to all: the builder ends them.

    A process inherits the mask of blocked signals; one that came in meanwhile is met afterwards.
    """
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as loky_tracker

    # The first worker would start these two, and starting them lifts the mask (Python 3.11).
    resource_tracker.ensure_running()
    loky_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
