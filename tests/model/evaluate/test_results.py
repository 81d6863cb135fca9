"""Other methods' result folders: how names are paired, and what is refused in which words."""

import csv
import io
import json

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_model import cli, folder_of, save_png, scene, write_set

from fidediff_model.evaluate.scoring import Row
from fidediff_model.evaluate.sets import Pair, find_results, pairs_of_manifest
from fidediff_model.evaluate.tables import IMAGES, read_summaries, render, rows_for, summarise
from trajectory_builder.cli import trajbuild
from trajectory_builder.errors import UsageError

NAMINGS = {
    "sample_id": "CLIP{0}/{0:06d}/n05",
    "blur": "blur/CLIP{0}/{0:06d}_n05",
    "blur without its folder": "CLIP{0}/{0:06d}_n05",
    "flattened": "CLIP{0}-{0:06d}_n05",
    "flattened trajectory": "CLIP{0}-{0:06d}",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


def write_results(folder, data, *, noise, naming="CLIP{0}-{0:06d}"):
    """Results of the native pairs: sharp images with noise; saved as flattened PNG by default."""
    generator = np.random.default_rng(0)
    for number in range(2):
        sharp = np.asarray(Image.open(data / f"test/sharp/CLIP{number}/{number:06d}.png"))
        noisy = sharp + generator.normal(0, noise, sharp.shape)
        image = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        save_png(folder / f"{naming.format(number)}.png", image)
    return folder


def evaluate(data, out, *arguments):
    return cli("evaluate", "--data", data, "--out", out, "--metrics", "psnr", *arguments)


def pairs_and_all(data):
    return pairs_of_manifest(data), pairs_of_manifest(data, split=None, native=False)


@pytest.mark.parametrize("naming", NAMINGS.values(), ids=NAMINGS)
def test_a_result_is_found_by_each_way_of_naming(data, tmp_path, naming):
    folder = write_results(tmp_path / "r", data, noise=3, naming=naming)
    (found,) = find_results([("r", folder)], *pairs_and_all(data), partial=False)
    assert {key: path.stem for key, path in found.files.items()} == {
        f"CLIP{n}/{n:06d}/n05": naming.format(n).split("/")[-1] for n in range(2)
    }


def test_a_trajectory_s_name_is_not_enough_for_several_blurs(data, tmp_path):
    folder = write_results(tmp_path / "r", data, noise=3)
    everything = pairs_of_manifest(data, split=None, native=False)
    with pytest.raises(UsageError, match="no image of r has the name of a pair"):
        find_results([("r", folder)], everything, everything, partial=False)


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """Two methods and the small model scored side by side on one set."""
    root = tmp_path_factory.mktemp("two")
    good = write_results(root / "good", data, noise=4)
    bad = write_results(root / "bad", data, noise=30)
    code = evaluate(
        data, root / "out", "--restored", f"Good={good}", "--restored", f"Bad={bad}",
        "--model", folder_of(), "--name", "ours", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    return root


def test_each_method_has_the_scores_of_its_own_images(two, data):
    rows = pq.read_table(two / "out/scores.parquet").to_pylist()
    assert [row["method"] for row in rows] == ["Good", "Good", "Bad", "Bad", "ours", "ours"]
    for row in rows[:4]:
        trajectory = row["trajectory_id"]
        sharp = cv2.imread(str(data / f"test/sharp/{trajectory}.png"))
        flat = trajectory.replace("/", "-")
        result = cv2.imread(str(two / row["method"].lower() / f"{flat}.png"))
        assert row["psnr"] == pytest.approx(cv2.PSNR(sharp, result), abs=1e-6)


def test_all_methods_are_in_one_table_and_one_page(two):
    text = (two / "out/summary.md").read_text()
    assert [line.split(" | ")[0] for line in text.splitlines()[2:5]] == [
        "| Good",
        "| Bad",
        "| ours",
    ]
    # Worst and median image of three methods; blur, three methods and sharp in each line.
    assert Image.open(two / "out/pictures.png").size[1] > 6 * 200


def test_the_summary_reproduces_the_table(two):
    table = render(read_summaries(two / "out"), None, "md")
    assert table == (two / "out/summary.md").read_text()


def test_the_summary_names_versions_and_digests(two):
    summary = json.loads((two / "out/summary.json").read_text())
    assert summary["images"] == 2
    assert summary["versions"]["torch"]
    assert len(summary["content_sha256"]) == len(summary["per_image"]["sha256"]) == 64
    assert summary["methods"][0]["run"]["methods"] == {"Good": {"kind": "restored"}}


def test_a_further_method_joins_a_finished_folder(data, tmp_path, capsys):
    good = write_results(tmp_path / "good", data, noise=4)
    bad = write_results(tmp_path / "bad", data, noise=30)
    assert evaluate(data, tmp_path / "o", "--restored", f"Good={good}") == 0
    lines = (tmp_path / "o/scores.jsonl").read_text()
    both = ["--restored", f"Good={good}", "--restored", f"Bad={bad}"]
    assert evaluate(data, tmp_path / "o", *both) == 0
    assert (tmp_path / "o/scores.jsonl").read_text().startswith(lines)
    assert len((tmp_path / "o/scores.jsonl").read_text().splitlines()) == 4


def test_another_method_under_the_same_name_is_refused(data, tmp_path, capsys):
    good = write_results(tmp_path / "good", data, noise=4)
    bad = write_results(tmp_path / "bad", data, noise=30)
    assert evaluate(data, tmp_path / "o", "--restored", f"Method={good}") == 0
    assert evaluate(data, tmp_path / "o", "--restored", f"Method={bad}") == 5
    assert "2 of 2 differ" in capsys.readouterr().err


def test_another_sharp_image_is_refused(tmp_path, capsys):
    data = write_set(tmp_path / "set")
    good = write_results(tmp_path / "good", data, noise=4)
    assert evaluate(data, tmp_path / "o", "--restored", f"Good={good}") == 0
    save_png(data / "test/sharp/CLIP0/000000.png", scene(40, 48, seed=9))
    assert evaluate(data, tmp_path / "o", "--restored", f"Good={good}") == 5
    assert "1 of 2 differ" in capsys.readouterr().err


def test_a_method_is_scored_against_two_folders(data, tmp_path):
    for number in range(2):
        for side in ("blur", "sharp"):
            save_png(tmp_path / side / f"{number}.png", scene(40, 48, seed=number))
        save_png(tmp_path / "r" / f"{number}.png", scene(40, 48, seed=number))
    folders = ["--data", tmp_path / "blur", "--data", tmp_path / "sharp"]
    code = cli("evaluate", *folders, "--restored", f"r={tmp_path / 'r'}", "--metrics", "psnr",
               "--out", tmp_path / "o")  # fmt: skip
    assert code == 0
    assert json.loads((tmp_path / "o/summary.json").read_text())["methods"][0]["identical"] == 2


def test_a_method_is_scored_against_an_indexed_set(tmp_path):
    for number in range(2):
        sharp = scene(40, 48, seed=number)
        save_png(tmp_path / "pairs/sharp" / f"{number}.png", sharp)
        save_png(tmp_path / "pairs/blur" / f"{number}.png", cv2.blur(sharp, (5, 5)))
        save_png(tmp_path / "r" / f"{number}.png", sharp)
    words = ["index", tmp_path / "pairs", "--layout", "pairs", "--out", tmp_path / "set"]
    assert trajbuild.main([str(word) for word in words], standalone_mode=False) == 0
    out = tmp_path / "o"
    assert evaluate(tmp_path / "set", out, "--restored", f"r={tmp_path / 'r'}") == 0
    assert json.loads((out / "summary.json").read_text())["methods"][0]["identical"] == 2


def test_missing_and_extra_results_are_counted_and_refused(data, tmp_path, capsys):
    folder = write_results(tmp_path / "r", data, noise=4)
    (folder / "CLIP1-000001.png").rename(folder / "other.png")
    assert evaluate(data, tmp_path / "o", "--restored", f"r={folder}") == 2
    error = capsys.readouterr().err
    assert "1 of 2 pairs have no image, 1 images have no pair" in error
    assert "--partial" in error
    assert not (tmp_path / "o").exists()


def test_partial_scores_the_pairs_that_every_method_has(data, tmp_path, capsys):
    part = write_results(tmp_path / "part", data, noise=4)
    (part / "CLIP1-000001.png").unlink()
    full = write_results(tmp_path / "full", data, noise=9)
    both = ["--restored", f"part={part}", "--restored", f"full={full}"]
    assert evaluate(data, tmp_path / "o", *both, "--partial") == 0
    methods = json.loads((tmp_path / "o/summary.json").read_text())["methods"]
    assert [method["images"] for method in methods] == [1, 1]
    note = "part: 1 of 2 pairs have no image, 0 images have no pair"
    assert f"note: {note}" in capsys.readouterr().err
    assert json.loads((tmp_path / "o/summary.json").read_text())["notes"] == [note]


def test_results_outside_the_selection_are_not_strange(data, tmp_path):
    folder = write_results(tmp_path / "r", data, noise=4)
    assert evaluate(data, tmp_path / "o", "--restored", f"r={folder}", "--limit", "1") == 0


def _bits16(path):
    image = cv2.imread(str(path)).astype(np.uint16) * 257
    cv2.imwrite(str(path), image)


def _jpeg(path):
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def _jpeg_named_png(path):
    Image.open(path).save(path, "JPEG")


def _alpha(path):
    Image.open(path).convert("RGBA").save(path)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [(_bits16, "16 bits"), (_jpeg, "JPEG"), (_jpeg_named_png, "JPEG"), (_alpha, "alpha")],
)
def test_results_that_are_not_8_bit_png_are_refused(data, tmp_path, capsys, spoil, word):
    folder = write_results(tmp_path / "r", data, noise=4)
    spoil(folder / "CLIP1-000001.png")
    assert evaluate(data, tmp_path / "o", "--restored", f"r={folder}") == 2
    error = capsys.readouterr().err
    assert "1 of 2 results are not 8-bit PNG" in error
    assert word in error
    assert "CLIP1-000001" in error
    assert "cure:" in error


def test_a_result_of_another_size_fails_alone(data, tmp_path, capsys):
    folder = write_results(tmp_path / "r", data, noise=4)
    save_png(folder / "CLIP1-000001.png", scene(20, 24))
    assert evaluate(data, tmp_path / "o", "--restored", f"r={folder}") == 4
    assert "result and sharp image differ in size: 24 x 20 and 48 x 40" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--restored", "a={r}", "--restored", "a={s}"], "two results have one name: a, a"),
        (["--restored", "a={r}", "--restored", "b={r}"], "is given twice"),
        (["--restored", "{r}"], "NAME=DIR"),
        (["--restored", "a={r}/none"], "is not a folder"),
        (["--restored", "blurry={r}", "--baseline", "blurry"], "two results have one name"),
    ],
)
def test_method_folders_that_are_unclear_are_refused(data, tmp_path, capsys, arguments, words):
    places = {name: write_results(tmp_path / name, data, noise=4) for name in "rs"}
    given = [argument.format(**places) for argument in arguments]
    assert evaluate(data, tmp_path / "o", *given) == 2
    assert words in capsys.readouterr().err


