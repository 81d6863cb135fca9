"""A video written like its source: what is kept, and what is listed where it is lost."""

from fractions import Fraction

import av
import numpy as np
import pytest
from footage_maker import pan, with_cover, write_video

from trajectory_builder.images.video import reading as video
from trajectory_builder.images.video.colour import (
    Colour,
    RgbConverter,
    colour_of_frame,
    frame_of_rgb,
    stream_tags,
)
from trajectory_builder.images.video.containers import main_stream, open_container
from trajectory_builder.images.video.orientation import orientation_of, upright
from trajectory_builder.images.video.properties import losses, read_properties
from trajectory_builder.images.video.writing import VideoWriter

X264 = {"g": "10", "crf": "0", "threads": "1"}


def copied(source, target, bits=None):
    """Pass a video through the writer frame by frame; what is noted and lost."""
    with open_container(source) as opened:
        film = main_stream(opened, source)
        convert = None
        with VideoWriter(opened, film, target) as writer:
            for packet in opened.demux([film, *opened.streams.audio]):
                if packet.stream.index != film.index:
                    if packet.dts is not None:
                        writer.write_sound(packet)
                    continue
                for frame in packet.decode():
                    if convert is None:
                        colour = colour_of_frame(frame, stream_tags(film), source)
                        convert = RgbConverter(colour)
                    deep = frame.format.components[0].bits > 8 or colour.hdr
                    pixels = convert(frame, bits=bits or (16 if deep else 8))
                    writer.write(frame, upright(pixels, orientation_of(frame)), colour)
    return [*writer.notes, *losses(read_properties(source), read_properties(target))]


COLOURS = [(200, 60, 40), (40, 190, 60), (50, 70, 210), (220, 210, 50), (30, 30, 30), (230,) * 3]


def patches():
    """Six squares of strong colours: a wrong matrix moves them by tens of levels."""
    rows = [np.repeat([COLOURS[k : k + 3]], 32, axis=0) for k in (0, 3)]
    return np.concatenate(rows).repeat(32, axis=1).astype(np.uint8)


def centres(pixels):
    """Mean colour of each square, well inside it: (2, 3, 3)."""
    return pixels.reshape(2, 32, 3, 32, 3)[:, 8:24, :, 8:24].mean(axis=(1, 3))


def coded(path, pix_fmt, matrix="bt709", full=False, tags=None, **options):
    """A lossless video in some pixel format and matrix."""
    frames = [patches()] * 4
    colour = Colour(matrix, full, "", True)
    unit = Fraction(1, 100)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(options.pop("codec", "libx264"), rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        stream.options = options.pop("options", X264)
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for index, pixels in enumerate(frames):
            frame = frame_of_rgb(pixels, pix_fmt, colour)
            frame.pts, frame.time_base = 4 * index, unit
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def first_rgb(path, bits=8):
    found = video.index(path, hdr="convert")
    return next(video.decode(video.stretch(found, 0, 1), bits=bits)).astype(float)


MATRICES = {"bt709": 1, "fcc": 4, "bt601": 5, "smpte240m": 7, "bt2020": 9}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize(("matrix", "tag"), MATRICES.items())
def test_matrix_and_range_are_kept_and_colours_with_them(tmp_path, matrix, tag, pix_fmt, full):
    tags = {"colorspace": tag, "color_range": 2 if full else 1}
    source = coded(tmp_path / "a.mp4", pix_fmt, matrix, full, tags)
    assert copied(source, tmp_path / "b.mp4") == []
    assert np.abs(centres(first_rgb(source)) - centres(patches())).max() < 2.5  # rounding alone
    assert np.abs(centres(first_rgb(tmp_path / "b.mp4")) - centres(patches())).max() < 3.5


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_keeps_its_values_and_tags(tmp_path, transfer):
    tags = {"colorspace": 9, "color_range": 1, "color_trc": transfer, "color_primaries": 9}
    source = coded(tmp_path / "a.mp4", "yuv420p10le", "bt2020", tags=tags)
    assert copied(source, tmp_path / "b.mp4") == []
    after = first_rgb(tmp_path / "b.mp4", bits=16) / 257
    assert np.abs(centres(after) - centres(patches())).max() < 2.5


@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray"],
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_chroma_format_and_depth_are_kept(tmp_path, pix_fmt, ending):
    source = coded(tmp_path / f"a{ending}", pix_fmt, tags={"colorspace": 1, "color_range": 1})
    assert copied(source, tmp_path / f"b{ending}") == []


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".avi", ".ts", ".webm"])
def test_shape_of_pixels_is_kept(tmp_path, ending):
    codec = {".avi": "mpeg4", ".webm": "libvpx-vp9"}.get(ending, "libx264")
    options = X264 if codec == "libx264" else {}
    source = coded(tmp_path / f"a{ending}", "yuv420p", codec=codec, options=options,
                   sample_aspect_ratio=Fraction(4, 3))  # fmt: skip
    notes = copied(source, tmp_path / f"b{ending}")
    assert [note for note in notes if "aspect" in note] == []
    if ending != ".webm":
        assert read_properties(source).pixel_aspect_ratio == "4:3"


