"""Files and folders below a source: videos, folders of frames, photographs, kinds not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from trajectory_builder.errors import printable
from trajectory_builder.images.formats import FORMATS, VIDEO_NOT_READ, kind_not_read
from trajectory_builder.images.video import containers
from trajectory_builder.sources import frames
from trajectory_builder.trajectory import Problem

Kind = Literal["video", "frames", "still"]


def candidates(root: Path, stills: bool) -> list[tuple[Kind, Path]]:
    """What may become a clip at or below `root`, in numerical order of the paths.

    Args:
        root: a file or a folder.
        stills: each picture is a photograph on its own; videos are passed over.
    """
    if root.is_file():
        kind = kind_not_read(root.name)
        is_picture = root.suffix.lower() in FORMATS or kind not in (None, VIDEO_NOT_READ)
        return [("still" if is_picture else "video", root)]
    found: list[tuple[Kind, Path]] = []
    for folder in frames.find_folders(root):
        if stills:
            found += [("still", folder / name) for name in frames.picture_names(folder)]
        else:
            found.append(("frames", folder))
    if not stills:
        found += [("video", path) for path in _files_below(root) if _is_video(path)]
    return sorted(found, key=lambda item: frames.numeric_key(item[1].as_posix()))


def unread(root: Path) -> list[Path]:
    """Images and videos below a folder whose kind is not read, in order of their names."""
    found = [path for path in _files_below(root) if kind_not_read(path.name)]
    return sorted(found, key=lambda path: frames.numeric_key(path.as_posix()))


def not_read(path: Path) -> Problem:
    """The row of problems.parquet for a file of a kind that is not read."""
    what, cure = kind_not_read(path.name) or ("of another kind", "take it out of the folder")
    return Problem(
        "kind-not-read",
        f"{printable(path.name)} is {what}, which is not read",
        cure,
        file=printable(path),
    )


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in containers.SUFFIXES and not path.name.startswith("._")


def _files_below(root: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(folder, name) for name in names)
