"""Worker processes of this machine: how they start, what each sets up, and how they all end.

The top level imports nothing heavy: a worker loads this module first, so that it can end with its
builder even while it still imports the rest.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache, partial
from importlib import import_module
from typing import TypeVar

AHEAD = 2
"""Tasks handed out per worker, so that none waits for the builder."""
FEEDER_SECONDS = 1.0
"""How long to wait for joblib's feeder thread; it normally exits at once."""

# prctl(2): the signal that the kernel sends to this process when its parent dies.
_PR_SET_PDEATHSIG = 1
# mallopt(3) of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_FROM_HEAP = 32 * 2**20  # bytes: the most that glibc allows
_KEPT = 64 * 2**20

T = TypeVar("T")
R = TypeVar("R")


def default_jobs() -> int:
    """The cores that this process may use."""
    # A batch system or container may allow fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def set_up() -> None:
    """Make this process a worker: one OpenCV thread, and freed memory kept for the next image.

    OpenCV would start a thread per core in each worker. glibc gives the memory of each large array
    back to the system when it is freed, and the system clears it page by page for the next one
    (decision 27 has the figures). So arrays of up to 32 MiB come from the heap, and the heap
    shrinks only when 64 MiB at its end are free (our choice).
    Elsewhere than on glibc the second half does nothing.
    """
    import cv2

    cv2.setNumThreads(1)
    # None as library name gives the symbols of this process, libc among them; musl has no mallopt.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def die_with_parent(parent: int) -> None:
    """Let the kernel end this process when its parent dies (Linux); leave Ctrl-C to the parent.

    Without it loky's workers outlive a killed parent, finish their queue and write into a folder
    that a resumed build may already be using (joblib/loky#360, joblib/joblib#881).

    Args:
        parent: its process id; if it is gone already, this process ends at once.
    """
    # A terminal sends Ctrl-C to the process group; the builder alone decides how to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # SIGKILL cannot be ignored and does no harm: an unfinished shard has no marker.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died before prctl: then this process has a new parent, and no signal
        # will ever come. `_exit`, since nothing here needs cleaning up.
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


@cache
def initializer(parent: int) -> Callable[[], None]:
    """What workers run first: always the same object, or joblib starts new workers each time."""
    return partial(die_with_parent, parent)


def refuse_without_semaphores() -> None:
    """Refuse to start processes where the system gives none of the semaphores that they share.

    Linux keeps them in /dev/shm, which may be missing, read-only or full in a container. joblib
    would go on in threads with a warning, and end with an error.

    Raises:
        BuildError: naming the system's reason.
    """
    from trajectory_builder.errors import BuildError

    try:
        made_of = import_module("_multiprocessing")
        # kind, value, largest value, name, unlink: it exists for this moment alone
        made_of.SemLock(1, 1, 1, f"/trajbuild-{os.getpid()}", True)
    except (ImportError, OSError) as error:
        raise BuildError(
            f"worker processes cannot be started: {error}",
            where="/dev/shm, where their semaphores are",
            cure="give --jobs 1, or a /dev/shm that can be written (docker run --shm-size 256m)",
        ) from error


def each(
    function: Callable[[T], R], items: Sequence[T], *, jobs: int, keep_workers: bool = False
) -> Generator[R, None, None]:
    """Yield `function(item)` in completion order, on `jobs` processes.

    For work that writes nothing: a killed worker ends it with an error. With `keep_workers` the
    workers are left running, for more work that follows.
    """
    from joblib import Parallel, delayed, parallel_config

    if jobs == 1 or len(items) < 2:
        yield from map(function, items)
        return
    refuse_without_semaphores()
    with parallel_config(backend="loky", n_jobs=jobs, initializer=initializer(os.getpid())):
        # Unordered, so that a slow item delays no other result.
        tasks = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=AHEAD * jobs)
        with interrupts_held():
            results = tasks(delayed(function)(item) for item in items)
        # Closed, or an error in the caller's loop would leave joblib's threads at work.
        with closing(results):
            yield from results
    if not keep_workers:
        end_workers()


def end_workers() -> None:
    """End loky's workers at once, if there are any; they must be idle.

    They would stay for minutes with their memory. They are killed, not asked: a worker that was
    killed while it waited for work still owns the lock by which the others would be asked, and
    they, and the builder with them, would wait for ever.
    """
    if initializer.cache_info().currsize:  # else none were started, and this would make a pool
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(reuse=True).shutdown(kill_workers=True)
        initializer.cache_clear()
        # The thread that fed them ends a little later and gives their semaphores back: if the
        # program ends in between, Python reports them as leaked.
        for thread in threading.enumerate():
            if thread.name == "QueueFeederThread":
                thread.join(FEEDER_SECONDS)
