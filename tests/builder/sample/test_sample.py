"""The sample has the shape, the traps and the averages of the published trees."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from trajectory_builder.errors import ExitCode, OutputError
from trajectory_builder.images.png import pixel_sha256
from trajectory_builder.sample import CLIPS, HEIGHT, WIDTH, render_clip, render_frame, write_sample
from trajectory_builder.sample.scenes import SCENES, background_matrix, foreground_matrix
from trajectory_builder.sample.trees import RECORD, _total_files
from trajectory_builder.sample.video import VIDEO, VIDEO_CLIP

NAMES = [clip.name for clip in CLIPS]
SHIFTED = [clip for clip in CLIPS if clip.shift]
FRAME = "(GOPR[0-9]{4})_([0-9]{2})_([0-9]{2})"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "new" / "sample"
    write_sample(out)
    return out


def pixels(path):
    return np.asarray(Image.open(path))


def numbered(folder):
    return sorted(folder.glob("*.png"), key=lambda path: int(path.stem))


def tree(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def window(sample, clip, index):
    """The frames of a pair by the published rule, from names alone; None where one is absent."""
    _, n, shift = re.fullmatch(FRAME, clip.name).groups()
    frames = numbered(sample / "GOPRO_Large_all" / clip.split / clip.name)
    first = index * int(n) - int(shift)
    return None if first < 0 else frames[first : first + int(n)]


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_blur_is_the_rounded_float64_mean_of_its_window(sample, clip):
    blurs = numbered(sample / "GOPRO_Large" / clip.split / clip.name / "blur")
    for index, blur in enumerate(blurs):
        frames = window(sample, clip, index)
        if frames is not None:
            mean = np.mean([pixels(frame).astype(np.float64) for frame in frames], axis=0)
            assert np.array_equal(pixels(blur), np.rint(mean))


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_gamma_blur_is_within_a_level_of_the_mean_of_powers(sample, clip):
    blurs = numbered(sample / "GOPRO_Large" / clip.split / clip.name / "blur_gamma")
    frames = window(sample, clip, 1)
    light = np.mean([(pixels(frame) / 255.0) ** 2.2 for frame in frames], axis=0)
    assert np.abs(pixels(blurs[1]) - 255.0 * light ** (1 / 2.2)).max() <= 1


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_sharp_is_the_middle_frame_of_its_window(sample, clip):
    sharps = numbered(sample / "GOPRO_Large" / clip.split / clip.name / "sharp")
    frames = numbered(sample / "GOPRO_Large_all" / clip.split / clip.name)
    for index, sharp in enumerate(sharps):
        rank = index * clip.n_frames + (clip.n_frames - 1) // 2 - clip.shift
        assert sharp.read_bytes() == frames[rank].read_bytes()


@pytest.mark.parametrize("clip", SHIFTED, ids=[clip.name for clip in SHIFTED])
def test_first_blur_of_a_shifted_sequence_needs_unpublished_frames(sample, clip):
    blur = numbered(sample / "GOPRO_Large" / clip.split / clip.name / "blur")[0]
    frames = numbered(sample / "GOPRO_Large_all" / clip.split / clip.name)
    published = np.mean([pixels(f) for f in frames[: clip.n_frames - clip.shift]], axis=0)
    assert not np.array_equal(pixels(blur), np.rint(published))


def test_sample_has_the_traps_of_the_published_names():
    parts = [re.fullmatch(FRAME, name).groups() for name in NAMES]
    assert {n for _, n, _ in parts} == {"07", "11", "13"}
    assert {shift for _, _, shift in parts} == {"00", "01", "02", "03"}
    assert {clip.split for clip in CLIPS} == {"train", "test"}
    assert min(clip.first_pair_number for clip in CLIPS) == 1
    assert sum(clip.first_pair_number > 1 for clip in CLIPS) > 4


def test_no_name_of_the_sample_is_one_of_the_published(sample):
    assert all(name.startswith("GOPR9") for name in NAMES)
    assert len(set(NAMES)) == len(NAMES)


# Rows of the published set: sequence, first pair number, first frame number (GOPR0378_13_00 is
# the one whose frames are offset by 22,000).
PUBLISHED = """GOPR0372_07_00,47,323
GOPR0372_07_01,601,4201
GOPR0374_11_02,541,5941
GOPR0374_11_03,2481,27281
GOPR0378_13_00,41,22521
GOPR0410_11_00,101,1101
GOPR0385_11_01,3011,33111"""


@pytest.mark.parametrize("row", csv.reader(PUBLISHED.split()), ids=lambda row: row[0])
def test_numbers_of_frames_follow_those_of_the_published_set(sample, row):
    name, first_pair, first_frame = row
    twin = next(
        c for c in CLIPS if c.name[8:] == name[8:] and f"{c.first_pair_number}" == first_pair
    )
    frames = numbered(sample / "GOPRO_Large_all" / twin.split / twin.name)
    assert int(frames[0].stem) == int(first_frame)
    assert [int(frame.stem) - int(first_frame) for frame in frames] == list(range(len(frames)))


def test_blur_and_sharp_folders_hold_the_same_names(sample):
    for clip in CLIPS:
        folder = sample / "GOPRO_Large" / clip.split / clip.name
        kinds = [[path.name for path in numbered(folder / kind)] for kind in ("blur", "sharp")]
        kinds.append([path.name for path in numbered(folder / "blur_gamma")])
        assert kinds[0] == kinds[1] == kinds[2]
        assert len(kinds[0]) == clip.pairs


def test_text_file_lies_beside_the_folders_in_train_only(sample):
    told = {path.parent.name for path in (sample / "GOPRO_Large").rglob("frames*offset*.txt")}
    assert told == {clip.name for clip in CLIPS if clip.split == "train"}


def test_report_counts_what_stands_on_disk(sample):
    report = write_sample(sample)
    assert report.frames == len(list((sample / "GOPRO_Large_all").rglob("*.png"))) == 260
    assert report.pairs == len(list((sample / "GOPRO_Large").rglob("blur/*.png"))) == 26
    assert report.size_bytes == sum(
        path.stat().st_size
        for path in sample.rglob("*")
        if path.is_file() and path.name not in (RECORD, VIDEO)
    )


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_camera_never_looks_beyond_the_photograph(clip):
    from trajectory_builder.sample.scenes import _photograph

    scene = SCENES[clip.scene]
    height, width = _photograph(scene.photograph).shape[:2]
    for rank in range(-clip.shift, clip.length):
        corners = at_corners(background_matrix(scene, clip.starts_at + rank / 240))
        assert (corners >= 0).all()
        assert (corners <= [[width], [height]]).all()


def at_corners(matrix):
    x, y = WIDTH / 2, HEIGHT / 2
    return matrix @ np.array([[-x, x, x, -x], [-y, -y, y, y], [1, 1, 1, 1]])


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_nothing_moves_further_than_four_pixels_a_frame(clip):
    scene = SCENES[clip.scene]
    for matrix, scale in (
        (background_matrix, WIDTH / scene.view),
        (foreground_matrix, scene.cutout_scale),
    ):
        ranks = range(-clip.shift, clip.length)
        at = np.stack([at_corners(matrix(scene, clip.starts_at + r / 240)) for r in ranks])
        assert np.linalg.norm(np.diff(at, axis=0), axis=1).max() * scale <= 4.0


@pytest.mark.parametrize("clip", CLIPS, ids=NAMES)
def test_camera_changes_its_speed_within_a_clip(clip):
    scene = SCENES[clip.scene]
    ranks = range(clip.length)
    at = [background_matrix(scene, clip.starts_at + r / 240)[:, 2] for r in ranks]
    speeds = np.linalg.norm(np.diff(at, axis=0), axis=1)
    assert speeds.max() > 1.5 * speeds.min()


def test_frame_between_two_ranks_lies_between_them():
    early, middle, late = (render_frame(NAMES[0], rank) for rank in (24, 24.5, 25))

    def alike(one, other):
        return structural_similarity(one, other, channel_axis=2)

    assert min(alike(early, middle), alike(middle, late)) > alike(early, late)


def test_rendered_clip_is_what_the_frames_folder_holds(sample):
    frames = numbered(sample / "GOPRO_Large_all" / "train" / NAMES[0])
    for rendered, path in zip(render_clip(NAMES[0]), frames, strict=True):
        assert np.array_equal(rendered, pixels(path))


def test_two_processes_write_the_same_bytes(sample, tmp_path):
    code = "import sys, pathlib; from trajectory_builder.sample import write_sample"
    code += "; write_sample(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True)
    assert tree(tmp_path / "b") == tree(sample)


def test_total_of_the_progress_bar_is_what_is_written(sample):
    assert _total_files() == write_sample(sample).files


def test_second_run_writes_nothing(sample):
    assert write_sample(sample).written == 0


def test_damaged_and_deleted_files_are_mended(sample):
    before = tree(sample)
    blurs = sorted((sample / "GOPRO_Large").rglob("blur/*.png"))
    blurs[0].unlink()
    blurs[1].write_bytes(b"")
    assert write_sample(sample).written == 2
    assert tree(sample) == before


def test_killed_run_is_finished_by_the_next(sample, tmp_path):
    out = tmp_path / "sample"
    command = [sys.executable, "-m", "trajectory_builder", "sample", "--out", str(out)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while sum(1 for _ in out.rglob("*.png")) < 40 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    write_sample(out)
    left = {name: digest for name, digest in tree(out).items() if ".tmp-" not in name}
    assert left == tree(sample)


def test_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="not a sample") as caught:
        write_sample(tmp_path)
    assert caught.value.exit_code == ExitCode.OTHER_CONFIG
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sample": "mine", "version": 1}', "\x00"])
def test_record_of_another_tool_is_refused(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(OutputError, match="something else"):
        write_sample(tmp_path)


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "sample").write_text("a file")
    with pytest.raises(OutputError, match="not a folder"):
        write_sample(tmp_path / "sample")


def test_disk_that_refuses_is_told_with_its_reason():
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_sample(Path("/proc/no-such-folder/sample"))
    assert caught.value.cure


def test_video_shows_the_frames_of_its_sequence(sample):
    av = pytest.importorskip("av")
    with av.open(sample / VIDEO) as file:
        assert file.streams.video[0].average_rate == 240
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    paths = numbered(sample / "GOPRO_Large_all/train" / VIDEO_CLIP)
    stored = [pixels(path).astype(float) for path in paths]
    assert len(shown) == len(stored)
    # Lossy, at a quarter of the colours' resolution: far nearer to its own frame than to the next.
    apart = [np.abs(one - other).mean() for one, other in zip(shown, stored, strict=True)]
    further = [np.abs(one - other).mean() for one, other in pairwise(stored)]
    assert max(apart) < 5
    assert np.mean(apart) < 0.7 * np.mean(further)


def test_sample_without_pyav_has_no_video_and_tells_how_to_get_it(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "own")
    (tmp_path / "own" / VIDEO).unlink()
    code = "import sys; sys.modules['av'] = None; from trajectory_builder.cli import main; main()"
    command = [sys.executable, "-c", code, "sample", "--out", str(tmp_path / "own")]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert 'no video: pip install "fidediff[video]"' in told
    assert not (tmp_path / "own" / VIDEO).exists()


def test_command_prints_one_json_object(sample):
    command = [sys.executable, "-m", "trajectory_builder", "sample", "--out", str(sample), "--json"]
    told = subprocess.run(command, capture_output=True, check=True, env=dict(os.environ))
    assert json.loads(told.stdout)["pairs"] == 26


def test_help_tells_the_true_counts():
    command = [sys.executable, "-m", "trajectory_builder", "sample", "--help"]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "26 official pairs in 8 sequences" in " ".join(told.split())
    assert "260 frames" in told


# Pixels at rank 5, as rendered with OpenCV 4.10 and 5.0 alike; a change is a new VERSION.
DIGESTS = {
    "GOPR9001_07_00": "58b28f9b66782753",
    "GOPR9001_07_01": "bbf9c246727f8c4d",
    "GOPR9002_11_00": "cf8c950214febd88",
    "GOPR9002_11_02": "a3114394f8eb8305",
    "GOPR9003_11_03": "6b85c14bed39feeb",
    "GOPR9004_13_00": "1ac3f35ba3766aa7",
    "GOPR9005_11_00": "e57e597c93915c59",
    "GOPR9005_11_01": "513c1fc88aa1f886",
}


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_every_other_machine(name):
    assert pixel_sha256(render_frame(name, 5))[:16] == DIGESTS[name]
