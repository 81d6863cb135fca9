"""Warn of footage whose neighbouring frames are too far apart to average."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from trajectory_builder.images import pictures
from trajectory_builder.images.video import reading as video
from trajectory_builder.pixels import motion
from trajectory_builder.plan.clips import ranges
from trajectory_builder.sources.footage import Footage

PLACES = (0.1, 0.5, 0.9)
"""Our choice: where in a clip two neighbouring frames are compared before the build."""


def neighbour_motion(clip: Footage) -> float | None:
    """Largest displacement between neighbouring frames at a few places, in pixels.

    The 95th percentile over each picture, so that what moves fastest in it counts; None where no
    two neighbours can be read.
    """
    found = []
    for place in PLACES:
        rank = int(place * (clip.length - 1))
        # At a keyframe two frames cost two decodes.
        rank = clip.starts[bisect_right(clip.starts, rank) - 1] if clip.kind == "video" else rank
        try:
            pair = [pixels for pixels in _read(clip, rank, rank + 2) if pixels is not None]
        except MemoryError:
            raise
        except Exception:  # this is only a warning; the build reports what it cannot read
            continue
        if len(pair) == 2:
            found.append(motion.displacement(*(motion.small(pixels) for pixels in pair))[1])
    return max(found, default=None)


def _read(clip: Footage, first: int, end: int) -> Iterator[Any]:
    for part, low, high in ranges(clip, first, end):
        content = part.content
        if isinstance(content, video.Video):
            yield from video.decode(video.stretch(content, low, high))
        elif content is not None:
            for name in content.names[low:high]:
                yield pictures.read(content.path / name).pixels if name else None


def warnings(clip: Footage, interpolate: int) -> list[str]:
    """A warning where neighbouring frames are so far apart that an average shows copies."""
    found = neighbour_motion(clip)
    if found is None or found / (interpolate + 1) <= motion.GHOSTING_PX:
        return []
    between = int(found / (motion.GHOSTING_PX - 1))
    return [
        f"{clip.name}: neighbouring frames are up to {found:.1f} px apart"
        + (f", {found / (interpolate + 1):.1f} px after interpolation" if interpolate else "")
        + "; above 2 to 3 px an average shows ghosts instead of blur. Film at more frames a second,"
        f" move more slowly, or draw frames in between: --interpolate {between}"
    ]
