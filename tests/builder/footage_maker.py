"""Small videos of known content, encoded by the tests themselves."""

from fractions import Fraction

import av
import cv2
import numpy as np

WIDTH, HEIGHT = 96, 64


def texture(height=160, width=400, seed=0):
    """Smooth random colours with something to follow everywhere."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    low, high = smooth.min(), smooth.max()
    return ((smooth - low) / (high - low) * 255).astype(np.uint8)


def pan(count, step=1, width=WIDTH, height=HEIGHT, seed=0):
    """Frames of a camera that moves `step` pixels to the right each frame."""
    scene = texture(height, width + count * step + 1, seed)
    return [np.ascontiguousarray(scene[:, i * step : i * step + width]) for i in range(count)]


def write_video(
    path,
    frames,
    *,
    fps=240,
    codec="libx264rgb",
    pix_fmt="rgb24",
    options=None,
    pts=None,
    rotation=0,
    matrix=None,
    tags=None,
    title=None,
    stream_tags=None,
    container=None,
):
    """Encode RGB frames, lossless and a keyframe each ten unless `options` say otherwise.

    `pts` are times in units of 1 / (4 fps); `tags` go to the codec's context and each frame.
    """
    unit = Fraction(1, fps * 4)
    with av.open(str(path), "w", format=container) as file:
        if title:
            file.metadata["title"] = title
        stream = file.add_stream(codec, rate=fps)
        stream.metadata.update(stream_tags or {})
        stream.width, stream.height = frames[0].shape[1], frames[0].shape[0]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = unit
        stream.options = {"g": "10", "crf": "0", "threads": "1"} if options is None else options
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.set_display_matrix(matrix)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if pix_fmt != "rgb24":
                frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = (pts[index] if pts else index * 4), unit
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def packets(path):
    """(position in the file, size, is keyframe) of each packet of a video, in file order."""
    with av.open(str(path)) as file:
        found = file.demux(video=0)
        return [(p.pos, p.size, p.is_keyframe) for p in found if p.size]


def broken(clip, path, index):
    """The clip with zeros inside one packet's data."""
    data = bytearray(clip.read_bytes())
    position, size, _ = packets(clip)[index]
    middle = slice(position + size // 4, position + size // 2)
    data[middle] = bytes(len(data[middle]))
    path.write_bytes(data)
    return path


def write_audio(path):
    """A file with a second of silence and no picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        for index in range(40):
            frame.pts = index * 1024
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def with_cover(path, clip, side=320):
    """The clip with a cover picture that is larger than the film and comes first."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        film = source.streams.video[0]
        cover = target.add_stream("mjpeg", rate=1)
        cover.width = cover.height = side
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        copy = target.add_stream_from_template(film)
        picture = av.VideoFrame.from_ndarray(np.full((side, side, 3), 90, np.uint8), "rgb24")
        target.mux([*cover.encode(picture), *cover.encode()])
        for packet in source.demux(film):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return path
