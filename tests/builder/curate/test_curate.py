"""select, split and merge give working data sets; stats and diff tell the truth about them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import small_dataset
from gopro_tree import PACKAGE, trajbuild
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectory_builder import manifest, verify
from trajectory_builder.curate import condition, derive, diff, merge, select, split, stats, table
from trajectory_builder.curate.select import Criteria
from trajectory_builder.errors import BuildError, DataError, ManifestError, OutputError, UserError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("curate") / "set")


def sound(folder, **kwargs):
    report = verify.verify_folder(folder, "full", **kwargs)
    assert [finding.what for finding in report.findings] == []
    return manifest.read(folder, **kwargs)


def ids(folder):
    return manifest.read(folder, allow_links=True).table["sample_id"].to_pylist()


def test_selected_set_passes_verify_to_the_last_hash(dataset, tmp_path):
    select.select([dataset], tmp_path / "out", Criteria(where="n_frames != 9"))
    assert len(sound(tmp_path / "out")) == 12


def test_deep_verify_of_a_selected_set_names_the_original_build(dataset, tmp_path):
    select.select([dataset], tmp_path / "out", Criteria(where="n_frames == 9"))
    with pytest.raises(BuildError, match="made by select") as caught:
        verify.verify_folder(tmp_path / "out", "deep")
    assert "made from set" in caught.value.where
    assert "trajbuild verify set --level deep" in caught.value.cure


def test_deep_verify_of_a_merged_set_names_each_original_build(dataset, tmp_path):
    again = shutil.copytree(dataset, tmp_path / "again")
    merge.merge([dataset, again], tmp_path / "out", clashes="prefix")
    with pytest.raises(BuildError, match="made by merge") as caught:
        verify.verify_folder(tmp_path / "out", "deep")
    assert "made from again, set" in caught.value.where
    assert "on each of the original builds" in caught.value.cure


def test_deep_verify_of_a_split_set_names_the_original_build(dataset, tmp_path):
    split.split([dataset], tmp_path / "out", {"train": 0.5, "validation": 0.5}, by="trajectory")
    with pytest.raises(BuildError, match="made by split") as caught:
        verify.verify_folder(tmp_path / "out", "deep")
    assert "made from set" in caught.value.where


def test_deep_verify_counts_what_no_frames_can_give_again(dataset, tmp_path):
    select.select([dataset], tmp_path / "out", Criteria(where="origin == 'official'"))
    report = verify.verify_folder(tmp_path / "out", "deep")
    assert (report.findings, report.rebuilt) == ((), 0)
    assert report.rows > 0


def test_dropped_point_leaves_no_trace_in_backward_points(dataset, tmp_path):
    select.select([dataset], tmp_path / "out", Criteria(where="n_frames != 9"))
    found = {row["n_frames"]: row["backward_n_frames"] for row in sound(tmp_path / "out").rows()}
    assert found == {7: [1], 11: [1, 7]}


@pytest.mark.parametrize("mode", ["hardlink", "reference", "copy"])
def test_each_way_of_taking_files_over_verifies(dataset, tmp_path, mode):
    select.select([dataset], tmp_path / "out", Criteria(sample=4), files=mode)
    sound(tmp_path / "out", allow_links=mode == "reference")


def test_referenced_set_is_refused_without_allow_links(dataset, tmp_path):
    select.select([dataset], tmp_path / "out", Criteria(sample=2), files="reference")
    report = verify.verify_folder(tmp_path / "out")
    assert {finding.reason for finding in report.findings} == {"link-outside"}


def test_hardlinked_set_survives_the_removal_of_its_source(tmp_path):
    source = small_dataset.make(tmp_path / "source")
    select.select([source], tmp_path / "out", Criteria())
    os.rename(source, tmp_path / "elsewhere")
    sound(tmp_path / "out")


def test_link_out_of_the_source_is_not_followed(tmp_path):
    source = small_dataset.make(tmp_path / "source")
    victim = next((source / "train/blur").rglob("*.png"))
    secret = tmp_path / "secret.png"
    victim.rename(secret)
    victim.symlink_to(secret)
    with pytest.raises(ManifestError, match="link out of its folder"):
        select.select([source], tmp_path / "out", Criteria())
    assert not (tmp_path / "out").exists()


def test_failed_select_leaves_nothing_behind(tmp_path):
    source = small_dataset.make(tmp_path / "source")
    next((source / "train/blur").rglob("*.png")).unlink()
    with pytest.raises(ManifestError, match="is not there"):
        select.select([source], tmp_path / "out", Criteria())
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_existing_folder_is_never_written_into(dataset, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        select.select([dataset], tmp_path, Criteria())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_leftover_of_a_killed_run_is_replaced(dataset, tmp_path):
    (tmp_path / ".tmp-out/train").mkdir(parents=True)
    (tmp_path / ".tmp-out/train/rubbish.png").write_bytes(b"x")
    select.select([dataset], tmp_path / "out", Criteria())
    sound(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_card_and_record_name_the_manifests_derived_from(dataset, tmp_path):
    select.select([dataset], tmp_path / "out", Criteria(where="n_frames == 7"))
    build = json.loads((tmp_path / "out/build.json").read_text())
    digest = json.loads((dataset / "build.json").read_text())["manifests"]["train/metadata.parquet"]
    assert build["derived_from"][0]["sha256"] == digest["sha256"]
    card = (tmp_path / "out/README.md").read_text()
    assert digest["sha256"] in card
    assert "| train | 7 | 120 | 4 | 4 |" in card
    assert card.startswith("---\nlicense: cc-by-4.0\n")


def test_streamed_manifest_has_the_bytes_of_a_written_one(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "ROWS_A_GROUP", 5)  # several groups without a large set
    source = small_dataset.make(tmp_path / "source")
    select.select([source], tmp_path / "out", Criteria(where="n_frames > 7"))
    path = tmp_path / "out/train/metadata.parquet"
    found = manifest.read(path)
    found.metadata.pop("format_version")
    assert manifest.to_bytes(found.table, found.metadata) == path.read_bytes()


def test_sample_hangs_on_identity_not_on_order(dataset, tmp_path):
    table = manifest.read(dataset / "train").table
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(len(table))))
    other = small_dataset.make(tmp_path / "other")
    small_dataset.rewrite(other, "train", shuffled)
    criteria = Criteria(sample=7, seed=5)
    chosen = [set(select.choose([s], criteria).sample_ids()) for s in (dataset, other)]
    assert chosen[0] == chosen[1]


def test_another_seed_samples_other_pairs(dataset):
    first = select.choose([dataset], Criteria(sample=6, seed=1)).sample_ids()
    assert first != select.choose([dataset], Criteria(sample=6, seed=2)).sample_ids()


def test_smaller_sample_is_part_of_a_larger_one(dataset):
    few = select.choose([dataset], Criteria(sample=3)).sample_ids()
    assert set(few) < set(select.choose([dataset], Criteria(sample=9)).sample_ids())


def test_no_trajectory_keeps_more_than_its_limit(dataset):
    kept = select.choose([dataset], Criteria(max_per_trajectory=2)).sample_ids()
    assert set(Counter(name.rsplit("/", 1)[0] for name in kept).values()) == {2}


def test_balance_cuts_each_n_to_the_rarest_of_its_split(dataset):
    criteria = Criteria(where='n_frames != 7 or clip_id == "GOPR0001_11_00"', balance="n_frames")
    choice = select.choose([dataset], criteria)
    counts = Counter(zip(choice.kept["split"], choice.kept["n_frames"], strict=True))
    assert {n: c for (name, n), c in counts.items() if name == "train"} == {7: 2, 9: 2, 11: 2}


def test_pairs_of_unknown_motion_do_not_pass_a_motion_limit(tmp_path):
    source = small_dataset.make(tmp_path / "set")
    table = manifest.read(source / "train").table
    motion = [None, *table["motion_px"].to_pylist()[1:]]
    small_dataset.rewrite(source, "train", small_dataset.replaced(table, "motion_px", motion))
    choice = select.choose([source / "train"], Criteria(min_motion=0))
    assert choice.dropped == {"min_motion": 1}


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ("n_frames >= 9", 12),
        ("n_frames in [7, 11] and split == 'train'", 8),
        ("not (n_frames == 7) or False == True", 12),
        ("7 < n_frames <= 11", 12),
        ("clip_id.str.startswith('GOPR0001')", 6),
        ("clip_id.str.match('GOPR000[12]') & (len(backward_n_frames) == 3)", 4),
        ("clip_id.str.contains('gopr', case=False) and ~clip_id.str.endswith('0')", 0),
        ("n_frames > 7 & split == 'train' | n_frames == 7 & split == 'test'", 10),
        ("n_frames.between(9, 11) and n_frames.isin([7, 9])", 6),
        ("backward_n_frames.list.len() == 1 and motion_px.abs() > -1", 6),
        ("blur_pixel_sha256.isna()", 6),
        ("blur_pixel_sha256.notna()", 12),
        ("timestep / 20 + 1 == n_frames", 18),
        ("motion_px > -1.5", 18),
        ("clip_id not in ['GOPR0003_11_00']", 12),
    ],
)
def test_condition_chooses_what_plain_python_would(dataset, condition, count):
    assert len(select.choose([dataset], Criteria(where=condition)).sample_ids()) == count


@pytest.mark.parametrize(
    "condition",
    [
        "__import__('os').system('touch hacked')",
        "open('hacked', 'w') == 1",
        "n_frames.__class__ == 1",
        "(lambda: 1)() == 1",
        "[x for x in (1,)] == 1",
        "clip_id.str.startswith(__file__)",
        "clip_id.str.replace('a', 'b') == 'a'",
        "clip_id.to_csv('hacked').isna()",
        "clip_id.map(print).isna()",
        "@__builtins__ == 1",
        "@pd.read_pickle('hacked') == 1",
        "n_frames.isin(**{'values': [7]})",
        "n_frames ** 99 == 1",
        "True",
        "f'{n_frames}' == '7'",
        "(n_frames := 3) == 3",
        "clip_id",
        "n_frames",
        "n_frames ==",
        "'a' * 99999999 == clip",
        "n_framez == 7",
        "n_frames > 'a'",
        "clip_id.str.match('[')",
        "(" * 5000 + "n_frames" + ")" * 5000 + " == 1",
        "not " * 3000 + "n_frames == 1",
        "",
    ][:-1],
)
def test_hostile_or_wrong_condition_is_refused_and_never_run(dataset, tmp_path, condition):
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(DataError) as caught:
            select.choose([dataset], Criteria(where=condition))
    finally:
        os.chdir(before)
    assert caught.value.cure
    assert list(tmp_path.iterdir()) == []


def test_condition_that_leaves_nothing_is_named_with_its_count(dataset, tmp_path, in_process):
    done = in_process("select", dataset, "--where", "n_frames > 99", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "where: the condition n_frames > 99 leaves out all 18 rows" in done.stderr


WORDS = (
    *("n_frames", "clip_id", "split", "==", "=", "<", "7", "'a'", "(", ")", "[", "]", "and", "&"),
    *("|", "~", "not", "in", "is", "None", "len", "abs", ",", "*", "-", "1e999", "lambda", ":"),
    *(".str", ".isna()", ".contains"),
)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("split = 'train'", "split == 'train'"),
        ("n_frames >= 9 AND split = 'train'", "n_frames >= 9 and split == 'train'"),
        ("clip_id LIKE 'GOPR03%'", "clip_id.str.startswith('GOPR03')"),
        ("clip_id like '%03%'", "clip_id.str.contains('03')"),
        ("starts_with(clip_id, 'GOPR03')", "clip_id.str.startswith('GOPR03')"),
        ("clip_id.contains('_11_')", "clip_id.str.contains('_11_')"),
        ("n_frames BETWEEN 7 AND 9", "n_frames.between(7, 9)"),
        ("motion_px IS NOT NULL OR n_frames <> 7", "motion_px.notna() or n_frames != 7"),
        ("n_frames is None", "n_frames.isna()"),
        (
            "n_frames IN [7, 9] && !(split == 'test')",
            "n_frames in [7, 9] and not (split == 'test')",
        ),
    ],
)
def test_condition_in_the_words_of_sql_is_shown_as_a_query(dataset, written, meant):
    with pytest.raises(DataError) as caught:
        select.choose([dataset], Criteria(where=written))
    assert caught.value.cure == f"write: {meant}"
    select.choose([dataset], Criteria(where=meant))


def test_text_without_quotes_is_shown_in_quotes(dataset):
    with pytest.raises(DataError, match="for text write 'train' in quotes"):
        select.choose([dataset], Criteria(where="split == train"))


def test_column_that_is_almost_right_is_named(dataset):
    with pytest.raises(DataError, match="did you mean clip_id"):
        select.choose([dataset], Criteria(where="clip == 'a'"))


def test_condition_on_a_value_that_no_row_has_lists_those_that_exist(dataset, in_process):
    done = in_process("select", dataset, "--where", "split == 'val' or n_frames in [8, 7, 5]")
    assert "note: no row has split == 'val'; it has train, test" not in done.stderr
    done = in_process("select", dataset, "--where", "split == 'val' or n_frames in [8]")
    assert "note: no row has split == 'val'; it has train, test" in done.stderr
    assert "no row has n_frames == 8; it has 7, 9, 11" in done.stderr


def test_checked_condition_reads_the_columns_that_it_names(dataset):
    schema = table.schema_of([dataset])
    assert condition.parse("n_frames > 7 & split == 'a'", schema).columns == {"n_frames", "split"}


def test_manifest_as_a_frame_answers_the_same_query(dataset):
    frame = manifest.read(dataset).to_pandas()
    where = "n_frames >= 9 and clip_id.str.startswith('GOPR0001')"
    expected = select.choose([dataset], Criteria(where=where)).sample_ids()
    assert frame.query(where)["sample_id"].tolist() == expected


def test_selection_from_several_row_groups_verifies(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "ROWS_A_GROUP", 3)
    source = small_dataset.make(tmp_path / "grouped")
    select.select([source], tmp_path / "out", Criteria(where='clip_id == "GOPR0002_11_00"'))
    assert len(sound(tmp_path / "out")) == 6


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9))
def test_any_text_is_a_condition_or_a_named_error(dataset, words):
    with contextlib.suppress(DataError):
        select.choose([dataset / "test"], Criteria(where=" ".join(words)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 3, 5, 7])), max_size=20))
def test_backward_points_equal_those_of_a_plain_loop(pairs):
    expected = [
        [] if n == 1 else [1, *sorted({m for other, m in pairs if other == t and 1 < m < n})]
        for t, n in pairs
    ]
    frame = pd.DataFrame(
        {
            "split": pd.array(["train" for _ in pairs], "string"),
            "trajectory_id": pd.array([str(t) for t, _ in pairs], "string"),
            "n_frames": pd.array([n or None for _, n in pairs], "Int16"),
        }
    )
    assert table.backward_points(frame).to_pylist() == expected


@pytest.mark.parametrize("by", ["clip", "trajectory"])
def test_split_never_cuts_what_belongs_together(tmp_path, by):
    names = tuple(f"GOPR{i:04d}_11_00" for i in range(8))
    source = small_dataset.make(tmp_path / "set", clips={"train": names, "test": ("GOPR9_11_00",)})
    split.split([source], tmp_path / "out", {"train": 3, "validation": 1}, by=by)
    table = sound(tmp_path / "out").table
    groups = table.group_by(split.GROUPINGS[by]).aggregate([("split", "count_distinct")])
    assert pc.max(groups["split_count_distinct"]).as_py() == 1
    assert Counter(table["split"].to_pylist()) == {"train": 36, "validation": 12, "test": 6}


def test_splits_that_are_not_dealt_out_stay_as_they_were(dataset, tmp_path):
    split.split([dataset], tmp_path / "out", {"train": 0.5, "validation": 0.5})
    before = set(manifest.read(dataset / "test").table["sample_id"].to_pylist())
    assert set(ids(tmp_path / "out/test")) == before


def test_split_is_stratified_by_n():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 6)
    classes = random.choice(4, size=1200, p=[0.5, 0.3, 0.15, 0.05])
    parts = split.deal(
        groups, classes, [0.8, 0.2], random.integers(0, 2**60, 200).astype(np.uint64)
    )
    for n in range(4):
        share = (parts[groups[classes == n]] == 1).mean()
        assert abs(share - 0.2) < 0.02


def test_split_by_another_seed_deals_out_otherwise(tmp_path):
    names = tuple(f"GOPR{i:04d}_11_00" for i in range(6))
    source = small_dataset.make(tmp_path / "set", clips={"train": names}, trajectories=1)
    found = set()
    for seed in range(4):
        out = tmp_path / f"out{seed}"
        split.split([source], out, {"train": 2, "validation": 1}, seed=seed)
        found.add(tuple(ids(out / "validation")))
    assert len(found) > 1


def test_split_into_more_parts_than_clips_is_refused(dataset, tmp_path):
    shares = {"train": 1, "validation": 1, "test": 1}
    with pytest.raises(DataError, match="2 groups of clip_id cannot fill 3 parts"):
        split.split([dataset], tmp_path / "out", shares)


def test_merge_keeps_splits_and_rows(dataset, tmp_path):
    more = small_dataset.make(tmp_path / "more", clips={"validation": ("GOPR0007_11_00",)})
    merge.merge([dataset, more], tmp_path / "out")
    table = sound(tmp_path / "out").table
    assert Counter(table["split"].to_pylist()) == {"train": 12, "test": 6, "validation": 6}


def test_clashing_ids_are_named_before_anything_is_written(dataset, tmp_path):
    other = small_dataset.make(tmp_path / "other", seed=1)
    with pytest.raises(DataError) as caught:
        merge.merge([dataset, other], tmp_path / "out")
    assert "GOPR0001_11_00/000001/n07" in caught.value.where
    assert "--clashes prefix" in caught.value.cure
    assert not (tmp_path / "out").exists()


def test_prefix_makes_clashing_sets_one_that_verifies(dataset, tmp_path):
    other = small_dataset.make(tmp_path / "other", seed=1)
    merge.merge([dataset, other], tmp_path / "out", clashes="prefix")
    found = sound(tmp_path / "out")
    assert len(found) == 36
    assert "other-GOPR0001_11_00" in found.table["clip_id"].to_pylist()


def test_equal_pairs_are_taken_once_and_join_their_trajectory(dataset, tmp_path):
    for name, where in (("low", "n_frames < 11"), ("high", "n_frames > 7")):
        select.select([dataset], tmp_path / name, Criteria(where=where))
    merge.merge([tmp_path / "low", tmp_path / "high"], tmp_path / "out", clashes="same")
    found = {r["n_frames"]: r["backward_n_frames"] for r in sound(tmp_path / "out").rows()}
    assert found == {7: [1], 9: [1, 7], 11: [1, 7, 9]}


def test_pairs_of_one_name_with_other_files_are_not_the_same(dataset, tmp_path):
    other = small_dataset.make(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match="with other files"):
        merge.merge([dataset, other], tmp_path / "out", clashes="same")


def test_trajectory_trained_on_here_and_tested_on_there_is_refused(tmp_path):
    clip = "GOPR0001_11_00"
    low = small_dataset.make(tmp_path / "a", clips={"train": (clip,)}, n_frames=(11,))
    high = small_dataset.make(tmp_path / "b", clips={"test": (clip,)}, n_frames=(9, 11))
    select.select([high], tmp_path / "nine", Criteria(where="n_frames == 9"))
    with pytest.raises(DataError, match="different splits"):
        merge.merge([low, tmp_path / "nine"], tmp_path / "out")


def test_sets_that_count_timesteps_differently_are_not_merged(dataset, tmp_path):
    other = small_dataset.make(tmp_path / "other", clips={"train": ("X",)}, trajectories=1)
    table = manifest.read(other / "train").table
    halved = small_dataset.replaced(
        table, "timestep", [t // 2 for t in table["timestep"].to_pylist()]
    )
    small_dataset.rewrite(other, "train", halved, timestep_step="10")
    with pytest.raises(DataError, match="count timesteps differently"):
        merge.merge([dataset, other], tmp_path / "out")


def test_diff_of_a_set_with_itself_ends_with_0(dataset, in_process):
    done = in_process("diff", dataset, dataset)
    assert done.returncode == 0, done.stderr


def test_diff_names_added_removed_and_changed_rows(dataset, tmp_path):
    table = manifest.read(dataset).table
    changed = table.slice(0, 17)
    changed = small_dataset.replaced(
        changed, "motion_px", [99.0, *changed["motion_px"].to_pylist()[1:]]
    )
    paths = [tmp_path / "old.parquet", tmp_path / "new.parquet"]
    manifest.write(table, paths[0], {})
    manifest.write(changed, paths[1], {})
    found = diff.diff(*paths)
    last = table["sample_id"][17].as_py()
    assert (found.added, found.removed) == ([], [last])
    assert found.changed == {table["sample_id"][0].as_py(): ["motion_px"]}
    assert diff.diff(paths[1], paths[0]).added == [last]
    assert found.bytes_removed == table["blur_bytes"][17].as_py()


def test_diff_finds_that_only_the_order_differs(dataset, tmp_path):
    table = manifest.read(dataset).table
    paths = [tmp_path / "old.parquet", tmp_path / "new.parquet"]
    manifest.write(table, paths[0], {})
    manifest.write(table.take(pa.array([1, 0, *range(2, 18)])), paths[1], {})
    found = diff.diff(*paths)
    assert found.reordered
    assert not found.changed


def test_diff_ends_with_3_and_prints_one_json_object(dataset, tmp_path, in_process):
    select.select([dataset], tmp_path / "out", Criteria(where="n_frames > 7"))
    done = in_process("diff", dataset, tmp_path / "out", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["counts"] == {"added": 0, "removed": 6, "changed": 12}


def test_stats_agree_with_a_count_in_plain_python(dataset):
    counted = stats.stats([dataset], ["clip_id", "n_frames"])
    listed = list(manifest.read(dataset).rows())
    pairs = Counter((row["clip_id"], row["n_frames"]) for row in listed)
    counts = zip(counted.table["clip_id"], counted.table["n_frames"], strict=True)
    assert dict(zip(counts, counted.table["pairs"], strict=True)) == dict(pairs)
    files = {(r["split"], r["blur_file_name"]): r["blur_bytes"] for r in listed}
    files |= {(r["split"], r["sharp_file_name"]): r["sharp_bytes"] for r in listed}
    assert counted.total["bytes"].item() == sum(files.values())
    assert counted.total["trajectories"].item() == 6


def test_tools_take_a_set_without_rows(tmp_path):
    source = small_dataset.make(tmp_path / "set", clips={"train": ("a",)}, trajectories=1)
    small_dataset.rewrite(source, "train", manifest.read(source).table.slice(0, 0))
    assert stats.stats([source]).as_data()["total"]["pairs"] == 0
    assert not diff.diff(source, source).differs
    wanted = Criteria("split == 'a'", max_per_trajectory=1, balance="n_frames", sample=3)
    assert select.choose([source], wanted).sample_ids() == []


def test_stats_by_an_unknown_column_lists_the_columns(dataset, in_process):
    done = in_process("stats", dataset, "--by", "colour")
    assert done.returncode == 2
    assert "n_frames" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_stats_draw_a_picture_that_is_not_blank(dataset, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot{suffix}"
    stats.plot(stats.stats([dataset]), path)
    if suffix == ".svg":
        assert path.read_text().count("<path") > 6
    else:
        import cv2

        assert cv2.imread(str(path)).std() > 1


def test_missing_matplotlib_is_told_with_its_cure(dataset, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('absent')\n")
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGE.parent}"}
    done = trajbuild("stats", dataset, "--plot", tmp_path / "a.png", env=environment)
    assert done.returncode == 1
    assert "pip install 'fidediff[export]'" in done.stderr


def test_select_without_out_prints_one_id_a_line(dataset, in_process):
    done = in_process("select", dataset, "--where", "n_frames == 9 and split == 'test'")
    assert done.stdout.splitlines() == ["GOPR0003_11_00/000001/n09", "GOPR0003_11_00/000012/n09"]


def test_damaged_manifest_is_refused_by_every_tool(tmp_path, in_process):
    source = small_dataset.make(tmp_path / "set")
    path = source / "train/metadata.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    for name in ("stats", "select"):
        done = in_process(name, source)
        assert done.returncode == 1
        assert "differs from the one that the build wrote" in done.stderr


def test_further_columns_travel_with_their_rows(tmp_path):
    source = small_dataset.make(tmp_path / "set")
    table = manifest.read(source / "train").table
    small_dataset.rewrite(source, "train", table.append_column("gain", pa.array(range(12))))
    select.select([source], tmp_path / "out", Criteria(where="gain >= 6"))
    assert sound(tmp_path / "out").table["gain"].to_pylist() == [6, 7, 8, 9, 10, 11]


def test_derived_ids_that_stand_twice_are_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="would occur twice"):
        select.select([dataset, dataset], tmp_path / "out", Criteria())


def test_second_writer_of_one_folder_is_refused(dataset, tmp_path):
    from trajectory_builder.curate.links import fresh_folder

    with fresh_folder(tmp_path / "out"), pytest.raises(OutputError, match="another trajbuild"):
        select.select([dataset], tmp_path / "out", Criteria())


def test_path_columns_are_those_that_name_files():
    schema = pa.schema([("blur_file_name", pa.string()), ("clip_id", pa.string())])
    assert derive.path_columns(schema) == ["blur_file_name"]
