"""The manifest is a contract: equal rows give equal bytes, and what cannot be trusted is named."""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dataset
from gopro_tree import PACKAGE, SMALL_PAIRS
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectory_builder import manifest
from trajectory_builder.errors import ManifestError
from trajectory_builder.plan import table as plan_table

HOSTILE = [
    "", ".", "..", "/", "/etc/passwd", "//etc/passwd", "../x.png", "blur/../../x.png", "blur/..",
    "./blur/x.png", "blur/./x.png", "blur//x.png", "blur/", "~/x.png", "~root/x.png",
    "C:/x.png", "C:\\x.png", "c:x.png", "\\\\server\\x.png", "\\\\?\\C:\\x.png", "blur\\..\\x.png",
    "blur/x\0.png", "blur/x\n.png", "blur/x\r.png", "blur/\x1b[2Jx.png", "blur/x\x7f.png",
    "blur/\t.png", "../" * 12 + "etc/passwd", "blur/" + "x" * 256,
    unicodedata.normalize("NFD", "blur/Größe.png"), "blur/../../../root/.ssh/id_rsa", "/dev/zero",
]  # fmt: skip


def rows_of(folder):
    return manifest.read(folder).table


def write(path, table, metadata=None, **changes):
    """Write `table` with some columns replaced, as another program would."""
    for name, values in changes.items():
        field = table.schema.field(name)
        column = pa.array(values, type=field.type)
        table = table.set_column(table.column_names.index(name), name, column)
    entries = {"trajbuild.format_version": "2", **(metadata or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(entries), path)
    return path


@pytest.fixture
def alone(small_built, tmp_path):
    """The small build's training manifest without build.json, so that only it can be at fault."""
    (tmp_path / "train").mkdir()
    return shutil.copy(small_built / "train/metadata.parquet", tmp_path / "train")


@pytest.fixture(scope="module")
def table(small_built):
    return rows_of(small_built / "train")


def refused(path):
    with pytest.raises(ManifestError) as caught:
        manifest.read(path)
    assert caught.value.where
    assert caught.value.cure
    return caught.value


def replaced(table, column, value, at=0):
    values = table[column].to_pylist()
    values[at] = value
    return {column: values}


def test_written_rows_come_back_equal(table, tmp_path):
    manifest.write(table, tmp_path / "metadata.parquet", {})
    assert rows_of(tmp_path).equals(table)


def test_metadata_come_back_without_their_prefix(table, tmp_path):
    manifest.write(table, tmp_path / "metadata.parquet", {"recipe": "own", "source": "gopro"})
    assert manifest.read(tmp_path).metadata == {
        "format_version": "2", "recipe": "own", "source": "gopro"
    }  # fmt: skip


def test_further_columns_are_kept_behind_the_known_ones(table, tmp_path):
    wider = table.append_column("kernel", pa.array(["k"] * table.num_rows))
    manifest.write(wider.select(["kernel", *table.column_names]), tmp_path / "metadata.parquet", {})
    assert rows_of(tmp_path).column_names == [*manifest.SCHEMA.names, "kernel"]


def test_file_on_disk_is_what_every_process_would_write(small_built):
    code = (
        "import sys; from trajectory_builder import manifest as m;"
        "r = m.read(sys.argv[1]); r.metadata.pop('format_version');"
        "entries = dict(sorted(r.metadata.items(), reverse=True));"
        "sys.stdout.buffer.write(m.to_bytes(r.table, entries))"
    )
    path = small_built / "train/metadata.parquet"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed}
        done = subprocess.run([sys.executable, "-c", code, path], env=env, capture_output=True)
        assert done.stdout == path.read_bytes(), done.stderr


def test_content_digest_is_the_same_for_another_encoding(table, tmp_path):
    path = write(tmp_path / "metadata.parquet", table)
    assert manifest.content_sha256(rows_of(path)) == manifest.content_sha256(table)


def test_content_digest_tells_one_changed_value(table, tmp_path):
    path = write(tmp_path / "metadata.parquet", table, **replaced(table, "fps", 239.0))
    assert manifest.content_sha256(rows_of(path)) != manifest.content_sha256(table)


def test_file_holds_page_checksums_and_zstd(small_built):
    group = pq.read_metadata(small_built / "train/metadata.parquet").row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_manifest_holds_neither_clock_nor_place(small_built, small_source):
    content = (small_built / "train/metadata.parquet").read_bytes()
    assert str(small_source.pairs.parent).encode() not in content
    text = json.dumps(rows_of(small_built).to_pylist())
    assert os.uname().nodename not in text
    assert "/tmp" not in text


