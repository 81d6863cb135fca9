"""How much more than decoding a video costs, when every frame is used.

    python benchmarks/decode_once.py --out benchmarks/results/decode_once

A 720p clip at 240 fps is made: a hand-held pan over a photograph with sensor noise, H.264 at
30 Mbit/s, which is what an iPhone writes at 240 fps, pixel for pixel (480 MB a minute of 1080p by
its settings page). `--mbit 0` leaves out the noise and takes crf 20: a tenth of the bytes, and
the least that a decoder can cost. In turn, on one thread each, in processor time:

- decode: PyAV alone, frames left as they are coded: nothing that a mean could use;
- plain PyAV: decode and `to_ndarray(format="rgb24")`, as scripts do. FFmpeg's fast conversion, up
  to thirty code values off at edges and one too dark on average. The aim is held against this;
- plain, kept: the same, with one converter for all frames, which PyAV's documents do not propose;
- exact PyAV: FFmpeg's exact conversion to the same format;
- frames: our decoding to upright RGB, exact, with times, damage and colour looked after;
- blurs: the same, and the windows of 5, 7, 9, 11 and 13 frames round every 13th one;
- checked: the same, and the checks for cuts, repeated frames and motion: all that decides what is
  written;
- hashed: the same, and SHA-256 of the blurs' pixels: all that `generate` does but writing PNGs;
- script: a window after the other, each decoded again from its keyframe, as scripts do; a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from expand import machine, table
from skimage import data

from trajectory_builder.build import footage_shard
from trajectory_builder.build.shard import Shard
from trajectory_builder.images import png
from trajectory_builder.images.video import reading as video
from trajectory_builder.plan import footage
from trajectory_builder.plan.footage_request import FootageRequest
from trajectory_builder.plan.table import by_shard

WIDTH, HEIGHT, FPS = 1280, 720, 240
SIZES = (5, 7, 9, 11, 13)


def write_clip(path: Path, frames: int, mbit: int) -> None:
    """A hand-held pan over a photograph: H.264, 4:2:0, BT.709, two keyframes a second."""
    scene = cv2.resize(data.astronaut(), (1800, 1800), interpolation=cv2.INTER_CUBIC)
    random = np.random.default_rng(0)
    noise = random.normal(0, 2.5, (HEIGHT + 400, WIDTH + 400, 3)).astype(np.float32)
    rate = {"b": f"{mbit}M"} if mbit else {"crf": "20"}
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = rate | {"g": "120", "preset": "veryfast"}  # type: ignore[assignment]
        stream.codec_context.colorspace = 1
        for index in range(frames):
            x = 200 + 60 * np.sin(index / 40) + index * 0.4
            y = 300 + 40 * np.cos(index / 31)
            shift = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
            pixels = cv2.warpAffine(scene, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
            if mbit:
                left, top = random.integers(0, 400, 2)
                grain = noise[top : top + HEIGHT, left : left + WIDTH]
                pixels = cv2.add(pixels, grain, dtype=cv2.CV_8U)
            frame = av.VideoFrame.from_ndarray(np.asarray(pixels, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def decode(path: Path, use: Callable[[Any], Any]) -> int:
    """Frames of a file through PyAV on one thread."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(use(frame) is not None for frame in file.decode(stream))


def kept(path: Path) -> int:
    """As plain PyAV, with one converter."""
    converter = VideoReformatter()
    return decode(path, lambda frame: converter.reformat(frame, format="rgb24").to_ndarray())


def exact(frame: Any) -> Any:
    """A frame by FFmpeg's exact conversion."""
    flags = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
    converted = frame.reformat(
        format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709", src_color_range="MPEG",
        dst_color_range="JPEG", interpolation=flags, threads=1,
    )  # fmt: skip
    return converted.to_ndarray()


