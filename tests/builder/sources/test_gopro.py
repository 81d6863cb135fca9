"""GoPro's names are read right: the published table, the shift rule, gaps that stay gaps."""

import os
import random
import shutil
from pathlib import Path

import pytest
from gopro_tree import SMALL, published
from hypothesis import given
from hypothesis import strategies as st

from trajectory_builder.sources import gopro

SEQUENCES = published()
# facts: the first pairs of shifted sequences, whose windows begin before the first frame.
TRUNCATED = {
    "train": {
        "GOPR0372_07_01/000601", "GOPR0374_11_01/000203", "GOPR0374_11_02/000541",
        "GOPR0374_11_03/002481", "GOPR0384_11_01/000951", "GOPR0384_11_02/001301",
        "GOPR0384_11_03/002101", "GOPR0384_11_04/002801", "GOPR0868_11_01/000221",
        "GOPR0868_11_02/000681", "GOPR0871_11_01/000181",
    },
    "test": {"GOPR0384_11_05/004001", "GOPR0385_11_01/003011", "GOPR0881_11_01/000201"},
}  # fmt: skip


@pytest.fixture(scope="module")
def real(real_names):
    return gopro.scan(real_names.pairs)


def only(source, name):
    return next(s for s in source.sequences if s.clip.name == name)


def numbers(frames):
    return [int(name.rsplit("/", 1)[1].removesuffix(".png")) for name in frames]


@pytest.mark.parametrize(("split", "count"), [("train", 22), ("test", 11)])
def test_published_sequences_are_all_found(real, split, count):
    assert sum(s.clip.split == split for s in real.sequences) == count


@pytest.mark.parametrize(("split", "count"), [("train", 2103), ("test", 1111)])
def test_published_pairs_are_all_found(real, split, count):
    assert sum(len(s.pairs) for s in real.sequences if s.clip.split == split) == count


def test_training_pairs_per_native_n_are_the_published_ones(real):
    per_n = {7: 0, 11: 0, 13: 0}
    for sequence in real.sequences:
        if sequence.clip.split == "train":
            per_n[sequence.n_frames] += len(sequence.pairs)
    assert per_n == {7: 175, 11: 1818, 13: 110}


def test_every_test_pair_averages_eleven_frames(real):
    assert {s.n_frames for s in real.sequences if s.clip.split == "test"} == {11}


@pytest.mark.parametrize(("split", "count"), [("train", 22653), ("test", 12221)])
def test_frames_of_the_whole_set_are_all_ranked(real, split, count):
    # DeepDeblur_release: pairs x nn frames in each folder.
    assert sum(len(s.clip.frames) for s in real.sequences if s.clip.split == split) == count


def test_whole_set_has_neither_problem_nor_oddity(real):
    assert (real.problems, real.notes) == ((), ())


@pytest.mark.parametrize("row", SEQUENCES, ids=[row["sequence"] for row in SEQUENCES])
def test_sharp_frame_follows_the_shift_rule(real, row):
    # sharp(i) = F[i n + (n-1)/2 - zz], by frame numbers as they stand in the folder.
    sequence, n = only(real, row["sequence"]), row["frames_per_blur"]
    for rank, pair in enumerate(sequence.pairs):
        number = row["first_frame_number"] + rank * n + (n - 1) // 2 - row["shift"]
        frame = sequence.clip.frames[pair.window.center_index]
        assert frame == f"{row['split']}/{row['sequence']}/{number:06d}.png"
        assert pair.sharp.endswith(f"/sharp/{row['first_pair_number'] + rank:06d}.png")


@pytest.mark.parametrize(("split", "count"), [("train", 1003), ("test", 300)])
def test_ignoring_the_shift_would_mis_map_so_many_pairs(real, split, count):
    wrong = sum(
        pair.window != gopro.window_of_pair(rank, s.n_frames, 0)
        for s in real.sequences
        if s.clip.split == split
        for rank, pair in enumerate(s.pairs)
    )
    assert wrong == count


@pytest.mark.parametrize("split", ["train", "test"])
def test_truncated_pairs_are_exactly_the_known_ones(real, split):
    early = {
        f"{s.clip.name}/{pair.number:06d}"
        for s in real.sequences
        if s.clip.split == split
        for pair in s.pairs
        if pair.window.first_index < 0
    }
    assert early == TRUNCATED[split]


def test_no_official_window_ends_behind_the_last_frame(real):
    assert all(p.window.end_index <= len(s.clip.frames) for s in real.sequences for p in s.pairs)


