import io
import json
import math

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from small_model import cli, folder_of, loaded, save_png, scene, write_set

from fidediff_model.evaluate.scoring import Row, read_rows
from fidediff_model.evaluate.sets import choose_pairs, pairs_of_folders, pairs_of_manifest
from fidediff_model.evaluate.tables import PAPER, read_summaries, render, summarise
from fidediff_model.scores import metrics
from fidediff_model.scores.align import align
from fidediff_model.scores.perceptual import DISTS, LPIPS
from fidediff_model.weights.alexnet import open_alexnet
from fidediff_model.weights.vgg import open_vgg16
from trajectory_builder.errors import ImageError, UsageError

RANDOM = "random-for-tests"


def smooth(height: int = 96, width: int = 120) -> np.ndarray:
    return cv2.GaussianBlur(scene(height, width), (0, 0), 2)


def shifted(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """The image moved right by dx and down by dy pixels, its border repeated."""
    matrix = np.float32([[1, 0, dx], [0, 1, dy]])
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (1.5, 2.25)])
def test_alignment_finds_a_known_shift(shift):
    sharp = smooth()
    found = align(shifted(sharp, *shift), sharp).warp
    assert (found / found[2, 2])[:2, 2] == pytest.approx(shift, abs=0.15)


def test_alignment_takes_a_shift_out_of_the_score():
    sharp = smooth()
    moved = shifted(sharp, 2, 1)
    assert align(moved, sharp).psnr() > metrics.psnr(moved, sharp) + 10


def test_alignment_takes_a_change_of_brightness_out():
    sharp = smooth()
    darker = np.rint(sharp * 0.8).astype(np.uint8)
    assert align(darker, sharp).psnr() > 45


def test_uncovered_pixels_count_for_nothing():
    sharp = smooth()
    aligned = align(shifted(sharp, 6, 0), sharp)
    assert aligned.mask[:, -4:].max() == 0
    inside = aligned.mask > 0
    error = np.mean((aligned.sharp[inside] - aligned.restored[inside]).astype(np.float64) ** 2)
    assert aligned.psnr() == pytest.approx(10 * math.log10(1 / error), abs=1e-6)


def test_an_aligned_pair_scores_as_scikit_image_does():
    sharp = smooth()
    restored = np.clip(sharp.astype(int) + 3, 0, 255).astype(np.uint8)
    aligned = align(restored, sharp)
    if aligned.mask.min() == 1:  # nothing moved: the plain definition must come out
        expected = structural_similarity(
            aligned.sharp, aligned.restored, channel_axis=2, gaussian_weights=True,
            use_sample_covariance=False, data_range=1.0,
        )  # fmt: skip
        assert aligned.ssim() == pytest.approx(expected, abs=1e-6)
    assert aligned.ssim() > 0.99


def test_an_image_without_structure_cannot_be_aligned():
    flat = np.full((64, 64, 3), 128, np.uint8)
    with pytest.raises(ImageError):
        align(flat, flat)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def blurry(data, tmp_path_factory):
    """The blurs themselves, scored once."""
    out = tmp_path_factory.mktemp("scores") / "blurry"
    code = cli(
        "evaluate", "--baseline", "blurry", "--data", data, "--out", out, "--points", "all",
        "--vgg16", RANDOM, "--alexnet", RANDOM, "--lpips-net", "vgg", "--lpips-net", "alex",
        "--paper", "gopro",
    )  # fmt: skip
    assert code == 0
    return out


def test_the_scores_agree_with_scikit_image(blurry, data):
    rows = pq.read_table(blurry / "scores.parquet").to_pylist()
    assert len(rows) == 4
    for row, pair in zip(rows, pairs_of_manifest(data, native=False), strict=True):
        blur, sharp = (np.asarray(Image.open(path)) for path in (pair.blur, pair.sharp))
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(sharp, blur), abs=1e-6)
        expected = structural_similarity(
            sharp, blur, channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=255,
        )  # fmt: skip
        assert row["ssim"] == pytest.approx(expected, abs=1e-6)


def test_each_network_scores_in_its_own_column(blurry, data):
    vgg, alexnet = open_vgg16(RANDOM, needed_by="a test"), open_alexnet(RANDOM, needed_by="a test")
    nets = {"lpips-vgg": LPIPS(vgg), "lpips-alex": LPIPS(alexnet), "dists": DISTS(vgg)}
    row = pq.read_table(blurry / "scores.parquet").to_pylist()[0]
    pair = pairs_of_manifest(data, native=False)[0]
    images = [
        metrics.to_tensor(np.array(Image.open(file)))[None] for file in (pair.blur, pair.sharp)
    ]
    for name, net in nets.items():
        assert row[name] == pytest.approx(float(net(*images)), rel=1e-4)


