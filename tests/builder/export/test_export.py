"""Exports, read back by the consumers' own libraries or by their listing restated here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dataset

from trajectory_builder import manifest
from trajectory_builder.errors import DataError, OutputError
from trajectory_builder.export import pairs as exported
from trajectory_builder.export.folders import LAYOUTS, export_folders
from trajectory_builder.export.hf import export_hf
from trajectory_builder.export.lmdb import export_lmdb
from trajectory_builder.export.request import Request
from trajectory_builder.export.targets import TARGETS
from trajectory_builder.export.webdataset import export_webdataset

CROP, OVERLAP = 24, 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("export") / "set")


@pytest.fixture(scope="module")
def source(dataset):
    """key -> (row, bytes of the blur, bytes of the sharp), by the manifest alone."""
    found = manifest.read(dataset)
    rows = {}
    for index, row in enumerate(found.rows()):
        payload = [found.file(index, f"{k}_file_name").read_bytes() for k in ("blur", "sharp")]
        rows[row["sample_id"].replace("/", "-")] = (row, *payload)
    return rows


def rgb(payload):
    return cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".trajbuild" not in path.parts
    }


def load(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


def raw(rows, column):
    datasets = pytest.importorskip("datasets")
    return rows.cast_column(column, datasets.Image(decode=False))


def test_datasets_reads_every_pair_bit_for_bit(dataset, source, tmp_path):
    export_hf(Request(dataset, tmp_path / "out"))
    loaded = load(tmp_path / "out", tmp_path)
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 12, "test": 6}
    for rows in loaded.values():
        for row in raw(raw(rows, "blur"), "sharp"):
            _, blur, sharp = source[row["sample_id"].replace("/", "-")]
            assert (row["blur"]["bytes"], row["sharp"]["bytes"]) == (blur, sharp)


def test_datasets_decodes_the_columns_as_images(dataset, tmp_path):
    export_hf(Request(dataset, tmp_path / "out"))
    row = load(tmp_path / "out", tmp_path)["train"][0]
    assert row["blur"].size == (48, 36)
    assert row["backward_n_frames"] == [1]


def test_trajectory_rows_hold_all_blurs_by_ascending_n(dataset, source, tmp_path):
    export_hf(Request(dataset, tmp_path / "out", rows="trajectory"))
    rows = load(tmp_path / "out", tmp_path)["train"]
    assert len(rows) == 4
    row = rows[0]
    assert (row["n_frames"], row["timesteps"]) == ([7, 9, 11], [120, 160, 200])
    for n, image in zip(row["n_frames"], row["blurs"], strict=True):
        expected = source[f"{row['trajectory_id'].replace('/', '-')}-n{n:02d}"][1]
        assert (np.asarray(image) == rgb(expected)).all()


def test_row_groups_are_small_enough_for_the_viewer(tmp_path):
    many = small_dataset.make(
        tmp_path / "set", clips={"train": ("A",)}, trajectories=14, size=(8, 8)
    )
    export_hf(Request(many, tmp_path / "out"))
    (path,) = (tmp_path / "out/data").glob("*.parquet")
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [32, 10]


def test_mlcroissant_validates_and_reads_the_records(dataset, source, tmp_path):
    croissant = pytest.importorskip("mlcroissant")
    export_hf(Request(dataset, tmp_path / "out"))
    described = croissant.Dataset(str(tmp_path / "out/croissant.json"))
    assert not described.metadata.ctx.issues.errors
    record = next(iter(described.records("train")))
    key = record["train/sample_id"].decode().replace("/", "-")
    assert (np.asarray(record["train/blur"]) == rgb(source[key][1])).all()


def test_mlcroissant_reads_all_shards_of_a_split_as_one_record_set(dataset, tmp_path):
    croissant = pytest.importorskip("mlcroissant")
    export_hf(Request(dataset, tmp_path / "out", shard_bytes=20_000))
    assert len(list((tmp_path / "out/data").glob("train-*"))) > 1
    described = croissant.Dataset(str(tmp_path / "out/croissant.json"))
    assert len(list(described.records("train"))) == 12
    assert len(list(described.records("test"))) == 6


def test_card_gives_the_source_licence_and_every_split(dataset, tmp_path):
    export_hf(Request(dataset, tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "path: data/train-*" in card
    assert "| train | 12 |" in card


def wds_pairs(out):
    webdataset = pytest.importorskip("webdataset")
    for shard in sorted(out.glob("*.tar")):
        yield from webdataset.WebDataset(str(shard), shardshuffle=False)


def test_webdataset_reads_every_pair_bit_for_bit(dataset, source, tmp_path):
    export_webdataset(Request(dataset, tmp_path / "out", shard_bytes=20_000))
    read = {p["__key__"]: (p["blur.png"], p["sharp.png"]) for p in wds_pairs(tmp_path / "out")}
    assert read == {key: (blur, sharp) for key, (_, blur, sharp) in source.items()}
    assert len(list((tmp_path / "out").glob("train-*.tar"))) > 1


def test_webdataset_rows_tell_n_and_timestep(dataset, tmp_path):
    export_webdataset(Request(dataset, tmp_path / "out"))
    row = json.loads(next(wds_pairs(tmp_path / "out"))["json"])
    assert (row["n_frames"], row["timestep"]) == (7, 120)


def test_tars_written_at_another_time_have_the_same_bytes(dataset, tmp_path):
    export_webdataset(Request(dataset, tmp_path / "one"))
    time.sleep(1.1)
    export_webdataset(Request(dataset, tmp_path / "two"))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_dotted_names_give_keys_without_dots(tmp_path):
    clips = {"train": ("v1.2_clip", "v1_2_clip")}
    dotted = small_dataset.make(tmp_path / "set", clips=clips, trajectories=1)
    export_webdataset(Request(dotted, tmp_path / "out"))
    keys = [pair["__key__"] for pair in wds_pairs(tmp_path / "out")]
    assert len(set(keys)) == 6
    assert not any("." in key for key in keys)


def test_two_pairs_never_share_a_key():
    odd = exported.keys(["a.b/1", "other"])[0]
    with pytest.raises(DataError, match="two pairs would be exported under the name"):
        exported.keys(["a.b/1", odd])


def basicsr_keys(folder):
    """The keys as `paths_from_lmdb` of BasicSR's data_util.py takes them from meta_info.txt."""
    assert str(folder).endswith(".lmdb")
    with open(folder / "meta_info.txt") as lines:
        return [line.split(".")[0] for line in lines]


