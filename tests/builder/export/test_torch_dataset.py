"""TrajectoryPairs and TrajectorySampler: what a training author gets without fidediff_model."""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_dataset

from trajectory_builder.errors import DataError, ImageError
from trajectory_builder.export.torch_dataset import (
    UNKNOWN,
    Draw,
    TrajectoryPairs,
    TrajectorySampler,
)
from trajectory_builder.images.pictures import read_rgb8

torch = pytest.importorskip("torch", reason="needs torch, which the data half does not install")
from torch.utils.data import DataLoader  # noqa: E402

CROP = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """4 train trajectories of n = 7, 9, 11; images of 48 x 36; only read it."""
    return small_dataset.make(tmp_path_factory.mktemp("set"))


@pytest.fixture
def pairs(folder):
    return TrajectoryPairs(folder, crop=CROP)


def as_bytes(tensor):
    return (tensor * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_an_item_is_the_pair_of_its_row(folder):
    pairs = TrajectoryPairs(folder, crop=None, flips=False)
    item = pairs[1]
    row = next(row for row in pairs.manifest.rows() if row["sample_id"] == item["sample_id"])
    for name in ("blur", "sharp"):
        image = read_rgb8(folder / "train" / row[f"{name}_file_name"])
        assert np.array_equal(as_bytes(item[name]), image)
    assert (item["n_frames"], item["timestep"]) == (row["n_frames"], row["timestep"])
    assert item["trajectory_id"] == row["trajectory_id"]


def test_all_pairs_of_the_split_are_items(folder):
    assert [len(TrajectoryPairs(folder, split=split, crop=CROP))
            for split in ("train", "test", None)] == [12, 6, 18]  # fmt: skip


def rewritten(folder, n_frames=(7, 9, 11), **columns):
    """A set of its own, with other values in some columns of its train manifest."""
    small_dataset.make(folder, n_frames=n_frames)
    table = pq.read_table(folder / "train/metadata.parquet")
    for column, values in columns.items():
        table = small_dataset.replaced(table, column, values(table))
    small_dataset.rewrite(folder, "train", table)
    return folder


def test_blur_and_sharp_get_the_same_crop_and_flip(tmp_path):
    # The sharp as its own blur: any difference between the two is one of crop or flip.
    folder = rewritten(tmp_path, blur_file_name=lambda table: table["sharp_file_name"].to_pylist())
    pairs = TrajectoryPairs(folder, crop=CROP)
    for epoch in range(8):
        item = pairs[Draw(epoch, 0)]
        assert item["blur"].shape == (3, CROP, CROP)
        assert torch.equal(item["blur"], item["sharp"])


def test_crops_and_flips_differ_between_epochs(pairs):
    seen = {pairs[Draw(epoch, 0)]["sharp"].numpy().tobytes() for epoch in range(8)}
    assert len(seen) == 8


def test_points_of_a_trajectory_ascend_in_n_and_share_one_sharp(folder):
    trajectories = TrajectoryPairs(folder, crop=CROP, points=2)
    item = trajectories[Draw(0, 3)]
    assert len(trajectories) == 4
    assert item["blur"].shape == (2, 3, CROP, CROP)
    assert item["sharp"].shape == (3, CROP, CROP)
    assert item["n_frames"][0] < item["n_frames"][1]
    assert item["timestep"].tolist() == [(n - 1) * 20 for n in item["n_frames"].tolist()]
    assert {name.rpartition("/")[0] for name in item["sample_id"]} == {item["trajectory_id"]}


def test_all_sets_of_points_are_drawn(folder):
    trajectories = TrajectoryPairs(folder, crop=CROP, points=2)
    drawn = {tuple(trajectories[Draw(e, 0)]["n_frames"].tolist()) for e in range(24)}
    assert drawn == {(7, 9), (7, 11), (9, 11)}


def test_sampler_takes_each_trajectory_once_per_epoch(pairs):
    sampler = TrajectorySampler(pairs)
    for _ in range(3):
        drawn = [pairs[draw]["trajectory_id"] for draw in sampler]
        assert len(drawn) == len(set(drawn)) == 4


def test_sampler_draws_n_by_its_weight(pairs):
    sampler = TrajectorySampler(pairs, weights={7: 0, 11: 3})
    drawn = Counter(pairs.columns["n_frames"][d.item] for _ in range(100) for d in sampler)
    assert set(drawn) == {9, 11}
    assert drawn[11] / drawn[9] == pytest.approx(3, rel=0.4)


def test_ranks_share_an_epoch_without_overlap(pairs):
    ranks = [list(TrajectorySampler(pairs, rank=rank, world_size=2)) for rank in (0, 1)]
    alone = list(TrajectorySampler(pairs))
    assert sorted([*ranks[0], *ranks[1]]) == sorted(alone)
    assert len(ranks[0]) == len(ranks[1]) == 2


def test_set_epoch_repeats_that_epoch(pairs):
    sampler = TrajectorySampler(pairs)
    epochs = [list(sampler) for _ in range(3)]
    assert epochs[0] != epochs[1]
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1]


