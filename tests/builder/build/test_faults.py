"""What a build does when the machine fails it: what is told, what stays, how it goes on."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import kill_fuzz
import small_gopro

CLIP = "train/GOPR0002_11_01"
CONFIG = ".trajbuild/config.json"
RECORDS = ["train/metadata.parquet", "build.json", "README.md", CONFIG]


@pytest.fixture(scope="module")
def faithful(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    small_gopro.make(folder, {CLIP: 24, "test/GOPR0004_11_01": 6})
    return folder


@pytest.fixture(scope="module")
def whole(faithful, tmp_path_factory):
    out = tmp_path_factory.mktemp("quiet") / "out"
    assert expand(faithful, out).returncode == 0
    return out


@pytest.fixture(scope="module")
def quiet(whole):
    return kill_fuzz.tree(whole)


@pytest.fixture(scope="module")
def killed(faithful, tmp_path_factory):
    out = tmp_path_factory.mktemp("killed") / "out"
    assert expand(faithful, out, fault="before-marker:3").returncode == -signal.SIGKILL
    assert len(markers(out)) == 2
    return out


@pytest.fixture
def interrupted(killed, tmp_path):
    """A build that was killed after its second shard."""
    return shutil.copytree(killed, tmp_path / "interrupted")


@pytest.fixture
def finished(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "finished")


@pytest.fixture
def small_disk(tmp_path):
    """A function: mounts a tmpfs of so many kilobytes, or skips where that is not allowed."""
    mounted = tmp_path / "disk"

    def mount(options):
        mounted.mkdir(exist_ok=True)
        again = "remount," if os.path.ismount(mounted) else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(mounted)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs needs root; RLIMIT_FSIZE stands in for it elsewhere")
        return mounted

    yield mount
    if os.path.ismount(mounted):
        subprocess.run(["umount", str(mounted)], check=True)


def command(source, out, *options):
    return [sys.executable, "-m", "trajectory_builder", "expand", "--jobs", "1", "--no-progress",
            "--src", str(source / "GOPRO_Large"), "--out", str(out), *options]  # fmt: skip


def expand(source, out, *options, fault="", before=None):
    environment = os.environ | {"TRAJBUILD_TEST_FAULT": fault}
    return subprocess.run(
        command(source, out, *options), env=environment, capture_output=True, text=True,
        timeout=120, preexec_fn=before,
    )  # fmt: skip


def verify(out, level="full"):
    return subprocess.run(
        [sys.executable, "-m", "trajectory_builder", "verify", str(out), "--level", level,
         "--jobs", "1"], capture_output=True, text=True,
    )  # fmt: skip


def markers(out):
    return sorted((out / ".trajbuild/markers").rglob("*.json"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def equals(out, quiet):
    return kill_fuzz.differences(quiet, kill_fuzz.tree(out)) == []


def errors(done):
    return [line for line in done.stderr.splitlines() if not line.startswith("note:")]


# Disk full


@pytest.fixture
def full(faithful, small_disk):
    """What a build on a disk that fills says, and its folder."""
    out = small_disk("size=850k") / "out"
    return expand(faithful, out), out


@pytest.mark.parametrize("step", ["temp-written", "before-rename"])
def test_a_kill_inside_the_report_of_the_check_leaves_no_temporary_file(faithful, tmp_path, step):
    out = tmp_path / "out"
    assert expand(faithful, out, fault=f"{step}=alignment.json").returncode == -signal.SIGKILL
    assert len(kill_fuzz.temporaries(out)) == 1
    assert expand(faithful, out).returncode == 0
    assert kill_fuzz.temporaries(out) == []


def test_full_disk_is_told_with_what_to_do(full):
    done, _ = full
    assert done.returncode == 1
    assert errors(done)[0] == "error: cannot write to the output: No space left on device"
    assert "free some space and run the same command again" in done.stderr


def test_full_disk_leaves_no_temporary_file(full):
    assert kill_fuzz.temporaries(full[1]) == []


def test_build_goes_on_when_the_full_disk_has_space_again(full, faithful, quiet, small_disk):
    out = full[1]
    kept = {path.name: path.stat().st_ino for path in markers(out)}
    small_disk("size=20m")
    assert expand(faithful, out).returncode == 0
    assert kept
    assert kept.items() <= {path.name: path.stat().st_ino for path in markers(out)}.items()
    assert equals(out, quiet)


def test_too_little_space_is_refused_before_the_start(faithful, small_disk):
    done = expand(faithful, small_disk("size=100k") / "out")
    assert done.returncode == 1
    assert "are free" in errors(done)[0]
    assert "cure:" in done.stderr


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))


def test_file_size_limit_is_told_without_a_traceback(faithful, tmp_path):
    done = expand(faithful, tmp_path / "out", before=limit_file_size)
    assert done.returncode == 1
    assert errors(done)[0] == "error: cannot write to the output: File too large"


def test_build_goes_on_when_the_limit_is_lifted(faithful, quiet, tmp_path):
    expand(faithful, tmp_path / "out", before=limit_file_size)
    assert expand(faithful, tmp_path / "out").returncode == 0
    assert equals(tmp_path / "out", quiet)


# Read-only output


def test_read_only_output_is_told(faithful, small_disk):
    disk = small_disk("size=20m")
    (disk / "out").mkdir()
    small_disk("size=20m,ro")
    done = expand(faithful, disk / "out")
    assert done.returncode == 1
    assert errors(done)[0] == "error: cannot write to --out: Read-only file system"


def test_finished_build_is_verified_where_nothing_can_be_written(whole, small_disk):
    disk = small_disk("size=20m")
    shutil.copytree(whole, disk / "out")
    small_disk("size=20m,ro")
    assert verify(disk / "out").returncode == 0


# A frame that turns unreadable in the middle


@pytest.fixture
def own_source(faithful, tmp_path):
    shutil.copytree(faithful, tmp_path / "own")
    return tmp_path / "own"


def last_frame_cut(source):
    frame = sorted((source / "GOPRO_Large_all" / CLIP).iterdir())[200]
    whole = frame.read_bytes()
    frame.write_bytes(whole[:500])
    return frame, whole


def test_frame_cut_in_the_middle_costs_only_its_windows(own_source, tmp_path):
    out = tmp_path / "out"
    expand(own_source, out, fault="before-marker:2")
    frame, _ = last_frame_cut(own_source)
    assert expand(own_source, out).returncode == 4
    rows = pq.read_table(out / "problems.parquet").to_pylist()
    assert {row["reason"] for row in rows} == {"frame-truncated"}
    assert all(row["file"].endswith(frame.name) for row in rows)


def test_mended_frame_gives_the_quiet_build(own_source, quiet, tmp_path):
    out = tmp_path / "out"
    frame, whole = last_frame_cut(own_source)
    expand(own_source, out, "--check", "off")
    frame.write_bytes(whole)
    assert expand(own_source, out).returncode == 0
    assert not (out / "problems.parquet").exists()
    assert equals(out, quiet)


# Two builders on one output


@pytest.fixture
def halted(faithful, tmp_path):
    """A builder that holds the folder and does not move, and its folder."""
    out = tmp_path / "shared"
    process = subprocess.Popen(command(faithful, out), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    while not (out / ".trajbuild/holder.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    yield process, out
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)


def test_second_builder_is_refused_and_the_first_named(faithful, halted):
    process, out = halted
    done = expand(faithful, out)
    assert done.returncode == 1
    assert errors(done)[0] == "error: another builder is at work in this folder"
    assert f"process {process.pid}" in done.stderr


def test_refused_builder_leaves_the_first_its_result(faithful, quiet, halted):
    process, out = halted
    expand(faithful, out)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=60) == 0
    assert equals(out, quiet)


def test_waiting_builder_goes_on_after_the_first(faithful, quiet, halted):
    process, out = halted
    second = subprocess.Popen(command(faithful, out, "--wait", "60"), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    time.sleep(1)
    process.send_signal(signal.SIGCONT)
    told, _ = second.communicate(timeout=90)
    assert second.returncode == 0
    assert "nothing to do" in told
    assert equals(out, quiet)


# Clocks


def set_times(folder, seconds):
    for path in folder.rglob("*"):
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def test_absurd_times_of_files_change_nothing(own_source, quiet, tmp_path):
    out = tmp_path / "out"
    expand(own_source, out, fault="before-marker:3")
    set_times(out, 4_000_000_000)  # the year 2096
    set_times(own_source, 1)  # the year 1970
    assert expand(own_source, out).returncode == 0
    assert equals(out, quiet)


def test_finished_build_stays_so_when_its_clock_jumped(own_source, tmp_path):
    out = tmp_path / "out"
    expand(own_source, out)
    set_times(own_source, 4_000_000_000)
    set_times(out, 1)
    before = {path: path.stat().st_mtime for path in out.rglob("*.png")}
    assert "nothing to do" in expand(own_source, out).stdout
    assert {path: path.stat().st_mtime for path in out.rglob("*.png")} == before


# An output folder that was moved


def test_interrupted_build_goes_on_where_it_was_moved(faithful, quiet, interrupted, tmp_path):
    interrupted.rename(tmp_path / "moved")
    kept = {path.name: path.stat().st_ino for path in markers(tmp_path / "moved")}
    assert expand(faithful, tmp_path / "moved").returncode == 0
    now = {path.name: path.stat().st_ino for path in markers(tmp_path / "moved")}
    assert kept.items() <= now.items()  # the same files: what was whole was not made again
    assert equals(tmp_path / "moved", quiet)


# Flipped bytes


def test_marker_with_a_flipped_byte_counts_as_absent(faithful, quiet, interrupted):
    flip(markers(interrupted)[0])
    assert expand(faithful, interrupted).returncode == 0
    assert equals(interrupted, quiet)


@pytest.mark.parametrize("name", RECORDS)
def test_flipped_byte_in_a_record_is_found(name, finished):
    flip(finished / name)
    assert verify(finished, "quick").returncode == 3


@pytest.mark.parametrize("name", RECORDS)
def test_flipped_byte_in_a_record_is_mended_by_running_again(name, faithful, quiet, finished):
    flip(finished / name)
    assert expand(faithful, finished).returncode == 0
    assert equals(finished, quiet)
    assert verify(finished, "quick").returncode == 0


def test_flipped_byte_in_the_config_of_an_unfinished_build_is_named(faithful, interrupted):
    flip(interrupted / CONFIG)
    done = expand(faithful, interrupted)
    assert done.returncode == 1
    assert errors(done)[0].startswith("error: the note of which config this folder belongs to")
    assert f"{interrupted}/{CONFIG}" in errors(done)[1]


def test_build_goes_on_when_its_damaged_config_is_deleted(faithful, quiet, interrupted):
    kept = {path.name: path.stat().st_ino for path in markers(interrupted)}
    (interrupted / CONFIG).unlink()
    assert expand(faithful, interrupted).returncode == 0
    assert kept.items() <= {path.name: path.stat().st_ino for path in markers(interrupted)}.items()
    assert equals(interrupted, quiet)


def test_flipped_byte_in_an_image_is_found_by_full(finished):
    flip(next((finished / "train/blur").rglob("*.png")))
    done = verify(finished)
    assert done.returncode == 3
    assert "hash-differs" in done.stdout


def test_image_that_was_deleted_is_restored_alone(faithful, quiet, finished):
    lost = next((finished / "train/blur").rglob("*.png"))
    lost.unlink()
    done = expand(faithful, finished, "--json")
    assert 0 < json.loads(done.stdout)["made"] <= 8 * 4
    assert equals(finished, quiet)