def lmdb_value(folder, key):
    """A value as BasicSR's LmdbBackend opens it."""
    lmdb = pytest.importorskip("lmdb")
    client = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    with client.begin(write=False) as transaction:
        value = transaction.get(key.encode("ascii"))
    client.close()
    return value


def test_basicsr_reads_every_lmdb_pair_bit_for_bit(dataset, source, tmp_path):
    export_lmdb(Request(dataset, tmp_path / "out"))
    read = {}
    for blur, sharp in (
        ("train/blur_crops.lmdb", "train/sharp_crops.lmdb"),
        ("test/input.lmdb", "test/target.lmdb"),
    ):
        homes = tmp_path / "out" / blur, tmp_path / "out" / sharp
        assert basicsr_keys(homes[0]) == basicsr_keys(homes[1])
        for key in basicsr_keys(homes[0]):
            read[key] = tuple(lmdb_value(home, key) for home in homes)
    assert read == {key: (blur, sharp) for key, (_, blur, sharp) in source.items()}


def test_meta_info_lines_have_basicsrs_form(dataset, tmp_path):
    export_lmdb(Request(dataset, tmp_path / "out"))
    lines = (tmp_path / "out/train/blur_crops.lmdb/meta_info.txt").read_text().splitlines()
    assert lines[0] == "GOPR0001_11_00-000001-n07.png (36,48,3) 1"


