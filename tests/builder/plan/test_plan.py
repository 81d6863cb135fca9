"""The plan of the whole set, from names alone: every count that is known of it."""

import json
import random
import shutil
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gopro_tree import PACKAGE, SMALL_PAIRS, published, three_parts, trajbuild, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectory_builder.errors import UsageError
from trajectory_builder.plan import gopro, recipe

COMMITTED = PACKAGE.parent / "manifests" / "gopro_fidediff_7877.parquet"


def make(source, name=recipe.DEFAULT, **options):
    return gopro.plan_gopro(source, recipe.load_recipe(name), **options)


@pytest.fixture(scope="module")
def whole(real_names):
    return make(real_names.pairs)


@pytest.fixture(scope="module")
def rows(whole):
    return whole.table.to_pylist()


def test_default_recipe_gives_7877_training_pairs(whole):
    assert whole.counts()["train"]["pairs"] == 7877


def test_default_recipe_gives_the_known_pairs_per_n(whole):
    per_n = {"5": 1817, "7": 2100, "9": 1922, "11": 1928, "13": 110}
    assert whole.counts()["train"]["per_n"] == per_n


def test_default_recipe_averages_5774_windows(whole):
    assert whole.counts()["train"]["averaged"] == 5774


def test_test_split_stays_official_unless_asked(whole):
    assert whole.counts()["test"] == {
        "pairs": 1111, "averaged": 0, "trajectories": 1111, "per_n": {"11": 1111}
    }  # fmt: skip


def test_expanded_test_split_has_4441_pairs(real_names):
    assert make(real_names.pairs, expand_test=True).counts()["test"]["pairs"] == 4441


def test_frames_alone_give_7866_training_pairs(real_names):
    assert make(real_names.frames).counts()["train"]["pairs"] == 7866


def test_frames_alone_average_every_pair(real_names):
    counts = make(real_names.frames).counts()["train"]
    assert counts["averaged"] == counts["pairs"]


def test_frames_alone_name_the_14_blurs_that_cannot_be_rebuilt(real_names, whole):
    lost = {p.sample_id for p in make(real_names.frames).problems}
    assert lost == set(whole.truncated())


def test_official_recipe_gives_the_2103_published_pairs(real_names):
    assert make(real_names.pairs, "official").counts()["train"]["per_n"] == {
        "7": 175, "11": 1818, "13": 110
    }  # fmt: skip


@pytest.mark.parametrize("name", ["fidediff-7877", "official"])
@pytest.mark.parametrize("key", ["both", "frames_only"])
def test_recipe_file_states_the_counts_that_it_gives(real_names, name, key):
    source = real_names.pairs if key == "both" else real_names.frames
    assert make(source, name).counts()["train"]["pairs"] == recipe.load_recipe(name).counts[key]


def test_supplement_gives_about_5900_pairs(real_names):
    # "About 5,900 pairs without identity points"; with our seed 5,902.
    assert make(real_names.pairs, "fidediff-supplement").counts()["train"]["pairs"] == 5902


def test_full_trajectory_holds_every_odd_window_that_fits(real_names, rows):
    found = make(real_names.pairs, "full-trajectory")
    per_n = found.counts()["train"]["per_n"]
    # 3 frames fit round every centre; what 7,877 has at 5 is without the 285 trajectories of
    # 7 and 13 frames, all of which have room.
    assert per_n == {"3": 2103, "5": 2102, "7": 2100, "9": 1922, "11": 1928, "13": 110}


def test_14_truncated_pairs_are_named(whole):
    numbers = {
        f"{row['sequence']}/{row['first_pair_number']:06d}/n{row['frames_per_blur']:02d}"
        for row in published()
        if row["shift"] > 0
    }
    assert len(numbers) == 14
    assert set(whole.truncated()) == numbers


def test_ten_windows_of_truncated_pairs_are_skipped(whole):
    assert len(whole.skipped) == 10
    early = {name.rsplit("/", 1)[0] for name in whole.truncated()}
    assert {name.rsplit("/", 1)[0] for name in whole.skipped} <= early


def test_one_pass_decodes_17549_frames(rows):
    averaged = [row for row in rows if not row["blur_source"]]
    assert len({name for row in averaged for name in row["frame_names"]}) == 17549


def test_reading_every_window_anew_would_decode_41068_frames(rows):
    assert sum(len(r["frame_names"]) for r in rows if not r["blur_source"]) == 41068


