import os
import weakref
from dataclasses import replace

import av
import numpy as np
import pytest
from footage_maker import broken, pan, with_cover, write_audio, write_video

from trajectory_builder.errors import VideoError
from trajectory_builder.images.video import containers
from trajectory_builder.images.video import reading as video

X264 = {"g": "10", "crf": "0", "threads": "1"}


def decoded(path, first=0, end=None):
    found = video.index(path)
    return list(video.decode(video.stretch(found, first, len(found) if end is None else end)))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Forty lossless frames, a keyframe each ten."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", pan(40))


def test_lossless_frames_come_back_bit_for_bit(clip):
    assert all((a == b).all() for a, b in zip(decoded(clip), pan(40), strict=True))


def test_frame_times_are_exact_fractions(clip):
    found = video.index(clip)
    assert [found.time(rank) * 240 for rank in range(40)] == list(range(40))


def test_rate_is_measured_on_frames(clip):
    assert video.index(clip).fps == 240


def test_fps_override_replaces_the_conformed_rate(tmp_path):
    path = write_video(tmp_path / "slow.mp4", pan(12), fps=30)
    assert (video.index(path).fps, video.index(path, fps=240).fps) == (30, 240)


@pytest.mark.parametrize(("first", "end"), [(0, 3), (9, 11), (10, 20), (17, 33), (39, 40), (5, 5)])
def test_stretch_gives_the_same_frames_as_the_whole(clip, first, end):
    frames = pan(40)[first:end]
    assert [a.tobytes() for a in decoded(clip, first, end)] == [f.tobytes() for f in frames]


def test_stretch_seeks_to_the_keyframe_before_it(clip):
    found = video.index(clip)
    assert video.stretch(found, 27, 30).seek == int(found.pts[20])


def test_stretch_with_reordered_frames_equals_the_whole(tmp_path):
    path = write_video(
        tmp_path / "b.mp4", pan(40), codec="libx264", pix_fmt="yuv420p", options=X264 | {"bf": "3"}
    )
    whole = decoded(path)
    assert all((a == b).all() for a, b in zip(decoded(path, 13, 31), whole[13:31], strict=True))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264rgb", X264),
        ("a.avi", "mpeg4", {"g": "5"}),
        ("a.mov", "libx264rgb", X264),
        ("a.webm", "libvpx-vp9", {"lossless": "1", "g": "5"}),
        ("a.ts", "libx264", X264),
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:pools=1"}),
        ("av1.mkv", "libsvtav1", {"svtav1-params": "lp=1", "preset": "12"}),
    ],
)
def test_container_and_codec_give_every_frame(tmp_path, name, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    pix_fmt = "rgb24" if codec == "libx264rgb" else "yuv420p"
    path = write_video(
        tmp_path / name, pan(12, 1), fps=60, codec=codec, pix_fmt=pix_fmt, options=options
    )
    assert [frame is not None for frame in decoded(path)] == [True] * 12


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_is_applied_once(tmp_path, turns):
    frames = pan(3)
    path = write_video(tmp_path / "r.mp4", frames, rotation=90 * turns)
    assert all((a == np.rot90(b, turns)).all() for a, b in zip(decoded(path), frames, strict=True))


def test_rotated_size_is_told_upright(tmp_path):
    found = video.index(write_video(tmp_path / "r.mp4", pan(3), rotation=90))
    assert (found.width, found.height, found.orientation) == (64, 96, 8)


@pytest.mark.parametrize("pix_fmt", ["yuv422p", "yuv444p", "yuv420p10le"])
def test_chroma_formats_come_back_close(tmp_path, pix_fmt):
    frames = pan(4)
    path = write_video(tmp_path / "c.mp4", frames, codec="libx264", pix_fmt=pix_fmt, options=X264)
    differences = [
        np.abs(a.astype(int) - b).mean() for a, b in zip(decoded(path), frames, strict=True)
    ]
    assert max(differences) < 6  # 4:2:0 keeps a quarter of this noise's colour; 16 is a wrong range


def test_odd_sizes_are_kept(tmp_path):
    path = write_video(tmp_path / "odd.mkv", pan(3, width=95, height=63))
    assert decoded(path)[0].shape == (63, 95, 3)


def test_alpha_is_told(tmp_path):
    path = write_video(tmp_path / "alpha.mov", pan(3), codec="qtrle", pix_fmt="argb", options={})
    assert video.index(path).alpha


def test_cover_picture_is_not_the_film(tmp_path, clip):
    path = with_cover(tmp_path / "cover.mp4", clip)
    assert len(video.index(path)) == 40
    assert (decoded(path)[7] == pan(40)[7]).all()


def test_largest_stream_is_the_film(tmp_path, clip):
    large = write_video(tmp_path / "large.mp4", pan(5, width=128, height=96))
    path = tmp_path / "both.mkv"
    with av.open(str(clip)) as a, av.open(str(large)) as b, av.open(str(path), "w") as target:
        sources = [file.streams.video[0] for file in (a, b)]
        copies = [target.add_stream_from_template(stream) for stream in sources]
        for file, stream, copy in zip((a, b), sources, copies, strict=True):
            for packet in file.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    assert video.index(path).width == 128


def test_title_in_latin_1_costs_nothing(tmp_path):
    path = write_video(tmp_path / "a.avi", pan(5), fps=30, codec="mpeg4", pix_fmt="yuv420p",
                       options={}, title="CafXYZ")  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"CafXYZ", b"Caf\xe9 \xfc"))
    assert len(decoded(path)) == 5


