"""Regular files alone are opened, and no more bytes than asked for."""

import os

import pytest

from trajectory_builder.disk.regular import open_regular, read_regular, read_regular_json


def test_a_file_comes_back(tmp_path):
    (tmp_path / "a").write_bytes(b"words")
    assert read_regular(tmp_path / "a") == b"words"


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"words")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b") == b"words"


def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "pipe")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"directory|regular"):
        open_regular(tmp_path)


def test_a_device_is_refused():
    with pytest.raises(OSError, match="not a regular file"):
        read_regular("/dev/zero")


def test_a_larger_file_is_refused_with_its_size(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(OSError, match="5 bytes, more than the 4"):
        read_regular(tmp_path / "a", at_most=4)


def test_an_absent_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "a")


def test_json_comes_back(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, null]}')
    assert read_regular_json(tmp_path / "a.json") == {"a": [1, None]}


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000, '{"a": "\\ud800"', "\xff"])
def test_what_is_no_json_is_a_value_error(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"\S"):
        read_regular_json(tmp_path / "a.json")
