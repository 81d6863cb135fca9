"""Where shards run: loky, threads, Dask or Ray. Results are on disk; a few counts are returned.

`loky` (processes) and `threading` go through joblib. `dask` and `ray` go through their own futures
and tasks, since joblib's wrappers hang or lose every result when a task kills its worker. On each
of them a shard that kills its worker is tried once more in a process of its own and then becomes
rows of problems.parquet; see `retry`.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from trajectory_builder.build import cluster, retry, workers
from trajectory_builder.build.shard import Shard, ShardResult
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import BuildError, ExitCode, UserError

BackendName = Literal["loky", "threading", "dask", "ray"]
BACKENDS: tuple[BackendName, ...] = ("loky", "threading", "dask", "ray")
FRUITLESS_ROUNDS = 3
"""Give up after this many rounds in which every worker died and no shard finished."""
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
"""Our choice: how long to wait for a cluster that has lost all its workers."""
_PACKAGES = {"dask": "distributed", "ray": "ray"}
_RAY_MEMORY = 128 * 2**20  # bytes of Ray's object store; only counts pass through it

Result = ShardResult | UserError


class _WorkersLostError(Exception):
    """All tasks of a backend were lost with a worker; what they finished is on disk."""


def run(
    shards: Sequence[Shard], *, backend: str = "loky", jobs: int = 1, address: str | None = None
) -> Generator[ShardResult, None, None]:
    """Run the shards and yield their results in completion order.

    Args:
        shards: of one output folder, which the caller has locked.
        backend: one of `BACKENDS`.
        jobs: workers to start; a cluster at `address` has its own.
        address: of a Dask scheduler or a Ray head; without it one is started on this machine.

    Raises:
        UserError: what `make_shard` raises.
        BuildError: a missing package, no answer at `address`, workers that die idle.
    """
    if not shards:
        return
    folder = OutputFolder(Path(shards[0].out))
    waiting = {shard.name: shard for shard in shards}
    if backend != "loky" or _is_serial(backend, jobs, shards):
        # Those of the pixel check are idle now, and each keeps its memory until it ends.
        workers.end_workers()
    if backend == "threading" or _is_serial(backend, jobs, shards):
        # Here a death is the builder's own: the shards that it was making when it last died are
        # tried in a process of their own, or one that always kills would end every run.
        for shard in retry.left_begun(shards):
            yield retry.alone(waiting.pop(shard.name))
    # After the notes of earlier runs were read: the new token makes all of them void.
    token = retry.begin_run(folder, waiting.values())
    fruitless = 0
    while waiting:
        before = len(waiting)
        yield from _round(waiting, backend, jobs, token, address)
        # Workers that die idle leave no note, so only a limit ends this loop.
        fruitless = fruitless + 1 if len(waiting) == before else 0
        if fruitless == FRUITLESS_ROUNDS:
            raise BuildError(
                f"{backend} workers died {fruitless} times before they could begin",
                where=f"{len(waiting):,} shards are left; finished ones stay",
                cure="often memory ran out: run the same command again with fewer --jobs",
            )
    # Only after the last shard: a run that is cut off leaves its notes to the next one.
    retry.end_run(folder)


def _round(
    waiting: dict[str, Shard], backend: str, jobs: int, token: str, address: str | None
) -> Generator[ShardResult, None, None]:
    """Run what is `waiting`, removing what has ended; what no worker could begin stays in it."""
    # Shards over which a worker died. They run last and alone: memory may have been the cause.
    suspects: list[Shard] = []
    try:
        # Closed at once on an error: else joblib would run the queue to its end first.
        with closing(_results(list(waiting.values()), backend, jobs, token, address)) as results:
            for result in results:
                # Raised here, since Dask and Ray wrap what a task raises in types of their own.
                if isinstance(result, UserError):
                    raise result
                shard = waiting.pop(result.name)
                # Not reported yet: a process of its own may still make it.
                if result.died:
                    suspects.append(shard)
                else:
                    yield result
    except _WorkersLostError:
        # The backend cannot say which tasks ended, but the disk can: a marker means finished, a
        # note without a marker means that a worker died over the shard, neither means not begun.
        for shard in list(waiting.values()):
            finished = retry.finished_result(shard)
            if finished is not None:
                del waiting[shard.name]
                yield finished
            elif retry.is_begun(shard, token):
                suspects.append(waiting.pop(shard.name))
    for shard in suspects:
        yield retry.alone(shard)


def _is_serial(backend: str, jobs: int, shards: Sequence[Shard]) -> bool:
    # One process more would cost a second and gain nothing.
    return backend == "loky" and (jobs == 1 or len(shards) == 1)


def _results(
    shards: Sequence[Shard], backend: str, jobs: int, token: str, address: str | None
) -> Generator[Result, None, None]:
    if backend == "dask":
        return _dask(shards, jobs, token, address)
    if backend == "ray":
        return _ray(shards, jobs, token, address)
    if _is_serial(backend, jobs, shards):
        # Lazily, so that a shard begins only when the one before has been counted.
        return (retry.attempt(shard, token) for shard in shards)
    return _joblib(shards, backend, jobs, token)


def _joblib(
    shards: Sequence[Shard], backend: str, jobs: int, token: str
) -> Generator[Result, None, None]:
    if backend == "loky":
        workers.refuse_without_semaphores()
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # Processes must be tied to the builder by the kernel; threads die with it anyway.
    options = {"initializer": workers.initializer(os.getpid())} if backend == "loky" else {}
    with parallel_config(backend=backend, n_jobs=jobs, **options):
        # joblib would batch short tasks; one shard per task keeps the progress bar moving.
        tasks = Parallel(
            return_as="generator_unordered", batch_size=1, pre_dispatch=workers.AHEAD * jobs
        )
        try:
            with workers.interrupts_held():
                results = tasks(delayed(retry.attempt)(shard, token) for shard in shards)
            with closing(results):
                yield from results
        except BrokenProcessPool as error:
            # One dead worker breaks the pool: loky does not know which task it was running.
            raise _WorkersLostError from error
    # Otherwise loky keeps them, and their memory, for minutes.
    if backend == "loky":
        workers.end_workers()


def _dask(
    shards: Sequence[Shard], jobs: int, token: str, address: str | None
) -> Generator[Result, None, None]:
    distributed = _need("dask")
    # Dask logs each lost worker with a traceback; what matters is reported by the build.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        if address is None:
            # Loopback only and no dashboard, as for Ray: no port is open to other machines.
            local = distributed.LocalCluster(
                n_workers=jobs, threads_per_worker=1, dashboard_address=None, host="127.0.0.1",
                silence_logs=logging.CRITICAL,
            )  # fmt: skip
            stack.enter_context(local)
        try:
            client = stack.enter_context(distributed.Client(address or local, timeout=10))
        # Without its certificates, a TLS address raises TypeError or RuntimeError.
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise cluster.no_answer(cluster.DASK, address, error) from error
        yield from _dask_futures(distributed, client, shards, token)


def _in_flight(
    shards: Sequence[Shard],
    submit: Callable[[Shard], Any],
    wait: Callable[[list[Any]], Iterable[Any]],
    cores: Callable[[], int],
    nobody: BuildError,
) -> Generator[tuple[Shard, Any], None, None]:
    """Keep some shards per core in flight, so that a death costs only the shard that met it.

    Args:
        shards: what to run.
        submit: starts a shard and returns its handle.
        wait: the handles that have ended, after `POLL_SECONDS` at most.
        cores: how many the cluster has now; workers come and go.
        nobody: raised when the cluster has had none for `PATIENCE_SECONDS`.

    Yields:
        (shard, handle) in completion order.
    """
    rest = iter(shards)
    flying: dict[Any, Shard] = {}
    silent = 0.0
    while True:
        there = cores()
        for shard in islice(rest, max(0, workers.AHEAD * max(1, there) - len(flying))):
            flying[submit(shard)] = shard
        if not flying:
            return
        done = list(wait(list(flying)))
        # Empty waits are counted and no clock is read, so a clock that jumps does no harm.
        silent = 0.0 if done or there else silent + POLL_SECONDS
        if silent >= PATIENCE_SECONDS:
            raise nobody
        for handle in done:
            yield flying.pop(handle), handle


def _dask_futures(
    distributed: Any, client: Any, shards: Sequence[Shard], token: str
) -> Generator[Result, None, None]:
    def submit(shard: Shard) -> Any:
        # Not pure: an equal task of an earlier run must not answer for this one. No retries: they
        # would run beside other shards; `_round` retries alone.
        return client.submit(retry.attempt, shard, token, pure=False, retries=0)

    def wait(futures: list[Any]) -> Iterable[Any]:
        try:
            ended: Iterable[Any] = distributed.wait(
                futures, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED"
            ).done
        except TimeoutError:  # nothing ended, which also happens when all workers are gone
            return ()
        return ended

    def cores() -> int:
        return sum(one["nthreads"] for one in client.scheduler_info(-1)["workers"].values())

    nobody = cluster.none_left(cluster.DASK, PATIENCE_SECONDS)
    for shard, future in _in_flight(shards, submit, wait, cores, nobody):
        try:
            yield future.result()
        # The worker died over this task; `_round` gives the shard a process of its own.
        except distributed.KilledWorker:
            yield ShardResult(shard.name, 0, 0, died=True)
        except (distributed.CancelledError, OSError) as error:  # the scheduler went away
            raise _WorkersLostError from error


def _ray(
    shards: Sequence[Shard], jobs: int, token: str, address: str | None
) -> Generator[Result, None, None]:
    # Ray would send usage statistics to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _need("ray")
    # Ray that the caller started is left running.
    started = not ray.is_initialized()
    try:
        if started:
            with _own_signals():
                _start_ray(ray, jobs, address)
        yield from _ray_tasks(ray, shards, token)
    finally:
        if started:
            ray.shutdown()


def _start_ray(ray: Any, jobs: int, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        # Loopback only, and no dashboard: a build of one machine opens no port to others.
        ray.init(
            address="local", num_cpus=jobs, include_dashboard=False, _node_ip_address="127.0.0.1",
            object_store_memory=_RAY_MEMORY, **quiet,
        )  # fmt: skip
        return
    try:
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise cluster.no_answer(cluster.RAY, address, error) from error


def _ray_tasks(ray: Any, shards: Sequence[Shard], token: str) -> Generator[Result, None, None]:
    # Ray retries a task whose worker died. The second try finds the note of the first and leaves
    # the shard alone; with fewer tries a node that dies twice would end the build.
    task = ray.remote(max_retries=2, num_cpus=1)(retry.attempt)

    def wait(references: list[Any]) -> Iterable[Any]:
        ended: Iterable[Any] = ray.wait(references, num_returns=1, timeout=POLL_SECONDS)[0]
        return ended

    def cores() -> int:
        return int(ray.cluster_resources().get("CPU", 0))

    nobody = cluster.none_left(cluster.RAY, PATIENCE_SECONDS)
    died = (
        ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
    )  # fmt: skip
    for shard, reference in _in_flight(
        shards, lambda shard: task.remote(shard, token), wait, cores, nobody
    ):
        try:
            yield ray.get(reference)
        except died:
            yield ShardResult(shard.name, 0, 0, died=True)
        except ray.exceptions.RayTaskError as error:  # wraps what the task raised
            raise error.cause from error
        # Any other failure of Ray itself: only the disk can say which shards have ended.
        except ray.exceptions.RayError as error:
            raise _WorkersLostError from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of SIGTERM and SIGINT: `ray.init` sets its own, which exits with 15."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows signal handlers in the main thread alone, and Ray sets none here
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def refuse_absent(backend: str) -> None:
    """Refuse a backend whose package is not there; imports nothing.

    Raises:
        BuildError: the cure is the command that installs it.
    """
    module = _PACKAGES.get(backend)
    if module and find_spec(module) is None:
        raise _not_installed(backend, f"--backend {backend}")


def _need(backend: str) -> Any:
    """Import a backend's package.

    Raises:
        BuildError: it is not installed; the cure is the command that installs it.
    """
    try:
        return import_module(_PACKAGES[backend])
    except ImportError as error:
        raise _not_installed(backend, str(error)) from error


def _not_installed(backend: str, where: str) -> BuildError:
    return BuildError(
        f"--backend {backend} needs the package {_PACKAGES[backend]}, which is not installed",
        where=where,
        cure=f'pip install "fidediff[{backend}]"',
        exit_code=ExitCode.WRONG_USE,
    )
