"""Untrusted files: a pipe in a file's place is refused at once, and nothing grows unbounded."""

import json
import os
import shutil
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import make

from trajectory_builder import manifest
from trajectory_builder.build import record
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
@pytest.mark.parametrize(
    "name",
    ["build.json", "train/metadata.parquet", "problems.parquet", "README.md",
     ".trajbuild/config.json", ".trajbuild/plan.parquet"],
)  # fmt: skip
def test_a_pipe_in_a_data_set_hangs_no_command(tmp_path, in_process, monkeypatch, name, command):
    folder = make(tmp_path / "set")
    (folder / name).parent.mkdir(exist_ok=True)
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


def test_a_pipe_in_place_of_the_card_hangs_no_tool(tmp_path, in_process):
    folder = make(tmp_path / "set")
    pipe_in_place_of(folder / "README.md")
    for words in (
        ("select", folder, "--where", "n_frames == 7", "--out", tmp_path / "part"),
        ("export", folder, "--to", "folders", "--out", tmp_path / "folders", "--jobs", "1"),
    ):
        assert in_process(*words).returncode == 0


def test_a_pipe_among_videos_is_named(tmp_path, in_process):
    pipe_in_place_of(tmp_path / "a.mp4")
    for source in (tmp_path, tmp_path / "a.mp4"):
        done = in_process("generate", "--src", source, "--out", tmp_path / "out")
        assert done.returncode in (1, 2, 4)
        assert "regular file" in done.stderr


def test_a_card_of_aliases_does_not_grow(tmp_path, in_process):
    folder = make(tmp_path / "set")
    levels = (f"k{i}: &k{i} [*k{i - 1}, *k{i - 1}]\n" for i in range(1, 40))
    bomb = "k0: &k0 [x]\n" + "".join(levels)
    (folder / "README.md").write_text(f"---\n{bomb}license: *k39\n---\n# Title\n")
    done = in_process("select", folder, "--where", "n_frames == 7", "--out", tmp_path / "part")
    assert done.returncode == 0
    assert len((tmp_path / "part/README.md").read_text()) < 10_000


@pytest.mark.parametrize("name", ["../pipe", "/dev/zero", "a/../../b"])
def test_build_json_names_nothing_outside_its_folder(tmp_path, in_process, name):
    folder = make(tmp_path / "set")
    os.mkfifo(tmp_path / "pipe")
    build = json.loads((folder / "build.json").read_text())
    build.pop("sha256")
    record.write_build(folder, build | {"files": {name: "0" * 64}})
    done = in_process("verify", folder)
    assert done.returncode == 3
    assert "build.json is damaged or was altered" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"files": ["README.md"]}, {"files": {"README.md": 3}}, {"manifests": "train"},
        {"manifests": {"train/metadata.parquet": None}}, {"manifests": {"../x": {}}},
        {"config": [1]}, {"source": {"frames": None}}, {"derived_from": [3]},
        {"derived_from": {"set": "x"}},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("level", ["quick", "deep"])
def test_a_sealed_build_json_of_another_form_is_a_finding(tmp_path, in_process, change, level):
    folder = make(tmp_path / "set")
    build = json.loads((folder / "build.json").read_text())
    build.pop("sha256")
    record.write_build(folder, build | change)
    done = in_process("verify", folder, "--level", level, "--jobs", "1")
    assert done.returncode in (1, 3)
    assert "has a bug" not in done.stderr
    assert in_process("report", folder, "--out", tmp_path / "page.html").returncode in (0, 1)


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_text_that_many_rows_repeat_is_refused_before_it_grows(tmp_path, nested):
    folder = make(tmp_path / "set")
    path = folder / "train" / manifest.FILE_NAME
    table = pq.read_table(path)
    table = table.take(pa.array(np.zeros(5000, np.int64)))
    index = pa.array(np.zeros(len(table), np.int32))
    long = pa.DictionaryArray.from_arrays(index, pa.array(["x" * 200_000]))
    if nested:
        offsets = pa.array(np.arange(len(table) + 1, dtype=np.int32))
        long = pa.ListArray.from_arrays(offsets, long)
    pq.write_table(table.append_column("camera", long), path, compression="zstd")
    (folder / "build.json").unlink()
    with pytest.raises(ManifestError, match="would become"):
        manifest.read(folder)


