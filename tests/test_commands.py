"""What both commands do alike: escapes in names, a full disk behind stdout, a second SIGTERM."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVIL = "e\x1b[31mvil\u202e\nline"
ESCAPED = r"e\x1b[31mvil\u202e\nline"
PACKAGES = ("trajectory_builder", "fidediff_model")
BOTH = pytest.mark.parametrize("package", PACKAGES)


def on_a_terminal(*words, cwd):
    """What a command writes to a pseudo-terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = b""
    try:
        while block := os.read(master, 4096):
            written += block
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
        process.wait()
    return written.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


@pytest.mark.parametrize(
    "words",
    [
        ("trajectory_builder", "verify", EVIL),
        ("trajectory_builder", "stats", EVIL),
        ("trajectory_builder", "plan", "--src", EVIL),
        ("trajectory_builder", EVIL),
        ("trajectory_builder", "verify", "--level", EVIL, "."),
        ("fidediff_model.cli", "restore", "x", "--model", EVIL, "--out", "o"),
        ("fidediff_model.cli", EVIL),
    ],
    ids=["verify", "stats", "plan", "trajbuild", "choice", "restore", "fidediff"],
)
def test_no_terminal_obeys_a_name_in_an_error(tmp_path, words):
    written = on_a_terminal("-m", *words, cwd=tmp_path)
    assert "error" in written.lower()
    assert "\x1b" not in written
    assert "\u202e" not in written
    assert r"e\x1b[31mvil\u202e" in written


def test_a_result_shows_names_with_their_escapes(tmp_path):
    (tmp_path / EVIL).mkdir()
    written = on_a_terminal("-m", "trajectory_builder", "doctor", "--out", EVIL, cwd=tmp_path)
    assert "\x1b" not in written
    assert ESCAPED in written


@BOTH
def test_a_full_disk_behind_stdout_is_reported_alike(package):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", f"{package}.cli" if package == PACKAGES[1] else package, "-h"],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: cannot write: No space left on device",
        "  where: what the output is sent to",
        "  cure:  make space there and run the same command again",
    ]


SLOW_TO_TIDY_UP = """
import sys, time, types, click
from PACKAGE import cli

@click.command()
def command():
    try:
        click.echo("begun")
        time.sleep(60)
    finally:
        click.echo("tidying up")
        time.sleep(1)
        click.echo("tidied up")

stub = types.ModuleType("stub")
stub.command = command
sys.modules["PACKAGE.cli.doctor"] = stub
cli.main(["doctor"])
"""


@BOTH
def test_a_second_sigterm_does_nothing(package):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_TIDY_UP.replace("PACKAGE", package)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "tidying up\n"
    process.send_signal(signal.SIGTERM)
    rest, said = process.communicate(timeout=60)
    assert rest == "tidied up\n"
    assert said.startswith("terminated")
    assert process.returncode == 143
