"""The report's numbers and choices, held against plain Python over the same rows."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dataset

from trajectory_builder import manifest
from trajectory_builder.errors import UserError
from trajectory_builder.images import png
from trajectory_builder.report import (
    charts,
    counts,
    extremes,
    measures,
    page,
    pictures,
    sampling,
    write_report,
)
from trajectory_builder.report.links import links
from trajectory_builder.report.pairs import pair_table
from trajectory_builder.report.records import agreement, read_problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small_dataset.make(tmp_path_factory.mktemp("set") / "set", size=(120, 200))


@pytest.fixture(scope="module")
def rows(folder) -> manifest.Manifest:
    return manifest.read(folder)


@pytest.fixture(scope="module")
def numbers(folder, rows) -> counts.Numbers:
    return counts.count(rows, folder)


def changed(folder: Path, split: str, **columns: object) -> None:
    """Rewrite a split's manifest with other values in some columns, for every row."""
    path = folder / split / manifest.FILE_NAME
    table = pq.read_table(path)
    listed = table.to_pylist()
    for row in listed:
        row |= {k: v(row) if callable(v) else v for k, v in columns.items()}
    manifest.write(pa.Table.from_pylist(listed, manifest.SCHEMA), path, {"recipe": "small"})
    (folder / "build.json").unlink(missing_ok=True)


def test_pairs_per_split_n_and_t_are_those_of_a_plain_count(rows, numbers):
    counted = Counter((r["n_frames"], r["timestep"], r["split"]) for r in rows.rows())
    told = {
        (level.n_frames, level.timestep, split): count
        for level in numbers.levels
        for split, count in level.per_split.items()
    }
    assert told == dict(counted)


def test_origins_per_split_are_those_of_a_plain_count(rows, numbers):
    counted = Counter((r["origin"], r["split"]) for r in rows.rows())
    told = {(o, s): count for o, splits in numbers.origins.items() for s, count in splits.items()}
    assert told == dict(counted)


def test_clips_are_counted_once_each(rows, numbers):
    counted = Counter((r["split"], r["clip_id"]) for r in rows.rows())
    assert {(c.split, c.clip): c.pairs for c in numbers.clip_counts} == dict(counted)


def test_bytes_of_a_split_are_those_on_disk(folder, numbers):
    for split in numbers.splits:
        on_disk = sum(p.stat().st_size for p in (folder / split.split).rglob("*.png"))
        assert split.bytes == on_disk


def test_points_on_disk_are_the_backward_lists(rows, numbers):
    counted = Counter((r["n_frames"], len(r["backward_n_frames"])) for r in rows.rows())
    told = {
        (level.n_frames, points): count
        for level in numbers.points.levels
        for points, count in level.on_disk.items()
    }
    assert told == dict(counted)


def test_renderable_points_are_the_odd_n_below_each_row(rows, numbers):
    wanted = {r["n_frames"]: len(range(1, r["n_frames"], 2)) for r in rows.rows()}
    assert {p.n_frames: p.renderable for p in numbers.points.levels} == {
        n: {points: 2 * 3} for n, points in wanted.items()
    }


def test_a_window_before_the_first_frame_is_not_renderable(tmp_path):
    folder = small_dataset.make(tmp_path / "set", n_frames=(11,), trajectories=1)
    changed(folder, "train", center_index=3, first_index=-2)
    found = counts.points(manifest.read(folder / "train").to_pandas())
    assert found.levels[0].renderable == {4: 2}  # n of 1, 3, 5 and 7 fit round frame 3


def test_rows_without_n_are_counted_as_unknown(tmp_path):
    folder = small_dataset.make(tmp_path / "set", n_frames=(11,))
    unknown = {"n_frames": None, "timestep": None, "native_n_frames": None}
    changed(folder, "train", **unknown, backward_n_frames=[], motion_px=None)
    numbers = counts.count(manifest.read(folder), folder)
    assert (numbers.points.unknown, numbers.points.pairs) == (4, 2)