@pytest.mark.parametrize(
    "words",
    [("verify",), ("stats",), ("report", "--out", "page.html"), ("select",), ("diff", "SET"),
     ("explain", "x"), ("split", "--by", "trajectory", "--out", "split"),
     ("merge", "SET", "--out", "merged"),
     ("export", "--to", "folders", "--out", "folders", "--jobs", "1")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_split_that_is_a_link_out_is_refused(tmp_path, in_process, monkeypatch, words):
    folder = make(tmp_path / "set")
    shutil.move(folder / "train", tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "SET", seed=3)
    done = in_process(words[0], folder, *words[1:])
    if words[0] == "explain":  # it looks at one row, and opens no file
        assert done.returncode == 2
    else:
        assert done.returncode in (1, 2)
        assert "a split is a link out of the data set: train" in done.stderr


def test_a_split_that_is_a_link_may_be_named_itself_or_allowed(tmp_path, in_process):
    folder = make(tmp_path / "set")
    shutil.move(folder / "train", tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    assert in_process("stats", folder / "train").returncode == 0
    assert in_process("verify", folder, "--allow-links").returncode in (0, 3)


@pytest.mark.parametrize(
    ("column", "values"),
    [("n_frames", "7"), ("blur_bytes", "x"), ("motion_px", "None"), ("split", 3), ("width", 3.5),
     ("kernel_path", 7), ("kernel_path", "x"), ("camera", 4)],
)  # fmt: skip
@pytest.mark.parametrize("command", [("verify",), ("stats",), ("report", "--out", "page.html")],
                         ids=lambda words: words[0])  # fmt: skip
def test_a_column_of_another_type_is_one_error(
    tmp_path, in_process, monkeypatch, column, values, command
):
    folder = make(tmp_path / "set")
    path = folder / "train" / manifest.FILE_NAME
    table = pq.read_table(path)
    odd = pa.array([values] * len(table))
    if column in table.column_names:
        table = table.set_column(table.column_names.index(column), column, odd)
    else:
        table = table.append_column(column, odd)
    pq.write_table(table, path)
    (folder / "build.json").unlink()
    monkeypatch.chdir(tmp_path)
    done = in_process(command[0], folder, *command[1:])
    assert done.returncode in (1, 3)
    assert column.partition("_")[0] in done.stdout + done.stderr
    assert "has a bug" not in done.stderr


# What is published


def published(folder):
    """Every file of a data set or export but its own state, with Parquet as the texts in it."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or ".trajbuild" in path.parts or path.suffix == ".mdb":
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            content += repr((table.schema.metadata, table.to_pylist())).encode()
        yield path.relative_to(folder).as_posix(), content


def test_nothing_published_names_a_place_of_the_machine(small_source, tmp_path, in_process):
    home = tmp_path / "of-alice"
    shutil.copytree(small_source.pairs.parent, home / "src")
    frames = next((home / "src/GOPRO_Large_all/train").iterdir())
    built = home / "built"
    commands = {
        "built": ("expand", "--src", home / "src/GOPRO_Large", "--jobs", "1"),
        "footage": ("generate", "--src", frames, "--fps", "240", "--n-frames", "3,5", "--jobs", "1",
                    "--motion-floor", "0"),
        "part": ("select", built, "--where", "n_frames > 5"),
        "both": ("merge", built, home / "part", "--clashes", "prefix"),
        "halves": ("split", built, "--by", "trajectory"),
        "folders": ("export", built, "--to", "folders", "--jobs", "1"),
        "web": ("export", built, "--to", "webdataset", "--jobs", "1"),
        "hf": ("export", built, "--to", "hf", "--jobs", "1"),
    }  # fmt: skip
    for name, words in commands.items():
        done = in_process(*words, "--out", home / name)
        assert done.returncode in (0, 4), done.stderr
    assert in_process("report", built).returncode == 0
    for name in commands:
        for file, content in published(home / name):
            assert str(tmp_path).encode() not in content, f"{name}/{file}"
            assert b"of-alice" not in content, f"{name}/{file}"
