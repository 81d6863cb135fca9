"""Averages that show ghosts instead of blur, counted over all pairs of a finished build."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.errors import shorten
from trajectory_builder.pixels.motion import GHOSTING_PX

WORTH_A_NOTE = 0.1
"""Our choice: the share of a set's pairs from which ghosts are reported."""


def ghost_notes(table: pa.Table, factor: int) -> list[str]:
    """A note where many pairs have steps above `GHOSTING_PX`; empty for a sound set.

    Args:
        table: manifest rows of a build from videos or frames.
        factor: frames after interpolation per frame as shot.
    """
    known = table.filter(pc.is_valid(table["step_px"]))
    ghosts = known.filter(pc.greater(known["step_px"], GHOSTING_PX))
    if not ghosts.num_rows or ghosts.num_rows < WORTH_A_NOTE * known.num_rows:
        return []
    # Only here: it imports all that reads footage, which a build of GoPro does not need.
    from trajectory_builder.plan.preview import ghost_cure

    clips = ghosts.group_by("clip_id").aggregate([("clip_id", "count")]).to_pylist()
    clips.sort(key=lambda clip: (-clip["clip_id_count"], clip["clip_id"]))
    names = shorten([f"{clip['clip_id']} ({clip['clip_id_count']:,})" for clip in clips])
    fast = pc.quantile(ghosts["step_px"], 0.9)[0].as_py()
    share = ghosts.num_rows / known.num_rows
    return [
        f"{ghosts.num_rows:,} of {known.num_rows:,} pairs ({share:.0%}) have neighbouring frames"
        f" more than {GHOSTING_PX:.0f} px apart (most up to {fast:.1f}) and show ghosts instead of"
        f" blur: {names}. {ghost_cure(fast * factor)}"
    ]