def test_a_set_without_n_still_gives_a_page(tmp_path):
    folder = small_dataset.make(tmp_path / "set", n_frames=(11,), clips={"test": ("a",)})
    unknown = {"n_frames": None, "timestep": None, "native_n_frames": None, "fps": None}
    ranks = {"center_index": None, "first_index": None, "center_frame": None}
    changed(folder, "test", **unknown, **ranks, backward_n_frames=[], motion_px=None)
    assert "t unknown" in write_report(folder).read_text()


@pytest.mark.parametrize(("rows", "words"), [(0, "0 pairs of"), (1, "1 pair of")])
def test_a_set_of_no_or_one_pair_gives_a_page(tmp_path, rows, words):
    folder = small_dataset.make(tmp_path / "set", clips={"train": ("a",)}, trajectories=1)
    table = manifest.read(folder).table.slice(0, rows)
    small_dataset.rewrite(folder, "train", table)
    assert words in write_report(folder).read_text()


def test_one_file_in_two_splits_is_a_leak(tmp_path):
    folder = small_dataset.make(tmp_path / "set")
    changed(folder, "train", sharp_sha256="a" * 64)
    changed(folder, "test", sharp_sha256="a" * 64)
    same = counts.same_sharp(manifest.read(folder).to_pandas())
    assert [set(s.splits) for s in same] == [{"train", "test"}]
    assert len(same[0].trajectories) == 6


def test_a_small_set_shares_no_sharp_file(numbers):
    assert numbers.same_sharp == ()


def test_problems_are_grouped_by_reason_and_cure(tmp_path):
    columns = ["reason", "what", "cure", "split", "clip_id", "sample_id", "file"]
    listed = [("frame-crc", f"frame {i} is damaged", "copy again") for i in range(7)]
    listed.append(("frame-missing", "one is gone", "copy again"))
    table = [dict(zip(columns, [*row, "", "", "", ""], strict=True)) for row in listed]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "problems.parquet")
    groups, error = read_problems(tmp_path / "problems.parquet")
    assert error == ""
    assert [(g.reason, g.count, len(g.examples)) for g in groups] == [
        ("frame-crc", 7, 5),
        ("frame-missing", 1, 1),
    ]


def test_a_damaged_problems_file_is_told_and_not_raised(folder, tmp_path):
    (tmp_path / "problems.parquet").write_bytes(b"PAR1 nothing PAR1")
    groups, error = read_problems(tmp_path / "problems.parquet")
    assert groups is None
    assert error.startswith("problems.parquet cannot be read")


def test_one_trajectory_of_every_clip_is_chosen(rows):
    chosen = sampling.trajectories(rows.table)
    assert [(c.split, c.clip) for c in chosen] == sorted(
        {(r["split"], r["clip_id"]) for r in rows.rows()}, key=lambda c: (c[0] == "test", c[1])
    )


def test_the_choice_does_not_depend_on_the_order_of_rows(rows):
    order = np.random.default_rng(1).permutation(rows.table.num_rows)
    shuffled = rows.table.take(pa.array(order))
    first = {c.trajectory_id for c in sampling.trajectories(rows.table)}
    assert {c.trajectory_id for c in sampling.trajectories(shuffled)} == first


def test_points_of_a_chosen_trajectory_ascend_in_n(rows):
    for chosen in sampling.trajectories(rows.table):
        n = [rows.table["n_frames"][row].as_py() for row in chosen.rows]
        assert n == sorted(n)


def test_a_long_trajectory_is_thinned_but_keeps_its_ends(tmp_path):
    levels = tuple(range(3, 33, 2))
    folder = small_dataset.make(tmp_path / "set", clips={"train": ("a",)}, n_frames=levels)
    table = manifest.read(folder).table
    n = [table["n_frames"][row].as_py() for row in sampling.trajectories(table)[0].rows]
    assert (n[0], n[-1], len(n)) == (3, 31, sampling.MAX_POINTS - 1)


def test_the_sample_holds_neighbours_in_time(tmp_path):
    folder = small_dataset.make(tmp_path / "set", trajectories=6, clips={"train": ("a", "b")})
    table = manifest.read(folder).table
    sample = sampling.sharp_sample(table)
    assert len({table["trajectory_id"][row].as_py() for row in sample}) == len(sample) == 12