def test_frames_after_a_change_of_size_are_lost(tmp_path):
    parts = [
        write_video(tmp_path / f"{w}.ts", pan(12, width=w, height=h), codec="libx264",
                    pix_fmt="yuv420p", options=X264, pts=range(start, start + 48, 4))
        for w, h, start in ((96, 64, 0), (64, 96, 48))
    ]  # fmt: skip
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = decoded(joined)
    assert [frame is not None for frame in frames] == [True] * 12 + [False] * 12


def joined(path, *options):
    """Recordings of equal size joined end to end; the times go on only where options say so."""
    parts = []
    for number, changes in enumerate(options):
        part = write_video(path.with_name(f"{number}.ts"), pan(12), codec="libx264",
                           pix_fmt="yuv420p", **{"options": X264} | changes)  # fmt: skip
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def test_times_that_begin_anew_are_refused(tmp_path):
    with pytest.raises(VideoError, match="begin anew after 12 frames") as caught:
        video.index(joined(tmp_path / "a.ts", {}, {}))
    assert caught.value.cure


def test_frames_after_a_change_of_colour_matrix_are_lost(tmp_path):
    bt709 = {"tags": {"colorspace": 1, "color_range": 1}}
    bt601 = {"tags": {"colorspace": 5, "color_range": 1}, "pts": range(48, 96, 4)}
    frames = decoded(joined(tmp_path / "a.ts", bt709, bt601))
    assert [frame is not None for frame in frames] == [True] * 12 + [False] * 12


def test_colour_matrix_that_is_not_read_is_refused(tmp_path):
    path = write_video(tmp_path / "y.mp4", pan(3), codec="libx264", pix_fmt="yuv420p",
                       options=X264 | {"x264-params": "colormatrix=YCgCo"})  # fmt: skip
    assert reason_of(path) == "video-colour-matrix"


def test_named_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason_of(tmp_path / "pipe.mp4") == "video-unreadable"


def test_digest_tells_two_recordings_apart(tmp_path):
    one = write_video(tmp_path / "1.mp4", pan(5, seed=1))
    other = write_video(tmp_path / "2.mp4", pan(5, seed=2))
    assert video.index(one).sha256 != video.index(other).sha256


@pytest.mark.parametrize("name", ["-y.mp4", "a:b.mp4", "http:x.mp4", "a b ü 字.mp4", "%03d.mp4"])
def test_hostile_names_are_only_names(tmp_path, clip, name):
    (tmp_path / name).write_bytes(clip.read_bytes())
    assert len(video.index(tmp_path / name)) == 40


def test_damaged_frame_and_its_followers_are_lost_up_to_the_next_keyframe(tmp_path, clip):
    frames = decoded(broken(clip, tmp_path / "broken.mp4", 13))
    lost = [rank for rank, frame in enumerate(frames) if frame is None]
    assert set(lost) >= {13}
    assert set(lost) <= set(range(10, 20))


