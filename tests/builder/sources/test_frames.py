import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trajectory_builder.errors import ImageError
from trajectory_builder.sources import frames


def folder_of(path, names, size=(8, 6)):
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path / name)
    return path


def test_names_are_in_numerical_order(tmp_path):
    folder = folder_of(tmp_path / "a", ["f10.png", "f9.png", "f11.png", "f8.png"])
    assert frames.index(folder)[0].names == ("f8.png", "f9.png", "f10.png", "f11.png")


def test_missing_number_stays_open():
    assert frames.with_gaps(
        ["1.png", "2.png", "4.png", "5.png"] + [f"{i}.png" for i in range(6, 30)]
    )[:4] == ["1.png", "2.png", None, "4.png"]


def test_every_second_number_is_no_gap():
    names = [f"{i}.png" for i in range(0, 40, 2)]
    assert frames.with_gaps(names) == names


def test_numbers_that_count_nothing_are_only_an_order():
    names = [f"img_{n}.png" for n in (20240101, 20240517, 20240518, 20250203)]
    assert frames.with_gaps(names) == names


@given(st.sets(st.integers(0, 300), min_size=1))
def test_every_name_keeps_its_place_in_the_order(numbers):
    names = [f"{n}.png" for n in sorted(numbers)]
    assert [name for name in frames.with_gaps(names) if name] == names


def test_nested_folders_are_clips_each(tmp_path):
    folder_of(tmp_path / "a/x", ["1.png"])
    folder_of(tmp_path / "b", ["1.png"])
    (tmp_path / "empty").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in frames.find_folders(tmp_path)]
    assert found == ["a/x", "b"]


def test_mixed_sizes_are_refused_by_name(tmp_path):
    folder = folder_of(tmp_path / "a", [f"{i}.png" for i in range(5)])
    folder_of(folder, ["odd one.png"], size=(9, 6))
    found, problems = frames.index(folder)
    assert found is None
    assert "odd one.png is 9 x 6" in problems[0].what


def test_unreadable_picture_leaves_a_gap(tmp_path):
    folder = folder_of(tmp_path / "a", [f"{i}.png" for i in range(5)])
    (folder / "2.png").write_bytes(b"words")
    found, problems = frames.index(folder)
    assert found.names[2] is None
    assert problems[0].reason == "frame-unknown-format"


def test_other_files_are_passed_over(tmp_path):
    folder = folder_of(tmp_path / "a", ["1.png", "2.png"])
    (folder / "notes.txt").write_text("words")
    (folder / "._1.png").write_bytes(b"a Mac was here")
    assert len(frames.index(folder)[0]) == 2


@pytest.mark.usefixtures("permissions_hold")
def test_unreadable_folder_is_an_error(tmp_path):
    folder = folder_of(tmp_path / "a", ["1.png"])
    folder.chmod(0)
    try:
        with pytest.raises(ImageError, match="cannot be read"):
            frames.find_folders(tmp_path)
    finally:
        folder.chmod(0o700)


def test_links_are_not_followed(tmp_path):
    folder_of(tmp_path / "a", ["1.png"])
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert frames.find_folders(tmp_path) == [tmp_path / "a"]
