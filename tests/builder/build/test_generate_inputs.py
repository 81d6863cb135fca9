"""`trajbuild generate` on inputs that say little of themselves: white, kinds not read, sizes."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from footage_maker import pan
from PIL import Image

from trajectory_builder import verify
from trajectory_builder.build import record, run
from trajectory_builder.build.run import BuildOptions
from trajectory_builder.cli import main
from trajectory_builder.errors import ExitCode, ImageError, UsageError
from trajectory_builder.plan import footage
from trajectory_builder.plan.footage_request import FootageRequest
from trajectory_builder.sources import frames

QUIET = BuildOptions(progress=False)


def make(out, *sources, **options):
    plan = footage.plan_footage(FootageRequest(tuple(sources), **options))
    return run.build_plan(plan, out, QUIET)


def twelve_bits(folder, count=9):
    """Frames of 12 bits in 16 without a tag that says so, and what they show, 0 to 1."""
    folder.mkdir(parents=True)
    shown = [np.rint(frame / 255 * 4095) / 4095 for frame in pan(count)]
    for index, frame in enumerate(shown):
        values = np.rint(frame * 4095).astype(np.uint16)
        tifffile.imwrite(folder / f"{index:03d}.tif", values, photometric="rgb")
    return shown


@pytest.mark.parametrize("bits", [8, 16])
def test_white_scales_frames_of_twelve_bits(tmp_path, bits):
    shown = twelve_bits(tmp_path / "mono")
    make(tmp_path / "out", tmp_path / "mono", n_frames=(5,), bits=bits, white=4095)
    row = pq.read_table(tmp_path / "out/train/metadata.parquet").to_pylist()[0]
    blur = cv2.imread(str(tmp_path / "out/train" / row["blur_file_name"]), cv2.IMREAD_UNCHANGED)
    first = row["first_index"]
    truth = np.mean(shown[first : first + 5], axis=0) * (2**bits - 1)
    assert np.abs(blur[..., ::-1] - truth).max() <= 1
    assert verify.verify_folder(tmp_path / "out", "deep").findings == ()


def test_eight_bits_of_frames_of_twelve_are_refused_without_white(tmp_path):
    twelve_bits(tmp_path / "mono")
    with pytest.raises(ImageError, match="end at 4,095 of 65,535") as caught:
        make(tmp_path / "out", tmp_path / "mono", n_frames=(5,))
    assert "--white 4095" in caught.value.cure
    make(tmp_path / "out", tmp_path / "mono", n_frames=(5,), white=65535)


def test_sixteen_bits_of_frames_of_twelve_are_reported(tmp_path):
    twelve_bits(tmp_path / "mono")
    request = FootageRequest((tmp_path / "mono",), n_frames=(5,), bits=16)
    assert any("--white 4095 scales" in note for note in footage.plan_footage(request).notes)


def test_a_film_that_fades_from_black_is_not_refused(tmp_path):
    (tmp_path / "fade").mkdir()
    for index, frame in enumerate(frame.astype(np.uint16) * 257 for frame in pan(9)):
        values = frame // 16 if index < 4 else frame
        tifffile.imwrite(tmp_path / f"fade/{index}.tif", values, photometric="rgb")
    footage.plan_footage(FootageRequest((tmp_path / "fade",), n_frames=(5,)))


def test_a_photograph_of_twelve_bits_is_named_with_its_cure(tmp_path):
    (tmp_path / "photos").mkdir()
    photo = pan(1, width=200, height=160)[0]
    Image.fromarray(photo).save(tmp_path / "photos/a.png")
    low = np.rint(photo / 255 * 4095).astype(np.uint16)
    tifffile.imwrite(tmp_path / "photos/b.tif", low, photometric="rgb")
    report = make(tmp_path / "out", tmp_path / "photos", stills=True, n_frames=(3,))
    assert report.exit_code == ExitCode.DONE_IN_PART
    assert {p.reason for p in record.read_problems(tmp_path / "out")} == {"frame-values-low"}
    make(tmp_path / "two", tmp_path / "photos", stills=True, n_frames=(3,), white=4095)
    rows = pq.read_table(tmp_path / "two/train/metadata.parquet").to_pylist()
    sharps = [cv2.imread(str(tmp_path / "two/train" / row["sharp_file_name"])) for row in rows]
    assert np.abs(sharps[0].astype(int) - sharps[1]).max() <= 1


def test_an_option_that_is_not_given_is_no_part_of_the_config(tmp_path):
    twelve_bits(tmp_path / "mono")
    plan = footage.plan_footage(FootageRequest((tmp_path / "mono",), n_frames=(5,), bits=16))
    assert "white" not in plan.config


NOT_READ = ["a.gif", "b.bmp", "c.jp2", "d.jxl", "e.DNG", "f.wmv", "g.gif"]


def test_kinds_that_are_not_read_are_counted_and_named(tmp_path, capsys):
    source = tmp_path / "mixed"
    (source / "frames").mkdir(parents=True)
    for index, pixels in enumerate(pan(5)):
        Image.fromarray(pixels).save(source / f"frames/{index}.png")
    for name in NOT_READ:
        (source / name).write_bytes(b"of another kind")
    (source / "._a.gif").write_bytes(b"a Mac was here")
    out = tmp_path / "out"
    words = ["generate", "--src", source, "--out", out, "--n-frames", "5", "--jobs", "1"]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == ExitCode.DONE_IN_PART
    problems = record.read_problems(out)
    assert [problem.file.rpartition("/")[2] for problem in problems] == NOT_READ
    assert {problem.reason for problem in problems} == {"kind-not-read"}
    assert all(problem.cure for problem in problems)
    printed = capsys.readouterr().err
    assert "7 files are of kinds that are not read: .gif (2), .bmp (1)" in printed
    assert f"7 problems: see {out}/problems.parquet" in printed


def test_a_folder_of_nothing_but_kinds_not_read_says_what_to_do(tmp_path):
    for name in ("a.gif", "b.jxl"):
        (tmp_path / name).write_bytes(b"of another kind")
    with pytest.raises(Exception, match="can be used") as caught:
        make(tmp_path / "out", tmp_path)
    assert "a.gif is a GIF, which is not read" in caught.value.where
    assert "djxl" in caught.value.cure


def test_a_picture_of_a_kind_not_read_is_no_video(tmp_path):
    (tmp_path / "a.bmp").write_bytes(b"BM and so on")
    with pytest.raises(ImageError, match="a BMP"):
        make(tmp_path / "out", tmp_path / "a.bmp")


def test_every_frame_of_another_size_is_in_the_record(tmp_path):
    for index in range(20):
        size = (48, 32) if index < 7 else (64, 48)
        Image.new("RGB", size).save(tmp_path / f"{index:02d}.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "20.png")
    _, problems = frames.index(tmp_path)
    assert "and 2 more" in problems[0].what
    named = {problem.file.rpartition("/")[2] for problem in problems[1:]}
    assert named == {f"{index:02d}.png" for index in range(7)}


@pytest.mark.parametrize("inside", ["train/blur/a", "train/sharp", "train/sharp/a"])
def test_a_folder_inside_a_data_set_is_refused_as_footage(tmp_path, inside):
    for kind in ("blur", "sharp"):
        folder = tmp_path / "set/train" / kind / "a"
        folder.mkdir(parents=True)
        for index, pixels in enumerate(pan(5)):
            Image.fromarray(pixels).save(folder / f"{index}.png")
    with pytest.raises(UsageError, match="pairs of blur and sharp images"):
        make(tmp_path / "out", tmp_path / "set" / inside)