def test_300_flipped_bits_are_all_found(own_built):
    path = own_built / "train/metadata.parquet"
    whole = path.read_bytes()
    rng = random.Random(2026)
    for _ in range(300):
        at, bit = rng.randrange(len(whole)), rng.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        refused(own_built)


def test_300_flipped_bits_of_pages_are_found_without_the_digest(alone):
    with open(alone, "rb") as file:
        whole = file.read()
    expected = rows_of(alone)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    rng = random.Random(7)
    silent = 0
    for _ in range(300):
        at, bit = rng.randrange(4, footer), rng.randrange(8)
        with open(alone, "wb") as file:
            file.write(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            silent += not rows_of(alone).equals(expected)
        except ManifestError:
            continue
    assert silent == 0


@pytest.mark.parametrize("cut", [0, 1, 4, 100, 0.5, -1])
def test_cut_manifest_is_refused_by_name(alone, cut):
    with open(alone, "rb") as file:
        whole = file.read()
    size = int(cut * len(whole)) if isinstance(cut, float) else cut
    with open(alone, "wb") as file:
        file.write(whole[:size])
    assert "damaged" in refused(alone).what


@pytest.fixture(scope="module")
def bytes_of_three_rows(table):
    return manifest.to_bytes(table.slice(0, 3), {})


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_a_named_error(tmp_path_factory, content, framed):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    path.write_bytes(b"PAR1" + content + b"PAR1" if framed else content)
    with pytest.raises(ManifestError):
        manifest.read(path)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(data=st.data())
def test_altered_bytes_give_rows_or_a_named_error(tmp_path_factory, bytes_of_three_rows, data):
    content = bytearray(bytes_of_three_rows)
    # Half of the changes hit the footer, where no checksum stands.
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    place = st.one_of(st.integers(0, len(content) - 1), st.integers(footer, len(content) - 1))
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        content[at] = value
    path = tmp_path_factory.getbasetemp() / "altered.parquet"
    path.write_bytes(content)
    try:
        found = manifest.read(path)
    except ManifestError:
        return
    assert all(isinstance(row["sample_id"], str) for row in found.rows())


def test_30_and_more_hostile_paths_are_tried():
    assert len(set(HOSTILE)) >= 30


@pytest.mark.parametrize("column", ["blur_file_name", "sharp_file_name"])
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_path_is_refused_by_name(table, tmp_path, name, column):
    path = write(tmp_path / "metadata.parquet", table, **replaced(table, column, name))
    assert "hostile path" in refused(path).what


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_path_is_never_resolved(tmp_path, name):
    with pytest.raises(ManifestError, match="leaves its folder"):
        manifest.resolve(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["blur/a b.png", "blur/Größe.png", "blur/日本.png", "blur/-y.png", "a..b/c.png", "..a"]
)
def test_odd_but_sound_path_is_accepted(table, tmp_path, name):
    path = write(tmp_path / "metadata.parquet", table, **replaced(table, "blur_file_name", name))
    assert rows_of(path)["blur_file_name"][0].as_py() == name


def test_link_out_of_the_folder_is_refused(own_built, tmp_path):
    found = manifest.read(own_built)
    path = found.file(0, "blur_file_name")
    path.rename(tmp_path / "outside.png")
    path.symlink_to(tmp_path / "outside.png")
    with pytest.raises(ManifestError, match="link out of its folder"):
        found.file(0, "blur_file_name")


def test_linked_folder_out_of_the_folder_is_refused(own_built, tmp_path):
    found = manifest.read(own_built)
    (own_built / "train/blur").rename(tmp_path / "outside")
    (own_built / "train/blur").symlink_to(tmp_path / "outside")
    with pytest.raises(ManifestError, match="link out of its folder"):
        found.file(0, "blur_file_name")


def test_link_out_is_followed_when_links_are_allowed(own_built, tmp_path):
    found = manifest.read(own_built, allow_links=True)
    path = found.file(0, "blur_file_name")
    path.rename(tmp_path / "outside.png")
    path.symlink_to(tmp_path / "outside.png")
    assert found.file(0, "blur_file_name") == path


def test_link_that_turns_in_a_circle_is_refused(own_built):
    found = manifest.read(own_built)
    path = found.file(0, "blur_file_name")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ManifestError, match="is not there"):
        found.file(0, "blur_file_name")


