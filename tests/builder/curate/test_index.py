"""index: existing sets of pairs get a manifest that verifies; what is missing or odd is named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from trajectory_builder import manifest, verify
from trajectory_builder.curate import index as pairs
from trajectory_builder.curate.layouts import LAYOUTS, splitting
from trajectory_builder.errors import DataError, OutputError


def put(root, *names, size=(8, 10)):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(map(ord, str(path)))
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(str(path), pixels)


def hide(root):
    names = ["1fromGOPR0950.png", "22fromGOPR1096.MP4.png"]
    put(root, *(f"train/{name}" for name in names), *(f"GT/{name}" for name in names))
    put(root, "test/test-close-ups/3fromGOPR1089.png", "test/test-long-shot/4fromGOPR1089.png")
    put(root, "GT/3fromGOPR1089.png", "GT/4fromGOPR1089.png")


def realblur(root):
    home = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"
    for scene, k in (("scene001", 1), ("scene001", 2), ("scene002", 1)):
        put(root, f"{home}/{scene}/gt/gt_{k}.png", f"{home}/{scene}/blur/blur_{k}.png")
    line = f"{home}/scene002/gt/gt_1.png {home}/scene002/blur/blur_1.png \n"
    (root / "RealBlur_J_test_list.txt").write_text(line)


def reds(root):
    for split, clip in (("train", "000"), ("train", "001"), ("val", "000")):
        for kind in ("sharp", "blur"):
            put(root, f"{split}/{split}_{kind}/{clip}/00000000.png")


def bsd(root):
    for subset in ("BSD_1ms8ms", "BSD_3ms24ms"):
        for split in ("train", "valid", "test"):
            for kind in ("Blur", "Sharp"):
                put(root, f"{subset}/{split}/000/{kind}/RGB/00000000.png")


def rsblur(root):
    for pair in ("0001/000001", "0001/000002"):
        put(root, f"{pair}/real_blur/real_blur.png", f"{pair}/gt/gt_sharp.png")
        put(root, f"{pair}/avg65_img/avg_blur.png", f"{pair}/avg65_mask_100/avg_blur.png")


def plain(root):
    put(root, "train/input/a.png", "train/target/a.png")
    put(root, "test/input/a.png", "test/target/a.png", "test/input/b.png", "test/target/b.png")


SETS = {
    "hide": (hide, {"train": 2, "test": 2}),
    "realblur": (realblur, {"train": 2, "test": 1}),
    "reds": (reds, {"train": 2, "validation": 1}),
    "bsd": (bsd, {"train": 2, "validation": 2, "test": 2}),
    "rsblur": (rsblur, {"test": 6}),
    "pairs": (plain, {"train": 1, "test": 2}),
}


def test_every_layout_has_a_set_to_be_tested_on():
    assert SETS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", SETS)
def test_indexed_set_verifies_to_the_last_pixel(tmp_path, layout):
    make, expected = SETS[layout]
    make(tmp_path / "set")
    report = pairs.index(tmp_path / "set", tmp_path / "out", layout)
    assert report.pairs == expected
    assert report.problems == ()
    assert verify.verify_folder(tmp_path / "out", "full").findings == ()


@pytest.mark.parametrize("layout", SETS)
def test_timestep_of_indexed_pairs_is_unknown(tmp_path, layout):
    SETS[layout][0](tmp_path / "set")
    pairs.index(tmp_path / "set", tmp_path / "out", layout)
    for row in manifest.read(tmp_path / "out").rows():
        assert (row["n_frames"], row["timestep"], row["average_domain"]) == (None, None, None)
        assert row["backward_n_frames"] == [1]


@pytest.mark.parametrize("layout", SETS)
def test_blur_and_sharp_of_a_row_are_the_set_s_own_files(tmp_path, layout):
    SETS[layout][0](tmp_path / "set")
    originals = {path.read_bytes() for path in (tmp_path / "set").rglob("*.png")}
    pairs.index(tmp_path / "set", tmp_path / "out", layout)
    found = manifest.read(tmp_path / "out")
    used = {
        found.file(row, f"{kind}_file_name").read_bytes()
        for row in range(len(found))
        for kind in ("blur", "sharp")
    }
    assert used == originals


@pytest.mark.parametrize("files", ["hardlink", "reference", "copy"])
def test_originals_stay_where_and_as_they_were(tmp_path, files):
    hide(tmp_path / "set")
    before = {p: p.read_bytes() for p in (tmp_path / "set").rglob("*.png")}
    pairs.index(tmp_path / "set", tmp_path / "out", "hide", files=files)
    assert {p: p.read_bytes() for p in (tmp_path / "set").rglob("*.png")} == before
    report = verify.verify_folder(tmp_path / "out", "full", allow_links=files == "reference")
    assert report.findings == ()


def test_hide_file_names_tell_the_clip(tmp_path):
    hide(tmp_path / "set")
    pairs.index(tmp_path / "set", tmp_path / "out", "hide")
    clips = set(manifest.read(tmp_path / "out").table["clip_id"].to_pylist())
    assert clips == {"train_GOPR0950", "train_GOPR1096", "test_GOPR1089"}


def test_rehosted_hide_is_read_as_its_test_split(tmp_path):
    put(tmp_path / "set", "input/5fromGOPR1089.png", "target/5fromGOPR1089.png")
    assert pairs.index(tmp_path / "set", tmp_path / "out", "hide").pairs == {"test": 1}


def test_exposure_of_bsd_is_that_of_the_blur(tmp_path):
    bsd(tmp_path / "set")
    pairs.index(tmp_path / "set", tmp_path / "out", "bsd")
    found = {(r["clip_id"][:10], r["exposure_ms"]) for r in manifest.read(tmp_path / "out").rows()}
    assert found == {("BSD_1ms8ms", 8.0), ("BSD_3ms24m", 24.0)}


def test_three_blurs_of_rsblur_share_one_trajectory(tmp_path):
    rsblur(tmp_path / "set")
    pairs.index(tmp_path / "set", tmp_path / "out", "rsblur")
    table = manifest.read(tmp_path / "out").table
    assert Counter(table["trajectory_id"].to_pylist()) == {"0001/000001": 3, "0001/000002": 3}
    assert Counter(table["origin"].to_pylist()) == {"official": 2, "interpolated": 4}


def test_test_list_of_the_user_gives_the_split(tmp_path):
    rsblur(tmp_path / "set")
    names = tmp_path / "list.txt"
    names.write_text("0001/000002/gt/gt_sharp.png\n")
    told = splitting(tmp_path / "set", "rsblur", test_list=names)
    report = pairs.index(tmp_path / "set", tmp_path / "out", "rsblur", splitting=told)
    assert report.pairs == {"train": 3, "test": 3}


def test_listed_realblur_pair_that_is_absent_is_named(tmp_path):
    realblur(tmp_path / "set")
    next((tmp_path / "set").rglob("scene002/blur/blur_1.png")).unlink()
    next((tmp_path / "set").rglob("scene002/gt/gt_1.png")).unlink()
    report = pairs.index(tmp_path / "set", tmp_path / "out", "realblur")
    assert Counter(problem.reason for problem in report.problems) == {"file-missing": 2}


def test_one_missing_file_does_not_shift_the_other_pairs(tmp_path):
    put(tmp_path / "set", *(f"{kind}/{i}.png" for kind in ("input", "target") for i in range(4)))
    (tmp_path / "set/input/1.png").unlink()
    report = pairs.index(tmp_path / "set", tmp_path / "out", "pairs")
    assert [(p.reason, p.file) for p in report.problems] == [("blur-missing", "target/1.png")]
    found = manifest.read(tmp_path / "out")
    for index, row in enumerate(found.rows()):
        name = row["trajectory_id"].rsplit("/", 1)[1]
        original = tmp_path / "set/input" / f"{name}.png"
        assert found.file(index, "blur_file_name").read_bytes() == original.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "frame-truncated"),
        (lambda path: path.write_bytes(b""), "frame-empty"),
        (lambda path: cv2.imwrite(str(path), np.zeros((8, 10), np.uint8)), "frame-grayscale"),
        (lambda path: cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8)), "frame-size-differs"),
    ],
    ids=["cut", "empty", "gray", "size"],
)
def test_bad_file_costs_its_pair_alone(tmp_path, spoil, reason):
    plain(tmp_path / "set")
    spoil(tmp_path / "set/test/input/b.png")
    report = pairs.index(tmp_path / "set", tmp_path / "out", "pairs")
    assert report.pairs == {"train": 1, "test": 1}
    assert [problem.reason for problem in report.problems] == [reason]


def test_file_that_is_no_png_is_named_as_odd(tmp_path):
    plain(tmp_path / "set")
    (tmp_path / "set/train/input/readme.txt").write_text("hello")
    report = pairs.index(tmp_path / "set", tmp_path / "out", "pairs")
    assert [problem.reason for problem in report.problems] == ["file-odd"]


def test_name_that_a_manifest_must_not_hold_is_left_out(tmp_path):
    plain(tmp_path / "set")
    put(tmp_path / "set", "train/input/a\\b.png", "train/target/a\\b.png")
    report = pairs.index(tmp_path / "set", tmp_path / "out", "pairs")
    assert [problem.reason for problem in report.problems] == ["name-odd"]


def test_problems_end_the_command_with_4_and_are_in_a_table(tmp_path, in_process):
    plain(tmp_path / "set")
    (tmp_path / "set/test/target/b.png").unlink()
    done = in_process(
        "index", tmp_path / "set", "--layout", "pairs", "--out", tmp_path / "out", "--json"
    )
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["problems"] == {"sharp-missing": 1}
    assert pq.read_table(tmp_path / "out/problems.parquet")["reason"].to_pylist() == [
        "sharp-missing"
    ]
    assert verify.verify_folder(tmp_path / "out").findings == ()


def test_one_problem_is_one(tmp_path, in_process):
    plain(tmp_path / "set")
    (tmp_path / "set/test/target/b.png").unlink()
    done = in_process("index", tmp_path / "set", "--layout", "pairs", "--out", tmp_path / "out")
    assert "1 problem: see" in done.stderr
    assert "problem: test/input/b.png has no" in done.stderr


def test_folder_of_another_layout_is_told_what_is_expected(tmp_path):
    plain(tmp_path / "set")
    with pytest.raises(DataError, match="no pair of layout reds") as caught:
        pairs.index(tmp_path / "set", tmp_path / "out", "reds")
    assert "train" in caught.value.where
    assert "REDS" in caught.value.cure


def test_index_is_never_written_into_the_set(tmp_path):
    plain(tmp_path / "set")
    with pytest.raises(DataError, match="is inside the set"):
        pairs.index(tmp_path / "set", tmp_path / "set/out", "pairs")


def test_existing_output_folder_is_refused(tmp_path):
    plain(tmp_path / "set")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        pairs.index(tmp_path / "set", tmp_path / "out", "pairs")


def test_order_of_the_disk_does_not_change_the_manifest(tmp_path):
    manifests = []
    for name, order in (("one", 1), ("two", -1)):
        root = tmp_path / name / "set"
        files = [f"{kind}/{i}.png" for kind in ("input", "target") for i in range(40)]
        for file in files[::order]:
            put(root, file)
            cv2.imwrite(str(root / file), np.full((4, 4, 3), int(Path(file).stem), np.uint8))
        pairs.index(root, tmp_path / name / "out", "pairs", jobs=2)
        manifests.append((tmp_path / name / "out/test/metadata.parquet").read_bytes())
    assert manifests[0] == manifests[1]
