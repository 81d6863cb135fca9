"""The sample on disk: `GOPRO_Large` and `GOPRO_Large_all` in miniature, traps included.

Names, numbers and averages follow the published trees: pairs and frames are numbered separately;
the first window of a shifted sequence begins before the first frame that is written; a text file is
beside the image folders of a train sequence. `blur` is the rounded mean of the stored values,
`blur_gamma` the mean in linear light.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trajectory_builder.disk.atomic import TEMPORARY, write_atomic
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.regular import read_regular_json
from trajectory_builder.errors import ExitCode, OutputError, printable
from trajectory_builder.images.png import Pixels, encode_png
from trajectory_builder.pixels.averaging import mean_of_window
from trajectory_builder.sample.scenes import CLIPS, SampleClip, render_frame
from trajectory_builder.sample.video import add_video

RECORD = "sample.json"
TITLE = "GOPRO_Large in miniature"
PAIRS_ROOT = "GOPRO_Large"
FRAMES_ROOT = "GOPRO_Large_all"
VERSION = 1
"""Raised whenever the sample's pixels or names change."""


@dataclass(frozen=True, slots=True)
class SampleReport:
    """The contents of the sample's folder, and how many files this run wrote.

    Counts and bytes are those of the two trees; `video` is None where PyAV is not installed.
    """

    out: Path
    clips: int
    frames: int
    pairs: int
    files: int
    size_bytes: int
    written: int
    video: Path | None

    @property
    def src(self) -> Path:
        """The folder that `expand --src` takes."""
        return self.out / PAIRS_ROOT

    def as_json(self) -> dict[str, object]:
        """The report as plain values, for `--json`."""
        counts = {"clips": self.clips, "frames": self.frames, "pairs": self.pairs}
        sizes = {"files": self.files, "size_bytes": self.size_bytes, "written": self.written}
        frames_root = str(self.out / FRAMES_ROOT)
        paths = {"out": str(self.out), "src": str(self.src), "frames_root": frames_root}
        paths |= {"video": str(self.video)} if self.video else {}
        return {"schema_version": 1, **paths, **counts, **sizes}


def write_sample(out: Path, *, show_progress: bool = False) -> SampleReport:
    """Write the sample's two trees into `out`: 260 frames and 26 pairs of 384 x 216, 50 MB.

    Where PyAV is installed, a slow-motion video of one sequence is written beside them. The pixels
    of the trees are the same on every machine, and so are the files where the PNG writer is the
    same. Existing equal files are kept, so calling again finishes a killed run and repairs a
    damaged sample. Other files are left alone.

    Args:
        out: a folder that is new, empty, or contains a sample.
        show_progress: show a bar on stderr.

    Raises:
        OutputError: `out` is a file or contains something else, or the disk refuses.
    """
    try:
        sums = _claim(out)
        if sums and _is_complete(out, sums):
            return _report(out, sums, written=0, video=add_video(out))
        sums, written = {}, 0
        with Progress(_total_files(), "files", shown=show_progress) as progress:
            for name, payload in _files():
                sums[name] = hashlib.sha256(payload).hexdigest()
                written += _write_if_changed(out / name, payload)
                progress.advance(1)
        _write_record(out, sums)
        return _report(out, sums, written=written, video=add_video(out))
    except OSError as error:
        raise OutputError(
            f"the sample cannot be written: {error.strerror or error}",
            where=printable(str(error.filename or out)),
            cure="make room for 50 MB, or choose another folder with --out, and run it again",
        ) from error


def _report(out: Path, sums: dict[str, str], *, written: int, video: Path | None) -> SampleReport:
    return SampleReport(
        out=out,
        clips=len(CLIPS),
        frames=sum(clip.length for clip in CLIPS),
        pairs=sum(clip.pairs for clip in CLIPS),
        files=len(sums),
        size_bytes=sum((out / name).stat().st_size for name in sums),
        written=written,
        video=video,
    )


def _claim(out: Path) -> dict[str, str]:
    """Claim `out` or refuse it; returns the sums of its files, empty if it is not complete."""
    if out.exists() and not out.is_dir():
        raise _foreign(out, "is not a folder")
    if (out / RECORD).is_file():
        return _read_record(out)
    if out.is_dir() and any(not entry.name.startswith(TEMPORARY) for entry in out.iterdir()):
        raise _foreign(out, "contains something that is not a sample")
    out.mkdir(parents=True, exist_ok=True)
    _write_record(out, {})
    return {}


def _read_record(out: Path) -> dict[str, str]:
    try:
        stored = read_regular_json(out / RECORD)
        if stored["sample"] != TITLE:
            raise KeyError(stored["sample"])
        sums = stored["sha256"] if stored["version"] == VERSION else {}
        return {str(name): str(digest) for name, digest in sums.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _foreign(out, f"has a {RECORD} of something else") from error


def _is_complete(out: Path, sums: dict[str, str]) -> bool:
    """Whether every file exists with its content."""
    for name, digest in sums.items():
        path = out / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return False
    return True


def _foreign(out: Path, why: str) -> OutputError:
    return OutputError(
        f"the sample is not written: the folder {why}",
        where=printable(str(out)),
        cure="choose a new or empty folder with --out",
        exit_code=ExitCode.OTHER_CONFIG if out.is_dir() else ExitCode.WRONG_USE,
    )


def _write_record(out: Path, sums: dict[str, str]) -> None:
    """Write what the folder is; with sums only when all files exist."""
    record = {"sample": TITLE, "version": VERSION, "sha256": sums}
    write_atomic(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def _write_if_changed(path: Path, payload: bytes) -> bool:
    if path.is_file() and path.read_bytes() == payload:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, payload, sync=False)
    return True


def _total_files() -> int:
    return sum(clip.length + 3 * clip.pairs + (clip.split == "train") for clip in CLIPS)


def _files() -> Iterator[tuple[str, bytes]]:
    """Name, relative to the sample's folder, and content of every file, clip by clip."""
    for clip in CLIPS:
        # Frames before rank 0 are averaged into the first blur but not published.
        frames = [render_frame(clip.name, rank) for rank in range(-clip.shift, clip.length)]
        encoded = [encode_png(frame) for frame in frames[clip.shift :]]
        for rank, payload in enumerate(encoded):
            number = clip.first_frame_number + rank
            yield f"{FRAMES_ROOT}/{clip.split}/{clip.name}/{number:06d}.png", payload
        yield from _pair_files(clip, frames, encoded)


def _pair_files(
    clip: SampleClip, frames: list[Pixels], encoded: list[bytes]
) -> Iterator[tuple[str, bytes]]:
    folder = f"{PAIRS_ROOT}/{clip.split}/{clip.name}"
    if clip.split == "train":
        note = f"frames {clip.first_frame_number} offset {clip.shift}.txt"
        yield f"{folder}/{note}", b"This file is here because the published folders have one.\n"
    for index in range(clip.pairs):
        name = f"{clip.first_pair_number + index:06d}.png"
        first = index * clip.n_frames  # in `frames`, which begin at rank -shift
        window = frames[first : first + clip.n_frames]
        yield f"{folder}/blur/{name}", encode_png(mean_of_window(window))
        yield f"{folder}/blur_gamma/{name}", encode_png(mean_of_window(window, "gamma2.2"))
        yield f"{folder}/sharp/{name}", encoded[first + clip.n_frames // 2 - clip.shift]