def script(path: Path, frames: int) -> int:
    """Every window decoded on its own, float mean."""
    made = 0
    for center in range(6, frames - 6, 13):
        for n in SIZES:
            first = center - n // 2
            with av.open(str(path)) as file:
                stream = file.streams.video[0]
                stream.codec_context.thread_count = 1
                file.seek(int(first / FPS / stream.time_base), stream=stream)  # type: ignore[operator]
                total = np.zeros((HEIGHT, WIDTH, 3))
                for frame in file.decode(stream):
                    rank = round(float(frame.time) * FPS)
                    if rank >= first + n:
                        break
                    if rank >= first:
                        total += frame.to_ndarray(format="rgb24")
            made += (total / n).astype(np.uint8).shape[0] == HEIGHT
    return made


def works(path: Path, out: Path) -> list[Shard]:
    """The shards of the clip, as `generate` makes them."""
    plan = footage.plan_footage(FootageRequest((path,), n_frames=SIZES))
    roots = {name: str(root) for name, root in plan.roots.items()}
    return [
        Shard(name, "", str(out), roots, tuple(rows), None, order=plan.orders[name])
        for name, rows in by_shard(plan.rows()).items()
    ]


class Nowhere:
    """Takes a shard's files and writes none."""

    def add(self, path: Path, payload: bytes) -> None:
        """Nothing."""


def checked(shards: list[Shard], hashed: bool) -> int:
    """All of a shard's work but files, whose encoding is `images`' matter, and maybe digests."""
    encode, digest = png.encode_png, png.pixel_sha256
    png.encode_png = lambda pixels: b""  # type: ignore[assignment, misc]
    png.pixel_sha256 = digest if hashed else lambda pixels: ""
    try:
        return sum(len(footage_shard.make(s, s.order, Nowhere()).records) for s in shards)  # type: ignore[arg-type, misc]
    finally:
        png.encode_png, png.pixel_sha256 = encode, digest


def measure(path: Path, frames: int, rounds: int, out: Path) -> list[dict[str, Any]]:
    """Medians of all ways, taken in turn."""
    cv2.setNumThreads(1)
    shards = works(path, out)
    found = video.index(path)
    jobs: dict[str, Callable[[], Any]] = {
        "decode": lambda: decode(path, lambda frame: frame),
        "plain PyAV": lambda: decode(path, lambda frame: frame.to_ndarray(format="rgb24")),
        "plain, kept": lambda: kept(path),
        "exact PyAV": lambda: decode(path, exact),
        "frames": lambda: sum(1 for _ in video.decode(video.stretch(found, 0, frames))),
        "blurs": lambda: sum(1 for s in shards for _ in footage_shard.render(s, s.order)),  # type: ignore[arg-type, misc]
        "checked": lambda: checked(shards, hashed=False),
        "hashed": lambda: checked(shards, hashed=True),
        "script": lambda: script(path, frames),
    }
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds):
        for name, job in jobs.items():
            if name == "script" and turn:
                continue
            started = time.process_time()
            job()
            taken[name].append(time.process_time() - started)
    took = {name: statistics.median(values) for name, values in taken.items()}
    return [
        {"what": name, "ms a frame": round(1000 * value / frames, 2),
         "to decode": round(value / took["decode"], 2),
         "to plain PyAV": round(value / took["plain PyAV"], 2),
         "to plain, kept": round(value / took["plain, kept"], 2)}
        for name, value in took.items()
    ]  # fmt: skip


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=481)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mbit", type=int, default=30, help="bits a second; 0: no noise, crf 20")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="decode-") as folder:
        path = Path(folder, "clip.mp4")
        write_clip(path, given.frames, given.mbit)
        size = path.stat().st_size / given.frames / 1e3
        rows = measure(path, given.frames, given.rounds, Path(folder, "out"))
    report = {"machine": machine(), "load": round(load, 2), "rows": rows}
    if given.out:
        text = [
            "# Decoding once", "",
            f"{report['machine']}; load before the start {report['load']}. {given.frames} frames of"
            f" 1280 x 720, {size:.1f} kB each; medians of {given.rounds} rounds taken in turn,"
            " processor time of one thread. Made by `benchmarks/decode_once.py`, which says what"
            " each row does.", "",
            *table(rows),
        ]  # fmt: skip
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.with_suffix(".md").write_text("\n".join(text))
        given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
