"""An unfinished build is named as one, with the command that completes it."""

from __future__ import annotations

import json
import os
import shlex

import pytest

from trajectory_builder.disk.store import STATE


@pytest.fixture
def unfinished(own_source, tmp_path, in_process, monkeypatch):
    """A build that --strict stopped at a damaged frame, its name with a blank and a quote."""
    frame = sorted((own_source.frames / "train").glob("*_11_*/*.png"))[12]
    complete = frame.read_bytes()
    frame.write_bytes(complete[:200])
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "my 'own' set"
    words = ("expand", own_source.pairs, "--out", out, "--jobs", "1", "--strict", "--check", "off")
    assert in_process(*words).returncode == 1
    frame.write_bytes(complete)
    return out


@pytest.mark.parametrize("command", ["stats", "report", "verify", "select"])
def test_unfinished_build_is_named_with_its_command(unfinished, in_process, command):
    done = in_process(command, unfinished)
    assert done.returncode != 0
    assert f"{unfinished} is an unfinished build" in done.stderr
    assert "cure:  trajbuild expand" in done.stderr


def cure_of(done):
    return done.stderr.split("cure:  ")[1].strip()


def test_the_named_command_completes_the_build(unfinished, in_process):
    program, *words = shlex.split(cure_of(in_process("stats", unfinished)))
    assert program == "trajbuild"
    done = in_process(*words)
    assert done.returncode == 0, done.stderr
    assert f"next: trajbuild verify {shlex.quote(str(unfinished))}" in done.stderr
    assert in_process("stats", unfinished).returncode == 0
    assert not (unfinished / STATE / "command.json").exists()


def test_from_another_folder_the_command_begins_with_cd(unfinished, in_process, monkeypatch):
    began = os.getcwd()
    monkeypatch.chdir("/")
    assert cure_of(in_process("stats", unfinished)).startswith(f"cd {began} && trajbuild expand")


@pytest.mark.parametrize("note", ["", "[]", '{"command": 3}', '{"command": ["x; rm -rf /"]}'])
def test_a_note_that_cannot_be_trusted_is_quoted_or_left_out(unfinished, in_process, note):
    if note.endswith("]}"):
        note = json.dumps(json.loads(note) | {"folder": "/; rm"})
    (unfinished / STATE / "command.json").write_text(note)
    cure = cure_of(in_process("stats", unfinished))
    assert cure in (
        "run the command that began it again; it resumes",
        "cd '/; rm' && trajbuild 'x; rm -rf /'",
    )


def test_counts_of_one_are_in_the_singular(in_process, tmp_path):
    from small_dataset import make

    folder = make(tmp_path / "one", clips={"train": ("a_11_00",)}, trajectories=1, n_frames=(7,))
    assert in_process("verify", folder).stdout.startswith("1 pair, 2 files, level quick")
    done = in_process("select", folder, "--out", tmp_path / "part of it")
    assert done.stdout.endswith("part of it: 1 train pair, 2 files\n")
    assert f"next: trajbuild verify '{tmp_path}/part of it'" in done.stderr