def row(method="m", motion=None, **scores):
    return Row(method, "s", "t", None, None, None, motion, None, None, 8, 8, "", "", scores)


def test_rows_by_motion_have_their_own_means():
    rows = [row(motion=m, psnr=float(p)) for m, p in ((1, 30), (4, 32), (7, 20), (90, 10))]
    by_motion = summarise("m", rows, {}).by_motion
    assert {label: part.scores["psnr"] for label, part in by_motion.items()} == {
        "0 to 5 px": 31, "5 to 10 px": 20, "over 40 px": 10,
    }  # fmt: skip


def test_the_deviation_is_that_of_a_sample():
    whole = summarise("m", [row(psnr=p) for p in (20.0, 22.0, 27.0)], {}).whole
    assert whole.deviations["psnr"] == pytest.approx(np.std([20, 22, 27], ddof=1))


def test_csv_keeps_every_digit():
    summary = summarise("a,b", [row(psnr=1 / 3), row(psnr=2 / 3)], {})
    (line,) = csv.DictReader(io.StringIO(render([summary], None, "csv")))
    assert line["result"] == "a,b"
    assert float(line["psnr"]) == 0.5
    assert float(line["psnr_std"]) == pytest.approx(np.std([1 / 3, 2 / 3], ddof=1), abs=0)


