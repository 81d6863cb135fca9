import av
import numpy as np
import pytest
import torch
from small_model import cli, folder_of, loaded, scene

from fidediff_model.model.engine import ReadyModel, Settings
from fidediff_model.restore.records import read_records
from fidediff_model.restore.request import Job, RestoreRequest
from fidediff_model.restore.run import RestorePlan, restore_files
from fidediff_model.restore.video import restore_video
from trajectory_builder.errors import VideoError

CPU = torch.device("cpu")


def kept_as_it_is() -> ReadyModel:
    """Strength 0: what differs afterwards is the way in and out."""
    return ReadyModel(loaded(), Settings(device="cpu", strength=0.0, timestep=120.0), CPU)


def make_video(path, *, frames=3, size=(32, 48), sound=True, times=None, layout="yuv420p"):
    """A video of a moving scene with a tone; `times` are frame times in tenths of a second."""
    picture = scene(*size)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libvpx-vp9" if path.suffix == ".webm" else "libx264", rate=10)
        video.width, video.height, video.pix_fmt = size[1], size[0], layout
        tone = out.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000)
        tone.layout = "mono"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 6 * index, 1), format="rgb24")
            frame.pts = times[index] if times else index
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if sound:
            fill_sound(out, tone, frames)
    return path


def fill_sound(out, tone, frames) -> None:
    waves = np.sin(np.arange(4800 * frames) / 20).astype(np.float32)[None]
    fifo = av.AudioFifo()
    whole = av.AudioFrame.from_ndarray(waves, format="fltp", layout="mono")
    whole.rate, whole.pts = 48000, 0
    fifo.write(whole)
    while (part := fifo.read(960 if tone.name == "opus" else 1024)) is not None:
        out.mux(tone.encode(part))
    out.mux(tone.encode())


def read_frames(path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as opened:
        return [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in opened.decode(video=0)
        ]


def read_sound(path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as opened:
        return [
            (float(packet.pts * packet.time_base), bytes(packet))
            for packet in opened.demux(audio=0)
            if packet.dts is not None
        ]


def restored(source, target, **options):
    return restore_video(kept_as_it_is(), source, target, report=lambda *_: None, **options)


def test_every_frame_arrives_at_its_time(tmp_path):
    source = make_video(tmp_path / "a.mp4", times=[0, 1, 5, 6], frames=4)
    values = restored(source, tmp_path / "b.mp4", batch=3)
    before, after = read_frames(source), read_frames(tmp_path / "b.mp4")
    assert values["frames"] == len(after) == 4
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before])


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".webm"])
def test_the_sound_is_kept_packet_by_packet(tmp_path, ending):
    source = make_video(tmp_path / f"a{ending}")
    restored(source, tmp_path / f"b{ending}")
    before, after = read_sound(source), read_sound(tmp_path / f"b{ending}")
    assert [data for _, data in after] == [data for _, data in before]
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=0.002)


