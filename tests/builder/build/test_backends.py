"""Four backends build the same bytes, survive a killed worker, and name a shard that kills."""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from gopro_tree import wait_for

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import kill_fuzz
import small_gopro

BACKENDS = ("loky", "threading", "dask", "ray")
PROCESSES = ("loky", "dask", "ray")
POISON = "train/GOPR0001_07_00/0001"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    pairs, _ = small_gopro.make(folder, {"train/GOPR0001_07_00": 48, "test/GOPR0002_11_01": 9})
    return pairs


@pytest.fixture(scope="module")
def quiet(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("quiet") / "out"
    assert expand(source, out, "--jobs", "1").returncode == 0
    return kill_fuzz.tree(out)


def start(source, out, *options, fault=""):
    command = [sys.executable, "-m", "trajectory_builder", "expand", "--src", str(source)]
    command += ["--out", str(out), "--no-progress", *options]
    environment = os.environ | {"TRAJBUILD_TEST_FAULT": fault}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def expand(source, out, *options, fault=""):
    process = start(source, out, *options, fault=fault)
    stdout, stderr = process.communicate(timeout=180)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def on(backend):
    return ("--backend", backend, "--jobs", "2")


def marks(backend):
    return pytest.mark.slow if backend in ("dask", "ray") else ()


each_backend = pytest.mark.parametrize(
    "backend", [pytest.param(b, marks=marks(b)) for b in BACKENDS]
)
each_with_processes = pytest.mark.parametrize(
    "backend", [pytest.param(b, marks=marks(b)) for b in PROCESSES]
)


def workers_of(process):
    """The processes that a builder's shards run in, whatever started them."""
    found = []
    for child in process.children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "popen_loky" in command or "spawn_main" in command or command.startswith("ray::attempt"):
            found.append(child)
    return found


@each_backend
def test_backend_builds_the_same_bytes(backend, source, quiet, tmp_path):
    done = expand(source, tmp_path / "out", *on(backend))
    assert done.returncode == 0, done.stderr
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(tmp_path / "out")) == []


@each_with_processes
def test_build_goes_on_when_a_worker_is_killed(backend, source, quiet, tmp_path):
    out = tmp_path / "out"
    process = start(source, out, *on(backend))
    wait_for(lambda: list(out.glob(".trajbuild/begun/*/*/*")) or process.poll() is not None)
    for worker in workers_of(psutil.Process(process.pid))[:1]:
        worker.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(out)) == []


@pytest.fixture(scope="module")
def poisoned_build(source, tmp_path_factory):
    """A function: a backend to (exit code, output) of one build with a shard that always kills."""

    @functools.cache
    def build(backend):
        out = tmp_path_factory.mktemp("poison") / "out"
        runs = 2 if backend == "threading" else 1  # threads die with it; the next run names it
        for _ in range(runs):
            code = expand(source, out, *on(backend), fault=f"shard={POISON}").returncode
        return code, out

    return build


@each_backend
def test_shard_that_kills_each_worker_becomes_problems(backend, poisoned_build):
    code, out = poisoned_build(backend)
    assert code == 4
    assert reasons(out) == {("worker-died", POISON.rsplit("/", 1)[0])}


@each_backend
def test_all_but_the_killing_shard_is_built(backend, poisoned_build, quiet):
    _, out = poisoned_build(backend)
    lost = set(quiet) - set(kill_fuzz.tree(out))
    assert lost == {f"train/{kind}/GOPR0001_07_00/{number:06d}{tail}.png"
                    for number in range(3 + 8, 3 + 16)
                    for kind, tail in (("sharp", ""), ("blur", "_n07"))}  # fmt: skip


def test_killing_shard_ends_threads_at_once(source, tmp_path):
    done = expand(source, tmp_path / "out", *on("threading"), fault=f"shard={POISON}")
    assert done.returncode == -signal.SIGKILL


def test_shard_that_killed_is_made_when_its_cause_is_gone(source, quiet, poisoned_build, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(poisoned_build("loky")[1], out)
    assert expand(source, out, *on("loky")).returncode == 0
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(out)) == []


def reasons(out):
    rows = pq.read_table(out / "problems.parquet").to_pylist()
    return {(row["reason"], f"{row['split']}/{row['clip_id']}") for row in rows}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A Dask scheduler and two worker processes, as on a cluster, over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("dask")
    dask = [sys.executable, "-m", "dask"]
    commands = [[*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]]
    commands += [
        [*dask, "worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard",
         "--local-directory", str(folder)]
    ] * 2  # fmt: skip
    processes = [
        subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands
    ]
    yield address, processes[1:]
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(timeout=30)


@pytest.mark.slow
def test_running_dask_scheduler_builds_the_same_bytes(scheduler, source, quiet, tmp_path):
    options = ("--backend", "dask", "--dask-scheduler", scheduler[0])
    done = expand(source, tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(tmp_path / "out")) == []


@pytest.mark.slow
def test_running_dask_scheduler_outlives_a_killed_worker(scheduler, source, quiet, tmp_path):
    address, workers = scheduler
    out = tmp_path / "out"
    process = start(source, out, "--backend", "dask", "--dask-scheduler", address)
    wait_for(lambda: list(out.glob(".trajbuild/begun/*/*/*")) or process.poll() is not None)
    for worker in workers_of(psutil.Process(workers[0].pid)):
        worker.kill()
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(out)) == []


def test_dask_scheduler_that_does_not_answer_is_named(source, tmp_path):
    options = ("--backend", "dask", "--dask-scheduler", "tcp://127.0.0.1:9")
    done = expand(source, tmp_path / "out", *options)
    assert done.returncode == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "cure:" in done.stderr


def test_address_of_another_backend_is_wrong_use(source, tmp_path):
    done = expand(source, tmp_path / "out", "--ray-address", "127.0.0.1:6379")
    assert done.returncode == 2
    assert "--ray-address needs --backend ray" in done.stderr


def test_missing_extra_names_the_command_that_installs_it(source, tmp_path):
    script = (
        "import sys; sys.modules['distributed'] = None\n"
        "from trajectory_builder.cli import main\n"
        f"main(['expand', '--src', {str(source)!r}, '--out', {str(tmp_path / 'out')!r},"
        " '--backend', 'dask', '--no-progress'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "fidediff[dask]"' in done.stderr


def test_worker_that_does_not_see_the_output_is_an_error(source, tmp_path):
    from trajectory_builder.build.retry import attempt
    from trajectory_builder.build.shard import Shard

    shard = Shard("train/a/0000", "d", str(tmp_path / "elsewhere"), {}, (), None)
    assert "does not see the output folder" in str(attempt(shard, "token 1"))
