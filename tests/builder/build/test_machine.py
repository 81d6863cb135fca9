"""Commands on a machine that lacks something: space, streams, shared memory, files, memory."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from errno import EMFILE
from pathlib import Path

import pytest
from gopro_tree import wait_for
from small_dataset import make

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import kill_fuzz
import small_gopro

from trajectory_builder.cli import app
from trajectory_builder.disk import store

PROGRAM = [sys.executable, "-m", "trajectory_builder"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    return small_gopro.make(folder, {"train/GOPR0001_11_00": 10, "test/GOPR0002_07_00": 3})[0]


@pytest.fixture(scope="module")
def quiet(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("quiet") / "out"
    subprocess.run(expand(source, out, 1), check=True, capture_output=True)
    return out


def expand(source, out, jobs):
    return [*PROGRAM, "expand", "--src", str(source), "--out", str(out), "--jobs", str(jobs),
            "--no-progress"]  # fmt: skip


def ran(command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


# A full disk


@pytest.fixture
def disk(tmp_path):
    """A function: mounts a disk of so many kilobytes, or skips where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kibibytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(place)]
        if ran(command).returncode:
            pytest.skip("mounting a disk needs root")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


SET_COMMANDS = {
    "select": ("select", "SET", "--where", "n_frames > 0", "--files", "copy", "--out", "DISK/out"),
    "split": ("split", "SET", "--by", "trajectory", "--into", "train=0.5,validation=0.5",
              "--files", "copy", "--out", "DISK/out"),
    "merge": ("merge", "SET", "SET2", "--clashes", "prefix", "--files", "copy",
              "--out", "DISK/out"),
    "report": ("report", "SET", "--out", "DISK/page.html"),
    "hf": ("export", "SET", "--to", "hf", "--jobs", "1", "--out", "DISK/out"),
    "webdataset": ("export", "SET", "--to", "webdataset", "--jobs", "1", "--out", "DISK/out"),
    "lmdb": ("export", "SET", "--to", "lmdb", "--jobs", "1", "--out", "DISK/out"),
    "folders": ("export", "SET", "--to", "folders", "--files", "copy", "--jobs", "1",
                "--out", "DISK/out"),
    "generate": ("generate", "--src", "FRAMES", "--fps", "240", "--n-frames", "3,5",
                 "--motion-floor", "0", "--jobs", "1", "--no-progress", "--out", "DISK/out"),
    "expand": ("expand", "--src", "GOPRO", "--jobs", "1", "--no-progress", "--out", "DISK/out"),
    "plan": ("plan", "--src", "GOPRO", "--out", "DISK/plan.parquet"),
    "sample": ("sample", "--out", "DISK/out"),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(source, tmp_path_factory):
    home = tmp_path_factory.mktemp("sets")
    make(home / "set")
    make(home / "other", seed=1)
    frames = next((source.parent / "GOPRO_Large_all/train").iterdir())
    return {"SET2": home / "other", "SET": home / "set", "GOPRO": source, "FRAMES": frames}


@pytest.mark.parametrize(
    ("name", "kibibytes"),
    # A plan of this source fits into 40 KiB.
    [(name, size) for name in SET_COMMANDS for size in (8, 40, 100) if name != "plan" or size == 8],
)
def test_a_full_disk_is_one_error_that_names_the_folder(name, kibibytes, places, disk, in_process):
    place = disk(kibibytes)
    # One part of the disk is full from the start, so that every command meets its end.
    (place / "ballast").write_bytes(bytes(kibibytes * 256))
    words = [str(places.get(w, w)).replace("DISK", str(place)) for w in SET_COMMANDS[name]]
    done = in_process(*words)
    assert done.returncode == 1, done.stderr
    assert "has a bug" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert str(place) in done.stderr.split("where:")[1]
    assert "cure:" in done.stderr
    assert list(place.rglob(f"{store.TEMPORARY}*")) == []


# Streams that are closed


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_change_no_byte(closed, source, quiet, tmp_path):
    command = " ".join(expand(source, tmp_path / "out", 2))
    done = subprocess.run(["sh", "-c", f"{command} {closed}"], timeout=300)
    assert done.returncode == 0
    assert kill_fuzz.differences(kill_fuzz.tree(quiet), kill_fuzz.tree(tmp_path / "out")) == []


def test_an_error_keeps_its_code_where_stderr_is_closed(tmp_path):
    done = subprocess.run(["sh", "-c", f"{' '.join(PROGRAM)} stats {tmp_path}/absent 2>&-"])
    assert done.returncode == 2


# Shared memory


def without_shared_memory(how):
    """The words before a command by which it finds /dev/shm as it is called; or skips."""
    if shutil.which("unshare") is None or ran(["unshare", "-m", "true"]).returncode:
        pytest.skip("mount namespaces are not allowed here")
    made = {
        "read-only": "mount -t tmpfs -o ro tmpfs /dev/shm",
        "missing": "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9",
    }[how]
    return ["unshare", "-m", "sh", "-c", f'{made} && exec "$@"', "sh"]


@pytest.mark.parametrize("how", ["read-only", "missing"])
def test_processes_without_shared_memory_are_one_error(how, source, tmp_path):
    done = ran([*without_shared_memory(how), *expand(source, tmp_path / "out", 2)])
    assert done.returncode == 1
    assert "worker processes cannot be started" in done.stderr
    assert "--jobs 1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["read-only", "missing"])
def test_one_process_needs_no_shared_memory(how, source, quiet, tmp_path):
    done = ran([*without_shared_memory(how), *expand(source, tmp_path / "out", 1)])
    assert done.returncode == 0, done.stderr
    assert kill_fuzz.differences(kill_fuzz.tree(quiet), kill_fuzz.tree(tmp_path / "out")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="semaphores are files on Linux alone")
def test_the_next_run_removes_the_semaphores_of_a_killed_build(source, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        expand(source, out, 2), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: list(out.glob(".trajbuild/begun/*/*/*")) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert kill_fuzz.shared_memory(process.pid) != []
    assert ran(expand(source, out, 2)).returncode == 0
    assert kill_fuzz.shared_memory(process.pid) == []


def test_shared_memory_of_a_living_process_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    parent = os.getppid()
    left = tmp_path / f"shm/sem.loky-{parent}-abc"
    left.touch()
    folder = store.OutputFolder(tmp_path / "out")
    folder.prepare()
    import socket

    note = f'{{"pid": {parent}, "host": "{socket.gethostname()}"}}'
    (folder.state / "holder.json").write_text(note)
    with folder.lock():
        pass
    assert left.exists()


# Few files, little memory


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_sixty_four_open_files_are_enough(source, quiet, tmp_path):
    out = tmp_path / "out"
    for words in (
        expand(source, out, 2),
        [*PROGRAM, "verify", str(out), "--level", "deep", "--jobs", "2"],
        [*PROGRAM, "report", str(out)],
        [*PROGRAM, "export", str(out), "--to", "lmdb", "--out", str(tmp_path / "lmdb")],
    ):
        done = ran(words, preexec_fn=few_files)
        assert done.returncode == 0, done.stderr
    (out / "report.html").unlink()
    assert kill_fuzz.differences(kill_fuzz.tree(quiet), kill_fuzz.tree(out)) == []


def test_too_many_open_files_name_the_limit():
    error = app._as_user_error(OSError(EMFILE, "Too many open files", "a.png"), _program())
    assert "ulimit -n" in error.cure
    assert error.where == "a.png"


@pytest.mark.parametrize(
    "met",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9 GiB for an array"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
)
def test_out_of_memory_is_no_bug(met):
    error = app._as_user_error(met, _program())
    assert error.what.startswith("out of memory")
    assert "--jobs" in error.cure


def _program():
    from trajectory_builder.cli import PROGRAM

    return PROGRAM


def little_memory():
    resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))


def test_a_build_under_a_limit_of_memory_ends_in_order_and_is_finished_later(
    source, quiet, tmp_path
):
    out = tmp_path / "out"
    done = ran(expand(source, out, 1), preexec_fn=little_memory)
    assert done.returncode in (0, 1), done.stderr
    assert "has a bug" not in done.stderr
    assert ran(expand(source, out, 1)).returncode == 0
    assert kill_fuzz.differences(kill_fuzz.tree(quiet), kill_fuzz.tree(out)) == []