def test_an_odd_file_size_comes_into_the_sample(rows):
    table = rows.table.slice(0, 0)
    row = rows.table.slice(0, 1).to_pylist()[0]
    many = []
    for i in range(600):
        name = f"clip/{i:06d}"
        size = 100 if i == 321 else 900_000 + 997 * (i % 13)
        many.append(
            row
            | {"trajectory_id": name, "sample_id": f"{name}/n07", "center_index": i, "clip_id": "c"}
            | {"sharp_bytes": size, "width": 1280, "height": 720}
        )
    table = pa.Table.from_pylist(many, manifest.SCHEMA)
    sample = sampling.sharp_sample(table)
    assert 321 in sample
    assert len(sample) < 100


def test_the_sharp_file_with_the_fewest_bytes_comes_into_the_sample(rows):
    row = rows.table.slice(0, 1).to_pylist()[0]
    many = [
        row
        | {"trajectory_id": f"clip{i}/p", "sample_id": f"clip{i}/p/n07", "clip_id": f"clip{i}"}
        | {"sharp_bytes": 1000 + 7 * (i * 37 % 400), "width": 1280, "height": 720}
        for i in range(400)
    ]
    table = pa.Table.from_pylist(many, manifest.SCHEMA)
    smallest = min(range(400), key=lambda i: many[i]["sharp_bytes"])
    assert smallest in sampling.sharp_sample(table)


def test_a_sharp_image_far_below_the_median_counts_as_not_sharp():
    looks = {i: measures.Look(1000.0, 1, b"") for i in range(9)} | {9: measures.Look(200, 1, b"")}
    assert measures.soft_limit(looks) == 250
    assert measures.soft_limit({}) == measures.SOFT_SHARPNESS


def pair_columns(folder, out, looks=(), blurs=()):
    rows = manifest.read(folder)
    found = links(rows, folder, out)
    return rows, json.loads(pair_table(rows, dict(looks), dict(blurs), found, 40.0))


def test_the_table_of_pairs_holds_every_row(folder):
    rows, table = pair_columns(folder, folder / "report.html")
    for index, row in enumerate(rows.rows()):
        trajectory = table["trajectories"][table["trajectory"][index]]
        assert trajectory == row["trajectory_id"]
        assert (table["n"][index], table["t"][index]) == (row["n_frames"], row["timestep"])
        assert table["motion"][index] == pytest.approx(row["motion_px"], abs=0.01)
        assert table["size"][index] == round(100 * row["blur_bytes"] / row["sharp_bytes"])
    assert (table["ids"], table["blurs"], table["sharps"]) == ({}, {}, {})


def test_names_that_do_not_follow_from_the_trajectory_are_in_the_table(tmp_path):
    folder = small_dataset.make(tmp_path / "set", trajectories=1, clips={"train": ("a",)})
    changed(folder, "train", blur_file_name=lambda row: f"odd/{row['n_frames']}.png")
    _, table = pair_columns(folder, folder / "report.html")
    assert table["blurs"] == {"0": "odd/7.png", "1": "odd/9.png", "2": "odd/11.png"}


def test_sharpness_of_an_opened_sharp_is_that_of_all_its_pairs(folder):
    looks = {1: measures.Look(123.45, 1, b"")}
    _, table = pair_columns(folder, folder / "report.html", looks, {2: 67.0})
    assert table["sharpness"][:4] == [123.5, 123.5, 123.5, None]
    assert table["blur"][:3] == [None, None, 67.0]


def test_a_page_in_the_set_links_to_its_files(folder):
    rows = manifest.read(folder)
    for out in (folder / "report.html", folder.parent / "report.html"):
        url = links(rows, folder, out).of(rows, 0, "blur_file_name")
        assert (out.parent / url).read_bytes() == rows.file(0, "blur_file_name").read_bytes()


def test_a_page_elsewhere_has_no_links(folder, tmp_path):
    rows = manifest.read(folder)
    found = links(rows, folder, tmp_path / "elsewhere" / "report.html")
    assert found.of(rows, 0, "blur_file_name") == ""


