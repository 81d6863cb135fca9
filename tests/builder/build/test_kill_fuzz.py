"""A build that is killed anywhere is finished by the same command, to the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil")
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "kill_fuzz.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report():
    """40 kills and 8 signals; the table in benchmarks/results is of 500 and 50."""
    command = [sys.executable, str(SCRIPT), "--kills", "40", "--signals", "8", "--seed", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def of_kind(report, kind):
    return next(row for row in report["kinds"] if row["kind"] == kind)


def test_no_disturbed_build_is_other_than_the_quiet_one(report):
    assert report["wrong"] == []


@pytest.mark.parametrize("kind", ["group", "parent", "worker", "fault"])
def test_most_kills_meet_a_running_build(report, kind):
    row = of_kind(report, kind)
    assert row["met a running build"] >= row["blows"] / 2


def test_some_kill_leaves_a_temporary_file_to_clear(report):
    assert sum(row["temporary files met"] for row in report["kinds"]) > 0


@pytest.mark.parametrize("kind", ["term-group", "term-parent", "int-group", "int-parent"])
def test_a_signal_ends_all_processes_within_five_seconds(report, kind):
    assert of_kind(report, kind)["slowest end, s"] < 5
