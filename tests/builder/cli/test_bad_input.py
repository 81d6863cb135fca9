"""Whatever is given instead of a sound source: one clear error or named problems, nothing half."""

import io
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import pyarrow.parquet as pq
import pytest
from gopro_tree import PACKAGE, load, three_parts, trajbuild, tree, write_small
from PIL import Image

from trajectory_builder import manifest, verify
from trajectory_builder.build import alignment, run
from trajectory_builder.cli import trajbuild as click_command
from trajectory_builder.errors import BuildError, ExitCode, OutputError
from trajectory_builder.plan import gopro, recipe

CLIP = "train/GOPR9003_13_00"
FRAME = f"{CLIP}/022150.png"  # the centre of the pair 000012
SHARP = f"{CLIP}/sharp/000012.png"
BLUR = f"{CLIP}/blur/000012.png"
PERMISSIONS = pytest.mark.usefixtures("permissions_hold")


def touch(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def expand(src, *args):
    return trajbuild("expand", "--src", src, "--jobs", "1", *args)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def absent(root):
    return root / "GOPRO_Large"


def empty(root):
    (root / "GOPRO_Large").mkdir()
    return root / "GOPRO_Large"


def plain_file(root):
    touch(root / "GOPRO_Large", b"text")
    return root / "GOPRO_Large"


def archive(root):
    with zipfile.ZipFile(root / "GOPRO_Large.zip", "w") as file:
        file.writestr("GOPRO_Large/train/GOPR9001_07_00/sharp/000047.png", "")
    return root / "GOPRO_Large.zip"


def inside_of_train(root):
    return write_small(root).pairs / "train"


def one_sequence(root):
    return write_small(root).pairs / CLIP


def one_frame_folder(root):
    return write_small(root).frames / CLIP


def hide(root):
    for name in ("train/1.png", "test/test-close-ups/2.png", "GT/1.png"):
        touch(root / "HIDE_dataset" / name)
    return root / "HIDE_dataset"


def realblur(root):
    touch(root / "data/RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene001/gt/gt_1.png")
    return root / "data"


def reds(root):
    touch(root / "data/train_sharp/000/00000000.png")
    return root / "data"


def bsd(root):
    touch(root / "data/BSD_1ms8ms/train/000/Blur/RGB/00000000.png")
    return root / "data"


def flat_input_target(root):
    for kind in ("input", "target"):
        touch(root / f"GoPro/train/{kind}/GOPR0372_07_00_000047.png")
    return root / "GoPro"


def flat_blur_sharp(root):
    for kind in ("blur", "sharp"):
        touch(root / f"GoPro/train/{kind}/GOPR0884_11_00-000285.png")
    return root / "GoPro"


def something_else(root):
    touch(root / "music/song.mp3")
    return root / "music"


def link_in_a_circle(root):
    (root / "GOPRO_Large").symlink_to(root / "GOPRO_Large")
    return root / "GOPRO_Large"


def pairs_alone(root):
    source = write_small(root)
    shutil.rmtree(source.frames)
    return source.pairs


def sequences_without_files(root):
    (root / "GOPRO_Large/train/GOPR9001_07_00/sharp").mkdir(parents=True)
    (root / "GOPRO_Large/train/GOPR9001_07_00/blur").mkdir()
    (root / "GOPRO_Large_all/train/GOPR9001_07_00").mkdir(parents=True)
    return root / "GOPRO_Large"


WRONG_SOURCES = {
    absent: ("does not exist", "GOPRO_Large"),
    empty: ("is empty", "download GOPRO_Large"),
    plain_file: ("is a file, not a folder", "folder"),
    archive: ("is an archive", "unpack"),
    inside_of_train: ("inside of train or test", "--src"),
    one_sequence: ("is one sequence", "--src"),
    one_frame_folder: ("is one sequence", "--src"),
    hide: ("looks like HIDE", "--layout hide"),
    realblur: ("looks like REALBLUR", "--layout realblur"),
    reds: ("looks like REDS", "--layout reds"),
    bsd: ("looks like BSD", "--layout bsd"),
    flat_input_target: ("flattened re-hosted copy", "--layout pairs"),
    flat_blur_sharp: ("flattened re-hosted copy", "--layout pairs"),
    something_else: ("not a GoPro tree", "trajbuild generate"),
    link_in_a_circle: ("does not exist", ""),
    pairs_alone: ("needs the 240 fps frames", "--recipe official"),
    sequences_without_files: ("can be used", ""),
}


@pytest.mark.parametrize("make", WRONG_SOURCES, ids=lambda make: make.__name__)
def test_wrong_source_is_one_clear_error_of_wrong_use(tmp_path, make):
    said, advised = WRONG_SOURCES[make]
    src = make(tmp_path)
    before = names_in(tmp_path)
    done = expand(src)
    what, where, cure = three_parts(done.stderr)
    assert done.returncode == 2, done.stderr
    assert said in what
    assert advised in cure
    assert all([what, where, cure]), done.stderr
    assert (done.stdout, names_in(tmp_path)) == ("", before)


def test_sequences_without_any_pair_are_an_error_even_as_they_are(tmp_path):
    done = expand(sequences_without_files(tmp_path), "--recipe", "official")
    assert done.returncode == 2
    assert "no sequence" in three_parts(done.stderr)[0]
    assert all(three_parts(done.stderr))


def test_pairs_alone_tell_where_the_frames_were_looked_for(tmp_path):
    where, cure = three_parts(expand(pairs_alone(tmp_path)).stderr)[1:]
    assert "GOPRO_Large_all is neither in it nor beside it" in where
    assert "https://" in cure


@pytest.mark.parametrize("name", ["absent", "GOPRO_Large", "GOPRO_Large_all/train"])
def test_frames_that_are_none_are_wrong_use(small_source, name):
    done = expand(small_source.pairs, "--frames", small_source.pairs.parent / name)
    assert done.returncode == 2
    assert all(three_parts(done.stderr))


@pytest.mark.parametrize("tree_name", ["GOPRO_Large", "GOPRO_Large_all"])
@pytest.mark.parametrize("inner", ["", "out", "train/out"])
def test_output_inside_the_source_is_wrong_use(own_source, tree_name, inner):
    root = own_source.pairs.parent
    before = names_in(root)
    done = expand(own_source.pairs, "--out", root / tree_name / inner)
    assert done.returncode == 2
    assert "inside the source" in three_parts(done.stderr)[0]
    assert all(three_parts(done.stderr))
    assert names_in(root) == before


def refuse_to_look(*args, **kwargs):
    raise AssertionError("pixels were looked at")


def test_output_inside_the_source_is_refused_before_pixels_are_looked_at(small_source, monkeypatch):
    monkeypatch.setattr(alignment, "settle", refuse_to_look)
    words = ["expand", "--src", str(small_source.pairs), "--out", str(small_source.pairs)]
    with pytest.raises(OutputError, match="inside the source"):
        click_command(words, standalone_mode=False)


def test_absent_backend_is_refused_before_pixels_are_looked_at(small_source, tmp_path, monkeypatch):
    monkeypatch.setattr(alignment, "settle", refuse_to_look)
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["expand", "--src", str(small_source.pairs), "--out", str(tmp_path / "out")]
    with pytest.raises(BuildError, match="distributed, which is not installed") as caught:
        click_command([*words, "--backend", "dask"], standalone_mode=False)
    assert caught.value.cure == 'pip install "fidediff[dask]"'
    assert not (tmp_path / "out").exists()


def test_output_inside_the_source_by_a_link_is_wrong_use(own_source, tmp_path):
    (tmp_path / "link").symlink_to(own_source.pairs)
    assert expand(own_source.pairs, "--out", tmp_path / "link/out").returncode == 2


def test_folder_of_others_as_output_is_refused_untouched(small_source, tmp_path):
    touch(tmp_path / "photos/holiday.jpg", b"mine")
    done = expand(small_source.pairs, "--out", tmp_path / "photos")
    assert done.returncode == 1
    assert all(three_parts(done.stderr))
    assert "holiday.jpg" in three_parts(done.stderr)[1]
    assert names_in(tmp_path / "photos") == ["holiday.jpg"]


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_file_as_output_is_refused_untouched(small_source, tmp_path, below):
    touch(tmp_path / "out", b"mine")
    done = expand(small_source.pairs, "--out", f"{tmp_path}/out{below}")
    assert done.returncode == 1
    assert all(three_parts(done.stderr))
    assert (tmp_path / "out").read_bytes() == b"mine"


@PERMISSIONS
def test_output_that_cannot_be_written_is_one_clear_error(small_source, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    done = expand(small_source.pairs, "--out", tmp_path / "closed/out")
    assert done.returncode == 1
    assert all(three_parts(done.stderr))


@PERMISSIONS
def test_source_that_cannot_be_read_is_one_clear_error(own_source):
    own_source.pairs.chmod(0)
    done = expand(own_source.pairs)
    own_source.pairs.chmod(0o700)
    assert done.returncode == 2
    assert all(three_parts(done.stderr))


@PERMISSIONS
@pytest.mark.parametrize(
    "words",
    ["plan --src {}", "generate --src {} --out {}-new", "verify {}", "report {}", "stats {}",
     "select {} --out {}-new", "diff {} {}", "index {} --layout pairs --out {}-new",
     "export {} --to hf --out {}-new", "explain {} GOPR/000001/n05"],
)  # fmt: skip
def test_folder_that_cannot_be_read_is_one_clear_error_of_each_command(tmp_path, words):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    done = trajbuild(*words.replace("{}", str(closed)).split())
    closed.chmod(0o700)
    assert done.returncode in (1, 2)
    assert str(closed) in three_parts(done.stderr)[1]
    assert all(three_parts(done.stderr))
    assert "Traceback" not in done.stderr
    assert names_in(tmp_path) == ["closed"]


# Faults of the tree's names: what is sound is built, what is not is named, the exit code is 4.


def made(source, out, **options):
    planned = gopro.plan_gopro(source.pairs, recipe.load_recipe(recipe.DEFAULT))
    options = run.BuildOptions(progress=False, **options)
    report = run.build_plan(planned, out, options)
    return report, planned


def problems_of(out):
    return pq.read_table(out / "problems.parquet").to_pylist()


def ids(out):
    return set(manifest.read(out).table["sample_id"].to_pylist())


def of_pair(number, *n_frames):
    return {f"GOPR9003_13_00/{number:06d}/n{n:02d}" for n in n_frames}


def remove_sequence_of_frames(source):
    shutil.rmtree(source.frames / CLIP)
    lost = of_pair(11, 7, 9, 11) | of_pair(12, 7, 9, 11) | of_pair(13, 7, 9, 11)
    return {"sequence-missing-in-frames"}, lost


def remove_sequence_of_pairs(source):
    shutil.rmtree(source.pairs / CLIP)
    lost = {name for number in (11, 12, 13) for name in of_pair(number, 7, 9, 11, 13)}
    return {"sequence-missing-in-pairs", "sharp-missing"}, lost


def remove_frame(source):
    (source.frames / FRAME).unlink()
    return {"frame-missing"}, of_pair(12, 7, 9, 11)


def remove_outer_frame(source):
    (source.frames / CLIP / "022145.png").unlink()  # only the window of 11 reaches so far
    return {"frame-missing"}, of_pair(12, 11)


def rename_frame(source):
    (source.frames / FRAME).rename(source.frames / CLIP / "022150 (1).png")
    return {"frame-missing"}, of_pair(12, 7, 9, 11)


def double_frame(source):
    shutil.copy(source.frames / FRAME, source.frames / CLIP / "22150.png")
    lost = of_pair(11, 7, 9, 11) | of_pair(12, 7, 9, 11) | of_pair(13, 7, 9, 11)
    return {"frame-doubled"}, lost


def remove_sharp(source):
    (source.pairs / SHARP).unlink()
    return {"sharp-missing"}, of_pair(12, 7, 9, 11, 13)


def remove_blur(source):
    (source.pairs / BLUR).unlink()
    return {"blur-missing"}, of_pair(12, 13)


def double_sharp(source):
    shutil.copy(source.pairs / SHARP, source.pairs / CLIP / "sharp/12.png")
    lost = {name for number in (11, 12, 13) for name in of_pair(number, 7, 9, 11, 13)}
    return {"pair-doubled"}, lost


def remove_blur_folder(source):
    shutil.rmtree(source.pairs / CLIP / "blur")
    lost = {name for number in (11, 12, 13) for name in of_pair(number, 7, 9, 11, 13)}
    return {"folder-missing"}, lost


def renumber_some_frames(source):
    for number in range(22131, 22141):
        old = source.frames / CLIP / f"{number:06d}.png"
        old.rename(old.with_name(f"{number - 22130:06d}.png"))
    lost = of_pair(11, 7, 9, 11) | of_pair(12, 7, 9, 11) | of_pair(13, 7, 9, 11)
    return {"frames-renumbered"}, lost


def same_clip_in_both_splits(source):
    shutil.copytree(source.pairs / CLIP, source.pairs / "test/GOPR9003_13_00")
    shutil.copytree(source.frames / CLIP, source.frames / "test/GOPR9003_13_00")
    return {"clip-doubled"}, set()


NAME_FAULTS = (
    remove_sequence_of_frames, remove_sequence_of_pairs, remove_frame, remove_outer_frame,
    rename_frame, double_frame, remove_sharp, remove_blur, double_sharp, remove_blur_folder,
    renumber_some_frames, same_clip_in_both_splits,
)  # fmt: skip


@pytest.mark.parametrize("spoil", NAME_FAULTS, ids=lambda spoil: spoil.__name__)
def test_fault_in_the_tree_costs_just_the_pairs_that_it_hits(own_source, small_built, spoil):
    reasons, lost = spoil(own_source)
    out = own_source.pairs.parent / "out"
    report, _ = made(own_source, out)
    problems = problems_of(out)
    assert report.exit_code == ExitCode.DONE_IN_PART
    assert {problem["reason"] for problem in problems} == reasons
    assert ids(small_built) - ids(out) == lost
    assert all(problem["what"] and problem["cure"] for problem in problems)
    assert verify.verify_folder(out, "full").findings == ()


def test_extra_frames_at_the_end_are_a_note(own_source):
    frame = own_source.frames / "train/GOPR9001_07_00/000323.png"
    shutil.copy(frame, frame.with_name("000393.png"))
    planned = gopro.plan_gopro(own_source.pairs, recipe.load_recipe(recipe.DEFAULT))
    assert planned.problems == ()
    assert "1 frames more" in planned.notes[0]


def test_other_files_in_a_sequence_do_not_disturb(own_source, small_built, tmp_path):
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "._022150.png"):
        touch(own_source.frames / CLIP / name, b"x")
        touch(own_source.pairs / CLIP / "blur" / name, b"x")
    report, _ = made(own_source, tmp_path / "out")
    assert report.exit_code == ExitCode.DONE
    assert ids(tmp_path / "out") == ids(small_built)


def test_whole_renumbered_frames_are_used_by_rank(own_source, small_built, tmp_path):
    for number in range(22131, 22131 + 39):
        old = own_source.frames / CLIP / f"{number:06d}.png"
        old.rename(old.with_name(f"{number - 22131:08d}.png"))
    report, _ = made(own_source, tmp_path / "out")
    assert report.exit_code == ExitCode.DONE
    name = "train/blur/GOPR9003_13_00/000012_n09.png"
    assert (tmp_path / "out" / name).read_bytes() == (small_built / name).read_bytes()


def test_missing_published_sequence_is_named(real_names, tmp_path):
    shutil.copytree(real_names.frames / "test/GOPR0881_11_01", tmp_path / "all/test/GOPR0881_11_01")
    planned = gopro.plan_gopro(
        tmp_path / "all", recipe.load_recipe(recipe.DEFAULT), expand_test=True
    )
    lost = {p.clip_id for p in planned.problems if p.reason == "sequence-missing"}
    assert len(lost) == 10
    assert "GOPR0384_11_05" in lost


def test_renumbered_published_pairs_are_not_guessed(real_names, tmp_path):
    folder = tmp_path / "GOPRO_Large/train/GOPR0372_07_00"
    shutil.copytree(real_names.pairs / "train/GOPR0372_07_00", folder)
    for kind in ("blur", "sharp"):
        for path in sorted((folder / kind).iterdir())[:40]:
            path.unlink()
        for rank, path in enumerate(sorted((folder / kind).iterdir())):
            path.rename(path.with_name(f"{rank + 1:06d}.png"))
    done = trajbuild("plan", "--src", tmp_path / "GOPRO_Large", "--recipe", "official")
    assert done.returncode == 2
    assert "published are 100 from 47" in done.stderr


# Faults inside image files: each has its own word, as a frame, a sharp and an official blur.


def chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(
        ">I", zlib.crc32(kind + payload)
    )  # fmt: skip


def as_image(pixels, mode=None, kind="png"):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind)
    return file.getvalue()


