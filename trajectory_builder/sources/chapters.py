"""Chapter files: one shot that a GoPro stored as several files of a few gigabytes each.

Names: GOPR1234, GP011234, GP021234 (HERO5 and older); GH011234 or GX011234, GH021234 (newer): two
digits count the chapters, the last four name the shot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_CHAPTER = re.compile(r"^(GOPR|GP(?P<old>\d\d)|G[HXL](?P<new>\d\d))(?P<shot>\d{4})$", re.IGNORECASE)


def shot_and_chapter(path: Path) -> tuple[str, int] | None:
    """The shot of a chapter file and its place in it; None for other names.

    The shot includes the folder, so that the cards of two cameras stay apart.
    """
    match = _CHAPTER.match(path.stem)
    if match is None:
        return None
    family = "GH" if match["new"] else "GOPR"
    chapter = int(match["new"] or match["old"] or 0)
    return f"{path.parent.as_posix()}/{family}{match['shot']}", chapter


def shots(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Group files into shots, chapters in order; any other file is a shot of its own."""
    groups: dict[str, list[tuple[int, Path]]] = {}
    for path in paths:
        found = shot_and_chapter(path)
        name, chapter = found if found else (path.as_posix(), 0)
        groups.setdefault(name, []).append((chapter, path))
    grouped = (tuple(path for _, path in sorted(group)) for group in groups.values())
    return sorted(grouped, key=lambda group: group[0].as_posix())