def test_sample_ids_are_unique(rows):
    assert len({row["sample_id"] for row in rows}) == len(rows) == 7877 + 1111


def test_no_two_pairs_write_the_same_file(rows):
    files = {(row["split"], row["blur_file_name"]) for row in rows}
    assert len(files) == len(rows)


def test_timestep_is_twenty_times_the_further_frames(rows):
    assert {(row["n_frames"], row["timestep"]) for row in rows} == {
        (5, 80), (7, 120), (9, 160), (11, 200), (13, 240)
    }  # fmt: skip


def test_exposure_is_n_frames_at_240_a_second(rows):
    assert all(r["exposure_ms"] == pytest.approx(r["n_frames"] / 0.24, rel=1e-6) for r in rows)


def test_windows_round_one_sharp_frame_share_their_centre(rows):
    centers = {}
    for row in rows:
        centers.setdefault(row["trajectory_id"], set()).add(row["center_index"])
    assert {len(found) for found in centers.values()} == {1}


def test_backward_points_are_the_smaller_windows_of_the_trajectory(rows):
    there = {}
    for row in rows:
        there.setdefault(row["trajectory_id"], set()).add(row["n_frames"])
    for row in rows:
        smaller = sorted(n for n in there[row["trajectory_id"]] if n < row["n_frames"])
        assert row["backward_n_frames"] == [1, *smaller]


def test_every_long_blur_whose_windows_fit_has_four_backward_points(whole, rows):
    cut = {name.rsplit("/", 1)[0] for name in whole.skipped}
    native = [r for r in rows if r["split"] == "train" and r["n_frames"] == r["native_n_frames"]]
    long = [r for r in native if r["n_frames"] >= 11 and r["trajectory_id"] not in cut]
    assert {len(row["backward_n_frames"]) for row in long} == {4}


def test_shorter_window_is_the_middle_of_the_longer(rows):
    longest = {}
    for row in sorted(rows, key=lambda r: -r["n_frames"]):
        if not row["frame_names"]:
            continue
        outer = longest.setdefault(row["trajectory_id"], row["frame_names"])
        cut = (len(outer) - row["n_frames"]) // 2
        assert row["frame_names"] == outer[cut : cut + row["n_frames"]]