def test_the_picture_comes_before_the_sound(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    restored(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as opened:
        assert [stream.type for stream in opened.streams] == ["video", "audio"]


def test_colours_arrive_as_they_were(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    restored(source, tmp_path / "b.mp4")
    for (_, before), (_, after) in zip(
        read_frames(source), read_frames(tmp_path / "b.mp4"), strict=True
    ):
        # Block by block: 4:2:0 moves colour between neighbours, a wrong matrix shifts all.
        shift = (after.astype(float) - before).mean(axis=(0, 1))
        assert np.abs(shift).max() < 2.5


def test_odd_sizes_stay_as_they_are(tmp_path):
    source = make_video(tmp_path / "a.mkv", size=(47, 63), layout="yuv444p", sound=False)
    restored(source, tmp_path / "b.mkv")
    assert read_frames(tmp_path / "b.mkv")[0][1].shape == (47, 63, 3)


def test_ten_bits_stay_ten_bits(tmp_path):
    source = make_video(tmp_path / "a.mp4", layout="yuv420p10le", sound=False, frames=2)
    restored(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as opened:
        assert opened.streams.video[0].codec_context.pix_fmt == "yuv420p10le"


def turn(path) -> None:
    """Write a quarter turn into the display matrix of an MP4's video track."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    one = (1 << 16).to_bytes(4, "big")
    minus = (0xFFFF0000).to_bytes(4, "big")
    zero, w = bytes(4), (1 << 30).to_bytes(4, "big")
    content[at : at + 36] = zero + one + zero + minus + zero + zero + zero + zero + w
    path.write_bytes(content)


def test_a_turned_video_comes_upright(tmp_path):
    source = make_video(tmp_path / "a.mp4", sound=False, frames=1)
    lying = read_frames(source)[0][1]
    turn(source)
    restored(source, tmp_path / "b.mp4")
    upright = read_frames(tmp_path / "b.mp4")[0][1]
    # This matrix says: show it turned by 90 degrees clockwise.
    expected = np.rot90(lying, -1).astype(float)
    assert upright.shape == expected.shape
    assert np.abs(upright - expected).mean() < 6


def test_a_video_without_frames_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        tone = out.add_stream("aac", rate=48000)
        tone.layout = "mono"
        fill_sound(out, tone, 2)
    with pytest.raises(VideoError, match="no video"):
        restored(tmp_path / "a.mp4", tmp_path / "b.mp4")


def test_a_cut_video_is_listed_and_leaves_nothing(tmp_path):
    source = make_video(tmp_path / "a.mp4")
    source.write_bytes(source.read_bytes()[:2000])  # the index stood at the end
    job = Job(source, tmp_path / "out" / "a.mp4")
    request = RestoreRequest((str(tmp_path),), tmp_path / "out", folder_of())
    report = restore_files(RestorePlan(request, [job], 0), kept_as_it_is())
    assert len(report.failures) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["restored.jsonl"]


def test_memory_does_not_grow_with_the_video(tmp_path):
    held = []

    class Watched(ReadyModel):
        def run(self, blur, t=None):
            held.append(len(blur))
            return super().run(blur, t)

    watched = Watched(loaded(), Settings(strength=0.0, timestep=1.0, control=None), CPU)
    source = make_video(tmp_path / "a.mp4", frames=9, size=(16, 16), sound=False)
    restore_video(watched, source, tmp_path / "b.mp4", batch=2, report=lambda *_: None)
    assert held == [2, 2, 2, 2, 1]


def test_the_command_restores_a_video_beside_images(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in" / "a.mp4", frames=2)
    code = cli(
        "restore", tmp_path / "in", "--model", folder_of(), "--out", tmp_path / "out",
        "--timestep", "120",
    )  # fmt: skip
    assert code == 0
    assert len(read_frames(tmp_path / "out" / "a.mp4")) == 2
    assert "1 restored" in capsys.readouterr().err


def two_sizes(path):
    """Two recordings joined, as a camera that was turned in between writes them."""
    parts = []
    for number, size in enumerate([(32, 48), (48, 32)]):
        part = path.with_name(f"{number}.ts")
        parts.append(make_video(part, size=size, sound=False).read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_change_of_size_is_one_clear_error(tmp_path, batch):
    source = two_sizes(tmp_path / "a.ts")
    with pytest.raises(VideoError, match="size from 48 x 32 to 32 x 48") as caught:
        restored(source, tmp_path / "b.ts", batch=batch)
    assert "a.ts, after 3 frames" in caught.value.where
    assert "split it" in caught.value.cure


def test_times_that_begin_anew_are_one_clear_error(tmp_path):
    part = make_video(tmp_path / "part.ts", sound=False).read_bytes()
    (tmp_path / "a.ts").write_bytes(part + part)
    with pytest.raises(VideoError, match="begin anew after 3 frames") as caught:
        restored(tmp_path / "a.ts", tmp_path / "b.ts")
    assert caught.value.cure


def test_a_bad_video_ends_that_file_only(tmp_path):
    out = tmp_path / "out"
    two_sizes(tmp_path / "a.ts")
    make_video(tmp_path / "b.mp4")
    (tmp_path / "c.mkv").write_bytes(b"words")
    jobs = [Job(tmp_path / name, out / name) for name in ("a.ts", "b.mp4", "c.mkv")]
    request = RestoreRequest((str(tmp_path),), out, folder_of())
    report = restore_files(RestorePlan(request, jobs, 0), kept_as_it_is())
    assert report.restored == 1
    assert sorted(path.name for path in out.iterdir()) == ["b.mp4", "restored.jsonl"]
    failed = {name: record["failed"] for name, record in read_records(out).items()
              if "failed" in record}  # fmt: skip
    assert "changes its size" in failed["a.ts"]["what"]
    assert "text" in failed["c.mkv"]["what"]


def test_a_mirrored_video_comes_upright(tmp_path):
    source = make_video(tmp_path / "a.mp4", sound=False, frames=1)
    stored = read_frames(source)[0][1]
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 4] = (0xFFFF0000).to_bytes(4, "big")  # a = -1: left and right change places
    source.write_bytes(content)
    restored(source, tmp_path / "b.mp4")
    shown = read_frames(tmp_path / "b.mp4")[0][1]
    assert np.abs(shown - stored[:, ::-1].astype(float)).mean() < 6


def test_what_a_video_loses_is_in_its_record(tmp_path):
    source = tmp_path / "a.mov"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "argb"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(scene(32, 48), format="rgb24")))
        out.mux(stream.encode())
    values = restored(source, tmp_path / "b.mov")
    assert "alpha channel: alpha became no alpha" in values["notes"]
