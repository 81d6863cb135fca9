"""Where shards run. Results lie on disk; only a few counts come back.

`loky` (processes) and `threading` go through joblib.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from trajectory_builder.shard import Made, Shard, make

BACKENDS = ("loky", "threading")
_PR_SET_PDEATHSIG = 1


def run(
    shards: Sequence[Shard],
    *,
    backend: str,
    jobs: int,
    function: Callable[[Shard], Made] = make,
) -> Iterator[Made]:
    """Run `function` on each shard and yield what it tells, in the order in which they end."""
    from joblib import Parallel, delayed, parallel_config

    if jobs == 1 or len(shards) == 1:
        for shard in shards:
            yield function(shard)
        return
    with parallel_config(backend=backend, n_jobs=jobs, **_options(backend)):
        tasks = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        yield from tasks(delayed(function)(shard) for shard in shards)


def _options(backend: str) -> dict[str, object]:
    return {"initializer": die_with_parent} if backend == "loky" else {}


def die_with_parent() -> None:
    """Let the kernel end this worker when its parent dies (Linux).

    Without it loky's workers outlive a killed parent, finish their queue and write into a folder
    that a resumed build may already be using (joblib/loky#360, joblib/joblib#881).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def default_jobs() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
