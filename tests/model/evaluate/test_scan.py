import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from small_model import cli, folder_of, loaded, save_png, write_set

from fidediff_model.evaluate.scan import (
    best_timesteps,
    curves,
    read_timesteps,
    restore_trajectory,
)
from fidediff_model.evaluate.scoring import Row
from fidediff_model.evaluate.sets import pairs_of_manifest
from fidediff_model.model.engine import ReadyModel, Settings
from trajectory_builder.errors import UserError

ARGUMENTS = ["--timesteps", "0,200", "--metrics", "psnr,lpips", "--vgg16", "random-for-tests"]
ARGUMENTS += ["--device", "cpu", "--trajectories", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan") / "out"
    command = ["scan", "--model", folder_of(), "--data", data, "--out", folder, *ARGUMENTS]
    assert cli(*command) == 0
    return folder


def test_every_pair_is_scored_at_every_timestep(out):
    rows = pq.read_table(out / "scan.parquet").to_pylist()
    assert [(row["sample_id"][-3:], row["t"]) for row in rows] == [("n05", 0), ("n05", 200)] * 2


def test_the_model_used_the_prescribed_timestep(out):
    rows = pq.read_table(out / "scan.parquet").to_pylist()
    assert [row["t_hat"] for row in rows] == [row["t"] for row in rows]


def test_a_score_is_that_of_a_restoration_at_that_timestep(out, data):
    rows = pq.read_table(out / "scan.parquet").to_pylist()
    pair = pairs_of_manifest(data)[0]
    restored = loaded().restore(np.asarray(Image.open(pair.blur)), 200.0)
    expected = peak_signal_noise_ratio(np.asarray(Image.open(pair.sharp)), restored)
    # Fusing and the batch change the order of float sums.
    assert rows[1]["psnr"] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", ["scan.png", "trajectory_01.png", "t_hat.png"])
def test_the_pictures_are_images(out, name):
    assert min(Image.open(out / name).size) > 200


def test_t_hat_stands_beside_the_true_timestep(out):
    rows = pq.read_table(out / "t_hat.parquet").to_pylist()
    assert [row["timestep"] for row in rows] == [40, 80, 40, 80]
    assert all(0 <= row["t_hat"] <= 999 for row in rows)


def test_the_text_tells_the_paper_and_the_gap(out):
    text = (out / "scan.md").read_text()
    assert "best near t = 200 on 11 frames" in text
    assert "mean gap between restorations" in text


def test_the_same_command_again_scores_nothing_anew(out, data, capsys):
    lines = (out / "scores.jsonl").read_text()
    command = ["scan", "--model", folder_of(), "--data", data, "--out", out, *ARGUMENTS]
    assert cli(*command, "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["best"]) == {"psnr", "lpips-vgg"}
    assert (out / "scores.jsonl").read_text() == lines


def test_scan_of_other_images_in_the_same_folder_is_refused(tmp_path, capsys):
    data = write_set(tmp_path / "set")
    command = ["scan", "--model", folder_of(), "--data", data, "--out", tmp_path / "out"]
    command += [*ARGUMENTS[:2], "--metrics", "psnr", "--trajectories", "0", "--device", "cpu"]
    assert cli(*command) == 0
    blur = data / "test" / "blur/CLIP0/000000_n05.png"
    save_png(blur, 255 - np.asarray(Image.open(blur)))
    assert cli(*command) == 5
    error = capsys.readouterr().err
    assert "1 of 2 differ" in error
    assert "CLIP0/000000/n05" in error


def test_other_timesteps_in_the_same_folder_are_refused(out, data, capsys):
    command = ["scan", "--model", folder_of(), "--data", data, "--out", out, *ARGUMENTS]
    assert cli(*command, "--timesteps", "100") == 5
    assert "timesteps" in capsys.readouterr().err


def row(n, t, **scores):
    return Row("m", "s", "t", n, n, None, None, t, t, 8, 8, "", "", scores)


ROWS = [
    row(n, t, psnr=psnr, **{"lpips-vgg": 1 / psnr})
    for n, t, psnr in [(7, 0, 20), (7, 100, 30), (7, 200, 25), (11, 0, 10), (11, 200, 22)]
]


def test_a_curve_is_the_mean_at_each_timestep():
    more = [*ROWS, row(7, 0, psnr=30.0)]
    assert curves(more, "psnr")["7 frames"] == [(0, 25), (100, 30), (200, 25)]


def test_the_best_timestep_is_high_in_psnr_and_low_in_lpips():
    for metric in ("psnr", "lpips-vgg"):
        best = best_timesteps(curves(ROWS, metric), metric)
        assert best == {"7 frames": 100, "11 frames": 200}


@pytest.mark.parametrize(("metric", "best"), [("blur-effect", 0), ("niqe", 0), ("musiq", 40)])
def test_scores_without_reference_are_read_in_their_own_direction(metric, best):
    by_n = curves([row(7, t, **{metric: score}) for t, score in ((0, 0.1), (40, 0.2))], metric)
    assert best_timesteps(by_n, metric) == {"7 frames": best}


def test_a_trajectory_is_restored_from_every_point(data):
    ready = ReadyModel(loaded(), Settings(device="cpu"), loaded().base.prompt.device)
    pairs = [p for p in pairs_of_manifest(data, native=False) if p.trajectory_id == "CLIP0/000000"]
    trajectory = restore_trajectory(ready, pairs)
    images = [point.restored for point in trajectory.points]
    assert [point.n_frames for point in trajectory.points] == [3, 5]
    # Before rounding to 8 bits and clipping, so only about the same.
    by_hand = np.abs(images[0].astype(float) - images[1]).mean()
    assert trajectory.gap == pytest.approx(by_hand, rel=0.2, abs=0.5)


def test_a_range_of_timesteps_holds_its_end():
    assert read_timesteps("0:400:100") == (0, 100, 200, 300, 400)


@pytest.mark.parametrize("text", ["", "a", "0:400", "0:400:0", "5:1:1", "-1,3", "1000", "nan"])
def test_timesteps_that_mean_nothing_are_refused(text):
    with pytest.raises(UserError, match="no timesteps"):
        read_timesteps(text)
