"""The guides, command by command, in a fresh folder with the sample in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from gopro_tree import PACKAGE

from trajectory_builder.sample import write_sample

DOCS = PACKAGE.parent / "docs"


def commands_of(name, end=None):
    """The trajbuild commands in a guide's blocks, up to a heading."""
    text = (DOCS / name).read_text().partition(f"\n## {end}\n")[0]
    lines = "\n".join(re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)).splitlines()
    return [line.partition("  #")[0] for line in lines if line.startswith("trajbuild ")]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    pytest.importorskip("av", reason="needs the extra video")
    folder = tmp_path_factory.mktemp("fresh")
    write_sample(folder)
    return folder


# The sample has 6 sequences of small images.
SMALLER = {"train=0.95,validation=0.05": "train=0.8,validation=0.2", "--crop 512": "--crop 64"}


def follow(commands, folder, in_process, monkeypatch):
    """Run the commands in their order; each must end well."""
    monkeypatch.chdir(folder)
    for command in commands:
        for real, small in SMALLER.items():
            command = command.replace(real, small)
        done = in_process(*shlex.split(command)[1:])
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_guide_to_gopro_runs_from_check_to_split(fresh, in_process, monkeypatch):
    commands = commands_of("expand-gopro.md")
    assert [shlex.split(c)[1] for c in commands] == [
        "doctor", "plan", "expand", "verify", "report", "stats", "select", "split",
    ]  # fmt: skip
    follow(commands, fresh, in_process, monkeypatch)
    table = (DOCS / "expand-gopro.md").read_text()
    exports = re.findall(r"`(trajbuild export [^`]+)`", table)
    assert len(exports) == 4
    follow(exports, fresh, in_process, monkeypatch)


def test_guide_to_own_footage_runs_from_dry_run_to_export(fresh, in_process, monkeypatch):
    commands = commands_of("own-footage.md", "How to read the warnings")
    assert [shlex.split(c)[1] for c in commands] == [
        "generate", "generate", "report", "verify", "select", "merge", "export",
    ]  # fmt: skip
    # The merge takes what the other guide made.
    if not Path(fresh, "GOPRO_Large_trajectories").exists():
        follow(["trajbuild expand GOPRO_Large --jobs 1"], fresh, in_process, monkeypatch)
    follow(commands, fresh, in_process, monkeypatch)