def test_lmdb_grows_when_its_map_is_full(dataset, source, tmp_path, monkeypatch):
    from trajectory_builder.export import lmdb as module

    monkeypatch.setattr(module, "PAIRS_PER_COMMIT", 4)
    database = module._Database(tmp_path, 65536)
    with database:
        for index in range(40):
            database.put(f"key{index}", bytes(5000))
    assert lmdb_value(tmp_path, "key39") == bytes(5000)


def by_position(blurs, sharps):
    """MPRNet's pairing: both folders listed and sorted, pairs by position (dataset_RGB.py)."""
    images = ("jpeg", "JPEG", "jpg", "png", "JPG", "PNG", "gif")
    listed = [sorted(n for n in os.listdir(f) if n.endswith(images)) for f in (blurs, sharps)]
    assert len(listed[0]) == len(listed[1])
    for blur, sharp in zip(*listed, strict=True):
        yield Path(blur).stem, (blurs / blur).read_bytes(), (sharps / sharp).read_bytes()


@pytest.mark.parametrize(
    ("layout", "folders"),
    [
        ("mprnet", ("train/input", "train/target", "test/input", "test/target")),
        ("hinet", ("train/blur_crops", "train/sharp_crops", "test/input", "test/target")),
    ],
)
def test_flat_folders_pair_as_the_manifest_does(dataset, source, tmp_path, layout, folders):
    export_folders(Request(dataset, tmp_path, layout=layout))
    homes = [tmp_path / name for name in folders]
    read = {k: (b, s) for at in (0, 2) for k, b, s in by_position(homes[at], homes[at + 1])}
    assert read == {key: (blur, sharp) for key, (_, blur, sharp) in source.items()}


def test_mimo_unet_pairs_as_the_manifest_does(dataset, source, tmp_path):
    """MIMO-UNet: sorted names of SPLIT/blur, each with its namesake in SPLIT/sharp."""
    export_folders(Request(dataset, tmp_path, layout="mimo"))
    read = {}
    for split in ("train", "test"):
        home = tmp_path / split
        for name in sorted(os.listdir(home / "blur")):
            read[Path(name).stem] = tuple((home / k / name).read_bytes() for k in ("blur", "sharp"))
    assert read == {key: (blur, sharp) for key, (_, blur, sharp) in source.items()}


def deepdeblur_files(root, split):
    """DeepDeblur-PyTorch: every file of each leaf folder whose path holds a key.

    `src/data/gopro_large.py` sets the blurs' key itself, whatever the option --blur_key says.
    """
    found = {"blur_gamma": [], "sharp": []}
    for parent, folders, names in os.walk(root / "GOPRO_Large" / split):
        if folders:
            continue
        for key in found:
            if os.path.join(parent, "").find(f"/{key}/") >= 0:
                found[key] += [Path(parent, name) for name in names]
    return [sorted(files) for files in found.values()]


def test_deepdeblur_pairs_as_the_manifest_does(dataset, source, tmp_path):
    export_folders(Request(dataset, tmp_path, layout="deepdeblur"))
    read = {}
    for split in ("train", "test"):
        for blur, sharp in zip(*deepdeblur_files(tmp_path, split), strict=True):
            read[blur.stem] = blur.read_bytes(), sharp.read_bytes()
    assert read == {key: (blur, sharp) for key, (_, blur, sharp) in source.items()}


def test_card_for_deepdeblur_names_the_domain_of_the_blurs(dataset, tmp_path):
    export_folders(Request(dataset, tmp_path, layout="deepdeblur"))
    assert "domain: srgb here" in (tmp_path / "README.md").read_text().replace("\n", " ")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_card_of_folders_names_folders_that_are_there(dataset, tmp_path, layout):
    export_folders(Request(dataset, tmp_path, layout=layout))
    card = (tmp_path / "README.md").read_text()
    named = re.findall(r"THIS_FOLDER(/[a-z_/]+)", card)
    assert [name for name in named if not (tmp_path / name[1:]).is_dir()] == []