def test_latex_escapes_names_and_shows_directions():
    summary = summarise("a_b & 50%", [row(psnr=30.0, dists=0.1)], {})
    text = render([summary], None, "latex")
    assert r"a\_b \& 50\% & 1 & 30.00 & 0.1000 \\" in text
    assert r"PSNR $\uparrow$ & DISTS $\downarrow$" in text


def whole_gopro():
    manifest = [f"GOPR{name}/{i:06d}/n11" for name in (
        "0384_11_00", "0384_11_05", "0385_11_01", "0396_11_00", "0410_11_00", "0854_11_00",
        "0862_11_00", "0868_11_00", "0869_11_00", "0871_11_00", "0881_11_01",
    ) for i in range(101)]  # fmt: skip
    return [Pair(name, None, None, name[:-4], 11, 11, 200) for name in manifest]


def test_the_paper_s_rows_are_printed_for_the_whole_gopro_test_set_alone():
    pairs = whole_gopro()
    assert len(pairs) == IMAGES["gopro"] == 1_111
    assert rows_for("auto", pairs).data == "gopro"
    assert rows_for("auto", pairs[:-1]) is None
    other = [*pairs[:-1], Pair("mine/000001/n11", None, None, "mine/000001", 11, 11, 200)]
    assert rows_for("auto", other) is None