def batches(pairs, workers):
    sampler = TrajectorySampler(pairs)
    loader = DataLoader(pairs, batch_size=2, sampler=sampler, num_workers=workers)
    return [batch["blur"] for _ in range(2) for batch in loader]


def test_workers_change_nothing_where_the_sampler_asks(pairs):
    alone, two = batches(pairs, 0), batches(pairs, 2)
    assert all(torch.equal(a, b) for a, b in zip(alone, two, strict=True))


def test_workers_cut_differently_where_a_loader_shuffles(folder):
    # The known fault: numpy's global generator, copied to each worker, gives all the same crops.
    pairs = TrajectoryPairs(folder, crop=CROP)
    loader = DataLoader(_Same(pairs), batch_size=1, num_workers=2)
    torch.manual_seed(0)
    first, second = ([item["sharp"] for item in loader] for _ in range(2))
    assert not torch.equal(first[0], first[1])  # item 0 in worker 0, item 0 in worker 1
    assert not torch.equal(first[0], second[0])


class _Same:
    """A data set whose two items are the same pair."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.pairs[0]


def nothing(table):
    return [None] * table.num_rows


def test_a_set_without_n_has_unknown_timesteps(tmp_path):
    folder = rewritten(tmp_path, n_frames=(7,), timestep=nothing)
    table = pq.read_table(folder / "train/metadata.parquet")
    small_dataset.rewrite(
        folder, "train", small_dataset.replaced(table, "n_frames", nothing(table))
    )
    pairs = TrajectoryPairs(folder, crop=CROP)
    item = pairs[next(iter(TrajectorySampler(pairs)))]
    assert item["n_frames"] == item["timestep"] == UNKNOWN


@pytest.mark.parametrize(
    ("options", "says", "cure"),
    [
        ({"split": "validation"}, "no pair in split validation", "one of these as `split`"),
        ({"crop": 40}, "12 images are smaller than the crop of 40", "crop=36 or less"),
        ({"points": 4, "crop": CROP}, "no trajectory has 4 points", "fewer points"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_training(folder, options, says, cure):
    with pytest.raises(DataError) as refused:
        TrajectoryPairs(folder, **options)
    assert says in str(refused.value)
    assert cure in str(refused.value)


def test_trajectories_with_too_few_points_are_left_out_and_counted(tmp_path):
    rewritten(tmp_path)
    table = pq.read_table(tmp_path / "train/metadata.parquet")
    short = table.slice(2)  # without n = 7 and 9 of the first trajectory
    backward = [[1], *short["backward_n_frames"].to_pylist()[1:]]
    small_dataset.rewrite(
        tmp_path, "train", small_dataset.replaced(short, "backward_n_frames", backward)
    )
    pairs = TrajectoryPairs(tmp_path, crop=CROP, points=3)
    assert (len(pairs), pairs.left_out) == (3, 1)


def test_an_image_of_another_size_is_named(tmp_path):
    pairs = TrajectoryPairs(
        rewritten(tmp_path, height=lambda table: [30] * table.num_rows), crop=CROP
    )
    with pytest.raises(ImageError, match="48 x 36, its manifest says 48 x 30"):
        pairs[0]


def test_weights_that_leave_nothing_are_refused(pairs):
    with pytest.raises(DataError, match="nothing to draw"):
        TrajectorySampler(pairs, weights={7: 0, 9: 0, 11: 0})
