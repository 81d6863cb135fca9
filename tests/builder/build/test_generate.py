"""`trajbuild generate` on videos that the tests encode, held against the frames themselves."""

import io
import json
import re
import shutil
import weakref
from itertools import pairwise

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from footage_maker import broken, pan, texture, write_video
from gopro_tree import three_parts, trajbuild, tree
from PIL import Image

from trajectory_builder import verify
from trajectory_builder.build import footage_shard, record, run
from trajectory_builder.build.run import BuildOptions
from trajectory_builder.errors import UsageError
from trajectory_builder.plan import footage, recipe, windows
from trajectory_builder.plan.footage_request import FootageRequest
from trajectory_builder.report import write_report

QUIET = BuildOptions(progress=False)
FRAMES = 60


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Sixty lossless frames of a pan, 240 fps, a keyframe each ten."""
    return write_video(tmp_path_factory.mktemp("clip_id") / "pan.mp4", pan(FRAMES))


def make(out, *sources, **options):
    plan = footage.plan_footage(FootageRequest(tuple(sources), **options))
    return run.build_plan(plan, out, QUIET)


def rows_of(out, split="train"):
    return pq.read_table(out / split / "metadata.parquet").to_pylist()


def picture(out, row, kind="blur"):
    path = out / row["split"] / row[f"{kind}_file_name"]
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]


@pytest.fixture(scope="module")
def made(clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    make(out, clip)
    return out


def test_every_blur_is_the_rounded_mean_of_its_frames(made):
    frames = pan(FRAMES)
    for row in rows_of(made):
        window = frames[row["first_index"] : row["first_index"] + row["n_frames"]]
        true = np.rint(np.mean([f.astype(np.float64) for f in window], axis=0))
        assert (picture(made, row) == true).all(), row["sample_id"]


def test_every_sharp_is_its_centre_frame(made):
    frames = pan(FRAMES)
    for row in rows_of(made):
        assert (picture(made, row, "sharp") == frames[row["center_index"]]).all()


def test_rows_tell_n_timestep_rate_and_exposure(made):
    found = {
        (r["n_frames"], r["timestep"], r["fps"], round(r["exposure_ms"], 2)) for r in rows_of(made)
    }
    assert found == {(n, (n - 1) * 20, 240.0, round(n / 0.24, 2)) for n in (5, 7, 9, 11, 13)}


def test_backward_points_are_all_smaller_windows(made):
    assert [r["backward_n_frames"] for r in rows_of(made)[:5]] == [
        [1], [1, 5], [1, 5, 7], [1, 5, 7, 9], [1, 5, 7, 9, 11],
    ]  # fmt: skip


def test_motion_is_the_length_of_the_way_over_the_window(made):
    for row in rows_of(made):
        assert row["motion_px"] == pytest.approx(row["n_frames"] - 1, rel=0.1)
        assert row["step_px"] == pytest.approx(1, abs=0.4)


def test_motion_there_and_back_counts_both_ways(tmp_path):
    frames = pan(7)
    path = write_video(tmp_path / "shake.mp4", [*frames, *frames[-2::-1]])
    make(tmp_path / "out", path, n_frames=(13,))
    (row,) = rows_of(tmp_path / "out")
    assert row["motion_px"] == pytest.approx(12, abs=1.2)


@pytest.mark.parametrize("options", [{}, {"interpolate": 1}])
def test_motion_never_falls_as_n_grows(clip, tmp_path, options):
    make(tmp_path / "out", clip, n_frames=(3, 5, 7, 9), max_per_clip=3, **options)
    rows = rows_of(tmp_path / "out")
    for one, other in pairwise(rows):
        if one["trajectory_id"] == other["trajectory_id"]:
            assert one["motion_px"] <= other["motion_px"]
            assert one["step_px"] <= other["step_px"]


def test_deep_verify_finds_nothing_wrong(made):
    assert verify.verify_folder(made, "deep").findings == ()


def test_deep_verify_finds_a_changed_video(clip, tmp_path):
    own = shutil.copy(clip, tmp_path / "pan.mp4")
    make(tmp_path / "out", own, n_frames=(5,), max_per_clip=2)
    write_video(own, pan(FRAMES, seed=9))
    found = verify.verify_folder(tmp_path / "out", "deep").findings
    assert {finding.reason for finding in found} == {"pixels-differ"}


def test_deep_verify_follows_moved_footage(clip, tmp_path):
    own = shutil.copy(clip, tmp_path / "pan.mp4")
    make(tmp_path / "out", own, n_frames=(5,), max_per_clip=2)
    (tmp_path / "new").mkdir()
    moved = shutil.move(own, tmp_path / "new/pan.mp4")
    found = verify.verify_folder(tmp_path / "out", "deep", frames=tmp_path / "new/pan.mp4").findings
    assert (moved.name, found) == ("pan.mp4", ())


def test_frames_of_open_windows_alone_are_held():
    rows = [[{"first_index": center - 6, "n_frames": 13}] for center in (6, 10, 19, 32)]
    seen = []

    def stream():
        for rank in range(60):
            pixels = np.zeros((4, 4, 3), np.uint8)
            seen.append(weakref.ref(pixels))
            yield rank, pixels

    windows_seen = footage_shard.complete_windows(stream(), rows)
    held = [sum(one() is not None for one in seen) for _ in windows_seen]
    assert len(held) == 4
    assert max(held) <= 13 + 4  # two windows overlap, their centres four frames apart


def test_rotated_video_is_upright_in_the_set(tmp_path):
    path = write_video(tmp_path / "r.mp4", pan(20), rotation=90)
    make(tmp_path / "out", path, n_frames=(5,))
    row = rows_of(tmp_path / "out")[0]
    true = np.rot90(pan(20)[row["center_index"]])
    assert (row["width"], row["height"]) == (64, 96)
    assert (picture(tmp_path / "out", row, "sharp") == true).all()


def test_two_runs_give_the_same_bytes(clip, made, tmp_path):
    make(tmp_path / "again", clip)
    assert tree(tmp_path / "again") == tree(made)


def test_finished_set_is_left_alone(clip, made):
    assert make(made, clip).made == 0


def test_another_config_is_refused(clip, made):
    done = trajbuild("generate", "--src", clip, "--out", made, "--n-frames", "5,7")
    assert done.returncode == 5
    assert "config" in done.stderr


def test_another_option_is_named_with_its_old_value_and_a_cure_that_works(clip, tmp_path):
    make(tmp_path / "out", clip, n_frames=(5,), every=13)
    args = ("generate", "--src", clip, "--out", tmp_path / "out", "--n-frames", "5", "--every")
    _, where, cure = three_parts(trajbuild(*args, "4").stderr)
    assert where.endswith("differing keys: every: 13 -> 4")
    assert "the options that it was made with" in cure
    assert "--recipe" not in cure
    assert trajbuild(*args, "13").returncode == 0


def test_changed_video_is_refused(clip, tmp_path):
    own = shutil.copy(clip, tmp_path / "pan.mp4")
    make(tmp_path / "out", own, n_frames=(5,))
    write_video(own, pan(FRAMES, seed=9))
    done = trajbuild("generate", "--src", own, "--out", tmp_path / "out", "--n-frames", "5")
    assert done.returncode == 5


@pytest.mark.parametrize("fault", ["temp-written:7", "before-marker:1", "before-manifest:1"])
def test_killed_generate_continues_to_the_same_bytes(clip, made, tmp_path, fault):
    args = ("generate", "--src", clip, "--out", tmp_path / "out", "--jobs", "1")
    killed = trajbuild(*args, env={"TRAJBUILD_TEST_FAULT": fault})
    assert killed.returncode != 0
    assert trajbuild(*args).returncode == 0
    assert tree(tmp_path / "out") == tree(made)


def test_long_video_is_cut_into_shards_at_keyframes(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", pan(300))
    plan = footage.plan_footage(FootageRequest((path,), n_frames=(13,)))
    firsts = {name: order.first for name, order in plan.orders.items()}
    assert list(firsts) == ["train/long/0000", "train/long/0001", "train/long/0002"]
    assert 120 <= firsts["train/long/0001"] < 120 + 13


def test_neighbouring_shards_share_a_window_at_most(tmp_path):
    path = write_video(tmp_path / "long.mp4", pan(500))
    plan = footage.plan_footage(FootageRequest((path,), n_frames=(13,), every=1))
    spans = [
        (order.first, order.first + len(order.parts[0].stretch.pts))
        for order in plan.orders.values()
    ]
    assert [after[0] for after in spans[1:]] == [120, 240, 360, 480]
    assert all(before[1] - after[0] <= 12 for before, after in pairwise(spans))


def test_shard_decodes_each_frame_once(clip, tmp_path, monkeypatch):
    from trajectory_builder.images.video import colour

    converted = []
    real = colour.RgbConverter.__call__

    def counted(self, frame, **options):
        converted.append(frame.pts)
        return real(self, frame, **options)

    plan = footage.plan_footage(FootageRequest((clip,), every=2))
    monkeypatch.setattr(colour.RgbConverter, "__call__", counted)
    run.build_plan(plan, tmp_path / "out", QUIET)
    assert len(converted) == len(set(converted)) <= FRAMES


def problems_of(out):
    return {(p.reason, p.sample_id) for p in record.read_problems(out)}


def test_windows_over_a_gap_or_duplicate_make_no_pair(tmp_path):
    steps = [4] * 12 + [9] + [4] * 14 + [1] + [4] * 16
    pts = [int(p) for p in np.cumsum([0, *steps])]
    path = write_video(tmp_path / "v.mkv", pan(45), fps=25, pts=pts)
    make(tmp_path / "out", path, n_frames=(5,), every=5)
    assert problems_of(tmp_path / "out") == {
        ("time-gap", "v/000012/n05"),
        ("time-duplicate", "v/000027/n05"),
    }
    assert len(rows_of(tmp_path / "out")) == 7


def test_windows_over_a_cut_make_no_pair(tmp_path):
    path = write_video(tmp_path / "cut.mp4", pan(20, seed=1) + pan(20, seed=2))
    report = make(tmp_path / "out", path, n_frames=(5, 9), every=3)
    assert (report.exit_code, report.problems, report.left_out) == (0, 0, 4)
    lost = {sample for reason, sample in problems_of(tmp_path / "out") if reason == "scene-cut"}
    crossing = {
        f"cut/{center:06d}/n{n:02d}"
        for center in range(4, 36, 3)
        for n in (5, 9)
        if center - n // 2 < 20 <= center + n // 2
    }
    assert lost == crossing


def test_static_clip_makes_no_pair(tmp_path):
    still = write_video(tmp_path / "still.mp4", [pan(1)[0]] * 30)
    report = make(tmp_path / "out", still, n_frames=(5, 7))
    assert report.pairs == {}
    assert {reason for reason, _ in problems_of(tmp_path / "out")} == {"static"}


def test_motion_floor_is_the_users(tmp_path):
    slow = write_video(tmp_path / "slow.mp4", pan(30))
    report = make(tmp_path / "out", slow, n_frames=(5,), motion_floor=10.0)
    assert report.pairs == {}


def test_repeated_frames_make_no_pair(tmp_path):
    frames = pan(30, 3)
    frames[16] = frames[15]
    path = write_video(tmp_path / "r.mp4", frames)
    make(tmp_path / "out", path, n_frames=(5,))
    assert problems_of(tmp_path / "out") == {("frame-repeated", "r/000017/n05")}


def test_settled_problems_are_not_made_again(tmp_path):
    path = write_video(tmp_path / "cut.mp4", pan(20, seed=1) + pan(20, seed=2))
    make(tmp_path / "out", path, n_frames=(5,))
    assert make(tmp_path / "out", path, n_frames=(5,)).made == 0


def test_damaged_frames_cost_their_windows_alone(clip, tmp_path):
    path = broken(clip, tmp_path / "pan.mp4", 33)
    report = make(tmp_path / "out", path, n_frames=(5,), every=5)
    assert report.pairs["train"] > 5
    assert {reason for reason, _ in problems_of(tmp_path / "out")} == {"video-frame-damaged"}
    frames = pan(FRAMES)
    for row in rows_of(tmp_path / "out"):
        assert (picture(tmp_path / "out", row, "sharp") == frames[row["center_index"]]).all()


def test_video_that_vanishes_during_a_build_costs_its_own_windows(clip, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("gone", "here"):
        shutil.copyfile(clip, source / f"{name}.mp4")
    plan = footage.plan_footage(FootageRequest((source,), n_frames=(5,), every=5))
    (source / "gone.mp4").unlink()
    report = run.build_plan(plan, tmp_path / "out", QUIET)
    assert report.exit_code == 4
    assert {row["clip_id"] for row in rows_of(tmp_path / "out")} == {"here"}
    problems = record.read_problems(tmp_path / "out")
    assert any("gone.mp4" in p.file and p.reason == "video-unreadable" for p in problems)


def test_joined_chapters_have_windows_across_the_border(tmp_path):
    frames = pan(40)
    write_video(tmp_path / "GX010007.MP4", frames[:20])
    write_video(tmp_path / "GX020007.MP4", frames[20:])
    make(tmp_path / "out", tmp_path / "GX010007.MP4", tmp_path / "GX020007.MP4",
         n_frames=(9,), every=4, join_chapters=True)  # fmt: skip
    row = next(r for r in rows_of(tmp_path / "out") if r["center_index"] == 20)
    true = np.rint(np.mean([f.astype(float) for f in frames[16:25]], axis=0))
    assert (picture(tmp_path / "out", row) == true).all()


def save_frames(folder, frames, suffix=".png"):
    folder.mkdir(parents=True)
    for index, pixels in enumerate(frames):
        cv2.imwrite(str(folder / f"f{index + 8}{suffix}"), pixels[..., ::-1])
    return folder


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_frame_folder_gives_exact_means(tmp_path, suffix):
    frames = pan(15)
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, pixels in enumerate(frames):
        options = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(pixels).save(folder / f"f{index + 8}{suffix}", **options)
    make(tmp_path / "out", folder, n_frames=(5, 7))
    for row in rows_of(tmp_path / "out"):
        first = row["first_index"]
        window = [f.astype(float) for f in frames[first : first + row["n_frames"]]]
        assert (picture(tmp_path / "out", row) == np.rint(np.mean(window, axis=0))).all()


def deep(count):
    return [frame.astype(np.uint16) * 257 + index for index, frame in enumerate(pan(count))]


@pytest.mark.parametrize("bits", [8, 16])
def test_sixteen_bit_frames_are_averaged_in_sixteen(tmp_path, bits):
    frames = deep(9)
    folder = save_frames(tmp_path / "deep", frames)
    make(tmp_path / "out", folder, n_frames=(5,), bits=bits)
    row = rows_of(tmp_path / "out")[0]
    first = row["first_index"]
    true = np.rint(np.mean([f.astype(float) for f in frames[first : first + 5]], axis=0))
    true = np.minimum(true, 65535)
    found = picture(tmp_path / "out", row)
    assert (found == (true if bits == 16 else np.floor((true + 128) / 257))).all()
    assert verify.verify_folder(tmp_path / "out", "deep").findings == ()


def test_missing_frame_of_a_folder_costs_its_windows(tmp_path):
    folder = save_frames(tmp_path / "f", pan(30))
    (folder / "f18.png").unlink()
    make(tmp_path / "out", folder, n_frames=(5,), every=5)
    assert {reason for reason, _ in problems_of(tmp_path / "out")} == {"frame-missing"}


def test_cut_frame_of_a_folder_is_named(tmp_path):
    folder = save_frames(tmp_path / "f", pan(30))
    bad = folder / "f18.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    make(tmp_path / "out", folder, n_frames=(5,), every=5)
    found = record.read_problems(tmp_path / "out")
    assert any("f18.png" in problem.file for problem in found)


def test_dry_run_of_interpolation_says_its_price(clip, tmp_path, in_process):
    words = ("generate", clip, "--out", tmp_path / "o", "--n-frames", "5,9", "--dry-run")
    drawn, plain = (json.loads(in_process(*words, "--json", "--interpolate", k).stdout)
                    for k in ("3", "0"))  # fmt: skip
    assert drawn["drawing_seconds"] > 0
    assert "drawing_seconds" not in plain
    assert "drawing frames takes about" in in_process(*words, "--interpolate", "3").stdout


def test_proposed_every_keeps_the_number_of_trajectories(clip):
    def planned(**options):
        return footage.plan_footage(FootageRequest((clip,), n_frames=(5, 9), **options))

    note = next(note for note in planned(interpolate=3).notes if "nearly alike" in note)
    every = int(re.search(r"--every (\d+)", note)[1])
    ways = ({}, {"interpolate": 3, "every": every}, {"interpolate": 3})
    counts = [planned(**options).counts()["train"]["trajectories"] for options in ways]
    assert counts[0] <= counts[1] <= counts[0] + 1 < counts[2]
    assert not any("nearly alike" in note for note in planned(interpolate=3, every=every).notes)


def test_interpolated_rows_say_so_and_keep_true_sharps(clip, tmp_path):
    make(tmp_path / "out", clip, interpolate=3, n_frames=(9,), fps=60, every=6)
    frames = pan(FRAMES)
    for row in rows_of(tmp_path / "out"):
        assert (row["origin"], row["fps"], row["center_index"] % 4) == ("interpolated", 240.0, 0)
        sharp = picture(tmp_path / "out", row, "sharp")
        assert (sharp == frames[row["center_index"] // 4]).all()


def test_changed_curve_file_is_another_config(clip, tmp_path):
    curve = tmp_path / "curve.txt"
    configs = []
    for middle in (0.2, 0.3):
        curve.write_text(f"0 0\n{middle} 0.5\n1 1\n")
        request = FootageRequest((clip,), camera=f"response={curve}")
        configs.append(footage.plan_footage(request).config)
    assert configs[0]["response_sha256"] != configs[1]["response_sha256"]


def test_camera_settings_are_told_per_row(clip, tmp_path):
    make(tmp_path / "out", clip, camera="shot=0.0001..0.001,jpeg=70..95", n_frames=(5, 7))
    rows = rows_of(tmp_path / "out")
    assert {row["average_domain"] for row in rows} == {"camera"}
    told = {row["trajectory_id"]: json.loads(row["camera"]) for row in rows}
    assert len({json.dumps(one) for one in told.values()}) == len(told)
    assert verify.verify_folder(tmp_path / "out", "deep").findings == ()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("one", "zwei ü"):
        Image.fromarray(texture(90, 120)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def stills_made(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("stills") / "out"
    make(out, photos, stills=True, n_frames=(3, 7, 13), paths_per_still=2)
    return out


def test_stills_make_synthetic_trajectories(stills_made):
    rows = rows_of(stills_made)
    assert len(rows) == 2 * 2 * 3
    assert {row["origin"] for row in rows} == {"synthetic"}
    assert verify.verify_folder(stills_made, "deep").findings == ()


def test_stronger_stills_have_more_motion_and_larger_kernels(stills_made, photos, tmp_path):
    make(tmp_path / "out", photos, stills=True, n_frames=(13,), blur_px=(20.0, 24.0))
    strong = rows_of(tmp_path / "out")
    usual = [row["motion_px"] for row in rows_of(stills_made) if row["n_frames"] == 13]
    assert min(row["motion_px"] for row in strong) > max(usual)
    kernels = np.load(tmp_path / "out/train" / strong[0]["kernel_path"])["kernels"]
    assert kernels.shape[-2:] == (25, 25)
    assert verify.verify_folder(tmp_path / "out", "deep").findings == ()


@pytest.mark.parametrize("words", ["wide", "9..3", "0..4", "4..1000"])
def test_strength_that_cannot_be_is_refused(photos, tmp_path, words):
    done = trajbuild("generate", photos, "--stills", "--out", tmp_path / "o", "--blur-px", words)
    assert done.returncode == 2
    assert words in done.stderr
    assert "range" in done.stderr


def test_stored_kernels_reblur_the_sharp(stills_made):
    for row in rows_of(stills_made):
        file = np.load(io.BytesIO((stills_made / "train" / row["kernel_path"]).read_bytes()))
        sharp, blur = picture(stills_made, row, "sharp"), picture(stills_made, row)
        kernels = file["kernels"][list(file["n_slices"]).index(row["n_frames"])]
        y, x = int(file["grid_y"][1]), int(file["grid_x"][1])
        value = (sharp[y - 9 : y + 10, x - 9 : x + 10] * kernels[1, 1][..., None]).sum((0, 1))
        assert np.abs(blur[y, x] - value).max() <= 0.51


def test_missing_kernel_file_is_found_and_restored(photos, stills_made, tmp_path):
    own = shutil.copytree(stills_made, tmp_path / "own")
    lost = own / "train" / rows_of(own)[0]["kernel_path"]
    lost.unlink()
    assert [f.reason for f in verify.verify_folder(own, "quick").findings] == ["file-missing"]
    make(own, photos, stills=True, n_frames=(3, 7, 13), paths_per_still=2)
    assert tree(own) == tree(stills_made)


def test_selection_takes_the_kernels_along(stills_made, tmp_path):
    done = trajbuild("select", stills_made, "--where", "n_frames >= 7", "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert verify.verify_folder(tmp_path / "s", "full").findings == ()
    assert len(list((tmp_path / "s/train/kernels").rglob("*.npz"))) == 4


def test_split_takes_the_kernels_along(stills_made, tmp_path):
    done = trajbuild(
        "split", stills_made, "--by", "trajectory", "--into", "train=0.5,validation=0.5",
        "--out", tmp_path / "s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert verify.verify_folder(tmp_path / "s", "full").findings == ()
    assert len(list((tmp_path / "s/validation/kernels").rglob("*.npz"))) == 2


def test_merge_takes_the_kernels_along(stills_made, tmp_path):
    again = shutil.copytree(stills_made, tmp_path / "again")
    done = trajbuild("merge", stills_made, again, "--clashes", "prefix", "--out", tmp_path / "m")
    assert done.returncode == 0, done.stderr
    assert verify.verify_folder(tmp_path / "m", "full").findings == ()
    assert len(list((tmp_path / "m/train").rglob("*.npz"))) == 8


def test_datasets_reads_the_set_offline(stills_made, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(stills_made), cache_dir=str(stills_made.parent / "cache")
    )["train"]
    assert found[0]["blur"].size == found[0]["sharp"].size


def test_no_clip_lies_in_two_splits(tmp_path, clip):
    for index in range(4):
        shutil.copy(clip, tmp_path / f"c{index}.mp4")
    make(tmp_path / "out", *sorted(tmp_path.glob("*.mp4")), n_frames=(5,), max_per_clip=2,
         split="train=0.5,test=0.5")  # fmt: skip
    train, test = ({r["clip_id"] for r in rows_of(tmp_path / "out", s)} for s in ("train", "test"))
    assert len(train) == len(test) == 2
    assert not train & test


def test_exposure_map_is_told_in_the_manifest(clip, tmp_path):
    make(tmp_path / "out", clip, n_frames=(5,), fps=120, timestep_map="exposure")
    metadata = pq.read_schema(tmp_path / "out/train/metadata.parquet").metadata
    assert metadata[b"trajbuild.timestep_map"] == b"exposure"
    assert {row["timestep"] for row in rows_of(tmp_path / "out")} == {160}


def test_recipe_of_a_file_chooses_the_windows(clip, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("name: mine\nwindows: {7: [5], 9: [3]}\n")
    done = trajbuild(
        "generate", "--src", clip, "--out", tmp_path / "o", "--recipe", file, "--jobs", "1"
    )
    assert done.returncode == 0, done.stderr
    assert {row["n_frames"] for row in rows_of(tmp_path / "o")} == {3, 9}
    assert (
        "note: recipe mine: footage has no official pairs; n = 9 takes their place and gives"
        " n = 3, 9; the entries for n = 7 are not used"
    ) in done.stderr


def test_fast_motion_warns_of_ghosts_with_its_numbers(tmp_path):
    path = write_video(tmp_path / "fast.mp4", pan(30, 6, width=320, height=240))
    notes = footage.plan_footage(FootageRequest((path,))).notes
    warning = next(note for note in notes if "ghosts" in note)
    assert "6." in warning or "5.9" in warning
    assert "--interpolate 2" in warning or "--interpolate 3" in warning


def test_a_set_of_ghosts_says_so_with_a_cure_that_works(tmp_path):
    path = write_video(tmp_path / "fast.mp4", pan(30, 6, width=320, height=240))
    report = make(tmp_path / "out", path, n_frames=(5,))
    (note,) = report.notes
    assert re.search(r"^(\d+) of \1 pairs \(100%\) have neighbouring frames more than 3 px", note)
    assert "fast (" in note
    between = int(re.search(r"--interpolate (\d+)", note).group(1))
    mended = make(tmp_path / "more", path, n_frames=(5,), interpolate=between)
    assert mended.notes == ()


def test_slow_motion_is_no_set_of_ghosts(clip, tmp_path):
    assert make(tmp_path / "out", clip, n_frames=(5,), max_per_clip=2).notes == ()


def test_photographs_without_stills_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(9):
        Image.fromarray(texture(96, 128, seed=index)).save(tmp_path / f"photos/{index}.png")
    with pytest.raises(UsageError, match="looks like photographs") as caught:
        footage.plan_footage(FootageRequest((tmp_path / "photos",), n_frames=(3,)))
    assert "--stills" in caught.value.cure


@pytest.mark.parametrize(
    ("tree_of", "words"),
    [("pairs", "pairs of blur and sharp images"), ("frames", "GoPro's tree of frames")],
)
def test_trees_of_gopro_are_refused_as_footage(small_source, tree_of, words):
    with pytest.raises(UsageError, match=words) as caught:
        footage.plan_footage(FootageRequest((getattr(small_source, tree_of),), n_frames=(3,)))
    assert "trajbuild expand" in caught.value.cure


def test_an_earlier_output_is_refused_as_footage(made):
    with pytest.raises(UsageError, match="contains a data set of trajbuild"):
        footage.plan_footage(FootageRequest((made.parent,), n_frames=(3,)))


def test_slow_motion_warns_of_no_ghosts(clip):
    assert not any("ghosts" in n for n in footage.plan_footage(FootageRequest((clip,))).notes)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"n_frames": (6,)}, "odd"),
        ({"n_frames": (61,)}, "above 999"),
        ({"n_frames": (49,), "timestep_map": "exposure", "fps": 60.0}, "above 999"),
        ({"split": "train=2"}, "--into"),
        ({"bits": 16, "camera": "jpeg=80"}, "--bits 16"),
    ],
)
def test_requests_that_cannot_be_are_refused(clip, options, what):
    with pytest.raises(UsageError, match=what):
        footage.plan_footage(FootageRequest((clip,), **options))


@pytest.mark.parametrize("kind", ["still", "deep"])
def test_gamma_averages_of_other_sources_are_refused(tmp_path, kind):
    folder = save_frames(tmp_path / "f", deep(9) if kind == "deep" else pan(9))
    request = FootageRequest((folder,), average="gamma2.2", stills=kind == "still", n_frames=(5,))
    with pytest.raises(UsageError) as caught:
        footage.plan_footage(request)
    assert "--camera response=gamma2.2" in caught.value.cure


def test_gamma_averages_of_a_video_are_told(clip, tmp_path):
    make(tmp_path / "out", clip, average="gamma2.2", n_frames=(5,), max_per_clip=1)
    assert [row["average_domain"] for row in rows_of(tmp_path / "out")] == ["gamma2.2"]


def test_fewer_frames_than_n_are_told(tmp_path):
    path = write_video(tmp_path / "short.mp4", pan(8))
    with pytest.raises(UsageError, match="no window of 13 frames") as caught:
        footage.plan_footage(FootageRequest((path,)))
    assert "--n-frames 5,7" in caught.value.cure


def test_reasons_of_problems_are_printed_with_their_cures(tmp_path):
    still = write_video(tmp_path / "still.mp4", [pan(1)[0]] * 20)
    done = trajbuild("generate", "--src", still, "--out", tmp_path / "out")
    assert done.returncode == 4
    assert "no pairs" in done.stdout
    assert "5 static, first: still/000006/n05 is left out: nothing moves" in done.stderr
    assert "cure:  move the camera" in done.stderr


def test_every_problem_of_a_window_has_a_cure(tmp_path):
    pts = [4 * rank + (9 if rank > 15 else 0) for rank in range(40)]
    path = write_video(tmp_path / "v.mkv", pan(20) + pan(20, seed=3), fps=25, pts=pts)
    make(tmp_path / "out", path, n_frames=(5,), every=2)
    problems = record.read_problems(tmp_path / "out")
    assert {problem.reason for problem in problems} == {"time-gap", "scene-cut"}
    assert all(problem.cure for problem in problems)


def test_output_on_the_source_is_refused(clip, tmp_path):
    shutil.copy(clip, tmp_path / "pan.mp4")
    done = trajbuild("generate", "--src", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "inside the source" in done.stderr
    same = trajbuild("generate", "--src", clip, "--out", clip)
    assert same.returncode in (1, 2)


@pytest.mark.parametrize(
    ("content", "name"), [(b"words", "w.mp4"), (b"GIF89a" + b"\0" * 50, "g.mp4"), (b"", "e.mov")]
)
def test_bad_files_end_with_an_error_in_three_parts(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    done = trajbuild("generate", "--src", tmp_path / name, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert [word in done.stderr for word in ("error: ", "where: ", "cure: ")] == [True] * 3
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_dry_run_writes_nothing_and_tells_counts(clip, tmp_path):
    done = trajbuild("generate", "--src", clip, "--out", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(done.stdout)["counts"]["train"]["pairs"] == 20
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mixed(tmp_path):
    """Photographs of two sizes and a text file that is called one."""
    for name, width in (("a", 96), ("b", 96), ("c", 128)):
        save_photo(tmp_path / "photos" / f"{name}.png", width)
    (tmp_path / "photos" / "notes.jpg").write_text("no picture")
    return tmp_path / "photos"


def save_photo(path, width):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(texture(96, width)).save(path)


def test_file_that_is_no_photograph_is_named(mixed, tmp_path):
    done = trajbuild("generate", "--src", mixed, "--stills", "--out", tmp_path / "out",
                     "--jobs", "1")  # fmt: skip
    assert done.returncode == 4
    said = "the file is of no known image format, not PNG, JPEG, TIFF, WebP, AVIF or HEIC"
    assert f"problem: {said} ({mixed / 'notes.jpg'})" in done.stderr
    assert f"1 frame-unknown-format, first: {said} ({mixed / 'notes.jpg'})" in done.stderr
    assert "1 problem: see" in done.stderr


def test_only_file_that_is_no_photograph_is_named_once(mixed, tmp_path):
    bad = mixed / "notes.jpg"
    done = trajbuild("generate", "--src", bad, "--stills", "--out", tmp_path / "out")
    assert three_parts(done.stderr)[1] == str(bad)
    assert done.stderr.count("notes.jpg") == 1


def test_photographs_of_several_sizes_without_stills_are_told_of_it(mixed, tmp_path):
    (mixed / "notes.jpg").unlink()
    done = trajbuild("generate", "--src", mixed, "--out", tmp_path / "out")
    assert "or give --stills if they are photographs" in three_parts(done.stderr)[2]


def test_dry_run_tells_the_remarks_of_the_real_run(tmp_path):
    path = write_video(tmp_path / "fast.mp4", pan(30, 6, width=320, height=240))
    done = trajbuild("generate", "--src", path, "--out", tmp_path / "out", "--dry-run")
    assert "note: " in done.stdout
    assert "neighbouring frames are up to" in done.stdout


def test_jobs_change_no_byte(clip, made, tmp_path):
    done = trajbuild("generate", "--src", clip, "--out", tmp_path / "out", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(made)


def test_default_numbers_are_those_of_the_default_recipe():
    told = recipe.load_recipe("fidediff-7877")
    numbers = {*told.n_frames(11, "any"), *told.n_frames(13, "any")}
    assert tuple(sorted(numbers)) == windows.DEFAULT_N_FRAMES


@pytest.fixture(scope="module")
def with_a_cut(tmp_path_factory):
    """A set of a film with a scene cut in the middle."""
    home = tmp_path_factory.mktemp("cut")
    film = write_video(home / "cut.mp4", pan(20, seed=1) + pan(20, seed=2))
    make(home / "out", film, n_frames=(5,), every=3)
    return home / "out"


def test_report_shows_the_frames_of_a_rejected_window(with_a_cut):
    page = write_report(with_a_cut).read_text()
    section = page.split('id="problems"')[1].split("</section>")[0]
    shown = re.findall(
        r'<img src="data:image/jpeg;base64,[^"]+" alt="Two frames of ([^,]+),', section
    )
    assert len(shown) == 1
    assert (shown[0], "scene-cut") in {(s, reason) for reason, s in problems_of(with_a_cut)}


def test_times_of_a_video_have_their_unit(with_a_cut, in_process):
    page = write_report(with_a_cut).read_text()
    assert re.search(r'centre <span class="name">0\.\d+</span> s', page)
    pair = rows_of(with_a_cut)[0]["sample_id"]
    shown = in_process("explain", with_a_cut, pair).stdout
    assert re.search(r"^frame:  0\.\d+ s  <- sharp$", shown, re.M)


def test_evidence_of_a_cut_is_the_frame_before_and_the_frame_after(with_a_cut):
    (path,) = (with_a_cut / ".trajbuild/rejected/scene-cut").rglob("*.jpg")
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float)
    before, after = np.hsplit(image, 2)
    assert np.abs(before - after).mean() > 20


def test_report_of_a_set_without_its_state_shows_no_rejected_window(with_a_cut, tmp_path):
    copy = shutil.copytree(with_a_cut, tmp_path / "copy")
    shutil.rmtree(copy / ".trajbuild")
    assert "Two frames of" not in write_report(copy).read_text()


def test_link_out_of_the_set_is_not_shown_as_a_rejected_window(with_a_cut, tmp_path):
    copy = shutil.copytree(with_a_cut, tmp_path / "copy")
    (path,) = (copy / ".trajbuild/rejected/scene-cut").rglob("*.jpg")
    secret = tmp_path / "secret.jpg"
    path.rename(secret)
    path.symlink_to(secret)
    assert "Two frames of" not in write_report(copy).read_text()
