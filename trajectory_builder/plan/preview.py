"""Checks of a few frames before a build: warn of ghosts, refuse photographs given as frames."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from trajectory_builder.errors import ImageError, UsageError, printable
from trajectory_builder.images import pictures
from trajectory_builder.images.video import reading as video
from trajectory_builder.images.white import notes_on_white, refuse_few_levels
from trajectory_builder.pixels import motion
from trajectory_builder.plan.clips import ranges
from trajectory_builder.plan.footage_request import MOST_INTERPOLATED, FootageRequest
from trajectory_builder.sources import frames
from trajectory_builder.sources.footage import Footage

PLACES = (0.1, 0.5, 0.9)
"""Our choice: where in a clip two neighbouring frames are compared before the build."""
PHOTO_PLACES = tuple((i + 0.5) / 8 for i in range(8))
"""Our choice: where in a folder of pictures it is looked whether they are frames of one film."""

Pair = tuple[motion.Small, motion.Small]


def _neighbours(clip: Footage, places: Iterable[float], white: int | None) -> Iterator[Pair]:
    """Small copies of two neighbouring frames at some places, 0 to 1, where they can be read."""
    ranks = sorted({int(place * (clip.length - 1)) for place in places})
    for rank in ranks:
        # At a keyframe two frames cost two decodes.
        first = clip.starts[bisect_right(clip.starts, rank) - 1] if clip.kind == "video" else rank
        try:
            stretch = _read(clip, first, first + 2, white)
            pair = [pixels for pixels in stretch if pixels is not None]
        except MemoryError:
            raise
        except Exception:  # this only looks ahead; the build reports what it cannot read
            continue
        if len(pair) == 2:
            yield motion.small(pair[0]), motion.small(pair[1])


def refuse_photographs(clip: Footage, white: int | None = None) -> None:
    """Refuse a folder of pictures that are no frames: motion does not explain most of its steps.

    Args:
        clip: of any kind.
        white: the value of white in 16-bit pictures.

    Raises:
        UsageError: the cure is `--stills`.
    """
    if clip.kind != "frames":
        return
    jumps = [motion.is_unexplained(*pair) for pair in _neighbours(clip, PHOTO_PLACES, white)]
    if len(jumps) > 1 and 2 * sum(jumps) > len(jumps):
        raise UsageError(
            f"{clip.name} looks like photographs, not frames of one film: at {sum(jumps)} of"
            f" {len(jumps)} places neighbouring pictures have nothing in common",
            where=printable(str(clip.parts[0].path)),
            cure="give --stills if they are photographs; frames must be named in the order in"
            " which they were shot",
        )


def low_values(clip: Footage, request: FootageRequest) -> list[str]:
    """A note where 16-bit frames plainly end below their container at all places looked at.

    One dark frame says nothing: a film may fade to black.

    Raises:
        ImageError: the output has 8 bits, which would keep too little; the cure is `--white`.
    """
    content = clip.parts[0].content
    if request.white or clip.bits == 8 or not isinstance(content, frames.FrameFolder):
        return []
    ends = list(_ends(content))
    known = [end for end in ends if end is not None]
    if not known or len(known) < len(ends):
        return []
    if request.bits == 8:
        refuse_few_levels(max(known), printable(str(content.path)))
    return [f"{clip.name}: {note}" for note in notes_on_white(max(known), None)]


def _ends(folder: frames.FrameFolder) -> Iterator[int | None]:
    """`Picture.ends_at` of the frames at a few places, where they can be read."""
    for rank in sorted({int(place * len(folder)) for place in PHOTO_PLACES}):
        name = folder.names[rank]
        try:
            if name is not None:
                yield pictures.read(folder.path / name).ends_at
        except ImageError:  # this only looks ahead; the build reports what it cannot read
            continue


def neighbour_motion(clip: Footage, white: int | None = None) -> float | None:
    """Largest displacement between neighbouring frames at a few places, in pixels.

    The 95th percentile over each picture, so that what moves fastest in it counts; None where no
    two neighbours can be read.
    """
    fast = [motion.displacement(*pair)[1] for pair in _neighbours(clip, PLACES, white)]
    return max(fast, default=None)


def _read(clip: Footage, first: int, end: int, white: int | None) -> Iterator[Any]:
    for part, low, high in ranges(clip, first, end):
        content = part.content
        if isinstance(content, video.Video):
            yield from video.decode(video.stretch(content, low, high))
        elif content is not None:
            for name in content.names[low:high]:
                yield pictures.read(content.path / name, white=white).pixels if name else None


def warnings(clip: Footage, request: FootageRequest) -> list[str]:
    """A warning where neighbouring frames are so far apart that an average shows copies."""
    found, interpolate = neighbour_motion(clip, request.white), request.interpolate
    if found is None or found / (interpolate + 1) <= motion.GHOSTING_PX:
        return []
    return [
        f"{clip.name}: neighbouring frames are up to {found:.1f} px apart"
        + (f", {found / (interpolate + 1):.1f} px after interpolation" if interpolate else "")
        + f"; above 2 to 3 px an average shows ghosts instead of blur. {ghost_cure(found)}"
    ]


def ghost_cure(step_px: float) -> str:
    """What to do about steps of `step_px` pixels between neighbouring frames as shot."""
    cure = "Film at more frames per second, or move more slowly"
    # Steps of 2 pixels after interpolation show no ghosts.
    between = math.ceil(step_px / (motion.GHOSTING_PX - 1)) - 1
    if between > MOST_INTERPOLATED:
        return cure
    return f"{cure}, or draw frames in between: --interpolate {between}"
