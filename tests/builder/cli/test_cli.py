"""The command line as a user meets it: streams, codes, help, closed pipes, no tracebacks."""

import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
from gopro_tree import PACKAGE, three_parts, trajbuild

from trajectory_builder.cli import COMMANDS
from trajectory_builder.errors import ExitCode
from trajectory_builder.version import __version__


@pytest.fixture(scope="module")
def said():
    return trajbuild("--help").stdout


def test_help_lists_every_command_with_its_line(said):
    flat = " ".join(said.split())
    for name, line in COMMANDS.items():
        assert f"{name} {line}" in flat


def test_help_tells_every_exit_code(said):
    codes = said[said.index("Exit codes:") :]
    assert all(f"{int(code)} " in codes for code in ExitCode)


@pytest.mark.parametrize(
    "words",
    [
        "expand --src absent", "plan --src absent", "verify absent", "explain absent some-id",
        "stats absent", "report absent", "index absent --layout pairs --out new",
        "diff absent absent", "merge absent other --out new", "split absent --out new",
        "export absent --to folders --out new", "select absent --where n_frames>3 --out new",
        "generate --src absent --out new",
    ],
)  # fmt: skip
def test_a_folder_that_is_not_there_is_wrong_use_of_every_command(tmp_path, words):
    done = trajbuild(*words.split(), cwd=tmp_path)
    assert done.returncode == ExitCode.WRONG_USE
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert "absent does not exist" in first
    assert last.startswith("  cure:  ")
    assert not (tmp_path / "new").exists()


def test_help_stays_under_80_columns(said):
    assert max(map(len, said.splitlines())) <= 80


def test_short_help_is_the_same(said):
    assert trajbuild("-h").stdout == said


def test_no_command_at_all_shows_help_as_wrong_use():
    done = trajbuild()
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


def test_version_is_the_package_version():
    assert trajbuild("--version").stdout == f"trajbuild, version {__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        ["explode"], ["plan"], ["plan", "--src"], ["plan", "--src", "x", "--jobs", "0"],
        ["expand", "--src", "x", "--jobs", "0"], ["expand", "--src", "x", "--link", "soft"],
        ["verify", "x", "--level", "half"], ["--colour"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_use_ends_with_two_on_stderr(args):
    done = trajbuild(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_mistyped_command_suggests_the_nearest_without_importing_it():
    done = trajbuild("expnd", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 2
    assert "No such command 'expnd'. Did you mean expand" in done.stderr
    assert "trajectory_builder.cli.expand" not in done.stderr


def test_command_like_no_other_suggests_nothing():
    assert "Did you mean" not in trajbuild("zzz").stderr


def test_error_of_a_user_shows_no_traceback(tmp_path):
    done = trajbuild("plan", "--src", tmp_path / "none")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = trajbuild("--debug", "plan", "--src", tmp_path / "none")
    assert "Traceback" in done.stderr
    assert all(three_parts(done.stderr))


def test_result_goes_to_stdout_alone(small_source):
    done = trajbuild("plan", "--src", small_source.pairs)
    assert "train: 33 pairs" in done.stdout
    assert done.stderr == ""


def test_json_goes_to_stdout_as_one_line(small_source):
    done = trajbuild("plan", "--src", small_source.pairs, "--json")
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["recipe"] == "fidediff-7877"


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "xterm-256color"}, {"LC_ALL": "C"}])
def test_output_holds_no_colour_codes(small_source, env):
    done = trajbuild("plan", "--src", small_source.pairs, env=env)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_closed_pipe_is_no_error(real_names):
    command = f"{sys.executable} -m trajectory_builder plan --src '{real_names.frames}'"
    # The reader is gone before the first line; `pipefail` shows what the writer ended with.
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], cwd=PACKAGE.parent,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_full_disk_behind_stdout_is_told_as_such():
    command = [sys.executable, "-m", "trajectory_builder", "recipes"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=PACKAGE.parent, stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False)  # fmt: skip
    assert done.returncode == ExitCode.FAILED
    assert all(three_parts(done.stderr))
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_module_runs_from_any_folder(tmp_path):
    done = trajbuild("--version", cwd=tmp_path, env={"PYTHONPATH": str(PACKAGE.parent)})
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_stopped_command_ends_with_its_code(real_names, tmp_path, sent, code):
    # A test's signal stops the command where it gives the plan's file its name.
    command = [sys.executable, "-m", "trajectory_builder", "plan", "--src", real_names.pairs]
    environment = {**os.environ, "TRAJBUILD_TEST_FAULT": "before-rename:1"}
    environment["TRAJBUILD_TEST_SIGNAL"] = "SIGSTOP"
    with subprocess.Popen(
        [*command, "--out", tmp_path / "plan.parquet"], cwd=PACKAGE.parent, env=environment,
        stderr=subprocess.PIPE, text=True,
        # A test process of xdist ignores SIGINT, and so would what it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        process.send_signal(sent)
        process.send_signal(signal.SIGCONT)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
