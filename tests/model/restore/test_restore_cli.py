import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from small_model import cli, folder_of, loaded, scene

from fidediff_model.restore.records import read_records
from fidediff_model.restore.request import VIDEO_SUFFIXES, collect, names_a_file
from trajectory_builder.errors import printable

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HOSTILE = "$(rm -rf ~) ü\n-x.png"


def save(path: Path, image: np.ndarray | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(24, 32) if image is None else image).save(path, **options)
    return path


class Run:
    """One call of the command over a folder of good and bad files."""

    def __init__(self, root: Path) -> None:
        self.source, self.out = root / "in", root / "out"
        save(self.source / "a.png", icc_profile=SRGB)
        save(self.source / "deep" / "er" / "b.webp", lossless=True)
        save(self.source / "deep" / "c.tif")
        save(self.source / HOSTILE)
        save(self.source / "alpha.png", np.dstack([scene(24, 32), scene(24, 32, 3)[..., 0]]))
        save(self.source / "one.png", scene(1, 1))
        save(self.source / "long.png", scene(4, 3000))
        (self.source / "empty.png").write_bytes(b"")
        (self.source / "text.jpg").write_text("no image")
        (self.source / "cut.png").write_bytes((self.source / "a.png").read_bytes()[:-30])
        (self.source / "no.mp4").write_bytes(b"no video")
        (self.source / "notes.txt").write_text("is left alone")
        arguments = ["--strength", "0", "--side-by-side", "--show-kernels", "--batch", "3"]
        command = ["restore", self.source, "--model", folder_of(), "--out", self.out]
        errors = io.StringIO()
        kept, sys.stderr = sys.stderr, errors
        try:
            self.code = cli(*command, *arguments)
        finally:
            sys.stderr = kept
        self.message = errors.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


def test_bad_files_do_not_end_the_batch(run):
    assert run.code == 4


@pytest.mark.parametrize("name", ["empty.png", "text.jpg", "cut.png", "no.mp4"])
def test_each_bad_file_is_listed(run, name):
    assert f"{name}: the " in run.message
    assert not (run.out / name).exists()


@pytest.mark.parametrize(
    "name", ["a.png", "deep/er/b.webp", "deep/c.tif", HOSTILE, "alpha.png", "one.png", "long.png"]
)
def test_strength_zero_keeps_every_pixel_of_a_file(run, name):
    before, after = (Image.open(folder / name) for folder in (run.source, run.out))
    assert (after.mode, after.size) == (before.mode, before.size)
    assert np.array_equal(np.asarray(after), np.asarray(before))


def test_the_icc_profile_arrives(run):
    assert Image.open(run.out / "a.png").info["icc_profile"] == SRGB


def test_other_files_are_left_alone(run):
    assert not (run.out / "notes.txt").exists()


def test_the_record_tells_timestep_and_settings(run):
    record = read_records(run.out)["deep/c.tif"]
    assert 0 <= record["t_hat"] <= 999
    assert record["settings"]["strength"] == 0
    assert record["source"]["path"] == str(run.source / "deep" / "c.tif")


def test_a_hostile_name_is_recorded_as_it_is(run):
    assert HOSTILE in read_records(run.out)


def test_a_hostile_name_cannot_write_to_the_terminal():
    assert printable("a\x1b[31m\n\udcff") == "a\\x1b[31m\\n\\udcff"


def test_a_side_by_side_picture_shows_both(run):
    both = np.asarray(Image.open(run.out / "a.png_side_by_side.png"))
    assert both.shape == (24, 2 * 32 + 4, 3)
    assert np.array_equal(both[:, :32], both[:, -32:])  # strength 0


def test_the_kernel_picture_is_written(run):
    assert Image.open(run.out / "deep" / "c.tif_kernels.png").mode == "L"


def test_nothing_temporary_is_left(run):
    assert not [path for path in run.out.rglob("*") if ".tmp-" in path.name]


def test_the_same_command_again_restores_nothing(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.out.rglob("*.png")}
    good = [run.source / "a.png", run.source / "one.png"]
    arguments = ["--strength", "0", "--side-by-side", "--show-kernels", "--json"]
    code = cli("restore", *good, "--model", folder_of(), "--out", run.out, *arguments)
    message = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (message["restored"], message["skipped"]) == (0, 2)
    assert before == {path: path.stat().st_mtime_ns for path in run.out.rglob("*.png")}


def test_outputs_of_other_settings_are_refused(run, capsys):
    code = cli("restore", run.source / "a.png", "--model", folder_of(), "--out", run.out)
    error = capsys.readouterr().err
    assert code == 2
    assert "exist already" in error
    assert "--overwrite" in error


def test_a_single_file_that_exists_is_refused_with_the_reason(tmp_path, capsys):
    out = save(tmp_path / "b.png")
    before = out.read_bytes()
    command = ("restore", save(tmp_path / "a.png"), "--model", folder_of(), "--out", out)
    assert cli(*command) == 2
    error = capsys.readouterr().err
    assert "b.png exists already; no record beside one file says which command wrote it" in error
    assert "give --overwrite to write it again" in error
    assert out.read_bytes() == before


