"""Level deep averages every new blur again and names the frame that has changed since."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from trajectory_builder.errors import BuildError

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import small_gopro

from trajectory_builder.build import run
from trajectory_builder.plan import gopro, recipe
from trajectory_builder.verify import verify_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    pairs, _ = small_gopro.make(folder, {"train/GOPR0002_11_01": 10, "test/GOPR0004_11_01": 2})
    chosen = gopro.plan_gopro(pairs, recipe.load_recipe("fidediff-7877"), expand_test=True)
    run.build_plan(chosen, folder / "out", run.BuildOptions(progress=False))
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """The build and its source, which a test may spoil, in another place."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def deep(folder, **given):
    return verify_folder(folder / "out", "deep", frames=folder / "GOPRO_Large_all", **given)


def spoil(folder, rank):
    """Change one pixel of the frame of that rank, as a whole and sound PNG; return its name."""
    frames = sorted((folder / "GOPRO_Large_all/train/GOPR0002_11_01").iterdir())
    pixels = cv2.imread(str(frames[rank]))
    pixels[20, 20] ^= 255
    cv2.imwrite(str(frames[rank]), pixels)
    return f"train/GOPR0002_11_01/{frames[rank].name}"


def test_faithful_build_has_no_deep_finding(made):
    assert verify_folder(made / "out", "deep").findings == ()


def test_two_workers_find_the_same_as_one(copy):
    spoil(copy, 40)
    assert deep(copy, jobs=2).findings == deep(copy).findings


def test_changed_frame_is_named(copy):
    name = spoil(copy, 40)
    findings = deep(copy).findings
    assert {finding.reason for finding in findings} == {"frame-changed"}
    assert all(name in finding.what for finding in findings)


def test_only_windows_with_the_changed_frame_are_found(copy):
    spoil(copy, 40)
    table = gopro.plan_gopro(
        copy / "GOPRO_Large", recipe.load_recipe("fidediff-7877")
    ).table.to_pylist()
    hit = {
        f"{row['split']}/{row['blur_file_name']}"
        for row in table
        if not row["blur_source"] and 0 <= 40 - row["first_index"] < row["n_frames"]
    }
    assert {finding.file for finding in deep(copy).findings} == hit


def test_window_round_another_frame_than_its_sharp_image_is_found(copy):
    frames = sorted((copy / "GOPRO_Large_all/train/GOPR0002_11_01").iterdir())
    contents = [path.read_bytes() for path in frames]
    for path, content in zip(frames[1:], contents, strict=False):
        path.write_bytes(content)
    chosen = gopro.plan_gopro(copy / "GOPRO_Large", recipe.load_recipe("fidediff-7877"))
    run.build_plan(chosen, copy / "wrong", run.BuildOptions(progress=False))
    findings = verify_folder(copy / "wrong", "deep").findings
    assert {finding.reason for finding in findings} == {"center-differs"}
    averaged = [row for row in chosen.rows() if not row["blur_source"]]
    assert len(findings) == len(averaged)


def test_frame_encoded_anew_with_equal_pixels_is_no_finding(copy):
    frame = sorted((copy / "GOPRO_Large_all/train/GOPR0002_11_01").iterdir())[40]
    cv2.imwrite(str(frame), cv2.imread(str(frame)), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert deep(copy).findings == ()


def test_frame_that_is_gone_is_named(copy):
    frame = sorted((copy / "GOPRO_Large_all/train/GOPR0002_11_01").iterdir())[40]
    frame.unlink()
    findings = deep(copy).findings
    assert {finding.reason for finding in findings} == {"frame-missing"}
    assert all(frame.name in finding.what for finding in findings)


def test_deep_works_when_the_state_folder_was_deleted(copy):
    shutil.rmtree(copy / "out/.trajbuild")
    assert deep(copy).findings == ()


def test_change_is_found_without_markers_too(copy):
    shutil.rmtree(copy / "out/.trajbuild")
    spoil(copy, 40)
    findings = deep(copy).findings
    assert findings
    assert all("markers" in finding.what for finding in findings)


def test_frames_are_found_beside_the_set_without_the_state_folder(copy):
    shutil.rmtree(copy / "out/.trajbuild")
    assert verify_folder(copy / "out", "deep").findings == ()


def test_missing_frames_ask_for_the_option_that_names_them(copy):
    build_record = json.loads((copy / "out/build.json").read_text())
    assert build_record["source"]["frames"] == "GOPRO_Large_all"
    with pytest.raises(BuildError, match="not where the build found them") as caught:
        verify_folder(copy / "out", "deep", frames=copy / "nowhere")
    assert "--frames" in caught.value.cure


def test_command_ends_with_three_when_a_frame_changed(copy):
    spoil(copy, 40)
    command = [sys.executable, "-m", "trajectory_builder", "verify", str(copy / "out"), "--jobs",
               "1", "--level", "deep", "--frames", str(copy / "GOPRO_Large_all")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 3
    assert "frame-changed" in done.stdout
