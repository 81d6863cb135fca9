"""Folders of frames as clips: images in numerical order of their names, gaps kept.

Every folder that contains pictures is one clip. Nothing is decoded here; sizes and depths come
from the files' headers.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trajectory_builder.errors import LISTED_AT_MOST, ImageError, printable, shorten
from trajectory_builder.images import pictures
from trajectory_builder.images.formats import FORMATS
from trajectory_builder.trajectory import Problem

_NUMBER = re.compile(r"(\d+)")
REGULAR_SHARE = 0.9
"""Our choice: numbers count frames when nine of ten steps between them are equal."""
_MOST_GAPS = 1_000_000  # of missing frames, so that a time stamp as name cannot exhaust memory


@dataclass(frozen=True)
class FrameFolder:
    """A folder of frames.

    Attributes:
        path: the folder.
        names: file names by rank; None where the numbering has a gap.
        width, height: of its frames, upright, in pixels.
        bits: 8 or 16 per channel.
        lossy: whether any frame is neither PNG nor TIFF.
    """

    path: Path
    names: tuple[str | None, ...]
    width: int
    height: int
    bits: int
    lossy: bool

    def __len__(self) -> int:
        return len(self.names)


def find_folders(root: Path) -> list[Path]:
    """All folders at or below `root` that contain pictures, sorted; links are not followed.

    Raises:
        ImageError: a folder cannot be read.
    """
    found = []

    def refuse(error: OSError) -> None:
        """Raise the error of a folder that `os.walk` would skip silently."""
        raise ImageError(
            f"a folder cannot be read: {error.strerror}",
            reason="folder-unreadable",
            where=printable(str(error.filename)),
            cure="check its permissions and run the same command again",
        ) from error

    for folder, below, names in os.walk(root, onerror=refuse):
        below.sort()
        below[:] = [name for name in below if not name.startswith(".")]
        if any(_is_picture(name) for name in names):
            found.append(Path(folder))
    return sorted(found, key=lambda p: numeric_key(p.as_posix()))


def index(folder: Path) -> tuple[FrameFolder | None, list[Problem]]:
    """Read the names and headers of a folder's frames.

    Returns:
        The clip, or None where the folder cannot be one, and its problems; a folder with frames
        of several sizes is refused, naming those that differ.
    """
    names = picture_names(folder)
    shapes: dict[str, tuple[int, int, int]] = {}
    problems = []
    for name in names:
        try:
            shapes[name] = pictures.size_and_bits(folder / name)
        except ImageError as error:
            problems.append(Problem(error.reason, error.what, error.cure, file=error.where))
    if not shapes:
        return None, problems
    (width, height, bits), _ = Counter(shapes.values()).most_common(1)[0]
    odd = [n for n, shape in shapes.items() if shape != (width, height, bits)]
    if odd:
        problems += _mixed(folder, odd, shapes, (width, height, bits))
        return None, problems
    ranked = tuple(n if n in shapes else None for n in with_gaps(names))
    lossy = any(FORMATS[Path(n).suffix.lower()] not in ("PNG", "TIFF") for n in names)
    return FrameFolder(folder, ranked, width, height, bits, lossy), problems


def picture_names(folder: Path) -> list[str]:
    """Names of a folder's pictures in numerical order."""
    return sorted((n for n in os.listdir(folder) if _is_picture(n)), key=numeric_key)


def _mixed(
    folder: Path,
    odd: Sequence[str],
    shapes: dict[str, tuple[int, int, int]],
    usual: tuple[int, int, int],
) -> list[Problem]:
    """A row for the folder; where it cannot name all odd frames, a row for each of them too."""

    def text(shape: tuple[int, int, int]) -> str:
        return f"{shape[0]} x {shape[1]} at {shape[2]} bits"

    named = [f"{name} is {text(shapes[name])}" for name in odd]
    cure = (
        "put frames of another size or depth into a folder of their own, or give --stills if they"
        " are photographs"
    )
    what = f"a clip's frames are not of one size: most are {text(usual)}, but {shorten(named)}"
    of_folder = Problem("frame-sizes-mixed", what, cure, file=folder.as_posix())
    if len(odd) <= LISTED_AT_MOST:
        return [of_folder]
    each = [
        Problem("frame-sizes-mixed", sentence, cure, file=(folder / name).as_posix())
        for name, sentence in zip(odd, named, strict=True)
    ]
    return [of_folder, *each]


def numeric_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts frame10 after frame9; equal numbers (7, 07) are ordered by their text."""
    parts = _NUMBER.split(name)
    return tuple((1, int(p), p) if p.isdigit() else (0, 0, p) for p in parts)


def with_gaps(names: Sequence[str]) -> list[str | None]:
    """Sorted names by rank, with None for each number missing between them.

    The last number in a name counts frames if nine of ten steps between neighbours are equal;
    otherwise only the order is used.
    """
    numbers = [_frame_number(name) for name in names]
    if len(names) < 3 or any(number is None for number in numbers):
        return list(names)
    steps = np.diff([float(number) for number in numbers if number is not None])
    values, counts = np.unique(steps, return_counts=True)
    step = float(values[counts.argmax()])
    if step <= 0 or counts.max() < REGULAR_SHARE * len(steps) or steps.sum() > step * _MOST_GAPS:
        return list(names)
    ranked: list[str | None] = [names[0]]
    for name, gap in zip(names[1:], steps, strict=True):
        missing = round(gap / step) - 1 if gap % step == 0 else 0
        ranked += [None] * max(missing, 0)
        ranked.append(name)
    return ranked


def _frame_number(name: str) -> int | None:
    numbers = _NUMBER.findall(Path(name).stem)
    return int(numbers[-1]) if numbers else None


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in FORMATS
