"""The self-check finds what names cannot tell: wrong shifts, new numbers, a doubled frame."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import small_gopro

from trajectory_builder.build import alignment, record
from trajectory_builder.disk.atomic import FAULT_VARIABLE
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.plan import gopro, recipe

CLIP = "train/GOPR0002_11_01"
SEQUENCES = {CLIP: 12, "train/GOPR0003_13_02": 6, "test/GOPR0004_11_01": 6}


@pytest.fixture(scope="module")
def faithful(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faithful")
    small_gopro.make(folder, SEQUENCES)
    return folder


@pytest.fixture
def trees(faithful, tmp_path):
    """A copy of the faithful trees that a test may spoil."""
    shutil.copytree(faithful, tmp_path / "trees")
    return tmp_path / "trees"


def settled(trees, level="quick", out="out"):
    def make(corrections=None):
        chosen = recipe.load_recipe("fidediff-7877")
        return gopro.plan_gopro(trees / "GOPRO_Large", chosen, corrections=corrections)

    return alignment.settle(make(), trees / out, level=level, jobs=1, plan_again=make)


def report_of(settled_plan, clip=CLIP):
    name = clip.split("/")[1]
    return next(c for c in settled_plan.alignment["clips"] if c["clip"] == name)


def frames_of(trees, clip=CLIP):
    return sorted((trees / "GOPRO_Large_all" / clip).iterdir())


def move_frames(trees, by, *, since=0):
    """Give the frames from rank `since` on numbers that are `by` higher."""
    for path in reversed(frames_of(trees)[since:]):
        path.rename(path.with_name(f"{int(path.stem) + by:06d}.png"))


def rename_clip(trees, new):
    for tree in ("GOPRO_Large", "GOPRO_Large_all"):
        (trees / tree / CLIP).rename(trees / tree / "train" / new)


def centre_pixels_are_the_sharp_images(trees, settled_plan):
    """An independent witness: every averaged row's centre frame equals its sharp image."""
    for row in settled_plan.table.to_pylist():
        if row["blur_source"]:
            continue
        middle = row["frame_names"][len(row["frame_names"]) // 2]
        frame = cv2.imread(str(trees / "GOPRO_Large_all" / middle))
        sharp = cv2.imread(str(trees / "GOPRO_Large" / row["sharp_source"].removeprefix("pairs:")))
        if not np.array_equal(frame, sharp):
            return False
    return True


def test_full_check_counts_every_blur_of_a_faithful_copy(faithful):
    found = alignment.sentences(settled(faithful, "full").alignment)
    assert found == [
        "pixels (full), train: 18 of 18 sharp images found among the frames;"
        " blurs: 16 equal, 2 frames absent, 0 differ",
        "pixels (full), test: 6 of 6 sharp images found among the frames;"
        " blurs: 5 equal, 1 frames absent, 0 differ",
    ]


def test_quick_check_looks_at_three_pairs_a_clip(faithful):
    assert [clip["sharp_checked"] for clip in settled(faithful).alignment["clips"]] == [3, 3, 3]


def test_check_of_a_faithful_copy_changes_no_row(faithful):
    assert settled(faithful).table.equals(settled(faithful, "off").table)


def test_wrong_shift_in_the_name_is_found(trees):
    rename_clip(trees, "GOPR0002_11_04")
    moved = settled(trees)
    assert moved.alignment["corrected"] == {"GOPR0002_11_04": 3}


def test_windows_of_a_wrong_shift_are_built_round_the_right_frames(trees):
    rename_clip(trees, "GOPR0002_11_04")
    assert not centre_pixels_are_the_sharp_images(trees, settled(trees, "off"))
    assert centre_pixels_are_the_sharp_images(trees, settled(trees))


def test_corrected_shift_stands_in_the_config(trees):
    rename_clip(trees, "GOPR0002_11_04")
    assert settled(trees).config["offsets"] == {"GOPR0002_11_04": 3}


def test_renumbered_frames_are_followed_to_the_same_pixels(trees):
    move_frames(trees, 4)
    found = settled(trees)
    assert report_of(found)["offsets"] == [0]
    assert centre_pixels_are_the_sharp_images(trees, found)


def test_doubled_frame_leaves_out_the_windows_it_moved(trees):
    frames = frames_of(trees)
    move_frames(trees, 1, since=60)
    shutil.copy(frames[59], frames[60])
    found = settled(trees)
    assert report_of(found)["offsets"] == [0, 1]
    assert centre_pixels_are_the_sharp_images(trees, found)
    assert {p.reason for p in found.problems} == {"frames-disagree"}


def test_frame_replaced_by_its_neighbour_is_found_by_the_full_check(trees):
    frames = frames_of(trees)
    shutil.copy(frames[62], frames[63])
    found = settled(trees, "full")
    assert report_of(found)["blurs_differing"] == 1
    lost = {problem.sample_id.rsplit("/", 1)[0] for problem in found.problems}
    assert lost == set(report_of(found)["distrusted"])


def test_official_pair_with_doubtful_frames_is_kept(trees):
    frames = frames_of(trees)
    shutil.copy(frames[62], frames[63])
    kept = {row["trajectory_id"]: row for row in settled(trees, "full").table.to_pylist()}
    (lost,) = report_of(settled(trees, "full"))["distrusted"]
    assert kept[lost]["backward_n_frames"] == [1]


def change(folder, function):
    """Change the pixels of every image in a folder."""
    for path in folder.iterdir():
        cv2.imwrite(str(path), function(cv2.imread(str(path))))


def brighter(pixels):
    return cv2.add(pixels, np.full_like(pixels, 40))


def one_level_off(pixels):
    return pixels ^ 1


def test_sharp_images_a_grey_level_off_are_found(trees):
    change(trees / "GOPRO_Large" / CLIP / "sharp", one_level_off)
    found = settled(trees)
    assert found.table.equals(settled(trees, "off").table)
    assert any("3 of 3 sharp images equal no frame" in note for note in found.notes)


def test_one_pair_a_grey_level_off_loses_no_window(trees):
    path = min((trees / "GOPRO_Large" / CLIP / "sharp").iterdir())
    cv2.imwrite(str(path), one_level_off(cv2.imread(str(path))))
    assert settled(trees, "full").problems == ()


def test_wrong_shift_is_found_by_images_a_grey_level_off(trees):
    rename_clip(trees, "GOPR0002_11_04")
    change(trees / "GOPRO_Large/train/GOPR0002_11_04/sharp", one_level_off)
    assert settled(trees).alignment["corrected"] == {"GOPR0002_11_04": 3}


def test_equal_blurs_prove_the_name_where_no_sharp_image_is_near(trees):
    change(trees / "GOPRO_Large" / CLIP / "sharp", brighter)
    found = settled(trees)
    assert found.table.equals(settled(trees, "off").table)
    assert any("official blurs equal the mean" in note for note in found.notes)


def test_clip_whose_blurs_all_differ_is_not_trusted_by_its_name(trees):
    for kind in ("sharp", "blur"):
        change(trees / "GOPRO_Large" / CLIP / kind, brighter)
    found = settled(trees)
    averaged = [row for row in found.table.to_pylist() if not row["blur_source"]]
    assert averaged
    assert not [row for row in averaged if row["clip_id"] == CLIP.split("/")[1]]


def test_full_check_names_the_pairs_that_differ(trees):
    frames = frames_of(trees)
    shutil.copy(frames[62], frames[63])
    found = settled(trees, "full")
    (lost,) = report_of(found)["distrusted"]
    assert any(lost in note and CLIP in note for note in found.notes)


def test_known_report_is_used_again_without_reading_a_pixel(trees):
    first = settled(trees)
    (trees / "out").mkdir()
    (trees / "out" / ".trajbuild").mkdir()
    record.write_alignment(OutputFolder(trees / "out"), first.alignment)
    for path in frames_of(trees):
        path.write_bytes(b"")
    assert settled(trees).alignment == first.alignment


def expand(trees, out, *options, fault=""):
    command = [sys.executable, "-m", "trajectory_builder", "expand", "--jobs", "1",
               "--src", str(trees / "GOPRO_Large"), "--out", str(out), *options]  # fmt: skip
    environment = os.environ | {FAULT_VARIABLE: fault}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_expand_tells_what_it_found_on_stderr(trees, tmp_path):
    rename_clip(trees, "GOPR0002_11_04")
    done = expand(trees, tmp_path / "o")
    assert "all sharp images are +3 frames from where the name says" in done.stderr


def test_corrected_build_is_finished_for_the_second_run(trees, tmp_path):
    rename_clip(trees, "GOPR0002_11_04")
    expand(trees, tmp_path / "o")
    assert "nothing to do" in expand(trees, tmp_path / "o").stdout


def test_corrected_build_goes_on_after_a_kill(trees, tmp_path):
    rename_clip(trees, "GOPR0002_11_04")
    assert expand(trees, tmp_path / "o", fault="before-manifest:1").returncode == -signal.SIGKILL
    assert expand(trees, tmp_path / "o").returncode == 0


def test_corrected_build_is_another_config_without_a_check(trees, tmp_path):
    rename_clip(trees, "GOPR0002_11_04")
    expand(trees, tmp_path / "o")
    done = expand(trees, tmp_path / "o", "--check", "off")
    assert done.returncode == 5
    assert "offsets" in done.stderr


def test_folder_of_another_config_is_refused_before_pixels_are_read(trees, tmp_path):
    assert expand(trees, tmp_path / "o").returncode == 0
    again = ("--check", "full", "--recipe", "official")
    assert expand(trees, tmp_path / "o", *again, fault="pair-checked:1").returncode == 5


def test_folder_that_another_builder_holds_is_refused_before_pixels_are_read(trees, tmp_path):
    folder = OutputFolder(tmp_path / "o")
    folder.prepare()
    with folder.lock():
        done = expand(trees, tmp_path / "o", "--check", "full", fault="pair-checked:1")
    assert done.returncode == 1
    assert "another builder is at work in this folder" in done.stderr