def test_the_paper_s_rows_on_request_are_marked_as_of_another_set():
    text = render([summarise("m", [row(psnr=30.0)], {})], rows_for("gopro", []), "md")
    assert "all 1,111 images of gopro, the results here of 1: NOT comparable" in text


def test_the_paper_s_lpips_is_in_a_column_of_its_own():
    summary = summarise("m", [row(psnr=30.0, **{"lpips-vgg": 0.1, "lpips-alex": 0.2})], {})
    lines = render([summary], rows_for("gopro", []), "md").splitlines()
    assert "LPIPS (VGG) | LPIPS (Alex) | LPIPS (net not stated)" in lines[0]
    assert "| m | 1 | 30.00 | 0.1000 | 0.2000 |  |  |" in lines
    assert "| FideDiff (paper) |  | 28.79 |  |  | 0.0831 | 0.0525 |" in lines


def test_realblur_s_rows_beside_unaligned_scores_are_warned_of():
    unaligned = summarise("m", [row(psnr=30.0)], {"aligned": False})
    aligned = summarise("n", [row(psnr=30.0)], {"aligned": True})
    paper = rows_for("realblur-j", [])
    assert "WARNING: RealBlur's published scores" in render([unaligned], paper, "md")
    assert "WARNING" not in render([aligned], paper, "md")


def test_alignment_is_noted_per_result():
    results = [summarise(name, [row(psnr=30.0)], {"aligned": name == "a"}) for name in "ab"]
    text = render(results, None, "md")
    assert "- a: aligned by ECC" in text
    assert "- b: NOT aligned" in text
