"""The tie between a worker process and the builder that started it.

A module of its own that imports nothing heavy: a worker loads it first, so that it ends with its
builder even while it still imports the rest.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

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
