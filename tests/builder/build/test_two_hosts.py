"""Two hosts, as two network namespaces with a cable between: a cut of seconds costs nothing."""

import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gopro_tree import wait_for

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import kill_fuzz
import small_gopro

pytestmark = pytest.mark.slow
HEAD, NODE = "10.213.77.1", "10.213.77.2"
CUT_SECONDS = 5
DASK = [sys.executable, "-m", "dask"]


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts():
    """Two namespaces, `HEAD` and `NODE`; skips where they cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("two hosts need iproute2 (`ip netns`), which is not installed")
    mark = secrets.token_hex(3)
    names = {HEAD: f"head-{mark}", NODE: f"node-{mark}"}
    try:
        for name in names.values():
            ip("netns", "add", name)
        head, node = names.values()
        ip("link", "add", f"h{mark}", "netns", head, "type", "veth", "peer", f"n{mark}",
           "netns", node)  # fmt: skip
        for address, name in names.items():
            cable = f"{name[0]}{mark}"
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            for device in ("lo", cable):
                ip("-n", name, "link", "set", device, "up")
        # Some containers let namespaces be made but not entered.
        ip("netns", "exec", head, "true")
    except subprocess.CalledProcessError as error:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    yield names, ("-n", names[NODE], "link", "set", f"n{mark}")
    for name in names.values():
        ip("netns", "delete", name)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    pairs, _ = small_gopro.make(folder, {"train/GOPR0001_07_00": 160, "test/GOPR0002_11_01": 9})
    return pairs


@pytest.fixture
def start():
    """A function: starts a command on a host; all that still run are ended with the test."""
    running = []

    def run(name, *command):
        words = ["ip", "netns", "exec", name, *map(str, command)]
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield run
    for process in reversed(running):
        process.kill()
        process.communicate()


def expand(source, out, *options):
    return [sys.executable, "-m", "trajectory_builder", "expand", "--src", source, "--out", out,
            "--no-progress", *options]  # fmt: skip


def test_a_link_that_is_cut_for_seconds_changes_no_byte(hosts, source, start, tmp_path):
    names, cable = hosts
    quiet = subprocess.run(
        [str(word) for word in expand(source, tmp_path / "quiet", "--jobs", "2")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert quiet.returncode == 0, quiet.stderr
    start(names[HEAD], *DASK, "scheduler", "--host", HEAD, "--port", 8786, "--no-dashboard")
    for host in (HEAD, NODE):
        start(names[host], *DASK, "worker", f"tcp://{HEAD}:8786", "--host", host, "--nthreads", 1,
              "--no-dashboard", "--local-directory", tmp_path / f"dask-{host}")  # fmt: skip
    out = tmp_path / "out"
    wait_for(lambda: len(list(tmp_path.glob("dask-*"))) == 2)
    build = start(names[HEAD], *expand(
        source, out, "--backend", "dask", "--dask-scheduler", f"tcp://{HEAD}:8786"))  # fmt: skip
    shards = (160 + 9) // 8
    wait_for(
        lambda: len(list(out.glob(".trajbuild/markers/*/*/*"))) > 1 or build.poll() is not None
    )
    cut_at = len(list(out.glob(".trajbuild/markers/*/*/*")))
    ip(*cable, "down")
    time.sleep(CUT_SECONDS)
    ip(*cable, "up")
    _, said = build.communicate(timeout=300)
    assert build.returncode == 0, said
    assert cut_at < shards, "the build had ended before the link was cut"
    wrong = kill_fuzz.differences(kill_fuzz.tree(tmp_path / "quiet"), kill_fuzz.tree(out))
    assert wrong == []