def test_extremes_of_motion_are_those_of_the_whole_set(tmp_path):
    folder = small_dataset.make(tmp_path / "set", trajectories=5, size=(120, 200))
    changed(folder, "train", motion_px=lambda row: float(row["center_index"] + row["n_frames"]),
            step_px=lambda row: row["n_frames"] / 4)  # fmt: skip
    rows = manifest.read(folder)
    found = {strip.title: strip for strip in extremes.strips(rows, {})}
    weakest = [rows.table["motion_px"][pair.row].as_py() for pair in found["Weakest blurs"].pairs]
    known = sorted(
        min(r["motion_px"] for r in rows.rows() if r["trajectory_id"] == name)
        for name in {r["trajectory_id"] for r in rows.rows()}
    )
    assert weakest == known[: extremes.SHOWN]
    assert {rows.table["n_frames"][p.row].as_py() for p in found["Largest steps"].pairs} == {11}


def test_crops_of_a_pair_are_at_full_size(folder):
    rows = manifest.read(folder)
    (crops,) = pictures.crops_of_pairs(rows, [0])
    assert decoded(crops.blur).shape == (crops.side, crops.side, 3)


def test_a_long_tail_makes_the_axis_logarithmic():
    even = charts.histogram([("a", np.linspace(1, 3, 500))], unit="px", log=None)
    tail = charts.histogram(
        [("a", [0.0, *np.linspace(1, 2, 90), *[200.0] * 10])], unit="px", log=None
    )
    assert (even.log, tail.log) == (False, True)
    assert sum(int(bar.text.rsplit(": ")[1]) for bar in tail.series[0][1]) == 101