def test_offset_numbers_map_by_rank(real):
    # In GOPR0378_13_00 frame numbers lie 22,000 above what its pair numbers say.
    sequence = only(real, "GOPR0378_13_00")
    row = next(r for r in SEQUENCES if r["sequence"] == "GOPR0378_13_00")
    assert row["first_frame_number"] == (row["first_pair_number"] - 1) * 13 + 1 + 22000
    assert numbers(sequence.clip.frames)[:3] == [row["first_frame_number"] + i for i in range(3)]


@given(st.integers(0, 500), st.integers(1, 20).map(lambda i: 2 * i + 1), st.integers(0, 9))
def test_official_windows_neither_overlap_nor_leave_gaps(rank, n, shift):
    window = gopro.window_of_pair(rank, n, shift)
    assert window.end_index == gopro.window_of_pair(rank + 1, n, shift).first_index


@pytest.mark.parametrize("given_as", ["pairs", "frames", "parent"])
def test_frames_are_found_from_either_tree_or_their_parent(small_source, given_as):
    src = {"pairs": small_source.pairs, "frames": small_source.frames,
           "parent": small_source.pairs.parent}[given_as]  # fmt: skip
    assert gopro.scan(src).trees.frames == small_source.frames


def test_frames_are_found_inside_the_tree_of_pairs(own_source):
    inside = own_source.pairs / "GOPRO_Large_all"
    shutil.move(own_source.frames, inside)
    assert gopro.scan(own_source.pairs).trees.frames == inside


def test_frames_are_found_beside_a_renamed_tree(own_source):
    renamed = own_source.pairs.rename(own_source.pairs.with_name("MyGoPro"))
    own_source.frames.rename(own_source.frames.with_name("MyGoPro_all"))
    assert gopro.scan(renamed).trees.frames == renamed.with_name("MyGoPro_all")


def test_text_file_beside_blur_is_no_pair(small_source):
    found = gopro.scan(small_source.pairs)
    assert [len(s.pairs) for s in found.sequences] == [s.pairs for s in SMALL]


def test_gamma_domain_takes_official_blurs_of_blur_gamma(small_source):
    found = gopro.scan(small_source.pairs, domain="gamma2.2")
    assert all("/blur_gamma/" in pair.blur for s in found.sequences for pair in s.pairs)


def test_missing_frame_leaves_a_hole_and_shifts_no_rank(own_source):
    lost = own_source.frames / "train/GOPR9001_07_00/000330.png"
    whole = only(gopro.scan(own_source.pairs), "GOPR9001_07_00").clip.frames
    lost.unlink()
    frames = only(gopro.scan(own_source.pairs), "GOPR9001_07_00").clip.frames
    assert frames == (*whole[:7], None, *whole[8:])


def test_missing_first_frames_of_a_published_sequence_shift_no_rank(real, real_names, tmp_path):
    folder = tmp_path / "GOPRO_Large_all/train/GOPR0372_07_00"
    shutil.copytree(real_names.frames / "train/GOPR0372_07_00", folder)
    for number in (323, 324):
        (folder / f"{number:06d}.png").unlink()
    frames = only(gopro.scan(folder.parents[1]), "GOPR0372_07_00").clip.frames
    assert frames == (None, None, *only(real, "GOPR0372_07_00").clip.frames[2:])


def test_unpadded_numbers_sort_as_numbers(own_source):
    folder = own_source.frames / "train/GOPR9001_07_00"
    for path in list(folder.iterdir()):
        path.rename(folder / f"{int(path.stem) - 322}.png")
    frames = only(gopro.scan(own_source.pairs), "GOPR9001_07_00").clip.frames
    assert numbers(frames) == list(range(1, 71))


def test_order_of_folder_entries_does_not_matter(tmp_path):
    # tmpfs lists the youngest first, so these two folders are told in different orders.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    roots = []
    names = [f"{number:06d}.png" for number in range(1, 45)]
    for seed in (0, 1):
        root = os.path.join(base, f"trajbuild-{os.getpid()}-{seed}")
        folder = os.path.join(root, "train/GOPR9001_11_00")
        os.makedirs(folder)
        for name in random.Random(seed).sample(names, len(names)):
            open(os.path.join(folder, name), "w").close()
        roots.append(root)
    try:
        found = [gopro.scan(Path(root)).sequences for root in roots]
        listed = [os.listdir(os.path.join(root, "train/GOPR9001_11_00")) for root in roots]
    finally:
        for root in roots:
            shutil.rmtree(root)
    if listed[0] == listed[1]:
        pytest.skip("this file system lists names in one order, whatever was written first")
    assert found[0] == found[1]
