"""The page's parts without a browser: photos, results, words, the folder of a Space."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import small_model
import torch
from PIL import Image

from fidediff_model.app import view
from fidediff_model.app.photo import facts_of, kernel_overlay, read_photo, restore_photo, shown
from fidediff_model.app.results import Cancelled, Results
from fidediff_model.app.trajectories import TrajectorySet, restored_steps, steps_of
from fidediff_model.model.engine import ReadyModel, Settings
from trajectory_builder.errors import DataError, ImageError, UserError
from trajectory_builder.images import pictures


@pytest.fixture
def ready() -> ReadyModel:
    return ReadyModel(small_model.loaded(), Settings(), torch.device("cpu"))


def picture_of(image: np.ndarray, file_format: str = "PNG", **options):
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, file_format, **options)
    return pictures.decode(sink.getvalue(), name="photo")


def test_a_photo_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (6000, 4001)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="6,000 x 4,001 pixels"):
        read_photo(tmp_path / "a.png")


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ImageError, match="67,108,865 bytes"):
        read_photo(tmp_path / "a.png")


def test_the_saved_file_is_in_the_photos_own_format(ready):
    picture = picture_of(small_model.scene(40, 56), "WEBP", lossless=True)
    answer = restore_photo(ready, picture, "a.webp", timestep=None, strength=1)
    assert answer.file_name == "a_sharp.webp"
    assert pictures.decode(answer.file, name="").format == "WEBP"


def test_a_wrong_ending_gives_way_to_the_content(ready):
    picture = picture_of(small_model.scene(40, 56))
    answer = restore_photo(ready, picture, "a.jpg", timestep=None, strength=1)
    assert answer.file_name == "a_sharp.png"


def test_a_timestep_out_of_range_is_refused(ready):
    picture = picture_of(small_model.scene(20, 20))
    with pytest.raises(UserError, match="out of range"):
        restore_photo(ready, picture, "a.png", timestep=1000, strength=1)


def test_a_restoration_reports_its_parts_in_order(ready):
    reports = []
    picture = picture_of(small_model.scene(40, 56))
    restore_photo(ready, picture, "a.png", timestep=None, strength=1,
                  report=lambda done, total: reports.append((done, total)))  # fmt: skip
    assert reports == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_restoration_in_tiles_reports_each_tile(ready):
    tiled = replace(ready, settings=Settings(tile=128, overlap=32, timestep=100.0))
    reports = []
    tiled.run(small_model.tensor(small_model.scene(256, 128)), report=lambda *r: reports.append(r))
    assert reports[-1] == (6, 6)  # M and T, E, three tiles, D


def test_what_the_report_raises_ends_the_restoration(ready):
    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        ready.run(small_model.tensor(small_model.scene(20, 20)), report=stop)


def test_deep_photos_are_shown_with_eight_bits():
    deep = small_model.scene(20, 30).astype(np.uint16) * 257
    picture = replace(picture_of(small_model.scene(20, 30)), pixels=deep)
    again = pictures.decode(shown(picture).content, name="")
    assert np.array_equal(again.pixels, small_model.scene(20, 30))


def test_what_is_shown_says_nothing_of_the_place_it_was_taken():
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    picture = picture_of(small_model.scene(20, 30), "JPEG", exif=exif)
    assert picture.exif is not None
    assert pictures.decode(shown(picture).content, name="").exif is None


def test_the_kernels_cover_the_picture_and_no_padding(ready):
    tall = Image.open(io.BytesIO(kernel_overlay(ready, small_model.tensor(
        small_model.scene(130, 64))).content))  # fmt: skip
    assert tall.mode == "RGBA"
    # 16 kernels in a row, and 33 below one another, since 130 is 33 cells of 4 and no 48 of them
    side = 3 * ready.model.config.kernel.kernel_size + 1
    assert tall.size == (16 * side + 1, 33 * side + 1)


def test_damaged_profiles_and_exif_are_described_by_their_size():
    broken = replace(picture_of(small_model.scene(8, 8)), icc=b"no profile", exif=b"II")
    facts = dict(facts_of(broken))
    assert facts["colour profile"] == "10 bytes"
    assert "2 bytes" in facts["EXIF"] or "0 entries" in facts["EXIF"]


def test_hostile_names_are_text():
    step = view.Step(3, 40, "1 dB", view.view(view.Urls('"x', "y"), (2, 2), before="b", after="a"))
    html = view.walk("<script>alert(1)</script>", [step], None)
    assert "<script>" not in html
    assert 'src="&#34;x"' in html


def test_a_message_is_a_sentence_without_paths():
    error = UserError("the image is damaged", where="/tmp/secret", cure="copy this file again from"
                      " its source and run the same command again")  # fmt: skip
    html = view.message(error)
    assert "The image is damaged." in html
    assert "Copy this file again from its source." in html
    assert "secret" not in html


def test_an_answer_removes_the_last_but_one_and_leaving_removes_all(tmp_path):
    results, folders = Results(tmp_path), []
    for _ in range(3):
        with results.running("visitor") as answer:
            (answer.folder / "after.png").write_bytes(b"x")
        folders.append(answer.folder)
    assert sorted(results.answers.iterdir()) == sorted(folders[1:])
    results.leave("visitor")
    assert list(results.answers.iterdir()) == []


def test_answers_and_uploads_do_not_outlive_their_time(tmp_path):
    results = Results(tmp_path)
    with results.running("visitor") as answer:
        (results.uploads / "left").mkdir()
    os.utime(answer.folder, (0, 0))
    os.utime(results.uploads / "left", (0, 0))
    results.sweep()
    assert [*results.answers.iterdir(), *results.uploads.iterdir()] == []


def test_a_cancelled_answer_stops_and_others_go_on(tmp_path):
    results = Results(tmp_path)
    with results.running("one") as answer:
        results.cancel("other")
        answer.stop_if_cancelled()
        results.cancel("one")
        with pytest.raises(Cancelled):
            answer.stop_if_cancelled()


def test_taking_an_upload_empties_the_folder_of_uploads(tmp_path):
    results = Results(tmp_path)
    (results.uploads / "abc").mkdir()
    (results.uploads / "abc" / "a.png").write_bytes(b"photo")
    assert results.take(str(results.uploads / "abc" / "a.png")).read_bytes() == b"photo"
    assert list(results.uploads.iterdir()) == []


@pytest.mark.parametrize("path", ["/etc/passwd", "{uploads}/x/../../secret", "{uploads}/x/gone"])
def test_only_uploads_can_be_taken(tmp_path, path):
    results = Results(tmp_path / "root")
    (tmp_path / "root" / "secret").write_text("x")
    (results.uploads / "x").mkdir()
    with pytest.raises(UserError, match="did not arrive"):
        results.take(path.format(uploads=results.uploads))
    assert (tmp_path / "root" / "secret").exists()


def test_a_trajectory_has_its_blurs_beside_the_sharp_image(tmp_path):
    data = TrajectorySet(small_model.write_set(tmp_path / "set"))
    steps = steps_of(data.open(data.names[0]), lambda name, _: name)
    assert [(step.n, step.t, step.used) for step in steps] == [(3, 40, None), (5, 80, None)]


def test_restored_points_have_scores_and_a_gap(tmp_path, ready):
    data = TrajectorySet(small_model.write_set(tmp_path / "set"))
    placed = []
    steps, gap = restored_steps(
        ready, data.open(data.names[1]), lambda name, _: placed.append(name) or name,
        report=lambda done, total: None,
    )  # fmt: skip
    assert gap > 0
    assert all(step.restored.endswith(" dB") for step in steps)
    assert {"blur-3", "blur-5", "restored-3", "restored-5"} == set(placed)


def test_an_unknown_trajectory_is_refused(tmp_path):
    data = TrajectorySet(small_model.write_set(tmp_path / "set"))
    with pytest.raises(DataError, match="no trajectory is chosen"):
        data.open("../../etc/passwd")


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    code = small_model.cli("app", "--model", small_model.folder_of(), "--port", "0")
    assert code == 2
    assert 'cure:  pip install "fidediff[app]"' in capsys.readouterr().err


def test_the_examples_are_small_and_can_be_read():
    examples = sorted(view.EXAMPLES.glob("*.jpg"))
    assert len(examples) == 3
    assert sum(path.stat().st_size for path in examples) < 300_000
    assert all(pictures.read(path).pixels.shape == (480, 640, 3) for path in examples)


@pytest.mark.skipif(find_spec("gradio") is None, reason='needs pip install "fidediff[app]"')
class TestSpace:
    """What `--export-space` writes."""

    def test_a_folder_with_files_is_left_alone(self, tmp_path, capsys):
        (tmp_path / "mine").write_text("x")
        assert small_model.cli("app", "--export-space", tmp_path) == 1
        assert "is not an empty folder" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_the_card_and_requirements_name_versions(self, tmp_path):
        assert small_model.cli("app", "--export-space", tmp_path / "space") == 0
        assert re.fullmatch(r"fidediff\[app\]==\S+\n",
                            (tmp_path / "space/requirements.txt").read_text())  # fmt: skip
        card = (tmp_path / "space/README.md").read_text()
        assert f"sdk_version: {version('gradio')}\n" in card
        assert "app_file: app.py\n" in card

    @pytest.mark.slow
    def test_the_folder_runs_as_it_is(self, tmp_path):
        space = tmp_path / "space"
        model = small_model.folder_of()
        assert small_model.cli("app", "--export-space", space, "--model", model) == 0
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[3]), "GRADIO_SERVER_PORT": "0",
        }  # fmt: skip
        with subprocess.Popen(
            [sys.executable, "app.py"], cwd=space, env=environment, text=True,
            stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                with urlopen(process.stdout.readline().strip()) as answer:
                    assert b"FideDiff" in answer.read()
            finally:
                process.terminate()


def test_sweeping_leaves_what_is_new(tmp_path):
    results = Results(tmp_path)
    with results.running("visitor") as answer:
        results.sweep(older_than=time.time())
    assert answer.folder.is_dir()