@pytest.mark.usefixtures("permissions_hold")
def test_a_folder_that_cannot_be_written_is_named_with_its_cure(folder, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(UserError, match="the report cannot be written") as caught:
        write_report(folder, tmp_path / "locked/a.html")
    assert "--out FILE" in caught.value.cure


def photograph() -> np.ndarray:
    from skimage import data

    return np.asarray(data.chelsea())


def test_a_brightened_copy_is_a_near_duplicate():
    image = photograph()
    copy = np.clip(image.astype(int) + 9, 0, 255).astype(np.uint8)
    found = measures.near_duplicates({1: measures.look_at(image), 2: measures.look_at(copy)})
    assert [(near.first, near.second) for near in found] == [(1, 2)]


def test_two_different_photographs_are_not_alike():
    from skimage import data

    seen = {1: measures.look_at(photograph()), 2: measures.look_at(np.asarray(data.astronaut()))}
    assert measures.near_duplicates(seen) == []


def test_black_frames_are_not_each_others_duplicates():
    black = measures.look_at(np.zeros((90, 160, 3), np.uint8))
    assert measures.near_duplicates({1: black, 2: black}) == []


def test_hash_distance_is_the_count_of_differing_bits():
    random = np.random.default_rng(3)
    first = random.integers(0, 256, 32).astype(np.uint8)
    second = first.copy()
    second[[2, 9, 30]] ^= np.array([1, 3, 7], np.uint8)  # 1 + 2 + 3 bits
    seen = {k: measures.Look(1, 1, h.tobytes()) for k, h in ((5, first), (8, second))}
    assert measures.near_duplicates(seen) == [measures.Near(5, 8, 6)]


def test_sharpness_is_the_variance_of_the_laplacian():
    from scipy import ndimage

    grey = cv2.cvtColor(photograph(), cv2.COLOR_RGB2GRAY)
    witness = ndimage.laplace(grey.astype(np.float64), mode="mirror").var()
    assert measures.sharpness_of(grey) == pytest.approx(witness, rel=1e-6)


def test_a_black_frame_among_photographs_is_an_outlier():
    random = np.random.default_rng(0)
    seen = {}
    for key in range(20):
        top, left = random.integers(0, 100, 2)
        seen[key] = measures.look_at(np.ascontiguousarray(photograph()[top:, left:]))
    seen[77] = measures.look_at(np.zeros((90, 160, 3), np.uint8))
    assert {outlier.key for outlier in measures.outliers(seen)} == {77}


def test_equal_images_have_no_outlier():
    look = measures.look_at(photograph())
    assert measures.outliers(dict.fromkeys(range(10), look)) == []


def test_shown_blurs_get_less_sharp_with_n(rows):
    for walk in pictures.gather(rows).walks:
        sharpness = [point.sharpness for point in walk.points]
        assert sharpness == sorted(sharpness, reverse=True)


def test_the_enlarged_square_lies_where_the_blur_is():
    sharp = np.full((240, 400, 3), 120, np.uint8)
    blur = sharp.copy()
    blur[150:170, 300:320] = 20
    left, top, side = pictures._detail_box(sharp, blur, 120)
    assert left <= 300
    assert top <= 150
    assert left + side >= 320
    assert top + side >= 170


def decoded(uri: str) -> np.ndarray:
    payload = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
    return cv2.imdecode(payload, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float64)


def test_a_picture_decodes_to_the_photograph_that_went_in():
    image = photograph()
    assert np.abs(decoded(pictures.data_uri(image)) - image).mean() < 4


def test_a_wide_picture_is_reduced_as_an_area_mean():
    image = np.ascontiguousarray(photograph()[:296, :448])
    witness = image.reshape(148, 2, 224, 2, 3).mean(axis=(1, 3))
    assert np.abs(decoded(pictures.data_uri(image, width=224)) - witness).mean() < 4


def test_each_point_was_measured_on_its_own_file(folder, rows):
    for walk in pictures.gather(rows).walks:
        for point in walk.points:
            pixels = png.read_frame(folder / point.file).pixels
            assert point.sharpness == measures.sharpness(pixels)


def test_an_unreadable_image_costs_its_picture_only(tmp_path):
    folder = small_dataset.make(tmp_path / "set", trajectories=1)
    blur = next(folder.glob("train/blur/*/*_n09.png"))
    blur.write_bytes(blur.read_bytes()[:-40])
    text = write_report(folder).read_text()
    assert "Images that could not be read" in text
    assert blur.name in text


def test_a_missing_sharp_file_is_named_on_the_page(tmp_path):
    folder = small_dataset.make(tmp_path / "set", trajectories=1)
    sharp = next(folder.glob("train/sharp/*/*.png"))
    sharp.unlink()
    assert "could not be read" in write_report(folder).read_text()


def test_the_same_data_set_gives_the_same_page(folder, tmp_path):
    first = write_report(folder, tmp_path / "a.html").read_bytes()
    assert write_report(folder, tmp_path / "b.html").read_bytes() == first


def test_the_page_names_nothing_outside_itself(folder, tmp_path):
    text = write_report(folder, tmp_path / "a.html").read_text()
    for word in ("http:", "https:", "src=//", "@import", "url(http"):
        assert word not in text


def test_thousands_of_clips_do_not_swell_the_page(folder, tmp_path):
    row = pq.read_table(folder / "train" / manifest.FILE_NAME).slice(0, 1).to_pylist()[0]
    many = [
        row | {"sample_id": f"c{i}/p/n07", "trajectory_id": f"c{i}/p", "clip_id": f"c{i}"}
        for i in range(3000)
    ]
    (tmp_path / "train").mkdir()
    table = pa.Table.from_pylist(many, manifest.SCHEMA)
    manifest.write(table, tmp_path / "train" / manifest.FILE_NAME, {"recipe": "many"})
    text = write_report(tmp_path).read_text()
    assert f"The first {page.CLIPS_LISTED} of 3,000 clips" in text
    assert len(text) < 800_000


def test_an_earlier_report_is_replaced(folder, tmp_path):
    out = write_report(folder, tmp_path / "a.html")
    assert write_report(folder, out) == out


def test_a_foreign_file_is_never_replaced(folder, tmp_path):
    out = tmp_path / "thesis.html"
    out.write_text("<p>years of work</p>")
    with pytest.raises(UserError, match="is not a report") as caught:
        write_report(folder, out)
    assert out.read_text() == "<p>years of work</p>"
    assert caught.value.cure
    assert caught.value.exit_code == 2


def test_a_folder_that_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        write_report(folder, tmp_path / "nowhere" / "a.html")


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="no manifest"):
        write_report(tmp_path)