def test_the_align_option_scores_the_aligned_image(tmp_path):
    sharp = smooth()
    moved = shifted(sharp, 2, 1)
    folders = ["--data", save_png(tmp_path / "blur/a.png", moved).parent]
    folders += ["--data", save_png(tmp_path / "sharp/a.png", sharp).parent]
    out = ["--align", "--metrics", "psnr", "--out", tmp_path / "o"]
    assert cli("evaluate", "--baseline", "blurry", *folders, *out) == 0
    (row,) = pq.read_table(tmp_path / "o/scores.parquet").to_pylist()
    assert row["psnr"] == pytest.approx(align(moved, sharp).psnr())


def test_the_summary_is_the_mean_over_images(blurry):
    rows = pq.read_table(blurry / "scores.parquet").to_pylist()
    method = json.loads((blurry / "summary.json").read_text())["methods"][0]
    for metric in ("psnr", "ssim", "ssim-matlab", "lpips-vgg", "lpips-alex", "dists"):
        values = [row[metric] for row in rows]
        assert method["scores"][metric] == pytest.approx(np.mean(values))
        assert method["deviations"][metric] == pytest.approx(np.std(values, ddof=1))


def test_the_summary_tells_each_number_of_frames(blurry):
    by_n = json.loads((blurry / "summary.json").read_text())["methods"][0]["by_n_frames"]
    assert {n: part["images"] for n, part in by_n.items()} == {"3": 2, "5": 2}
    assert by_n["3"]["scores"]["psnr"] > by_n["5"]["scores"]["psnr"]


def test_the_table_stands_beside_the_paper(blurry):
    text = (blurry / "summary.md").read_text()
    assert "| FideDiff (paper) |  | 28.79 |" in text
    assert "RANDOM backbone" in text


def test_the_plot_is_an_image(blurry):
    assert Image.open(blurry / "perception_distortion.png").size[0] > 500


