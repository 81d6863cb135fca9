"""docs/scaling.md as it is written: its commands, with this machine's address, build the bytes."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import kill_fuzz
import small_gopro

from trajectory_builder.build import cluster

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[3] / "docs/scaling.md").read_text()
HERE = "127.0.0.1"


def commands(name):
    """The commands of a code block below a heading word, lines joined, without comments."""
    block = PAGE.split(f"\n{name}")[1].split("```bash\n")[1].split("```")[0]
    lines = block.replace("\\\n", " ").splitlines()
    return [
        re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()[:1] not in ("", "#")
    ]


def free_port():
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    pairs, _ = small_gopro.make(folder, {"train/GOPR0001_07_00": 20})
    return pairs


@pytest.fixture(scope="module")
def quiet(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("quiet") / "out"
    done = run(f"trajbuild expand --src {source} --out {out} --jobs 1", {})
    assert done.returncode == 0, done.stderr
    return kill_fuzz.tree(out)


def here(command, source, out, port):
    """A command of the page for this machine: its address, a free port, our data."""
    command = (
        command.replace("10.0.0.1", HERE).replace("8786", str(port)).replace("6379", str(port))
    )
    return command.replace("/data/GOPRO_Large", str(source)).replace("/data/out", str(out))


def words(command):
    first, *rest = shlex.split(command)
    modules = {
        "trajbuild": ["trajectory_builder"],
        "dask": ["dask"],
        "ray": ["ray.scripts.scripts"],
    }
    return [sys.executable, "-m", *modules[first], *rest]


def run(command, environment):
    return subprocess.run(words(command), env=os.environ | environment, capture_output=True,
                          text=True, timeout=400)  # fmt: skip


@pytest.fixture
def start():
    """A function: starts a command that goes on; all are ended with the test."""
    running = []

    def begin(command, environment):
        running.append(subprocess.Popen(
            words(command), env=os.environ | environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL))  # fmt: skip

    yield begin
    for process in reversed(running):
        process.terminate()
    for process in running:
        process.wait(timeout=60)


def test_dask_as_written(source, quiet, start, tmp_path):
    port = free_port()
    scheduler, worker, expand = (here(c, source, tmp_path / "out", port) for c in commands("Dask:"))
    start(scheduler, {})
    start(worker.replace("auto", "1") + f" --local-directory {tmp_path}", {})
    done = run(expand, {})
    assert done.returncode == 0, done.stderr
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(tmp_path / "out")) == []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority and a node's certificate, made by openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates need openssl, which is not installed")
    home = tmp_path_factory.mktemp("keys")
    ca, node = home / "ca", home / "node"
    for line in (
        f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout {ca}.key -out {ca}.pem",
        f"req -newkey rsa:2048 -nodes -subj /CN=node -keyout {node}.key -out {node}.csr",
        f"x509 -req -in {node}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 2"
        f" -out {node}.pem",
    ):
        subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    return home


def test_dask_with_tls_as_written(source, quiet, start, certificates, tmp_path):
    exports = [c.removeprefix("export ").split("=", 1) for c in commands("- **Dask: TLS.**")]
    environment = {k: v.replace("/etc/cluster", str(certificates)) for k, v in exports}
    port = free_port()
    scheduler, worker, expand = (
        here(c, source, tmp_path / "out", port).replace("tcp://", "tls://")
        for c in commands("Dask:")
    )
    start(scheduler + " --protocol tls", environment)
    start(worker.replace("auto", "1") + f" --local-directory {tmp_path}", environment)
    done = run(expand, environment)
    assert done.returncode == 0, done.stderr
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(tmp_path / "out")) == []
    stranger = run(expand.replace("/out", "/other"), {})
    assert stranger.returncode == 1
    assert "authentication failed" in stranger.stderr
    assert "Traceback" not in stranger.stderr


def test_ray_as_written(source, quiet, tmp_path):
    port = free_port()
    lines = [here(c, source, tmp_path / "out", port) for c in commands("Ray (2.60")]
    mode, generate, head, _, expand = lines
    home = {"HOME": str(tmp_path / "home"), "RAY_TMPDIR": f"/tmp/ray-{os.getpid()}"}
    (tmp_path / "home").mkdir()
    environment = home | dict([mode.removeprefix("export ").split("=")])
    assert run(generate, environment).returncode == 0
    assert (tmp_path / "home/.ray/auth_token").is_file()
    try:
        begun = run(head + " --num-cpus 2 --temp-dir " + home["RAY_TMPDIR"], environment)
        assert begun.returncode == 0, begun.stderr
        stranger = run(expand.replace("/out", "/other"), {"HOME": str(tmp_path / "nobody")})
        done = run(expand, environment)
    finally:
        run("ray stop --force", environment)
    assert done.returncode == 0, done.stderr
    assert kill_fuzz.differences(quiet, kill_fuzz.tree(tmp_path / "out")) == []
    assert stranger.returncode == 1
    assert "authentication" in stranger.stderr
    assert "Traceback" not in stranger.stderr


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("InvalidAuthToken: Token authentication is enabled"), cluster.RAY),
        (OSError("TLS handshake failed: certificate verify failed"), cluster.DASK),
        (TypeError("TLS expects a `ssl_context` argument of type ssl.SSLContext"), cluster.DASK),
    ],
)
def test_a_refusal_for_want_of_a_key_is_named(error, kind):
    named = cluster.no_answer(kind, "10.0.0.1:1", error)
    assert "authentication failed" in named.what
    assert "docs/scaling.md" in named.cure


def test_silence_names_the_command_and_the_key():
    named = cluster.no_answer(cluster.RAY, "10.0.0.1:1", ConnectionError("refused"))
    assert named.what == "no Ray head answers at 10.0.0.1:1"
    assert "ray start --head" in named.cure
    assert "RAY_AUTH_MODE=token" in named.cure
