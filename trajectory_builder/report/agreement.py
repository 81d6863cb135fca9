"""The alignment report of build.json, summed: do the pixels agree with the map from the names?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Agreement:
    """What the build's check of the pixels found, over all clips.

    Attributes:
        level: `quick` or `full`.
        checked: official sharp images looked for among the frames; `found` of them are there.
        equal: official blurs equal to the mean of their window; `differing` are not, and of
            `absent` some frames are not published.
        moved: clips whose images lie some frames from where the name says, and how many.
        distrusted: (trajectory_id, why) of pairs whose windows were left out.
    """

    level: str
    checked: int
    found: int
    equal: int
    absent: int
    differing: int
    moved: tuple[tuple[str, int], ...]
    distrusted: tuple[tuple[str, str], ...]


def agreement(build: Mapping[str, Any]) -> Agreement | None:
    """Sum the `alignment` entry of build.json; None where there is none of the known form."""
    report = build.get("alignment")
    try:
        clips = [dict(clip) for clip in report["clips"]]  # type: ignore[index]  # caught below
        return Agreement(
            level=str(report["level"]),  # type: ignore[index]
            checked=_total(clips, "sharp_checked"),
            found=_total(clips, "sharp_found"),
            equal=_total(clips, "blurs_equal"),
            absent=_total(clips, "blurs_absent"),
            differing=_total(clips, "blurs_differing"),
            moved=tuple((str(k), int(v)) for k, v in report["corrected"].items()),  # type: ignore[index]
            distrusted=tuple(
                (str(name), str(why)) for clip in clips for name, why in clip["distrusted"].items()
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        # build.json is not trusted: what is not understood is shown as it stands.
        return None


def _total(clips: list[dict[str, Any]], key: str) -> int:
    return sum(int(clip[key]) for clip in clips)
