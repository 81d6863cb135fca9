import importlib.util

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from small_model import cli, save_png, scene, write_set

from fidediff_model.scores.definitions import METRICS
from fidediff_model.scores.no_reference import LEARNT, blur_effect
from fidediff_model.scores.scorer import Scorer
from trajectory_builder.images.pictures import read_rgb8

no_pyiqa = pytest.mark.skipif(
    importlib.util.find_spec("pyiqa") is not None, reason="pyiqa is installed"
)


def textbook(image):
    """Crete's measure written out: the share of each axis' variation that a blur leaves."""
    gray = image @ np.array([0.2125, 0.7154, 0.0721]) / 255
    shares = []
    for axis in (0, 1):
        size = (1, 11) if axis == 0 else (11, 1)
        blurred = cv2.blur(gray, size, borderType=cv2.BORDER_REFLECT)
        before, after = (
            np.abs(cv2.Sobel(g, cv2.CV_64F, axis, 1 - axis)) / 8 for g in (gray, blurred)
        )
        inner = (slice(2, -1), slice(2, -1))
        lost = np.maximum(0, before - after)[inner].sum()
        shares.append(1 - lost / before[inner].sum())
    return max(shares)


def test_blur_effect_is_the_published_formula():
    image = scene(60, 80)
    assert blur_effect(image) == pytest.approx(textbook(image), abs=1e-6)


def test_blur_effect_grows_with_the_blur():
    sharp = scene(96, 120)
    scores = [blur_effect(cv2.GaussianBlur(sharp, (0, 0), s)) for s in (0.5, 1, 2, 4)]
    assert scores == sorted(scores)
    assert blur_effect(sharp) < scores[0]
    assert 0 < scores[0] < scores[-1] < 1


def test_an_image_smaller_than_the_window_is_refused():
    with pytest.raises(ValueError, match="11 x 11"):
        blur_effect(np.zeros((10, 40, 3), np.uint8))


def test_every_score_is_named_and_explained():
    assert set(LEARNT) | {"psnr", "ssim", "blur-effect"} < set(METRICS)
    assert all(one.heading and one.text for one in METRICS.values())
    assert len({one.heading for one in METRICS.values()}) == len(METRICS)


def test_the_score_is_of_the_restoration_before_any_alignment():
    sharp = scene(64, 72)
    moved = np.roll(cv2.GaussianBlur(sharp, (0, 0), 1), 3, axis=1)
    scorer = Scorer(["blur-effect"], aligned=True)
    assert scorer(moved, sharp) == {"blur-effect": blur_effect(moved)}


def test_evaluate_writes_the_score_beside_the_others(tmp_path, capsys):
    data = write_set(tmp_path / "set")
    command = ("evaluate", "--baseline", "blurry", "--data", data, "--out", tmp_path / "out")
    assert cli(*command, "--metrics", "psnr,blur-effect") == 0
    for row in pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist():
        blur = read_rgb8(data / "test" / f"blur/{row['sample_id'].replace('/n', '_n')}.png")
        assert row["blur-effect"] == blur_effect(blur)
    told = capsys.readouterr().out
    assert "| blur effect |" in told
    assert "Crete" in told


@no_pyiqa
@pytest.mark.parametrize("name", LEARNT)
def test_a_score_of_pyiqa_without_pyiqa_is_refused_before_any_work(tmp_path, capsys, name):
    for side in ("blur", "sharp"):
        save_png(tmp_path / side / "a.png", scene(40, 40))
    folders = ("--data", tmp_path / "blur", "--data", tmp_path / "sharp")
    command = ("evaluate", "--baseline", "blurry", *folders, "--out", tmp_path / "out")
    assert cli(*command, "--metrics", f"psnr,{name}") == 2
    error = capsys.readouterr().err
    assert f"{name} comes from pyiqa, which is not installed" in error
    assert "pip install pyiqa" in error
    assert "non-commercial" in error
    assert not (tmp_path / "out").exists()
