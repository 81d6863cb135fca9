"""Data sets on the command line: arguments or --src, several, globs, `~`."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
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


def test_gopro_may_be_an_argument_or_an_option(small_source, tmp_path, in_process):
    for words in (("plan", "--json"), ("expand", "--json", "--dry-run", "--out", tmp_path / "o")):
        by_argument = in_process(*words, small_source.pairs)
        by_option = in_process(*words, "--src", small_source.pairs)
        assert by_argument.returncode == 0, by_argument.stderr
        counts = [json.loads(done.stdout)["counts"] for done in (by_argument, by_option)]
        assert counts[0] == counts[1]


def test_footage_may_be_several_arguments_and_globs(tmp_path, in_process):
    for name in ("a1", "a2", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            image = np.roll(np.arange(48 * 64 * 3).reshape(48, 64, 3) % 251, i, 1).astype(np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{i:03d}.png"), image)
    words = ("--out", tmp_path / "out", "--n-frames", "5", "--dry-run", "--json")
    done = in_process("generate", tmp_path / "b", "--src", tmp_path / "a*", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["train"]["trajectories"] == 3


def test_shares_of_generate_have_the_name_that_split_gives_them(tmp_path, in_process):
    for option in ("--into", "--split"):
        done = in_process("generate", tmp_path, "--out", tmp_path / "o", option, "train=2")
        assert "--into cannot be read" in done.stderr


@pytest.mark.parametrize("option", ["--files", "--link"])
def test_official_files_are_linked_by_either_name(small_source, tmp_path, in_process, option):
    out = tmp_path / "out"
    words = ("--recipe", "official", "--jobs", "1", "--check", "off")
    done = in_process("expand", small_source.pairs, "--out", out, option, "symlink", *words)
    assert done.returncode == 0, done.stderr
    assert next((out / "train/sharp").glob("*/*.png")).is_symlink()


def test_frames_beside_the_target_of_a_link_are_found(small_source, tmp_path, in_process):
    link = tmp_path / "GL"
    link.symlink_to(small_source.pairs)
    done = in_process("plan", link, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["problems"] == []


def test_both_places_are_named_where_no_frames_are(own_source, tmp_path, in_process):
    shutil.rmtree(own_source.frames)
    link = tmp_path / "GL"
    link.symlink_to(own_source.pairs)
    done = in_process("plan", link)
    assert done.returncode == 2
    assert f"{link}; GOPRO_Large_all is neither in it nor beside it" in done.stderr
    assert f"nor beside {own_source.pairs.resolve()}, to which it leads" in done.stderr


def test_data_set_to_verify_may_be_an_option(home, in_process):
    done = in_process("verify", "--src", home / "set a")
    assert done.returncode == 0, done.stdout
