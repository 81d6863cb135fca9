import shutil

import numpy as np
import pytest
from footage_maker import pan, write_audio, write_video
from PIL import Image

from trajectory_builder.errors import DataError, VideoError
from trajectory_builder.sources import footage


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", pan(12))


def put(clip, *paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clip, path)


def pictures_in(folder, count=4, name="{:03d}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(pan(count)):
        Image.fromarray(pixels).save(folder / name.format(index))


def names(*sources, **options):
    return [clip.name for clip in footage.find(sources, **options).clips]


def test_folder_of_videos_and_frames_gives_clips_of_both(tmp_path, clip):
    put(clip, tmp_path / "a.mp4")
    pictures_in(tmp_path / "shots/b")
    found = footage.find([tmp_path]).clips
    assert [(c.name, c.kind, c.length) for c in found] == [
        ("a", "video", 12),
        ("shots-b", "frames", 4),
    ]


def test_repeated_names_are_told_apart_by_their_suffix(tmp_path, clip):
    put(clip, tmp_path / "a.mp4", tmp_path / "a.mov")
    assert names(tmp_path) == ["a_mov", "a_mp4"]


def test_repeated_names_of_two_sources_are_counted(tmp_path, clip):
    put(clip, tmp_path / "one/a.mp4", tmp_path / "two/a.mp4")
    found = names(tmp_path / "one", tmp_path / "two")
    assert len(set(found)) == 2


def test_case_alone_tells_no_names_apart(tmp_path, clip):
    put(clip, tmp_path / "one/A.mp4", tmp_path / "one/b/../a.mkv")
    found = [name.casefold() for name in names(tmp_path / "one")]
    assert len(set(found)) == 2


def test_blanks_and_other_letters_stay_in_names(tmp_path, clip):
    put(clip, tmp_path / "Ferien in Köln 字.mp4")
    assert names(tmp_path) == ["Ferien in Köln 字"]


def test_dangerous_letters_leave_the_names(tmp_path, clip):
    put(clip, tmp_path / 'a:b"c.mp4', tmp_path / "-y.mp4", tmp_path / "~x.mp4")
    assert names(tmp_path) == ["a_b_c", "x", "y"]


def test_name_that_is_not_utf8_becomes_a_problem(tmp_path, clip):
    put(clip, tmp_path / "good.mp4", tmp_path / "bad\udcff.mp4")
    found = footage.find([tmp_path])
    assert [clip.name for clip in found.clips] == ["good"]
    assert found.problems[0].reason == "name-not-utf8"


def test_bad_file_among_good_ones_is_a_problem(tmp_path, clip):
    put(clip, tmp_path / "good.mp4")
    write_audio(tmp_path / "sound.mp4")
    (tmp_path / "words.mp4").write_text("words")
    found = footage.find([tmp_path])
    assert [clip.name for clip in found.clips] == ["good"]
    assert sorted(p.reason for p in found.problems) == ["video-no-stream", "video-not-a-video"]


@pytest.mark.parametrize("name", ["bad.mp4", "bad.mkv", "bad.avi"])
@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_cost_that_file_alone(tmp_path, clip, name, seed):
    put(clip, tmp_path / "good.mp4")
    codec = {"codec": "mpeg4", "pix_fmt": "yuv420p", "options": {}} if ".avi" in name else {}
    bad = write_video(tmp_path / name, pan(12), fps=30, **codec)
    data = bytearray(bad.read_bytes())
    random = np.random.default_rng(seed)
    for place in random.integers(8, len(data), 60):
        data[place] = random.integers(256)
    bad.write_bytes(data)
    found = footage.find([tmp_path])
    assert "good" in [clip.name for clip in found.clips]
    assert len(found.clips) + len(found.problems) == 2
    assert all(problem.file for problem in found.problems)


def test_bad_file_alone_is_an_error(tmp_path):
    (tmp_path / "words.mp4").write_text("words")
    with pytest.raises(VideoError, match="text"):
        footage.find([tmp_path / "words.mp4"])


def test_source_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        footage.find([tmp_path / "none"])


def test_only_fault_of_a_folder_is_the_error(tmp_path):
    for index, pixels in enumerate([*pan(3), pan(1)[0][:40]]):
        Image.fromarray(pixels).save(tmp_path / f"f{index}.png")
    with pytest.raises(DataError, match="not of one size") as caught:
        footage.find([tmp_path])
    assert "folder of their own" in caught.value.cure


def test_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no videos or folders of frames found"):
        footage.find([tmp_path])


def chapters_in(tmp_path, clip):
    write_video(tmp_path / "GX010007.MP4", pan(20)[:10], container="mp4")
    write_video(tmp_path / "GX020007.MP4", pan(20)[10:], container="mp4")
    put(clip, tmp_path / "other.mp4")
    return tmp_path


def test_chapters_are_told_and_stay_in_one_shot(tmp_path, clip):
    found = footage.find([chapters_in(tmp_path, clip)])
    assert any("--join-chapters" in note for note in found.notes)
    shots = {clip.name: clip.shot for clip in found.clips}
    assert shots["GX010007"] == shots["GX020007"] != shots["other"]


def test_joined_chapters_are_one_clip_in_order(tmp_path, clip):
    found = footage.find([chapters_in(tmp_path, clip)], join_chapters=True).clips
    joined = next(c for c in found if c.name == "GX010007")
    assert joined.length == 20
    assert joined.starts == (0, 10)
    assert [joined.label(rank) for rank in (9, 10)] == ["0.037500", "0.041667"]


def test_rate_of_the_user_is_taken(clip):
    assert footage.find([clip], fps=60).clips[0].fps == 60


def test_photographs_are_clips_each(tmp_path):
    pictures_in(tmp_path / "p", 3, "photo {}.jpg")
    found = footage.find([tmp_path / "p"], stills=True).clips
    assert [(c.name, c.kind) for c in found] == [(f"photo {i}", "still") for i in range(3)]


def test_lossy_frames_are_told(tmp_path):
    pictures_in(tmp_path / "p", 5, "{}.jpg")
    assert any("lossy" in note for note in footage.find([tmp_path / "p"]).notes)


def test_times_name_frames_of_a_video(clip):
    assert footage.find([clip]).clips[0].label(6) == "0.025000"


def test_irregular_times_stop_windows(tmp_path):
    pts = list(np.cumsum([0, 4, 4, 4, 8, 4, 4, 1, 4, 4]))
    path = write_video(tmp_path / "v.mkv", pan(10), fps=25, pts=[int(p) for p in pts])
    stops = footage.find([path]).clips[0].stops
    assert stops == {3: "time-gap", 6: "time-duplicate"}