def test_a_split_alone_gets_its_report(folder, tmp_path):
    text = write_report(folder / "test", tmp_path / "a.html").read_text()
    assert "6 pairs of blur and sharp" in text


def test_links_out_of_the_set_are_followed_only_when_allowed(tmp_path):
    folder = small_dataset.make(tmp_path / "set", trajectories=1, clips={"train": ("a",)})
    for path in list(folder.rglob("*.png")):
        target = tmp_path / "elsewhere" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        path.symlink_to(target)
    refused = write_report(folder).read_text()
    allowed = write_report(folder, allow_links=True).read_text()
    assert "No trajectory of this data set could be shown" in refused
    assert "No trajectory of this data set could be shown" not in allowed


def test_pictures_beyond_the_room_of_the_page_are_left_out(rows, monkeypatch):
    monkeypatch.setattr(pictures, "PICTURE_BYTES", 1)
    gallery = pictures.gather(rows)
    assert (len(gallery.walks), gallery.left_out) == (1, 2)


ALIGNMENT = {
    "level": "full",
    "corrected": {"clip-b": -2},
    "clips": [
        {
            "split": "train", "clip_id": name, "sharp_checked": 10, "sharp_found": found,
            "offsets": [0], "blurs_equal": 7, "blurs_absent": 1, "blurs_differing": 2,
            "distrusted": distrusted,
        }
        for name, found, distrusted in (("clip-a", 10, {}), ("clip-b", 9, {"clip-b/07": "moved"}))
    ],
}  # fmt: skip


def test_the_alignment_of_all_clips_is_summed():
    told = agreement({"alignment": ALIGNMENT})
    sums = (told.checked, told.found, told.equal, told.absent, told.differing)
    assert sums == (20, 19, 14, 2, 4)


def test_pairs_that_the_pixels_contradict_are_named_on_the_page(tmp_path):
    folder = small_dataset.make(tmp_path / "set")
    record = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps(record | {"alignment": ALIGNMENT}))
    text = write_report(folder).read_text()
    assert '<span class="name">clip-b/07</span>: moved' in text
    assert "is -2 frames from where its name says" in text


@pytest.mark.parametrize("odd", [None, [], {"clips": 3}, {"clips": [{}]}, "text", {"level": 1}])
def test_an_alignment_of_another_form_is_not_summed(odd):
    assert agreement({"alignment": odd}) is None


def test_a_json_value_is_cut_where_it_is_too_deep():
    value: object = "bottom"
    for _ in range(50):
        value = {"down": value}
    tree, depth = page.tree(value), 0
    while tree.branches:
        tree, depth = tree.branches[0][1], depth + 1
    assert depth == page.MAX_DEPTH


def test_a_list_of_flat_objects_becomes_a_table():
    tree = page.tree([{"clip_id": "a", "shift": 1}, {"clip_id": "b", "matched": True}])
    assert tree.header == ("clip_id", "shift", "matched")
    assert tree.rows == (("a", "1", ""), ("b", "", "yes"))


def test_the_command_prints_the_path_and_nothing_else(folder, tmp_path, in_process):
    said = in_process("report", str(folder), "--out", str(tmp_path / "r.html"))
    assert (said.returncode, said.stdout) == (0, f"{tmp_path / 'r.html'}\n")


def test_json_tells_path_and_bytes(folder, tmp_path, in_process):
    done = in_process("report", folder, "--out", tmp_path / "r.html", "--json")
    said = json.loads(done.stdout)
    assert said == {
        "path": str(tmp_path / "r.html"),
        "bytes": (tmp_path / "r.html").stat().st_size,
    }


def test_the_command_refuses_a_foreign_file_with_wrong_use(folder, tmp_path, in_process):
    (tmp_path / "r.html").write_text("mine")
    said = in_process("report", str(folder), "--out", str(tmp_path / "r.html"))
    assert said.returncode == 2
    assert "cure:" in said.stderr


def test_a_manifest_in_place_of_its_folder_is_told_with_the_command_that_works(folder, in_process):
    said = in_process("report", str(folder / "train" / "metadata.parquet"))
    assert said.returncode == 2
    assert f"trajbuild report {folder / 'train'}" in said.stderr
