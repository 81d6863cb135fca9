"""Untrusted files: a pipe in a file's place is refused at once, and nothing grows unbounded."""

import os
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import make

from trajectory_builder import manifest
from trajectory_builder.errors import ImageError, ManifestError, UsageError
from trajectory_builder.images.pictures import decode, read, size_and_bits
from trajectory_builder.images.png_stream import png_chunk
from trajectory_builder.plan import recipe

pytestmark = pytest.mark.timeout(120)


def pipe_in_place_of(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


COMMANDS = [("verify", "--level", "full"), ("stats",), ("report", "--out", "page.html")]


@pytest.mark.parametrize("command", COMMANDS, ids=["verify", "stats", "report"])
@pytest.mark.parametrize("name", ["build.json", "train/metadata.parquet", "problems.parquet"])
def test_a_pipe_in_a_data_set_hangs_no_command(tmp_path, in_process, monkeypatch, name, command):
    folder = make(tmp_path / "set")
    pipe_in_place_of(folder / name)
    monkeypatch.chdir(tmp_path)
    done = in_process(command[0], str(folder), *command[1:])
    assert done.returncode in (0, 1, 3)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS[::2], ids=["verify", "report"])
def test_a_pipe_in_place_of_an_image_hangs_no_command(tmp_path, in_process, monkeypatch, command):
    folder = make(tmp_path / "set")
    pipe_in_place_of(next(folder.glob("train/blur/*/*.png")))
    monkeypatch.chdir(tmp_path)
    done = in_process(command[0], str(folder), *command[1:])
    assert done.returncode in (0, 1, 3)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("look", [read, size_and_bits])
def test_a_pipe_in_place_of_an_image_is_named(tmp_path, look):
    pipe_in_place_of(tmp_path / "a.png")
    with pytest.raises(ImageError, match="not a regular file"):
        look(tmp_path / "a.png")


def test_a_pipe_in_place_of_a_recipe_is_refused(tmp_path):
    pipe_in_place_of(tmp_path / "mine.yaml")
    with pytest.raises(UsageError, match="no recipe"):
        recipe.load_recipe(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nname: x\nwindows: *a\n",
        "name: " + "[" * 20_000,
        "name: x\nwindows: {7: [" + "9" * 5000 + "]}\n",
    ],
    ids=["alias", "deep", "huge number"],
)
def test_yaml_that_grows_is_one_clear_error(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match="recipe") as caught:
        recipe.load_recipe(str(tmp_path / "mine.yaml"))
    assert caught.value.cure


def test_a_recipe_of_megabytes_is_not_read(tmp_path):
    (tmp_path / "mine.yaml").write_text("#" * (recipe.MAX_BYTES + 1))
    with pytest.raises(UsageError):
        recipe.load_recipe(str(tmp_path / "mine.yaml"))


def test_a_manifest_of_millions_of_equal_rows_is_refused_before_it_grows(tmp_path):
    folder = make(tmp_path / "set")
    path = folder / "train" / manifest.FILE_NAME
    table = pq.read_table(path)
    one = table.slice(0, 1)
    indices = pa.array(np.zeros(3_000_000, np.int64))
    pq.write_table(one.take(indices), path, compression="zstd")
    (folder / "build.json").unlink()
    with pytest.raises(ManifestError, match="no real rows"):
        manifest.read(folder)


def _claiming(width, height, kind=0):
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    return start + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", [0, 2, 6])
def test_a_png_that_claims_many_pixels_is_refused_before_decoding(kind):
    with pytest.raises(ImageError, match="30,000 x 30,000"):
        decode(_claiming(30_000, 30_000, kind), name="a.png")