def test_whole_folder_gives_train_before_test(small_built):
    splits = rows_of(small_built)["split"].to_pylist()
    assert splits == ["train"] * SMALL_PAIRS["train"] + ["test"] * SMALL_PAIRS["test"]


@pytest.mark.parametrize("given_as", ["train", "train/metadata.parquet"])
def test_one_split_is_read_from_folder_or_file(small_built, given_as):
    assert set(rows_of(small_built / given_as)["split"].to_pylist()) == {"train"}


def test_several_sources_are_read_as_one(small_built):
    found = manifest.read([small_built / "test", small_built / "train"])
    assert len(found) == sum(SMALL_PAIRS.values())


def test_each_row_finds_its_own_files(small_built):
    found = manifest.read(small_built)
    for row in range(len(found)):
        digest = hashlib.sha256(found.file(row, "blur_file_name").read_bytes()).hexdigest()
        assert digest == found.table["blur_sha256"][row].as_py()


def test_two_sets_with_one_sample_id_are_refused(small_built):
    with pytest.raises(ManifestError, match="sample_id more than once"):
        manifest.read([small_built / "train", small_built / "train"])


def test_extra_columns_of_two_types_are_refused(table, tmp_path):
    half = table.num_rows // 2
    for name, part, value in (("a", table.slice(0, half), 1), ("b", table.slice(half), "x")):
        part = part.append_column("extra", pa.array([value] * part.num_rows))
        write(tmp_path / name / "metadata.parquet", part)
    with pytest.raises(ManifestError) as caught:
        manifest.read([tmp_path / "a", tmp_path / "b"])
    assert all([caught.value.where, caught.value.cure])


@pytest.mark.parametrize("version", ["0", "1", "3", "2.0", "one", ""])
def test_other_schema_version_is_refused(table, tmp_path, version):
    path = write(tmp_path / "metadata.parquet", table, {"trajbuild.format_version": version})
    assert f"schema version {version}" in refused(path).what


def test_parquet_file_of_others_is_no_manifest(table, tmp_path):
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "metadata.parquet")
    assert "not a manifest" in refused(tmp_path).what


@pytest.mark.parametrize("column", manifest.SCHEMA.names)
def test_missing_column_is_refused_by_name(table, tmp_path, column):
    path = write(tmp_path / "metadata.parquet", table.drop_columns([column]))
    assert f"lacks columns: {column}" in refused(path).what


@pytest.mark.parametrize(
    ("column", "values"),
    [("n_frames", "seven"), ("width", [1, 2]), ("blur_bytes", 1.5), ("backward_n_frames", 3)],
)
def test_column_of_another_type_is_refused(table, tmp_path, column, values):
    at = table.column_names.index(column)
    other = table.set_column(at, column, pa.array([values] * table.num_rows))
    assert "wrong type" in refused(write(tmp_path / "metadata.parquet", other)).what


def test_column_that_stands_twice_is_refused(table, tmp_path):
    other = table.append_column("split", table["split"])
    assert "twice: split" in refused(write(tmp_path / "metadata.parquet", other)).what


@pytest.mark.parametrize("column", [f.name for f in manifest.SCHEMA if not f.nullable])
def test_absent_value_is_refused(table, tmp_path, column):
    values = table[column].to_pylist()
    values[3] = None
    kind = table.schema.field(column).type
    other = table.set_column(
        table.column_names.index(column), pa.field(column, kind), pa.array(values, type=kind)
    )
    assert column in refused(write(tmp_path / "metadata.parquet", other)).what


def test_text_that_is_not_utf8_is_refused(table, tmp_path):
    broken = pa.array([b"\xff\xfe"] * table.num_rows).cast(pa.string(), safe=False)
    at = table.column_names.index("clip_id")
    other = table.set_column(at, "clip_id", broken)
    assert "damaged" in refused(write(tmp_path / "metadata.parquet", other)).what


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("split", "training", "unknown split"),
        ("origin", "rendered", "unknown origin"),
        ("average_domain", "linear", "unknown average_domain"),
        ("n_frames", 8, "n_frames is even"),
        ("n_frames", -1, "n_frames is even or below 1"),
        ("timestep", 121, "timestep is not (n_frames - 1) x 20"),
        ("sample_id", "GOPR9003_13_00/000013/n13", "sample_id more than once"),
        ("backward_n_frames", [1, 3], "a backward point is not in the manifest"),
        ("backward_n_frames", [1, 7], "a backward point is not in the manifest"),
    ],
)
def test_contradiction_is_refused_by_name(table, tmp_path, column, value, said):
    path = write(tmp_path / "metadata.parquet", table, **replaced(table, column, value))
    assert said in refused(path).what


