"""Data sets on the command line: arguments or --src, several, globs, `~`."""

from __future__ import annotations

import json

import pytest
import small_dataset

from trajectory_builder import manifest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two data sets of different clips."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("set a", "set b"):
        small_dataset.make(folder / name, clips={"train": (f"{name[-1]}_11_00",)})
    return folder


def total(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["total"]["pairs"]


def test_data_sets_may_be_arguments_options_or_both(home, in_process):
    one, other = home / "set a", home / "set b"
    assert total(in_process("stats", "--json", one)) == 6
    assert total(in_process("stats", "--json", "--src", one)) == 6
    assert total(in_process("stats", "--json", one, "--src", other)) == 12
    assert total(in_process("stats", "--json", "--src", one, "--src", other)) == 12


def test_quoted_globs_are_expanded(home, in_process):
    assert total(in_process("stats", "--json", "--src", home / "set*")) == 12


def test_tilde_is_the_home_folder_after_an_equals_sign_too(home, in_process, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    assert total(in_process("stats", "--json", "--src=~/set a")) == 6


def test_name_with_a_bracket_is_a_name_first(tmp_path, in_process):
    small_dataset.make(tmp_path / "[ab]", clips={"train": ("a_11_00",)})
    (tmp_path / "a").mkdir()
    assert total(in_process("stats", "--json", tmp_path / "[ab]")) == 6


def test_command_without_a_data_set_is_wrong_use(in_process):
    done = in_process("select", "--where", "n_frames == 7")
    assert done.returncode == 2
    assert "Missing argument 'DATASET'" in done.stderr


def test_two_data_sets_where_one_is_taken_are_named(home, in_process):
    done = in_process("select", home / "set a", home / "set b")
    assert done.returncode == 2
    assert "Give one DATASET, not 2" in done.stderr
    assert "set b" in done.stderr


def test_pair_is_explained_with_its_set_as_an_option(home, in_process):
    name = "a_11_00/000001/n07"
    by_argument = in_process("explain", home / "set a", name, "--json")
    by_option = in_process("explain", name, "--src", home / "set a", "--json")
    assert by_argument.stdout == by_option.stdout
    assert by_option.returncode == by_argument.returncode


def test_larger_sample_than_there_are_pairs_is_noted(home, in_process):
    done = in_process("select", home / "set a", "--sample", "99")
    assert "note: --sample 99, but there are only 6 such pairs" in done.stderr


@pytest.mark.parametrize("word", ["symlink", "reference"])
def test_symbolic_links_have_two_names(home, tmp_path, in_process, word):
    done = in_process("select", home / "set a", "--out", tmp_path / "out", "--files", word)
    assert done.returncode == 0, done.stderr
    read = manifest.read(tmp_path / "out", allow_links=True)
    assert read.file(0, "blur_file_name").is_symlink()
    assert "--allow-links" in done.stderr


def test_val_is_not_a_split_but_validation_is(home, tmp_path, in_process):
    out = tmp_path / "out"
    done = in_process("split", home / "set a", "--out", out, "--into", "train=0.5,val=0.5")
    assert done.returncode == 2
    assert "did you mean train, validation?" in done.stderr


def test_split_to_divide_is_named_by_split_and_by_of(home, tmp_path, in_process):
    words = ["--into", "train=1,validation=1", "--by", "trajectory", "--json"]
    reports = []
    for option in ("--split", "--of"):
        out = tmp_path / option[2:]
        done = in_process("split", home / "set a", "--out", out, option, "train", *words)
        reports.append(json.loads(done.stdout)["pairs"])
    assert reports == [{"train": 3, "validation": 3}] * 2