def test_center_frame_is_the_middle_of_the_window(rows):
    for row in rows:
        if row["frame_names"]:
            middle = row["frame_names"][row["n_frames"] // 2]
            assert middle.endswith(f"/{row['center_frame']}")


def test_plan_does_not_depend_on_where_the_trees_lie(small_source, own_source):
    first, second = make(small_source.pairs), make(own_source.pairs)
    assert (first.table, first.config_sha256) == (second.table, second.config_sha256)


def test_committed_plan_holds_the_rows_that_the_code_makes(whole):
    assert pq.read_table(COMMITTED, page_checksum_verification=True).equals(whole.table)


def test_committed_plan_has_the_bytes_that_the_command_writes(real_names, tmp_path):
    wrote = pq.read_metadata(COMMITTED).created_by
    if wrote != f"parquet-cpp-arrow version {pa.__version__}":
        pytest.skip(f"the committed file is of {wrote}")
    out = tmp_path / "plan.parquet"
    done = trajbuild("plan", "--src", real_names.pairs, "--out", out)
    assert done.returncode == 0
    assert out.read_bytes() == COMMITTED.read_bytes()


def test_committed_plan_is_smaller_than_600_kilobytes():
    assert COMMITTED.stat().st_size < 600_000


def test_committed_plan_names_its_recipe_and_config(whole):
    told = pq.read_schema(COMMITTED).metadata
    assert told[b"trajbuild.recipe"] == b"fidediff-7877"
    assert told[b"trajbuild.config_sha256"].decode() == whole.config_sha256


def test_plan_prints_counts_with_skipped_and_truncated_pairs(real_names):
    said = trajbuild("plan", "--src", real_names.pairs).stdout
    for text in (
        "train: 7,877 pairs on 2,103 trajectories, 5,774 to average",
        "test: 1,111 pairs", "10 windows of the recipe leave their clip",
        "14 official pairs begin before the first published frame; their blurs are kept as they",
        "GOPR0871_11_01/000181/n11",
    ):  # fmt: skip
        assert text in said


def test_plan_as_json_is_one_object(small_source):
    done = trajbuild("plan", "--src", small_source.pairs, "--json")
    counts = json.loads(done.stdout)["counts"]
    assert {split: entry["pairs"] for split, entry in counts.items()} == SMALL_PAIRS


def test_plan_writes_nothing_into_its_source(own_source):
    before = tree(own_source.pairs.parent)
    assert trajbuild("plan", "--src", own_source.pairs).returncode == 0
    assert tree(own_source.pairs.parent) == before


def test_plan_into_a_missing_folder_is_one_clear_error(small_source, tmp_path):
    out = tmp_path / "none" / "plan.parquet"
    done = trajbuild("plan", "--src", small_source.pairs, "--out", out)
    assert done.returncode == 1
    assert all(three_parts(done.stderr))


def test_pairs_alone_are_enough_for_the_official_recipe(own_source, tmp_path):
    alone = own_source.pairs.rename(tmp_path / "GOPRO_Large")
    assert make(alone, "official").counts()["train"] == {
        "pairs": 16, "averaged": 0, "trajectories": 16, "per_n": {"7": 10, "11": 3, "13": 3}
    }  # fmt: skip


def test_pairs_alone_do_not_do_for_the_default_recipe(own_source, tmp_path):
    alone = own_source.pairs.rename(tmp_path / "GOPRO_Large")
    with pytest.raises(UsageError, match="needs the 240 fps frames"):
        make(alone)


def ids(found):
    return set(found.table["sample_id"].to_pylist())


def test_missing_frame_costs_only_the_windows_that_hold_it(own_source):
    # Frame 323 is rank 0, 7 frames a pair: rank 50 is the second of pair 47 + 7, full trajectory.
    before = ids(make(own_source.pairs, "full-trajectory"))
    (own_source.frames / "train/GOPR9001_07_00/000373.png").unlink()
    after = make(own_source.pairs, "full-trajectory")
    assert before - ids(after) == {"GOPR9001_07_00/000054/n05"}
    assert [(p.reason, p.sample_id) for p in after.problems] == [
        ("frame-missing", "GOPR9001_07_00/000054/n05")
    ]


def test_missing_frame_is_named_as_its_file(own_source):
    (own_source.frames / "train/GOPR9001_07_00/000373.png").unlink()
    problem = make(own_source.pairs, "full-trajectory").problems[0]
    assert problem.file == "train/GOPR9001_07_00/000373.png"


def test_foreign_numbers_with_a_frame_missing_are_not_guessed(own_source):
    # Without its first frame the offset sequence could as well lack its last one.
    (own_source.frames / "train/GOPR9003_13_00/022131.png").unlink()
    found = make(own_source.pairs)
    assert [p.reason for p in found.problems] == ["frames-renumbered"]
    assert {name for name in ids(found) if "9003" in name} == {
        f"GOPR9003_13_00/{number:06d}/n13" for number in (11, 12, 13)
    }


def test_sequence_without_frames_is_one_problem_with_no_skipped_windows(own_source):
    shutil.rmtree(own_source.frames / "train/GOPR9003_13_00")
    found = make(own_source.pairs)
    assert [p.reason for p in found.problems] == ["sequence-missing-in-frames"]
    assert all("9002" in name for name in found.skipped)


SEQUENCE = st.tuples(
    st.integers(1, 7).map(lambda i: 2 * i + 1), st.integers(0, 9), st.integers(1, 5)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SEQUENCE, min_size=1, max_size=4), st.sampled_from(["full-trajectory", "official"]))
def test_plan_of_any_tree_has_unique_nested_rows(sequences, name):
    with tempfile.TemporaryDirectory() as root:
        for index, (n, shift, pairs) in enumerate(sequences):
            folder = Path(root, f"train/GOPR{9000 + index}_{n:02d}_{shift:02d}")
            folder.mkdir(parents=True)
            for number in random.Random(index).sample(range(1, n * pairs + 1), n * pairs):
                (folder / f"{number:06d}.png").touch()
        found = make(Path(root), name)
    rows = found.table.to_pylist()
    ids = [row["sample_id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert Counter(name for r in rows for name in r["frame_names"]).total() == sum(
        row["n_frames"] for row in rows
    )
    by_trajectory = {}
    for row in rows:
        first, n = row["first_index"], row["n_frames"]
        assert first >= 0
        by_trajectory.setdefault(row["trajectory_id"], []).append(set(range(first, first + n)))
    for windows in by_trajectory.values():
        ordered = sorted(windows, key=len)
        assert all(small < large for small, large in pairwise(ordered))
