"""`expand` makes what the plan says: exact means, untouched copies, the same bytes every way."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from gopro_tree import SMALL, SMALL_PAIRS, gamma_mean, load, mean, three_parts, trajbuild, tree

from trajectory_builder import manifest
from trajectory_builder.build import run
from trajectory_builder.build.expand import expand_gopro
from trajectory_builder.cli import main
from trajectory_builder.errors import DataError, ExitCode, OutputError
from trajectory_builder.plan import gopro, recipe
from trajectory_builder.verify import explain

COUNT_OPENS = """
import collections, json, sys
opened = collections.Counter()
def hook(event, args):
    # The reader opens through os.open, which has no mode; the file object on it is a second event.
    if event == "open" and args[1] is None and "GOPRO_Large_all" in str(args[0]):
        opened[str(args[0])] += str(args[0]).endswith(".png")
sys.addaudithook(hook)
from trajectory_builder.cli import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(dict(opened)), file=sys.stderr)
"""


def expand(src, out, *args):
    """The command in a process of its own."""
    return trajbuild("expand", "--src", src, "--out", out, "--jobs", "1", *args)


def expanded(src, out, *, link="copy", expect=ExitCode.DONE, average=None, **options):
    """The same through the public functions, which saves the start of a process."""
    chosen = recipe.load_recipe(str(options.pop("recipe", recipe.DEFAULT)))
    chosen = replace(chosen, average=average or chosen.average)
    planned = gopro.plan_gopro(src, chosen, **options)
    report = run.build_plan(planned, out, run.BuildOptions(link=link, progress=False))
    assert report.exit_code == expect
    return out


def rows_of(out, **wanted):
    rows = manifest.read(out, allow_links=True).table.to_pylist()
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def frames_of(source, row):
    """The frames of a row's window, by its first rank in the sorted folder: Pillow's pixels."""
    folder = source.frames / row["split"] / row["clip_id"]
    files = sorted(folder.glob("*.png"), key=lambda path: int(path.stem))
    first = row["first_index"]
    return [load(path) for path in files[first : first + row["n_frames"]]]


def payload(out):
    return {name: sha for name, sha in tree(out).items() if not name.startswith(".trajbuild")}


def inodes(out):
    found = {}
    for path in out.rglob("*.png"):
        status = path.stat()
        found[path.relative_to(out).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return found


def test_sample_blurs_equal_the_numpy_mean_bit_for_bit(sample_source, tmp_path):
    out = expanded(sample_source.pairs, tmp_path / "out")
    averaged = rows_of(out, origin="averaged")
    assert len(averaged) == 33  # of 59 pairs, 26 official
    for row in averaged:
        expected = mean(frames_of(sample_source, row))
        assert np.array_equal(load(out / row["split"] / row["blur_file_name"]), expected)


def test_averaged_blur_equals_the_numpy_mean_bit_for_bit(small_built, small_source):
    for row in rows_of(small_built, origin="averaged"):
        expected = mean(frames_of(small_source, row))
        assert np.array_equal(load(small_built / row["split"] / row["blur_file_name"]), expected)


def test_rebuilt_official_blur_equals_the_official_one(small_source, tmp_path):
    out = expanded_frames(small_source, tmp_path)
    for row in rows_of(out):
        if row["n_frames"] == row["native_n_frames"]:
            # The offset sequence's numbers are not in its frames, so pairs are told by rank.
            folder = small_source.pairs / row["split"] / row["clip_id"] / "blur"
            rank = row["center_index"] // row["n_frames"]
            official = sorted(folder.iterdir())[rank]
            assert np.array_equal(load(out / row["split"] / row["blur_file_name"]), load(official))


def expanded_frames(source, tmp_path):
    """Expand the frames alone; the truncated pairs cannot be made."""
    return expanded(source.frames, tmp_path / "out", expect=ExitCode.DONE_IN_PART)


def test_frames_alone_make_all_but_the_truncated_pairs(small_source, tmp_path):
    out = expanded_frames(small_source, tmp_path)
    assert {row["origin"] for row in rows_of(out)} == {"averaged"}
    lost = pq.read_table(out / "problems.parquet")["sample_id"].to_pylist()
    assert lost == ["GOPR9002_11_02/000203/n11", "GOPR9004_11_01/000201/n11"]


@pytest.mark.parametrize("kind", ["blur", "sharp"])
def test_official_file_is_taken_over_byte_for_byte(small_built, small_source, kind):
    for row in rows_of(small_built, origin="official"):
        number = row["trajectory_id"].rsplit("/", 1)[1]
        source = small_source.pairs / row["split"] / row["clip_id"] / kind / f"{number}.png"
        copy = small_built / row["split"] / row[f"{kind}_file_name"]
        assert copy.read_bytes() == source.read_bytes()


def test_sharp_is_the_centre_frame_itself(small_built, small_source):
    for row in rows_of(small_built, origin="averaged"):
        middle = frames_of(small_source, row)[row["n_frames"] // 2]
        assert np.array_equal(load(small_built / row["split"] / row["sharp_file_name"]), middle)


@pytest.fixture(scope="module")
def moving(sample_source, tmp_path_factory):
    """Rows of the sample, expanded, by trajectory, ascending in n."""
    rows = rows_of(expanded(sample_source.pairs, tmp_path_factory.mktemp("moving") / "out"))
    groups = {row["trajectory_id"]: [] for row in rows}
    for row in rows:
        groups[row["trajectory_id"]].append(row)
    return list(groups.values())


def test_motion_grows_with_n_on_each_trajectory(moving):
    for rows in (rows for rows in moving if len(rows) > 1):
        assert all(row["motion_px"] > 0 and row["step_px"] > 0 for row in rows)
        assert all(one["motion_px"] < other["motion_px"] for one, other in pairwise(rows))


def test_official_blur_goes_on_at_the_speed_of_the_longest_window_read(moving):
    extended = [rows for rows in moving if len(rows) > 1 and rows[-1]["origin"] == "official"]
    assert extended
    for *_, read, official in extended:
        growth = (official["n_frames"] - 1) / (read["n_frames"] - 1)
        assert official["motion_px"] == pytest.approx(read["motion_px"] * growth, rel=1e-5)
        assert official["step_px"] == read["step_px"]


def test_official_pair_alone_has_no_motion_since_no_frame_is_read(moving):
    alone = [rows[0] for rows in moving if len(rows) == 1]
    assert {row["motion_px"] for row in alone} == {None}


def test_pairs_per_split_are_those_of_the_plan(small_built):
    assert {s: len(rows_of(small_built, split=s)) for s in SMALL_PAIRS} == SMALL_PAIRS


def test_every_file_of_the_payload_is_in_the_manifest(small_built):
    named = {f"{r['split']}/{r[k]}" for r in rows_of(small_built)
             for k in ("blur_file_name", "sharp_file_name")}  # fmt: skip
    assert set(inodes(small_built)) == named


def test_gamma_average_is_within_one_level_of_float64(small_source, tmp_path):
    out = expanded(small_source.pairs, tmp_path / "out", average="gamma2.2")
    for row in rows_of(out, origin="averaged"):
        expected = gamma_mean(frames_of(small_source, row)).astype(int)
        found = load(out / row["split"] / row["blur_file_name"]).astype(int)
        assert np.abs(found - expected).max() <= 1


def test_gamma_average_takes_official_blurs_of_blur_gamma(small_source, tmp_path):
    out = expanded(small_source.pairs, tmp_path / "out", average="gamma2.2")
    row = rows_of(out, origin="official")[0]
    number = row["trajectory_id"].rsplit("/", 1)[1]
    source = small_source.pairs / row["split"] / row["clip_id"] / f"blur_gamma/{number}.png"
    copy = out / row["split"] / row["blur_file_name"]
    assert copy.read_bytes() == source.read_bytes()


def test_each_frame_is_opened_once_in_a_build(small_source, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COUNT_OPENS, "expand", "--src", small_source.pairs,
         "--check", "off", "--jobs", "1",
         "--out", tmp_path / "out"], capture_output=True, text=True,
    )  # fmt: skip
    opened = json.loads(done.stderr.splitlines()[-1])
    # Without the comparison of pixels beforehand, which opens frames of its own.
    # The two shorter windows of 11 frames round 3 centres (one has lost a frame), 11 of 13.
    assert len(opened) == 9 + 9 + 7 + 3 * 11
    assert set(opened.values()) == {1}


def test_library_and_command_write_the_same_record(small_source, tmp_path):
    report = expand_gopro(small_source.pairs, tmp_path / "library")
    with pytest.raises(SystemExit) as ended:
        main(["expand", "--src", str(small_source.pairs), "--out", str(tmp_path / "command")])
    assert (report.exit_code, ended.value.code) == (0, 0)
    library, command = (
        json.loads((tmp_path / name / "build.json").read_text()) for name in ("library", "command")
    )
    assert library["alignment"]["level"] == "quick"
    of_a_run = {"finished", "sha256"}
    assert {k: v for k, v in library.items() if k not in of_a_run} == {
        k: v for k, v in command.items() if k not in of_a_run
    }


def test_second_run_says_that_there_is_nothing_to_do(small_source, own_built):
    done = expand(small_source.pairs, own_built)
    assert (done.returncode, "nothing to do" in done.stdout) == (0, True)


def test_quick_check_does_not_answer_for_a_full_one(small_source, own_built):
    done = expand(small_source.pairs, own_built, "--check", "full")
    assert "pixels (full), train" in done.stderr


def test_image_that_was_cut_is_made_again(small_source, own_built):
    cut = next((own_built / "train/blur").rglob("*.png"))
    cut.write_bytes(cut.read_bytes()[:-1])
    assert json.loads(expand(small_source.pairs, own_built, "--json").stdout)["made"] > 0


def test_second_run_touches_no_file(small_source, own_built):
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in own_built.rglob("*.p*")}
    expanded(small_source.pairs, own_built)
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in own_built.rglob("*.p*")} == before


def test_finished_build_needs_no_state_to_be_found_whole(small_source, own_built):
    shutil.rmtree(own_built / ".trajbuild")
    assert "nothing to do" in expand(small_source.pairs, own_built).stdout


@pytest.mark.parametrize(
    "name",
    [
        "train/blur/GOPR9003_13_00/000012_n09.png", "train/blur/GOPR9001_07_00/000050_n07.png",
        "train/sharp/GOPR9001_07_00/000050.png", "test/metadata.parquet", "build.json",
        "README.md",
    ],
)  # fmt: skip
def test_deleted_file_alone_is_made_again(small_source, own_built, name):
    whole, before = payload(own_built), inodes(own_built)
    (own_built / name).unlink()
    expanded(small_source.pairs, own_built)
    assert payload(own_built) == whole
    after = inodes(own_built)
    assert {n for n in before if after[n] != before[n]} == {name} & set(before)


def test_build_begun_without_a_file_goes_on_where_it_stopped(small_source, small_built, own_built):
    (own_built / "build.json").unlink()
    (own_built / ".trajbuild/markers/train/GOPR9003_13_00/0000.json").unlink()
    expanded(small_source.pairs, own_built)
    assert payload(own_built) == payload(small_built)


@pytest.mark.parametrize(("jobs", "backend"), [("2", "loky"), ("2", "threading")])
def test_workers_do_not_change_a_byte(small_source, small_built, tmp_path, jobs, backend):
    done = trajbuild("expand", "--src", small_source.pairs, "--out", tmp_path / "out",
                     "--jobs", jobs, "--backend", backend)  # fmt: skip
    assert done.returncode == 0
    assert tree(tmp_path / "out") == tree(small_built)


def test_source_elsewhere_gives_the_same_bytes(own_source, small_built, tmp_path):
    expanded(own_source.pairs, tmp_path / "out")
    assert payload(tmp_path / "out") == payload(small_built)


def test_hard_link_shares_the_file_with_the_source(small_source, tmp_path):
    out = expanded(small_source.pairs, tmp_path / "out", link="hardlink")
    row = rows_of(out, origin="official")[0]
    source = small_source.pairs / "train" / row["clip_id"] / "blur/000047.png"
    assert (out / "train" / row["blur_file_name"]).samefile(source)


def test_symbolic_link_points_to_the_source(small_source, tmp_path):
    out = expanded(small_source.pairs, tmp_path / "out", link="symlink")
    row = rows_of(out, origin="official")[0]
    source = small_source.pairs / "train" / row["clip_id"] / "blur/000047.png"
    assert os.readlink(out / "train" / row["blur_file_name"]) == str(source.resolve())


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_links_leave_averaged_files_and_manifest_as_they_are(
    small_source, small_built, tmp_path, link
):
    out = expanded(small_source.pairs, tmp_path / "out", link=link)
    assert payload(out) == payload(small_built)


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_linked_build_run_again_leaves_the_source_as_it_was(own_source, tmp_path, link):
    before = tree(own_source.pairs.parent)
    out = expanded(own_source.pairs, tmp_path / "out", link=link)
    (out / "train/blur/GOPR9003_13_00/000012_n09.png").unlink()
    expanded(own_source.pairs, out, link=link)
    assert tree(own_source.pairs.parent) == before


def test_source_is_only_read(own_source, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in own_source.pairs.parent.rglob("*")}
    expanded(own_source.pairs, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in own_source.pairs.parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"recipe": "full-trajectory"}, "recipe.name"),
        ({"average": "gamma2.2"}, "recipe.average"),
        ({"expand_test": True}, "expand_test"),
        ({"link": "hardlink"}, "link"),
    ],
)
def test_other_config_in_the_same_folder_is_named(small_source, own_built, change, key):
    with pytest.raises(OutputError) as caught:
        expanded(small_source.pairs, own_built, **change)
    assert key in caught.value.where


def test_other_config_in_the_same_folder_is_refused(small_source, own_built):
    before = tree(own_built)
    done = expand(small_source.pairs, own_built, "--recipe", "official")
    assert done.returncode == 5
    assert all(three_parts(done.stderr))
    assert tree(own_built) == before


def test_setting_that_is_an_empty_list_is_told_as_none(small_source, own_built):
    with pytest.raises(OutputError) as caught:
        expanded(small_source.pairs, own_built, recipe="official")
    assert "recipe.windows.*: not given -> none" in caught.value.where


def test_other_source_in_the_same_folder_is_refused(own_source, own_built):
    shutil.rmtree(own_source.pairs / "train/GOPR9003_13_00")
    shutil.rmtree(own_source.frames / "train/GOPR9003_13_00")
    before = tree(own_built)
    done = expand(own_source.pairs, own_built)
    assert done.returncode == 5
    assert "GOPR9003_13_00" in three_parts(done.stderr)[1]
    assert tree(own_built) == before


def test_out_defaults_to_a_folder_beside_the_source(own_source):
    done = trajbuild("expand", "--src", own_source.pairs, "--jobs", "1")
    assert done.returncode == 0
    out = own_source.pairs.with_name("GOPRO_Large_trajectories")
    assert len(rows_of(out)) == sum(SMALL_PAIRS.values())


def test_dry_run_writes_nothing(own_source):
    done = trajbuild("expand", "--src", own_source.pairs, "--dry-run")
    assert done.returncode == 0
    assert sorted(p.name for p in own_source.pairs.parent.iterdir()) == [
        "GOPRO_Large", "GOPRO_Large_all"
    ]  # fmt: skip


def test_dry_run_tells_counts_with_bytes_needed_and_free(small_source, tmp_path):
    said = expand(small_source.pairs, tmp_path / "out", "--dry-run").stdout
    assert "train: 33 pairs on 16 trajectories, 17 to average" in said
    assert "GB" in said
    assert "free" in said


def test_json_is_exactly_one_object(small_source, own_built):
    done = expand(small_source.pairs, own_built, "--json")
    assert json.loads(done.stdout)["pairs"] == SMALL_PAIRS


def test_json_of_a_dry_run_is_exactly_one_object(small_source, tmp_path):
    done = expand(small_source.pairs, tmp_path / "out", "--json", "--dry-run")
    told = json.loads(done.stdout)
    assert {"counts", "bytes_needed", "bytes_free", "out"} <= set(told)


def test_pairs_alone_expand_with_the_official_recipe(own_source, tmp_path):
    shutil.rmtree(own_source.frames)
    out = expanded(own_source.pairs, tmp_path / "out", recipe="official")
    assert len(rows_of(out, split="train")) == sum(s.pairs for s in SMALL if s.split == "train")


def test_expanded_test_split_has_the_recipe_too(small_source, tmp_path):
    out = expanded(small_source.pairs, tmp_path / "out", expand_test=True)
    assert len(rows_of(out, split="test")) == 2 * 4


def test_own_recipe_reaches_the_manifest(small_source, tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text('name: mine\nwindows: {"*": [3]}\n')
    out = expanded(small_source.pairs, tmp_path / "out", recipe=own)
    assert manifest.read(out).metadata["recipe"] == "mine"
    assert {row["n_frames"] for row in rows_of(out, split="train")} == {3, 7, 11, 13}


def test_card_tells_counts_per_split_and_n(small_built):
    card = (small_built / "README.md").read_text()
    assert "| train | 13 | 240 | 3 |" in card
    assert "cc-by-4.0" in card


def test_build_record_names_the_codecs_and_versions(small_built):
    told = json.loads((small_built / "build.json").read_text())
    assert set(told["codecs"]) == {"reader", "writer"}
    assert "pyarrow" in told["versions"]


def test_finished_build_leaves_no_temporary_file(small_built):
    assert not list(small_built.rglob(".tmp-*"))


def test_explain_names_the_very_frames_of_a_window(small_built):
    done = trajbuild("explain", small_built, "GOPR9003_13_00/000012/n07", "--json")
    told = json.loads(done.stdout)
    first = 22131 + 13 + 3
    numbers = [f"train/GOPR9003_13_00/{first + i:06d}.png" for i in range(7)]
    assert told["frames"] == numbers
    assert told["row"]["center_frame"] == f"{first + 3:06d}.png"


def test_explain_points_to_files_of_the_backward_trajectory(small_built):
    done = trajbuild("explain", small_built, "GOPR9003_13_00/000012/n13", "--json")
    backward = json.loads(done.stdout)["backward"]
    points = [(1, 0), (7, 120), (9, 160), (11, 200)]
    assert [(b["n_frames"], b["timestep"]) for b in backward] == points
    assert all((small_built / b["file"]).is_file() for b in backward)


def test_explain_says_how_a_window_was_averaged(small_built):
    said = trajbuild("explain", small_built, "GOPR9003_13_00/000012/n07").stdout
    assert "mean of frames 16 to 22 of the clip (0-based), centre 19" in said
    assert "022150.png  <- sharp" in said


def test_explain_of_an_unknown_pair_names_near_ones(small_built):
    done = trajbuild("explain", small_built, "GOPR9003_13_00/000012/n15")
    assert done.returncode == 2
    what, where, cure = three_parts(done.stderr)
    assert "GOPR9003_13_00/000012/n13" in where
    assert all([what, cure])


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("GPR9003_13_00/000012/n07", "GOPR9003_13_00/000012/n07"),
        ("GOPR9003_13_00/000012/07", "GOPR9003_13_00/000012/n"),
        ("GOPR9003_13_00", "GOPR9003_13_00/"),
        ("", ""),
    ],
)
def test_explain_names_pairs_of_the_nearest_clip_first(small_built, asked, first):
    with pytest.raises(DataError) as caught:
        explain.explain_pair(small_built, asked)
    near = caught.value.where.split("near it: ")[1].split(", ")
    assert near[0].startswith(first)
    assert len({name.split("/")[0] for name in near}) == 1