def test_the_same_command_again_goes_on_from_what_is_there(blurry, data, capsys):
    before = (blurry / "scores.parquet").read_bytes()
    lines = (blurry / "scores.jsonl").read_text().splitlines(keepends=True)
    # As a kill in the middle of a line leaves it.
    (blurry / "scores.jsonl").write_text("".join(lines[:2]) + lines[2][:20] + "\n")
    code = cli(
        "evaluate", "--baseline", "blurry", "--data", data, "--out", blurry, "--points", "all",
        "--vgg16", RANDOM, "--alexnet", RANDOM, "--lpips-net", "vgg", "--lpips-net", "alex",
        "--paper", "gopro", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(capsys.readouterr().out)["methods"][0]["images"] == 4
    assert pq.read_table(blurry / "scores.parquet") == pq.read_table(io.BytesIO(before))


def test_another_evaluation_in_the_same_folder_is_refused(blurry, data, capsys):
    code = cli(
        "evaluate", "--baseline", "blurry", "--data", data, "--out", blurry, "--metrics", "psnr"
    )
    error = capsys.readouterr().err
    assert code == 5
    assert "metrics" in error


def test_other_images_of_the_same_names_are_refused(tmp_path, capsys):
    for name in ("a", "b"):
        save_png(tmp_path / "one" / f"{name}.png", scene(40, 40))
        save_png(tmp_path / "two" / f"{name}.png", scene(40, 40, seed=2))
        save_png(tmp_path / "sharp" / f"{name}.png", scene(40, 40, seed=1))
    command = ["evaluate", "--baseline", "blurry", "--data", tmp_path / "sharp"]
    command += ["--metrics", "psnr", "--out", tmp_path / "out"]
    command[4:4] = [tmp_path / "one", "--data"]
    assert cli(*command) == 0
    command[4] = tmp_path / "two"
    assert cli(*command) == 5
    error = capsys.readouterr().err
    assert "scores of other images" in error
    assert "2 of 2 differ" in error
    assert "cure:" in error


def test_results_are_put_side_by_side(blurry, tmp_path, capsys):
    code = cli("evaluate", "--compare", blurry, "--compare", blurry, "--out", tmp_path / "both")
    assert code == 0
    assert capsys.readouterr().out.count("| blurry |") == 2
    assert (tmp_path / "both" / "perception_distortion.png").is_file()


@pytest.fixture(scope="module")
def scored(data, tmp_path_factory):
    """The model's restorations of the native pairs."""
    out = tmp_path_factory.mktemp("scores") / "model"
    code = cli(
        "evaluate", "--model", folder_of(), "--data", data, "--out", out, "--metrics", "psnr,ssim",
        "--save-images", "--batch", "2", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    return out


def test_only_native_blurs_are_scored_unless_told(scored):
    rows = pq.read_table(scored / "scores.parquet").to_pylist()
    assert [row["n_frames"] for row in rows] == [5, 5]


def test_a_score_is_that_of_the_saved_image(scored, data):
    for row in pq.read_table(scored / "scores.parquet").to_pylist():
        saved = np.asarray(Image.open(scored / "images" / f"{row['sample_id']}.png"))
        pair = next(p for p in pairs_of_manifest(data) if p.sample_id == row["sample_id"])
        sharp = np.asarray(Image.open(pair.sharp))
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(sharp, saved), abs=1e-6)


def test_a_saved_image_is_what_the_library_restores(scored, data):
    pair = pairs_of_manifest(data)[0]
    saved = np.asarray(Image.open(scored / "images" / f"{pair.sample_id}.png")).astype(int)
    restored = loaded().restore(np.asarray(Image.open(pair.blur)))
    assert np.abs(saved - restored).max() <= 1


def test_the_estimated_timestep_stands_in_the_row(scored):
    assert all(0 <= row.t_hat <= 999 for row in read_rows(scored).values())


def test_two_folders_are_paired_by_name(tmp_path):
    for side in ("blur", "sharp"):
        save_png(tmp_path / side / "x" / "a.png", scene(40, 40))
    Image.fromarray(scene(40, 40)).save(tmp_path / "sharp" / "b.png")
    pairs = pairs_of_folders(tmp_path / "blur", tmp_path / "sharp")
    assert [pair.sample_id for pair in pairs] == ["x/a"]


def test_a_blur_without_its_sharp_image_is_refused(tmp_path):
    save_png(tmp_path / "blur" / "a.png", scene(40, 40))
    save_png(tmp_path / "sharp" / "b.png", scene(40, 40))
    with pytest.raises(UsageError, match="no sharp image"):
        pairs_of_folders(tmp_path / "blur", tmp_path / "sharp")


def test_a_split_that_is_not_there_is_refused(data):
    with pytest.raises(UsageError, match="split"):
        choose_pairs([data], split="train", points="native", limit=None)


def test_bad_pairs_are_listed_beside_the_scores(tmp_path, capsys):
    for name in ("a", "b", "c"):
        for side in ("blur", "sharp"):
            save_png(tmp_path / side / f"{name}.png", scene(40, 40))
    (tmp_path / "blur" / "b.png").write_bytes(b"broken")
    save_png(tmp_path / "blur" / "c.png", scene(30, 40))
    code = cli(
        "evaluate", "--baseline", "blurry", "--data", tmp_path / "blur", "--data",
        tmp_path / "sharp", "--metrics", "psnr", "--out", tmp_path / "o", "--paper", "none",
    )  # fmt: skip
    told = capsys.readouterr()
    assert code == 4
    assert "failed: b:" in told.err
    assert "differ in size" in told.err
    assert "1 restorations equal their sharp image" in told.out


def row(**scores):
    return Row("m", "s", "t", None, None, None, None, None, None, 8, 8, "", "", scores)


def test_an_equal_image_is_counted_and_leaves_the_mean_finite():
    summary = summarise("x", [row(psnr=math.inf, ssim=1.0), row(psnr=30.0, ssim=1.0)], {})
    assert summary.whole.identical == 1
    assert summary.whole.scores["psnr"] == 30
    json.dumps(summary.to_json(), allow_nan=False)


def test_the_paper_is_quoted_as_published():
    ours = {row.data: row for row in PAPER if row.method == "FideDiff"}
    assert (ours["gopro"].psnr, ours["gopro"].lpips, ours["gopro"].dists) == (28.79, 0.0831, 0.0525)
    assert (ours["realblur-j"].psnr, ours["realblur-j"].dists) == (28.96, 0.0800)
    assert (ours["realblur-r"].psnr, ours["realblur-r"].lpips) == (36.01, 0.0584)


def test_a_name_cannot_break_the_table():
    summary = summarise("a | b\nc", [row(psnr=30.0)], {})
    line = render([summary], None, "md").splitlines()[2]
    assert line == "| a \\| b c | 1 | 30.00 |"


def test_perceptual_scores_without_a_backbone_are_refused_before_any_work(data, tmp_path, capsys):
    code = cli("evaluate", "--baseline", "blurry", "--data", data, "--out", tmp_path / "o")
    error = capsys.readouterr().err
    assert code != 0
    assert "--vgg16 FILE" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["--baseline", "blurry"], ["--model", "m"], ["--data", "d"]]
)
def test_an_evaluation_of_nothing_is_refused(tmp_path, capsys, arguments):
    assert cli("evaluate", "--out", tmp_path / "o", *arguments) == 2
    assert "cure:" in capsys.readouterr().err


def test_a_metric_that_is_unknown_is_refused(tmp_path, capsys):
    assert cli("evaluate", "--out", tmp_path, "--metrics", "psnr,beauty") == 2
    assert "beauty" in capsys.readouterr().err


def test_scores_that_are_not_ours_are_refused(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(Exception, match="no summary"):
        read_summaries(tmp_path)