# Kernel files of synthetic trajectories


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """A set whose trajectories have kernel files, but for the last; key -> bytes or None."""
    folder = small_dataset.make(
        tmp_path_factory.mktemp("kernels") / "set", clips={"train": ("A",)}, n_frames=(3, 5)
    )
    (folder / "train/kernels/A").mkdir(parents=True)
    table = manifest.read(folder).table
    kernels, names = {}, []
    for row in table.to_pylist():
        payload, name = None, None
        if row["trajectory_id"] == "A/000001":
            name = f"kernels/{row['trajectory_id']}.npz"
            payload = b"kernels of A/000001"
            (folder / "train" / name).write_bytes(payload)
        kernels[row["sample_id"].replace("/", "-")] = payload
        names.append((name, payload))
    columns = {
        "kernel_path": pa.array([name for name, _ in names], pa.string()),
        "kernel_sha256": pa.array([p and hashlib.sha256(p).hexdigest() for _, p in names]),
        "kernel_bytes": pa.array([p and len(p) for _, p in names], pa.int64()),
    }
    for name, values in columns.items():
        table = table.append_column(manifest.FURTHER.field(name), values)
    small_dataset.rewrite(folder, "train", table)
    return folder, kernels


def test_datasets_reads_kernel_files_bit_for_bit(synthetic, tmp_path):
    folder, kernels = synthetic
    export_hf(Request(folder, tmp_path / "out"))
    rows = load(tmp_path / "out", tmp_path)["train"]
    assert {row["sample_id"].replace("/", "-"): row["kernels"] for row in rows} == kernels


def test_trajectory_rows_hold_their_kernel_file(synthetic, tmp_path):
    export_hf(Request(synthetic[0], tmp_path / "out", rows="trajectory"))
    rows = load(tmp_path / "out", tmp_path)["train"]
    assert [row["kernels"] for row in rows] == [b"kernels of A/000001", None]


def test_mlcroissant_validates_a_set_with_kernel_files(synthetic, tmp_path):
    croissant = pytest.importorskip("mlcroissant")
    export_hf(Request(synthetic[0], tmp_path / "out"))
    assert not croissant.Dataset(str(tmp_path / "out/croissant.json")).metadata.ctx.issues.errors


def test_webdataset_reads_kernel_files_bit_for_bit(synthetic, tmp_path):
    folder, kernels = synthetic
    export_webdataset(Request(folder, tmp_path / "out"))
    read = {pair["__key__"]: pair.get("kernels.npz") for pair in wds_pairs(tmp_path / "out")}
    assert read == kernels


@pytest.mark.parametrize("crop", [None, 24])
def test_lmdb_holds_kernel_files_of_whole_pairs(synthetic, tmp_path, crop):
    folder, kernels = synthetic
    export_lmdb(Request(folder, tmp_path / "out", crop=crop))
    home = tmp_path / "out/train/kernels.lmdb"
    assert {key: lmdb_value(home, key) for key in kernels} == kernels


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("crop", [None, 24])
def test_folders_hold_kernel_files_apart_from_images(synthetic, tmp_path, layout, crop):
    folder, kernels = synthetic
    out = tmp_path / "out"
    export_folders(Request(folder, out, layout=layout, crop=crop))
    found = {path.stem: path.read_bytes() for path in out.rglob("kernels/*.npz")}
    assert found == {key: payload for key, payload in kernels.items() if payload}
    assert {path.parent.name for path in out.rglob("*.npz")} == {"kernels"}


