"""Pictures of windows that a build rejected: the two frames that show why, reason by reason.

The build leaves them beside its markers, which may have been deleted; then there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trajectory_builder.disk.store import REJECTED, STATE
from trajectory_builder.errors import UserError
from trajectory_builder.images.pictures import read_rgb8
from trajectory_builder.manifest.paths import resolve
from trajectory_builder.report.pictures import data_uri
from trajectory_builder.report.records import ProblemGroup

SHOWN = 4
"""Our choice: pictures per reason, some 8 kB each."""
LOOKED_AT = 10_000
"""Our choice: file names per reason that are compared with the problems."""


@dataclass(frozen=True)
class Rejected:
    """A rejected window and its two frames side by side, a data URI."""

    sample_id: str
    picture: str


def rejected(folder: Path, groups: tuple[ProblemGroup, ...]) -> Mapping[str, tuple[Rejected, ...]]:
    """Reason -> pictures of windows with that reason, from as many clips as there are.

    Args:
        folder: the data set; its files are not trusted.
        groups: the problems; windows that are no problem any more are not shown.
    """
    found = {}
    for group in groups:
        # A reason is a word of ours; anything else could lead out of the folder.
        if group.reason not in found and re.fullmatch(r"[a-z-]+", group.reason):
            found[group.reason] = tuple(islice(_of_reason(folder, group), SHOWN))
    return {reason: pictures for reason, pictures in found.items() if pictures}


def _of_reason(folder: Path, group: ProblemGroup) -> Iterator[Rejected]:
    home = folder / STATE / REJECTED / group.reason
    paths = sorted(islice(home.rglob("*.jpg"), LOOKED_AT))
    seen: dict[str, int] = {}
    # One of each clip first, then the second ones.
    ranks = []
    for path in paths:
        sample_id = path.relative_to(home).with_suffix("").as_posix()
        clip = sample_id.split("/")[0]
        seen[clip] = seen.get(clip, 0) + 1
        ranks.append((seen[clip], sample_id))
    for _, sample_id in sorted(ranks):
        if sample_id not in group.sample_ids:
            continue
        try:
            name = f"{STATE}/{REJECTED}/{group.reason}/{sample_id}.jpg"
            pixels = read_rgb8(resolve(folder, name, allow_links=False))
        except UserError:
            continue
        yield Rejected(sample_id, data_uri(pixels))
