"""Sets at the edge of what there is: one pair, none, no n, odd names, 100,000 rows, read-only."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_dataset

UNKNOWN = ("n_frames", "timestep", "native_n_frames", "first_index", "center_index", "motion_px")


def rewritten(folder, change):
    for split in ("train", "test"):
        if (path := folder / split / "metadata.parquet").exists():
            small_dataset.rewrite(folder, split, change(pq.read_table(path)))
    return folder


def without_n(table):
    for column in UNKNOWN:
        table = small_dataset.replaced(table, column, [None] * table.num_rows)
    return small_dataset.replaced(table, "backward_n_frames", [[]] * table.num_rows)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    home = tmp_path_factory.mktemp("odd")
    one = {"train": ("a_11_00",)}
    small_dataset.make(home / "one", clips=one, trajectories=1, n_frames=(7,))
    rewritten(small_dataset.make(home / "no n", n_frames=(7,)), without_n)
    small_dataset.make(home / "my 'own' \"set\"", clips={"train": ("clip 'a' \"b\"",)})
    empty = rewritten(small_dataset.make(home / "empty"), lambda table: table.slice(0, 0))
    for image in empty.rglob("*.png"):
        image.unlink()
    return home


NAMES = ["one", "no n", "my 'own' \"set\"", "empty"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "words", [("stats",), ("verify", "--level", "full"), ("report",)], ids=" ".join
)
def test_odd_set_is_counted_verified_and_shown(sets, tmp_path, in_process, name, words):
    further = ("--out", tmp_path / "page.html") if words == ("report",) else ()
    done = in_process(*words, sets / name, *further)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.parametrize("target", ["hf", "webdataset", "lmdb", "folders"])
def test_odd_set_is_exported(sets, tmp_path, in_process, name, target):
    done = in_process("export", sets / name, "--to", target, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [("export", "--to", "hf"), ("export", "--to", "webdataset"), ("export", "--to", "lmdb"),
     ("export", "--to", "folders"), ("select", "--where", "n_frames >= 7"), ("split",)],
    ids=" ".join,
)  # fmt: skip
def test_empty_set_is_refused_in_three_parts(sets, tmp_path, in_process, words):
    done = in_process(words[0], sets / "empty", *words[1:], "--out", tmp_path / "out")
    assert done.returncode in (1, 2)
    assert "no pairs" in done.stderr or "no row" in done.stderr
    assert "where:" in done.stderr
    assert "cure:" in done.stderr
    assert not (tmp_path / "out").exists()


def test_condition_on_a_column_without_values_says_so(sets, tmp_path, in_process):
    done = in_process("select", sets / "no n", "--where", "n_frames >= 7", "--out", tmp_path / "o")
    assert "n_frames is null in all rows" in done.stderr


def test_limit_on_motion_that_is_unknown_says_so(sets, tmp_path, in_process):
    for option, column in (("--min-motion", "motion_px"), ("--max-step", "step_px")):
        done = in_process("select", sets / "no n", option, "2", "--out", tmp_path / "o")
        assert f"cure:  {column} is null in all rows" in done.stderr


def test_largest_step_is_that_of_its_column(tmp_path, in_process):
    def with_steps(table):
        steps = [None if n == 11 else float(n) for n in table["n_frames"].to_pylist()]
        return small_dataset.replaced(table, "step_px", steps)

    folder = rewritten(small_dataset.make(tmp_path / "set"), with_steps)
    done = in_process("select", folder, "--max-step", "8")
    assert {line[-3:] for line in done.stdout.split()} == {"n07"}
    assert "left out by max_step: 12 pairs" in done.stderr


def test_pair_without_n_is_explained(sets, in_process):
    done = in_process("explain", sets / "no n", "GOPR0001_11_00/000001/n07")
    assert done.stdout.startswith("GOPR0001_11_00/000001/n07: n = unknown, t = unknown")


def test_split_by_trajectory_does_not_advise_itself(sets, tmp_path, in_process):
    done = in_process("split", sets / "one", "--by", "trajectory", "--out", tmp_path / "out")
    assert "cure:  ask for fewer parts with --into\n" in done.stderr


def test_report_into_a_read_only_folder_names_out(sets, permissions_hold, tmp_path, in_process):
    folder = small_dataset.make(tmp_path / "set")
    os.chmod(folder, 0o555)
    try:
        done = in_process("report", folder)
    finally:
        os.chmod(folder, 0o755)
    assert done.returncode == 1
    assert "cure:  give --out FILE in a folder that you may write to" in done.stderr


def test_hundred_thousand_pairs_are_counted_selected_and_split_without_files(tmp_path, in_process):
    folder = small_dataset.make(tmp_path / "set", clips={"train": ("a_11_00",)}, trajectories=1)
    table = pq.read_table(folder / "train/metadata.parquet")
    count = 100_000 // table.num_rows + 1
    large = pa.concat_tables([table] * count)
    numbers = [f"a_11_00/{k:06d}" for k in range(count) for _ in range(table.num_rows)]
    ids = [
        f"{name}/n{n:02d}" for name, n in zip(numbers, large["n_frames"].to_pylist(), strict=True)
    ]
    large = small_dataset.replaced(large, "trajectory_id", numbers)
    small_dataset.rewrite(folder, "train", small_dataset.replaced(large, "sample_id", ids))
    assert in_process("stats", folder).stdout.split("total")[1].split()[0] == f"{len(ids):,}"
    done = in_process("select", folder, "--where", "n_frames == 7", "--sample", "50000")
    assert "there are only 33,334 such pairs" in done.stderr
    out = tmp_path / "out"
    words = ("--by", "trajectory", "--files", "none", "--out", out)
    done = in_process("split", folder, *words)
    assert done.returncode == 0, done.stderr
    assert sum(pq.read_metadata(f).num_rows for f in out.glob("*/metadata.parquet")) == len(ids)
