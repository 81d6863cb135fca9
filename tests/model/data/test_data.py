"""Trajectory batches from real files: aligned, repeatable, and honest about what was skipped."""

import logging

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from fidediff_model.data.batches import UNKNOWN, SkipLog, collate, to_device
from fidediff_model.data.rules import DrawRules
from fidediff_model.data.sampler import Draw
from fidediff_model.data.trajectories import TrajectoryDataset, make_loader
from trajectory_builder import manifest
from trajectory_builder.errors import DataError

HEIGHT, WIDTH, CROP = 40, 48, 16
POINTS = {"A/000001": [7], "A/000011": [5, 7, 9, 11], "B/000001": [7, 9, 11, 13]}


def _write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1])


def _sharp(number):
    """Every pixel tells where it lies: row, column, trajectory."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return np.dstack([rows, columns, np.full_like(rows, 10 * number)])


def _row(trajectory, n, points):
    return {
        "sample_id": f"{trajectory}/n{n:02d}",
        "trajectory_id": trajectory,
        "split": "train",
        "clip_id": trajectory.split("/")[0],
        "n_frames": n,
        "timestep": (n - 1) * 20,
        "native_n_frames": max(points),
        "backward_n_frames": [1, *(m for m in points if m < n)],
        "blur_file_name": f"blur/{trajectory}_n{n:02d}.png",
        "sharp_file_name": f"sharp/{trajectory}.png",
        "origin": "averaged",
        "average_domain": "srgb",
        "width": WIDTH,
        "height": HEIGHT,
        "blur_sha256": f"blur of {trajectory} {n}",
        "sharp_sha256": f"sharp of {trajectory}",
        "blur_bytes": 1,
        "sharp_bytes": 1,
    }


def _rows():
    return [_row(t, n, points) for t, points in POINTS.items() for n in points]


def _write_manifest(folder, rows, timestep_map="frames"):
    table = pa.Table.from_pylist(rows, schema=manifest.SCHEMA)
    manifest.write(table, folder / manifest.FILE_NAME, {"timestep_map": timestep_map})
    return manifest.read(folder)


def _write_set(folder, rows, timestep_map="frames"):
    numbers = {trajectory: number for number, trajectory in enumerate(POINTS)}
    for row in rows:
        sharp = _sharp(numbers[row["trajectory_id"]])
        _write_png(folder / row["sharp_file_name"], sharp)
        # A blur is its sharp with n_frames more in blue: aligned by its other two channels.
        _write_png(folder / row["blur_file_name"], sharp + np.uint8([0, 0, row["n_frames"] or 0]))
    return _write_manifest(folder, rows, timestep_map)


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    return _write_set(tmp_path_factory.mktemp("set"), _rows())


def _dataset(source, **rules):
    return TrajectoryDataset(source, DrawRules(**{"crop": CROP, "seed": 3, **rules}))


def _equal(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def test_a_trajectory_is_one_entry(trajectories):
    assert len(_dataset(trajectories)) == 3


@pytest.mark.parametrize("epoch", range(6))
def test_points_are_cut_and_turned_like_their_sharp_image(trajectories, epoch):
    item = _dataset(trajectories, points=4)[Draw(epoch, 2)]
    # Red and green hold each pixel's row and column.
    assert torch.equal(item["blur"][:, :2], item["sharp"][:2].expand(4, 2, CROP, CROP))


def test_timestep_of_a_point_is_the_one_of_its_image(trajectories):
    item = _dataset(trajectories, points=4)[Draw(0, 1)]
    n = item["blur"][:, 2, 0, 0].int() - item["sharp"][2, 0, 0].int()
    assert ((n - 1) * 20).tolist() == item["timestep"].tolist()


def test_timestep_comes_from_the_manifest_alone(tmp_path):
    rows = [_row("A/000001", 7, [7]) | {"timestep": 333}]
    item = _dataset(_write_set(tmp_path, rows, timestep_map="own"))[0]
    assert item["timestep"].tolist() == [333]


def test_points_of_a_draw_are_different_while_there_are_enough(trajectories):
    item = _dataset(trajectories, points=4)[Draw(0, 1)]
    assert sorted(item["n_frames"].tolist()) == [5, 7, 9, 11]


def test_a_trajectory_with_one_blur_gives_identity_as_its_second_point(trajectories):
    item = _dataset(trajectories, points=2)[Draw(0, 0)]
    assert item["n_frames"].tolist() == [7, 1]
    assert torch.equal(item["blur"][1], item["sharp"])
    assert item["timestep"].tolist() == [120, 0]


def test_points_repeat_only_after_the_sharp_image_joined_them(trajectories):
    assert _dataset(trajectories, points=3)[Draw(0, 0)]["n_frames"].tolist() == [7, 1, 7]


def test_with_a_fixed_timestep_a_short_trajectory_repeats_its_blur(trajectories):
    item = _dataset(trajectories, points=2, timestep_of="fixed")[Draw(0, 0)]
    assert item["n_frames"].tolist() == [7, 7]


def test_every_point_is_drawn_in_some_epoch(trajectories):
    data = _dataset(trajectories)
    assert {data[Draw(e, 2)]["n_frames"].item() for e in range(40)} == {7, 9, 11, 13}


def test_draw_is_the_same_when_asked_again(trajectories):
    data = _dataset(trajectories, points=2, identity=0.5)
    assert _equal(data[Draw(4, 2)], data[Draw(4, 2)])


def test_epochs_cut_a_trajectory_differently(trajectories):
    data = _dataset(trajectories)
    corners = {tuple(data[Draw(e, 2)]["sharp"][:2, 0, 0].tolist()) for e in range(12)}
    assert len(corners) > 6


def test_crop_does_not_depend_on_the_other_trajectories(trajectories, tmp_path):
    rows = [row for row in _rows() if row["trajectory_id"] == "B/000001"]
    alone = _dataset(_write_set(tmp_path, rows), points=2)[Draw(5, 0)]
    assert _equal(alone, _dataset(trajectories, points=2)[Draw(5, 2)])


def test_all_eight_orientations_occur(trajectories):
    data = _dataset(trajectories)
    seen = set()
    for epoch in range(80):
        corners = data[Draw(epoch, 2)]["sharp"][:2, [0, 0, -1], [0, -1, 0]].int()
        seen.add(tuple((corners[:, 1:] - corners[:, :1]).sign().flatten().tolist()))
    assert len(seen) == 8


def test_without_augmentation_rows_stay_rows(trajectories):
    sharp = _dataset(trajectories, augment=False)[Draw(1, 2)]["sharp"].int()
    assert (sharp[0].diff(dim=0) == 1).all()


def test_crop_of_the_whole_image_side_is_possible(trajectories):
    item = _dataset(trajectories, crop=HEIGHT, augment=False)[0]
    assert item["sharp"][0, :, 0].tolist() == list(range(HEIGHT))


def test_identity_point_is_the_sharp_image_at_time_zero(trajectories):
    item = _dataset(trajectories, points=2, identity=1.0)[Draw(0, 1)]
    assert torch.equal(item["blur"][0], item["sharp"])
    assert (item["timestep"].tolist(), item["sample_id"][0]) == ([0, 0], "A/000011/n01")


def test_identity_points_are_as_frequent_as_asked(trajectories):
    data = _dataset(trajectories, identity=0.25)
    share = np.mean([data[Draw(e, 1)]["n_frames"].item() == 1 for e in range(400)])
    assert 0.18 < share < 0.32  # three deviations round 0.25


def test_points_of_native_draws_only_native_blurs(trajectories):
    data = _dataset(trajectories, points_of="native")
    drawn = {data[Draw(e, i)]["n_frames"].item() for e in range(8) for i in range(3)}
    assert drawn == {7, 11, 13}


def test_points_of_native_keeps_the_timesteps_of_the_manifest(trajectories):
    data = _dataset(trajectories, points_of="native")
    assert [data[i]["timestep"].item() for i in range(3)] == [120, 200, 240]


def test_a_fixed_timestep_leaves_all_blurs_to_be_drawn(trajectories):
    data = _dataset(trajectories, timestep_of="fixed")
    assert {data[Draw(e, 2)]["n_frames"].item() for e in range(40)} == {7, 9, 11, 13}


def test_a_fixed_timestep_is_that_of_every_blur(trajectories):
    data = _dataset(trajectories, timestep_of="fixed", fixed_timestep=180.0)
    assert {data[i]["timestep"].item() for i in range(3)} == {180.0}


def test_rows_that_cannot_be_drawn_are_counted(trajectories):
    assert _dataset(trajectories, points_of="native").left_out == 9 - 3


def test_pair_of_unknown_length_trains_with_a_fixed_timestep(tmp_path):
    rows = [
        _row("A/000001", 7, [7]) | {"n_frames": None, "timestep": None, "native_n_frames": None}
    ]
    off = {"points_of": "native", "timestep_of": "fixed"}
    item = _dataset(_write_set(tmp_path, rows), **off)[0]
    assert item["n_frames"].tolist() == [UNKNOWN]


def test_manifest_without_timesteps_is_refused_with_a_cure(tmp_path):
    rows = [
        _row("A/000001", 7, [7]) | {"n_frames": None, "timestep": None, "native_n_frames": None}
    ]
    with pytest.raises(DataError) as error:
        _dataset(_write_set(tmp_path, rows))
    assert "--timestep-of fixed" in error.value.cure


def test_other_splits_are_not_drawn(trajectories):
    with pytest.raises(DataError, match="test"):
        TrajectoryDataset(trajectories, DrawRules(crop=CROP), split="test")


def test_images_smaller_than_the_crop_are_refused(trajectories):
    with pytest.raises(DataError) as error:
        _dataset(trajectories, crop=HEIGHT + 1)
    assert "9 images" in error.value.what
    assert f"--crop {HEIGHT} or less" in error.value.cure


def test_two_sharp_images_of_one_trajectory_are_refused(tmp_path):
    rows = _rows()
    rows[2]["sharp_sha256"] = "another"
    with pytest.raises(DataError, match="A/000011"):
        _dataset(_write_manifest(tmp_path, rows))


@pytest.mark.parametrize("wrong", [{"crop": 0}, {"points": 0}, {"identity": 1.5}])
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(DataError, match="out of range"):
        DrawRules(**wrong)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"points_of": "native", "points": 2}, "one native blur"),
     ({"timestep_of": "fixed", "identity": 0.1}, "t = 0")],
)  # fmt: skip
def test_rules_that_contradict_each_other_are_refused(wrong, text):
    with pytest.raises(DataError, match=text):
        DrawRules(**wrong)


def test_clips_can_be_held_out(trajectories):
    rules = DrawRules(crop=CROP)
    train = TrajectoryDataset(trajectories, rules, without={"A"})
    held_out = TrajectoryDataset(trajectories, rules, clips={"A"})
    names = [{data[i]["trajectory_id"] for i in range(len(data))} for data in (train, held_out)]
    assert names == [{"B/000001"}, {"A/000001", "A/000011"}]


@pytest.fixture
def damaged(tmp_path):
    """A set in which one blur of A/000011 is cut."""
    source = _write_set(tmp_path, _rows())
    path = tmp_path / "blur/A/000011_n09.png"
    path.write_bytes(path.read_bytes()[:-20])
    return source, path


def test_bad_image_is_replaced_by_another_trajectory(damaged):
    source, path = damaged
    item = _dataset(source, points=4)[Draw(0, 1)]
    assert item["trajectory_id"] != "A/000011"
    assert [one.file for one in item["skipped"]] == [str(path)] * len(item["skipped"]) != []


def test_substitute_is_the_same_when_asked_again(damaged):
    data = _dataset(damaged[0], points=4)
    assert _equal(data[Draw(0, 1)], data[Draw(0, 1)])


def test_bad_image_is_reported_once(damaged, caplog):
    source, path = damaged
    data, log = _dataset(source, points=4), SkipLog()
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            log.add(collate([data[Draw(epoch, 1)]]))
    assert caplog.text.count(str(path)) == 1
    assert log.count >= 3


def test_absent_file_is_skipped_and_named(tmp_path):
    source = _write_set(tmp_path, _rows())
    (tmp_path / "sharp/A/000001.png").unlink()
    skipped = _dataset(source)[Draw(0, 0)]["skipped"]
    assert "not there" in skipped[0].reason


def test_image_of_another_size_than_stated_is_skipped(tmp_path):
    source = _write_set(tmp_path, _rows())
    _write_png(tmp_path / "blur/A/000001_n07.png", _sharp(0)[:-2])
    assert "48 x 38" in _dataset(source)[Draw(0, 0)]["skipped"][0].reason


def test_set_without_files_is_an_error_that_names_some(tmp_path):
    data = _dataset(_write_manifest(tmp_path, _rows()))
    with pytest.raises(DataError) as error:
        make_loader(data, batch_size=2, workers=1)
    assert "sharp/" in error.value.where
    assert "trajbuild verify" in error.value.cure


def _batches(source, steps, **settings):
    data = _dataset(source, points=2, identity=0.3)
    return list(make_loader(data, batch_size=2, steps=steps, **settings))


def test_batch_has_the_stated_shapes(trajectories):
    batch = _batches(trajectories, 1)[0]
    assert batch["blur"].shape == (4, 3, CROP, CROP)
    assert batch["sharp"].shape == (2, 3, CROP, CROP)
    assert batch["trajectory"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_batch(trajectories, workers):
    alone, shared = _batches(trajectories, 5), _batches(trajectories, 5, workers=workers)
    assert all(_equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_resuming_gives_the_batches_that_were_left(trajectories):
    whole, rest = _batches(trajectories, 6), _batches(trajectories, 2, first_step=4)
    assert all(_equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_two_ranks_take_the_draws_of_one(trajectories):
    data = _dataset(trajectories)
    one = next(iter(make_loader(data, batch_size=4, steps=1)))["trajectory_id"]
    two = [
        next(iter(make_loader(data, batch_size=2, steps=1, rank=r, world_size=2)))["trajectory_id"]
        for r in range(2)
    ]
    assert [name for turn in zip(*two, strict=True) for name in turn] == one


def test_loader_without_end_goes_beyond_an_epoch(trajectories):
    batches = iter(make_loader(_dataset(trajectories), batch_size=2))
    assert len([next(batches) for _ in range(5)]) == 5


def test_device_batch_spans_the_model_range(trajectories):
    batch = collate([_dataset(trajectories)[0]])
    batch["blur"][0, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    assert to_device(batch, "cpu").blur[0, 0, 0, :2].tolist() == [-1, 1]


def test_device_batch_repeats_the_sharp_image_for_each_point(trajectories):
    batch = _batches(trajectories, 1)[0]
    sharp = to_device(batch, "cpu").target
    expected = batch["sharp"][[0, 0, 1, 1]].float() / 127.5 - 1
    assert torch.equal(sharp, expected)