def test_skip_existing_leaves_them_alone(run, capsys):
    code = cli(
        "restore", run.source / "a.png", "--model", folder_of(), "--out", run.out, "--skip-existing"
    )
    assert code == 0
    assert "1 done before" in capsys.readouterr().err


def test_overwrite_replaces_and_gives_what_the_library_gives(tmp_path):
    image = scene(24, 32)
    save(tmp_path / "a.png", image)
    save(tmp_path / "out" / "a.png", image[::-1])
    code = cli(
        "restore", tmp_path / "a.png", "--model", folder_of(), "--out", tmp_path / "out",
        "--overwrite", "--device", "cpu",
    )  # fmt: skip
    restored = np.asarray(Image.open(tmp_path / "out" / "a.png")).astype(int)
    assert code == 0
    # Fusing changes the order of float sums.
    assert np.abs(restored - loaded().restore(image)).max() <= 1


def test_one_image_goes_from_standard_input_to_standard_output(tmp_path):
    content = save(tmp_path / "a.png").read_bytes()
    ended = subprocess.run(
        [sys.executable, "-m", "fidediff_model.cli", "restore", "-", "--out", "-",
         "--model", folder_of(), "--timestep", "120"],
        input=content, capture_output=True, check=True,
    )  # fmt: skip
    assert Image.open(io.BytesIO(ended.stdout)).size == (32, 24)
    assert ended.stderr == b"timestep 120.0\n"


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
from fidediff_model.cli import main
main(sys.argv[1:])
"""


def test_a_full_disk_ends_the_run_with_nothing_half_written(tmp_path):
    # A limit on file sizes stands for the full disk: both fail in the middle of a write.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save(tmp_path / "in" / "a_small.png", np.full((16, 16, 3), 9, np.uint8))
    save(tmp_path / "in" / "big.png", noise)
    save(tmp_path / "in" / "last.png")
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, "restore", tmp_path / "in", "--model", folder_of(),
         "--out", tmp_path / "out", "--strength", "0", "--timestep", "120", "--control", "none"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "error: the output cannot be written" in ended.stderr
    assert "cure:" in ended.stderr
    assert "Traceback" not in ended.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names <= {"a_small.png", "last.png", "restored.jsonl"}


def refused(capsys, *arguments) -> str:
    code = cli("restore", *arguments)
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith(("error:", "Usage:"))
    assert "Traceback" not in error
    return error


@pytest.mark.usefixtures("permissions_hold")
@pytest.mark.parametrize(
    "words",
    ["restore {} --model {} --out {}-new", "evaluate --data {} --baseline blurry --out {}-new",
     "scan --data {} --model {} --out {}-new", "train base --data {} --run-dir {}-new"],
)  # fmt: skip
def test_folder_that_cannot_be_read_is_one_clear_error(capsys, tmp_path, words):
    (tmp_path / "closed").mkdir(mode=0)
    assert cli(*words.replace("{}", str(tmp_path / "closed")).split()) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: no permission")
    assert f"where: {tmp_path / 'closed'}" in message
    assert "Traceback" not in message


def test_a_missing_input_is_refused(tmp_path, capsys):
    message = refused(capsys, tmp_path / "no.png", "--model", folder_of(), "--out", tmp_path / "o")
    assert "does not exist" in message


def test_a_folder_without_images_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    message = refused(capsys, tmp_path / "empty", "--model", folder_of(), "--out", tmp_path / "o")
    assert "contains no image" in message


def test_an_output_on_its_input_is_refused(tmp_path, capsys):
    save(tmp_path / "a.png")
    message = refused(capsys, tmp_path, "--model", folder_of(), "--out", tmp_path, "--overwrite")
    assert "would replace an input" in message


def test_an_output_on_an_input_through_a_link_is_refused(tmp_path, capsys):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "out").symlink_to(tmp_path / "in")
    message = refused(
        capsys, tmp_path / "in", "--model", folder_of(), "--out", tmp_path / "out", "--overwrite"
    )
    assert "would replace an input" in message


def test_two_inputs_of_one_name_are_refused(tmp_path, capsys):
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "a.png")
    message = refused(
        capsys, tmp_path / "x", tmp_path / "y", "--model", folder_of(), "--out", tmp_path / "o"
    )
    assert "two inputs" in message


def test_a_run_folder_is_answered_with_the_model_inside(tmp_path, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(folder_of())
    message = refused(
        capsys, tmp_path / "a.png", "--model", tmp_path / "run", "--out", tmp_path / "o"
    )
    assert str(tmp_path / "run" / "model") in message


def test_a_base_model_of_other_weights_is_refused(tmp_path, capsys):
    save(tmp_path / "a.png")
    message = refused(
        capsys, tmp_path / "a.png", "--model", folder_of(), "--out", tmp_path / "o",
        "--base-model", "random:77",
    )  # fmt: skip
    assert "another base" in message


def test_a_model_without_stages_asks_for_a_timestep(tmp_path, capsys):
    save(tmp_path / "a.png")
    code = cli("restore", tmp_path / "a.png", "--model", folder_of(()), "--out", tmp_path / "o")
    error = capsys.readouterr().err
    assert code == 2
    assert "--timestep" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("t", ["-3", "1000", "nan", "soon"])
def test_a_timestep_that_means_nothing_is_refused(tmp_path, capsys, t):
    save(tmp_path / "a.png")
    message = refused(
        capsys, tmp_path / "a.png", "--model", folder_of(), "--out", tmp_path / "o",
        f"--timestep={t}",
    )  # fmt: skip
    assert "999" in message


def test_the_kernel_filter_is_refused_where_there_is_none(tmp_path, capsys):
    save(tmp_path / "a.png")
    message = refused(
        capsys, tmp_path / "a.png", "--model", folder_of(()), "--out", tmp_path / "o",
        "--control", "filter", "--timestep", "200",
    )  # fmt: skip
    assert "not the kernel filter" in message


def test_a_glob_reaches_through_folders(tmp_path):
    for name in ("a.png", "x/b.png", "x/y/c.png", "x/y/d.txt"):
        save(tmp_path / name, None, format="PNG")
    jobs = collect([str(tmp_path / "**" / "*.png")], tmp_path / "out")
    assert sorted(job.source.name for job in jobs) == ["a.png", "b.png", "c.png"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    path = save(tmp_path / "a[1].png")
    assert [job.source for job in collect([str(path)], tmp_path / "out")] == [path]


def test_an_output_folder_inside_the_input_is_not_read_again(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "out" / "a.png")
    jobs = collect([str(tmp_path)], tmp_path / "out")
    assert [job.source for job in jobs] == [tmp_path / "a.png"]


def test_every_video_ending_is_taken_for_a_video(tmp_path):
    for ending in VIDEO_SUFFIXES:
        (tmp_path / f"a{ending.upper()}").write_bytes(b"")
    assert all(job.is_video for job in collect([str(tmp_path)], tmp_path / "out"))


def test_a_torn_record_is_left_out(tmp_path):
    (tmp_path / "restored.jsonl").write_text('{"target": "a.png", "t_hat": 1}\n{"target": "b')
    assert list(read_records(tmp_path)) == ["a.png"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path):
    names = [f"{index:03d}.png" for index in range(12)]
    files = [save(tmp_path / "in" / name) for name in names]
    # The run stops itself after its second file, so it cannot be over when the signal comes.
    stops = {"TRAJBUILD_TEST_FAULT": "after-rename:2", "TRAJBUILD_TEST_SIGNAL": "SIGSTOP"}
    started = subprocess.Popen(
        [sys.executable, "-m", "fidediff_model.cli", "restore", *files,
         "--model", folder_of(), "--out", tmp_path / "out"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | stops,
        # Workers of pytest-xdist ignore SIGINT, and a process inherits that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.waitid(os.P_PID, started.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    started.send_signal(signal.SIGINT)
    started.send_signal(signal.SIGCONT)
    _, error = started.communicate(timeout=200)
    assert started.returncode == 130
    assert "run the same command again to resume" in error
    outputs = {path.name for path in (tmp_path / "out").iterdir()}
    assert names[0] in outputs
    assert outputs <= {*names, "restored.jsonl"}
    assert len(outputs) < len(names)
    for path in (tmp_path / "out").glob("*.png"):
        Image.open(path).load()


def test_out_can_name_the_file_of_one_picture(tmp_path):
    source, out = save(tmp_path / "a.png"), tmp_path / "new" / "b.jpg"
    code = cli("restore", source, "--model", folder_of(), "--out", out, "--compare")
    assert code == 0
    assert Image.open(out).format == "JPEG"
    assert {path.name for path in out.parent.iterdir()} == {"b.jpg", "b.jpg_side_by_side.png"}


def test_a_folder_with_the_ending_of_a_picture_is_a_folder(tmp_path):
    (tmp_path / "b.png").mkdir()
    assert not names_a_file([str(save(tmp_path / "a.png"))], tmp_path / "b.png")


@pytest.mark.parametrize(
    ("inputs", "out", "reason"),
    [(("a.png", "b.png"), "c.png", "name of one file"), (("a.png",), "c.mp4", "as .mp4"),
     ((".",), "c.png", "name of one file")],
)  # fmt: skip
def test_one_file_cannot_take_what_does_not_fit(tmp_path, capsys, inputs, out, reason):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    message = refused(
        capsys, *(tmp_path / name for name in inputs), "--model", folder_of(),
        "--out", tmp_path / out,
    )  # fmt: skip
    assert reason in message


def test_one_picture_is_never_written_over_itself(tmp_path, capsys):
    source = save(tmp_path / "a.png")
    message = refused(capsys, source, "--model", folder_of(), "--out", source, "--overwrite")
    assert "would replace an input" in message