def test_pixels_of_a_turned_video_are_turned_too(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=25, options=X264)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(90)
        for pixels in pan(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    assert copied(tmp_path / "a.mp4", tmp_path / "b.mp4") == []
    with av.open(str(tmp_path / "b.mp4")) as file:
        film = file.streams.video[0]
        assert (film.width, film.height, film.sample_aspect_ratio) == (64, 96, Fraction(3, 4))


def test_time_code_is_kept(tmp_path):
    source = write_video(tmp_path / "a.mov", pan(4), fps=25, codec="libx264", pix_fmt="yuv420p",
                         options=X264, stream_tags={"timecode": "01:02:03:04"})  # fmt: skip
    assert copied(source, tmp_path / "b.mov") == []
    assert read_properties(tmp_path / "b.mov").timecode == "01:02:03:04"


def test_title_is_kept(tmp_path):
    source = write_video(tmp_path / "a.mp4", pan(4), fps=25, codec="libx264", pix_fmt="yuv420p",
                         options=X264, title="Köln")  # fmt: skip
    copied(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as file:
        assert file.metadata["title"] == "Köln"


def test_lost_alpha_is_listed(tmp_path):
    source = write_video(tmp_path / "a.mov", pan(3), codec="qtrle", pix_fmt="argb", options={})
    notes = copied(source, tmp_path / "b.mov")
    assert "alpha channel: alpha became no alpha" in notes
    assert "chroma format: RGB became 4:4:4" in notes


def test_lost_alpha_that_the_decoder_leaves_out_is_listed(tmp_path):
    source = write_video(tmp_path / "a.webm", pan(3), codec="libvpx-vp9", pix_fmt="yuva420p",
                         options={})  # fmt: skip
    assert video.index(source).alpha
    assert "alpha channel: alpha became no alpha" in copied(source, tmp_path / "b.webm")


def test_lost_bits_are_listed(tmp_path):
    source = write_video(tmp_path / "a.mkv", pan(3), codec="ffv1", pix_fmt="yuv444p12le",
                         options={})  # fmt: skip
    assert copied(source, tmp_path / "b.mkv") == ["bit depth: 12 bits became 10 bits"]


def test_lost_interlacing_is_listed(tmp_path):
    fields = {"flags": "+ildct+ilme", "x264-params": "tff=1"}
    source = write_video(tmp_path / "a.mp4", pan(6), codec="libx264", pix_fmt="yuv420p",
                         options=X264 | fields)  # fmt: skip
    assert "interlacing: interlaced became progressive" in copied(source, tmp_path / "b.mp4")


def test_rgb_comes_back_by_the_matrix_that_is_written(tmp_path):
    source = write_video(tmp_path / "a.mkv", [patches()] * 4)
    copied(source, tmp_path / "b.mkv")
    assert video.index(tmp_path / "b.mkv").colour == Colour("bt709", False, "", True)
    assert np.abs(centres(first_rgb(tmp_path / "b.mkv")) - centres(patches())).max() < 2.5


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
def test_avi_has_no_tags_so_its_colours_are_those_that_readers_assume(tmp_path, matrix):
    tags = {"colorspace": MATRICES[matrix], "color_range": 1}
    source = coded(tmp_path / "a.avi", "yuv420p", matrix, tags=tags)
    notes = copied(source, tmp_path / "b.avi")
    assert any("colour matrix" in note for note in notes)
    assert np.abs(centres(first_rgb(tmp_path / "b.avi")) - centres(patches())).max() < 3


def with_sound(path, pix_fmt="yuv420p", codec="aac", tracks=1):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options=X264)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        tones = [file.add_stream(codec, rate=48000) for _ in range(tracks)]
        for tone in tones:
            tone.layout = "mono"
        for pixels in pan(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
        for tone in tones:
            kind = tone.codec_context.format.name
            dtype = np.int16 if kind.startswith("s16") else np.float32
            for index in range(8):
                wave = np.zeros((1, 1024), dtype)
                block = av.AudioFrame.from_ndarray(wave, format=kind, layout="mono")
                block.sample_rate, block.pts = 48000, 1024 * index
                file.mux(tone.encode(block))
            file.mux(tone.encode())
    return path


def sounds(path):
    with av.open(str(path)) as file:
        return [stream.codec_context.name for stream in file.streams.audio]


def test_all_sound_tracks_are_kept(tmp_path):
    source = with_sound(tmp_path / "a.mov", tracks=2)
    assert copied(source, tmp_path / "b.mov") == []
    assert sounds(tmp_path / "b.mov") == ["aac", "aac"]


def test_unknown_sound_is_left_out_with_a_note(tmp_path):
    source = with_sound(tmp_path / "a.mov")
    data = source.read_bytes().replace(b"mp4a", b"apac").replace(b"esds", b"dapa")
    source.write_bytes(data)
    (note,) = copied(source, tmp_path / "b.mov")
    assert note.startswith("sound track 1 is left out")
    assert sounds(tmp_path / "b.mov") == []


def test_sound_that_the_container_cannot_store_is_left_out(tmp_path):
    source = with_sound(tmp_path / "a.mkv", codec="pcm_s16le")
    (note,) = copied(source, tmp_path / "b.3gp")
    assert "3gp cannot store pcm_s16le" in note
    assert len(list(av.open(str(tmp_path / "b.3gp")).decode(video=0))) == 4


def test_times_that_begin_late_are_kept(tmp_path):
    source = write_video(tmp_path / "a.ts", pan(6), fps=25, codec="libx264", pix_fmt="yuv420p",
                         options=X264)  # fmt: skip
    copied(source, tmp_path / "b.ts")
    one, other = video.index(source), video.index(tmp_path / "b.ts")
    assert [one.time(k) for k in range(6)] == [other.time(k) for k in range(6)]


def test_chapters_are_kept(tmp_path):
    plain = coded(tmp_path / "plain.mp4", "yuv420p")
    chapter = {"id": 1, "start": 0, "end": 80, "time_base": Fraction(1, 1000)}
    with av.open(str(plain)) as opened, av.open(str(tmp_path / "a.mkv"), "w") as target:
        target.set_chapters([chapter | {"metadata": {"title": "one"}}])
        copy = target.add_stream_from_template(opened.streams.video[0])
        for packet in opened.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    assert copied(tmp_path / "a.mkv", tmp_path / "b.mkv") == []
    with av.open(str(tmp_path / "b.mkv")) as file:
        assert [one["metadata"]["title"] for one in file.chapters()] == ["one"]


def test_a_lost_cover_picture_is_listed(tmp_path):
    plain = coded(tmp_path / "plain.mp4", "yuv420p", tags={"colorspace": 1, "color_range": 1})
    source = with_cover(tmp_path / "cover.mp4", plain)
    notes = copied(source, tmp_path / "b.mp4")
    assert notes == ["other tracks: 1 cover or further picture became none"]


def test_lost_levels_of_hdr_are_listed(tmp_path):
    levels = {"x264-params": "mastering-display=G(13250,34500)B(7500,3000)R(34000,16000)"
              "WP(15635,16450)L(10000000,1):cll=1000,400"}  # fmt: skip
    tags = {"colorspace": 9, "color_range": 1, "color_trc": 16, "color_primaries": 9}
    source = coded(tmp_path / "a.mp4", "yuv420p10le", "bt2020", tags=tags, options=X264 | levels)
    (note,) = copied(source, tmp_path / "b.mp4")
    assert "picture metadata: content_light_level, mastering_display_metadata became none" in note