def test_crops_are_the_regions_of_their_source_bit_for_bit(dataset, source, tmp_path):
    export_folders(Request(dataset, tmp_path, crop=CROP, overlap=OVERLAP))
    places = [(left, top) for top in (0, 12) for left in (0, 16, 24)]
    count = 0
    for key, blur, sharp in by_position(tmp_path / "train/input", tmp_path / "train/target"):
        name, _, number = key.rpartition("_s")
        left, top = places[int(number) - 1]
        for part, whole in zip((blur, sharp), source[name][1:], strict=True):
            region = rgb(whole)[top : top + CROP, left : left + CROP]
            assert (rgb(part) == region).all()
        count += 1
    assert count == 12 * 6


@pytest.mark.parametrize(("length", "crop", "overlap"), [(720, 512, 256), (50, 24, 0), (10, 24, 4)])
def test_crops_cover_every_pixel(length, crop, overlap):
    covered = np.zeros(length, bool)
    for left, _ in exported.positions(length, 1, crop, overlap):
        assert left + min(crop, length) <= length
        covered[left : left + crop] = True
    assert covered.all()


def test_crops_of_gopro_are_nafnets_eight():
    # scripts/data_preparation of NAFNet: size 512, step 256, a last one at the edge: 4 by 2.
    assert len(exported.positions(1280, 720, 512, 256)) == 8


@pytest.mark.parametrize(
    "crop_export",
    [export_hf, export_webdataset, export_lmdb],
    ids=["hf", "webdataset", "lmdb"],
)
def test_each_target_takes_crops(dataset, tmp_path, crop_export):
    report = crop_export(Request(dataset, tmp_path, crop=CROP, overlap=OVERLAP))
    assert report.pairs == {"train": 72, "test": 36}


@pytest.mark.parametrize(
    "export", [export_hf, export_webdataset, export_lmdb, export_folders],
    ids=["hf", "webdataset", "lmdb", "folders"],
)  # fmt: skip
def test_finished_export_is_not_made_again(dataset, tmp_path, export):
    export(Request(dataset, tmp_path))
    assert export(Request(dataset, tmp_path)).made == 0


def test_other_options_in_the_same_folder_are_refused_with_5(dataset, tmp_path):
    export_folders(Request(dataset, tmp_path))
    with pytest.raises(OutputError, match="an export of another config") as caught:
        export_folders(Request(dataset, tmp_path, crop=CROP))
    assert caught.value.exit_code == 5
    assert "crop" in caught.value.where


def test_lost_shard_is_made_again_and_nothing_else(dataset, tmp_path):
    request = Request(dataset, tmp_path, shard_bytes=20_000)
    export_webdataset(request)
    before = tree(tmp_path)
    (tmp_path / "train-000001.tar").unlink()
    assert export_webdataset(request).made == 1
    assert tree(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("target", ["webdataset", "hf", "lmdb", "folders"])
def test_killed_export_goes_on_to_the_same_files(tmp_path, target):
    big = small_dataset.make(tmp_path / "set", trajectories=12, size=(16, 16))
    command = [
        sys.executable, "-m", "trajectory_builder", "export", str(big), "--to", target,
        "--jobs", "1", "--crop", "8", "--overlap", "4", "--shard-mb", "1", "--out",
    ]  # fmt: skip
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "out"
    running = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL)
    while running.poll() is None and not list(out.glob(".trajbuild/config.json")):
        time.sleep(0.005)
    time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert list(out.rglob(".tmp-*")) == []
    found, expected = tree(out), tree(tmp_path / "whole")
    if target == "lmdb":  # pages may lie in another order; the entries are compared
        assert basicsr_keys(out / "train/blur_crops.lmdb") == basicsr_keys(
            tmp_path / "whole/train/blur_crops.lmdb"
        )
        for key in basicsr_keys(out / "train/blur_crops.lmdb")[::50]:
            assert lmdb_value(out / "train/sharp_crops.lmdb", key) == lmdb_value(
                tmp_path / "whole/train/sharp_crops.lmdb", key
            )
    else:
        assert found == expected