def test_frames_before_and_after_damage_are_sound(tmp_path, clip):
    frames = decoded(broken(clip, tmp_path / "broken.mp4", 13))
    sound = [*range(10), *range(20, 40)]
    assert all((frames[rank] == pan(40)[rank]).all() for rank in sound)


def test_cut_file_without_index_is_refused(tmp_path, clip):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(VideoError, match="moov"):
        video.index(cut)


def test_cut_matroska_keeps_its_first_frames(tmp_path):
    path = write_video(tmp_path / "whole.mkv", pan(40))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = decoded(cut)
    assert 5 < len(frames) < 40
    assert (frames[0] == pan(40)[0]).all()


def reason_of(path):
    with pytest.raises(VideoError) as caught:
        video.index(path)
    assert caught.value.where
    assert caught.value.cure
    return caught.value.reason


def test_audio_only_is_refused(tmp_path):
    assert reason_of(write_audio(tmp_path / "sound.mp4")) == "video-no-stream"


def test_one_frame_is_refused(tmp_path):
    assert reason_of(write_video(tmp_path / "one.mp4", pan(1))) == "video-too-short"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"just some words\n", "video-not-a-video"),
        (b"", "video-empty"),
        (b"\x00\x01\x02\x03" * 200, "video-not-a-video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "video-not-a-video"),
    ],
)
def test_other_files_called_mp4_are_refused(tmp_path, content, reason):
    (tmp_path / "x.mp4").write_bytes(content)
    assert reason_of(tmp_path / "x.mp4") == reason


def test_gif_is_refused_with_its_reason(tmp_path):
    path = write_video(tmp_path / "a.gif", pan(3), fps=25, codec="gif", pix_fmt="rgb8", options={})
    assert reason_of(path) == "video-gif"


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_refused_with_a_cure(tmp_path, transfer):
    path = write_video(
        tmp_path / "hdr.mkv", pan(3), codec="libx264", pix_fmt="yuv420p10le", options=X264,
        tags={"color_trc": transfer},
    )  # fmt: skip
    assert reason_of(path) == "video-hdr"


def test_video_without_any_rate_asks_for_it(clip):
    with pytest.raises(VideoError) as caught:
        video._refuse(replace(video.index(clip), fps=0.0), False)
    assert "--fps" in caught.value.cure


def test_missing_file_is_refused(tmp_path):
    assert reason_of(tmp_path / "none.mp4") == "video-unreadable"


def test_error_keeps_its_reason_across_processes():
    import pickle

    error = VideoError("what", reason="video-gif", where="here", cure="cure")
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, again.where, again.cure) == ("video-gif", "here", "cure")


def test_missing_pyav_names_the_extra(monkeypatch):
    import builtins

    real = builtins.__import__

    def without_av(name, *rest):
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(VideoError) as caught:
        containers.pyav()
    assert 'pip install "fidediff[video]"' in caught.value.cure


def test_m2ts_is_recognised_by_its_packets(tmp_path):
    path = write_video(tmp_path / "a.ts", pan(12), codec="libx264", pix_fmt="yuv420p", options=X264)
    whole = path.read_bytes()
    timed = b"".join(b"\0\0\0\0" + whole[at : at + 188] for at in range(0, len(whole), 188))
    (tmp_path / "a.m2ts").write_bytes(timed)
    assert containers.sniff(tmp_path / "a.m2ts") == "mpegts"
    assert len(decoded(tmp_path / "a.m2ts")) == 12


def test_one_frame_is_held_at_a_time(clip):
    found = video.index(clip)
    seen, most = [], 0
    for pixels in video.decode(video.stretch(found, 0, 40)):
        seen.append(weakref.ref(pixels))
        most = max(most, sum(one() is not None for one in seen))
    assert most <= 2  # the one in hand, and the one that was in hand


def test_coding_that_no_decoder_knows_is_named(clip, tmp_path):
    data = clip.read_bytes()
    assert data.count(b"avc1") > 0
    start = data.rindex(b"avc1")  # the sample entry; the brand in the head is the first
    (tmp_path / "odd.mp4").write_bytes(data[:start] + b"zzzz" + data[start + 4 :])
    with pytest.raises(VideoError) as caught:
        video.index(tmp_path / "odd.mp4")
    assert caught.value.reason == "video-codec-unknown"
    assert caught.value.cure