def as_16_bit(pixels):
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


IMAGE_FAULTS = {
    "frame-truncated": lambda pixels, whole: whole[: len(whole) // 2],
    "frame-empty": lambda pixels, whole: b"",
    "frame-not-png": lambda pixels, whole: as_image(pixels, kind="jpeg"),
    "frame-16-bit": lambda pixels, whole: as_16_bit(pixels),
    "frame-grayscale": lambda pixels, whole: as_image(pixels, "L"),
    "frame-has-alpha": lambda pixels, whole: as_image(pixels, "RGBA"),
    "frame-palette": lambda pixels, whole: as_image(pixels, "P"),
    "frame-size-differs": lambda pixels, whole: as_image(pixels[:-2]),
    "frame-crc": lambda pixels, whole: whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
    "frame-trailing-bytes": lambda pixels, whole: whole + b"junk",
}


@pytest.mark.parametrize("reason", IMAGE_FAULTS)
def test_bad_image_costs_just_the_pairs_that_need_it(own_source, small_built, reason):
    out = own_source.pairs.parent / "out"
    # A frame, a sharp and an official blur of three different pairs.
    sharp, blur = SHARP.replace("12", "13"), BLUR.replace("12", "11")
    for path in (own_source.frames / FRAME, own_source.pairs / sharp, own_source.pairs / blur):
        path.write_bytes(IMAGE_FAULTS[reason](load(path), path.read_bytes()))
    report, _ = made(own_source, out)
    assert report.exit_code == ExitCode.DONE_IN_PART
    lost = of_pair(12, 7, 9, 11) | of_pair(13, 7, 9, 11, 13) | of_pair(11, 13)
    assert ids(small_built) - ids(out) == lost
    told = {(p["reason"], p["sample_id"], p["file"]) for p in problems_of(out)}
    assert told == (
        {(reason, name, FRAME) for name in of_pair(12, 7, 9, 11)}
        | {(reason, name, sharp) for name in of_pair(13, 7, 9, 11, 13)}
        | {(reason, name, blur) for name in of_pair(11, 13)}
    )
    assert verify.verify_folder(out, "full").findings == ()


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_what_is_no_regular_file_is_an_unreadable_frame(own_source, kind):
    path, out = own_source.frames / FRAME, own_source.pairs.parent / "out"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere.png")
    report, _ = made(own_source, out)
    assert report.exit_code == ExitCode.DONE_IN_PART
    expected = "frame-missing" if kind == "dangling link" else "frame-unreadable"
    assert {p["reason"] for p in problems_of(out)} == {expected}


@PERMISSIONS
def test_frame_without_permission_is_an_unreadable_frame(own_source):
    (own_source.frames / FRAME).chmod(0)
    made(own_source, own_source.pairs.parent / "out")
    assert {p["reason"] for p in problems_of(own_source.pairs.parent / "out")} == {
        "frame-unreadable"
    }


def test_command_ends_with_four_where_a_frame_is_bad(own_source):
    (own_source.frames / FRAME).write_bytes(b"")
    done = expand(own_source.pairs)
    assert done.returncode == 4
    assert "3 problems" in done.stderr
    assert "problems.parquet" in done.stderr


def test_strict_stops_at_a_bad_frame_with_one_clear_error(own_source):
    (own_source.frames / FRAME).write_bytes(b"")
    done = expand(own_source.pairs, "--strict")
    assert done.returncode == 1
    assert FRAME in three_parts(done.stderr)[1]
    assert all(three_parts(done.stderr))
    out = own_source.pairs.with_name("GOPRO_Large_trajectories")
    assert not (out / "build.json").exists()


def test_strict_stops_at_a_missing_frame_before_it_writes(own_source):
    (own_source.frames / FRAME).unlink()
    done = expand(own_source.pairs, "--strict")
    assert done.returncode == 1
    assert all(three_parts(done.stderr))
    assert not own_source.pairs.with_name("GOPRO_Large_trajectories").exists()


@pytest.mark.parametrize("spoil", [remove_frame, remove_blur, remove_sequence_of_frames])
def test_mended_tree_is_finished_by_the_same_command(
    own_source, small_source, small_built, tmp_path, spoil
):
    spoil(own_source)
    made(own_source, tmp_path / "out")
    shutil.rmtree(own_source.pairs.parent)
    shutil.copytree(small_source.pairs.parent, own_source.pairs.parent)
    report, _ = made(own_source, tmp_path / "out")
    assert report.exit_code == ExitCode.DONE
    assert payload(tmp_path / "out") == payload(small_built)


def test_mended_image_is_finished_by_the_same_command(own_source, small_built, tmp_path):
    whole = (own_source.frames / FRAME).read_bytes()
    (own_source.frames / FRAME).write_bytes(whole[:100])
    made(own_source, tmp_path / "out")
    (own_source.frames / FRAME).write_bytes(whole)
    report, _ = made(own_source, tmp_path / "out")
    assert report.exit_code == ExitCode.DONE
    assert payload(tmp_path / "out") == payload(small_built)


def payload(out):
    return {name: sha for name, sha in tree(out).items() if not name.startswith(".trajbuild")}


# Names.


@pytest.mark.parametrize("name", ["My GoPro copy", "Größe und Übung", "日本 🎥", "-y", "a'b\"c;d"])
def test_any_folder_name_serves_as_source_and_output(own_source, small_built, name):
    root = own_source.pairs.parent.rename(own_source.pairs.parent.with_name(name))
    done = trajbuild("expand", "--src", f"./{name}/GOPRO_Large", "--jobs", "1", cwd=root.parent,
                     env={"PYTHONPATH": str(PACKAGE.parent)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert payload(root / "GOPRO_Large_trajectories") == payload(small_built)


def test_source_below_a_name_that_is_not_utf8_is_built(own_source, small_built):
    root = own_source.pairs.parent.rename(own_source.pairs.parent.with_name(os.fsdecode(b"a\xffb")))
    done = expand(root / "GOPRO_Large")
    assert done.returncode == 0, done.stderr
    assert payload(root / "GOPRO_Large_trajectories") == payload(small_built)


def test_file_name_that_is_not_utf8_is_left_aside(own_source, small_built, tmp_path):
    touch(own_source.frames / CLIP / os.fsdecode(b"\xff\xfe.png"), b"x")
    done = expand(own_source.pairs, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "are not frames and are ignored" in done.stderr
    assert payload(tmp_path / "out") == payload(small_built)


def test_name_with_control_characters_cannot_write_to_the_terminal(own_source):
    touch(own_source.frames / CLIP / "\x07bell.png", b"x")
    done = expand(own_source.pairs, "--dry-run")
    assert "\x07" not in done.stderr + done.stdout


def test_source_that_does_not_exist_is_told_without_control_characters(tmp_path):
    done = expand(tmp_path / "a\x07b\nc")
    assert done.returncode == 2
    assert "\x07" not in done.stderr
    assert all(three_parts(done.stderr))


# Space.


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_too_little_space_is_told_before_the_start(own_source, tiny_disk):
    (tiny_disk / "full").write_bytes(bytes(900_000))
    done = expand(own_source.pairs, "--out", tiny_disk / "out")
    assert done.returncode == 1
    assert all(three_parts(done.stderr))
    assert "needs about" in three_parts(done.stderr)[0]
    assert not list(tiny_disk.rglob("*.png"))


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
from trajectory_builder.cli import main
main(sys.argv[2:])
"""


def test_failed_write_is_one_clear_error_that_can_be_resumed(small_source, small_built, tmp_path):
    out = tmp_path / "out"
    size = max(path.stat().st_size for path in small_built.rglob("*_n*.png")) - 1
    command = [sys.executable, "-c", LIMITED, str(size), "expand", "--src", small_source.pairs,
               "--out", out, "--jobs", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert all(three_parts(done.stderr)), done.stderr
    assert not list(out.rglob(".tmp-*"))
    assert not (out / "build.json").exists()
    assert expand(small_source.pairs, "--out", out).returncode == 0
    assert payload(out) == payload(small_built)