def test_altered_source_file_stops_the_export(tmp_path):
    source = small_dataset.make(tmp_path / "set", clips={"train": ("A",)}, trajectories=1)
    path = next((source / "train/blur").rglob("*.png"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not the one that the manifest describes"):
        export_webdataset(Request(source, tmp_path / "out"))
    assert list((tmp_path / "out").glob("*.tar")) == []


def test_overlap_as_large_as_the_crop_is_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="cannot overlap"):
        export_hf(Request(dataset, tmp_path, crop=24, overlap=24))


def test_export_into_the_data_set_itself_is_refused(dataset):
    with pytest.raises(DataError, match="is inside the data set"):
        export_folders(Request(dataset, dataset / "train"))


def test_two_workers_write_what_one_writes(dataset, tmp_path):
    for jobs in (1, 2):
        export_webdataset(Request(dataset, tmp_path / str(jobs), shard_bytes=20_000, jobs=jobs))
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_command_prints_one_json_object(dataset, tmp_path, in_process):
    words = ["export", dataset, "--to", "folders", "--out", tmp_path / "out", "--jobs", "1"]
    done = in_process(*words, "--json")
    assert json.loads(done.stdout)["pairs"] == {"train": 12, "test": 6}, done.stderr


@pytest.mark.parametrize("target", ["webdataset", "lmdb", "folders", "hf"])
def test_card_tells_how_to_read_the_export_and_not_its_source(tmp_path, target):
    made = small_dataset.make(tmp_path / "set")
    loading = '```python\npairs = load_dataset("imagefolder", data_dir="THIS_FOLDER")["train"]\n```'
    kept = "```sh\ntrajbuild verify .\n```"
    card = f"# Blur trajectories\n\nBy hand.\n\n{loading}\n\n{kept}\n"
    (made / "README.md").write_text(card)
    TARGETS[target](Request(made, tmp_path / "out"))
    told = (tmp_path / "out/README.md").read_text()
    reading, source = told.split("## The card of what was exported")
    assert "## How to read it" in reading
    assert "imagefolder" not in told
    assert source.split("\n\n", 1)[1] == f"### Blur trajectories\n\nBy hand.\n\n{kept}\n"


def test_export_of_a_set_without_a_card_has_no_empty_heading(tmp_path):
    made = small_dataset.make(tmp_path / "set")
    (made / "README.md").unlink()
    export_webdataset(Request(made, tmp_path / "out"))
    assert "The card of what" not in (tmp_path / "out/README.md").read_text()


def test_webdataset_hint_reads_the_export_from_anywhere(dataset, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    report = export_webdataset(Request(dataset, tmp_path / "out"))
    pairs = eval(report.hint, {"webdataset": webdataset})
    assert len(list(pairs)) == 12


@pytest.mark.parametrize(("files", "told"), [("hardlink", True), ("copy", False)])
def test_hard_links_of_an_export_are_named(dataset, tmp_path, in_process, files, told):
    words = ["export", dataset, "--to", "folders", "--out", tmp_path / "out", "--files", files]
    done = in_process(*words, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert ("editing one edits the data set; --files copy" in done.stdout) == told


def test_pairs_of_unknown_timestep_are_exported(tmp_path):
    source = small_dataset.make(tmp_path / "set", clips={"train": ("A",)}, n_frames=(11,))
    table = manifest.read(source).table
    for column in ("n_frames", "timestep", "native_n_frames", "average_domain", "fps"):
        table = small_dataset.replaced(table, column, [None] * len(table))
    table = small_dataset.replaced(table, "backward_n_frames", [[1]] * len(table))
    small_dataset.rewrite(source, "train", table)
    export_hf(Request(source, tmp_path / "out"))
    assert load(tmp_path / "out", tmp_path)["train"][0]["timestep"] is None


def test_schema_tells_the_hub_which_columns_are_images(dataset, tmp_path):
    export_hf(Request(dataset, tmp_path))
    schema = pq.read_schema(next((tmp_path / "data").glob("train*")))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    images = {name for name, feature in features.items() if feature == {"_type": "Image"}}
    assert images == {"blur", "sharp"}
