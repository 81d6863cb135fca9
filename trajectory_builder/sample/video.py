"""One sequence of the sample as a phone stores it: a slow-motion video for `generate`.

Without PyAV (the extra `video`) the sample has no video. The encoder's bytes differ between
versions of x264, so the sample's sums exclude the video.
"""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.sample.scenes import HEIGHT, WIDTH, render_clip
from trajectory_builder.trajectory import GOPRO_FPS

VIDEO = "holiday.mp4"
VIDEO_CLIP = "GOPR9004_13_00"
_BT601 = 6  # AVCOL_SPC_SMPTE170M, the matrix that PyAV encodes RGB frames with
_LIMITED = 1  # AVCOL_RANGE_MPEG


def add_video(out: Path) -> Path | None:
    """Write `out`/holiday.mp4 unless it exists: 39 frames at 240 fps, H.264.

    Returns:
        Its path; None where PyAV is not installed.

    Raises:
        OSError: the disk refuses.
    """
    path = out / VIDEO
    if not path.is_file():
        if find_spec("av") is None:
            return None
        write_atomic(path, _encoded(), sync=False)
    return path


def _encoded() -> bytes:
    import av

    buffer = BytesIO()
    options = {"crf": "16", "threads": "1"}  # one thread: the same bytes on a second run
    with av.open(buffer, "w", format="mp4") as file:
        stream: Any = file.add_stream("libx264", rate=round(GOPRO_FPS), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.colorspace = _BT601
        stream.codec_context.color_range = _LIMITED
        for pixels in render_clip(VIDEO_CLIP):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()