def test_timestep_step_that_is_no_number_is_refused(table, tmp_path):
    path = write(tmp_path / "metadata.parquet", table, {"trajbuild.timestep_step": "twenty"})
    assert "timestep_step" in refused(path).what


def test_row_taken_out_is_missed_as_a_backward_point(table, tmp_path):
    kept = [row for row in table.to_pylist() if row["sample_id"] != "GOPR9003_13_00/000011/n09"]
    path = write(tmp_path / "metadata.parquet", pa.Table.from_pylist(kept, schema=table.schema))
    assert "GOPR9003_13_00/000011/n11" in refused(path).what


@pytest.mark.parametrize("source", ["absent", "empty", "absent/metadata.parquet"])
def test_folder_without_a_manifest_is_one_clear_error(tmp_path, source):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / source)


def test_folder_in_place_of_the_manifest_is_refused(tmp_path):
    (tmp_path / "train/metadata.parquet").mkdir(parents=True)
    refused(tmp_path)


def test_empty_manifest_has_no_rows(table, tmp_path):
    manifest.write(table.slice(0, 0), tmp_path / "metadata.parquet", {})
    assert len(manifest.read(tmp_path)) == 0


def test_data_dictionary_is_what_the_schema_says():
    root = PACKAGE.parent
    command = [sys.executable, root / "docs/manifest_dictionary.py"]
    told = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
    assert (root / "manifests/README.md").read_bytes() == told


def test_every_column_has_a_meaning_in_the_data_dictionary():
    told = (PACKAGE.parent / "manifests/README.md").read_text()
    for name in (*manifest.SCHEMA.names, *plan_table.SCHEMA.names):
        row = next(line for line in told.splitlines() if line.startswith(f"| `{name}` |"))
        assert len(row.split("|")[4].strip()) > 4


@pytest.fixture(scope="module")
def loaded(small_built, tmp_path_factory):
    """What `datasets` makes of the folder, in a process of its own without a network."""
    code = (
        "import json, sys; from datasets import load_dataset;"
        "d = load_dataset('imagefolder', data_dir=sys.argv[1]);"
        "print(json.dumps({s: [p.num_rows, {k: type(v).__name__ for k, v in p.features.items()},"
        " p[0]['blur'].size, p[0]['sharp'].mode, p[0]['sample_id']] for s, p in d.items()}))"
    )
    home = tmp_path_factory.mktemp("hf")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, small_built], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_datasets_loads_train_and_test(loaded):
    assert {split: found[0] for split, found in loaded.items()} == SMALL_PAIRS


def test_datasets_sees_two_image_columns(loaded):
    kinds = loaded["train"][1]
    assert [name for name, kind in kinds.items() if kind == "Image"] == ["blur", "sharp"]


def test_datasets_decodes_images_of_the_right_size(loaded):
    assert loaded["test"][2:4] == [[64, 48], "RGB"]


def test_datasets_keeps_the_other_columns(loaded):
    rest = set(manifest.SCHEMA.names) - {"blur_file_name", "sharp_file_name"}
    assert rest <= set(loaded["train"][1])


DOORS = re.findall(
    r"```python\n(import (pandas|polars|duckdb).*?)```",
    (PACKAGE.parent / "manifests/README.md").read_text(),
    re.S,
)


@pytest.mark.parametrize(("code", "library"), DOORS, ids=lambda value: value[:6])
def test_data_frame_recipe_reads_every_pair_and_its_file(tmp_path, monkeypatch, code, library):
    pytest.importorskip(library)
    small_dataset.make(tmp_path / "GOPRO_Large_trajectories")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    frame = names["pairs"]
    rows = frame.fetchall() if library == "duckdb" else frame["blur"]
    paths = [row[-1] for row in rows] if library == "duckdb" else list(rows)
    assert len(paths) == 18
    assert all((Path("GOPRO_Large_trajectories") / path).is_file() for path in paths)


def test_data_frame_recipes_are_of_three_libraries():
    assert [library for _, library in DOORS] == ["pandas", "polars", "duckdb"]


def test_torch_recipe_of_the_data_dictionary_runs(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    text = (PACKAGE.parent / "manifests/README.md").read_text()
    code = re.search(r"```python\n(from torch.utils.data.*?)```", text, re.S)[1]
    small_dataset.make(tmp_path / "GOPRO_Large_trajectories", size=(72, 80))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["batch"]["blur"].shape == (4, 3, 64, 64)
