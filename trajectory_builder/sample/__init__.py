"""The embedded sample: a small GOPRO_Large and GOPRO_Large_all made from photographs.

The photographs come with scikit-image's wheel; nothing is downloaded. `scenes` renders the
pictures, `trees` writes them.
"""

from trajectory_builder.errors import OutputError
from trajectory_builder.sample.scenes import (
    CLIPS,
    HEIGHT,
    WIDTH,
    SampleClip,
    render_clip,
    render_frame,
)
from trajectory_builder.sample.trees import FRAMES_ROOT, PAIRS_ROOT, SampleReport, write_sample

__all__ = [
    "CLIPS",
    "FRAMES_ROOT",
    "HEIGHT",
    "PAIRS_ROOT",
    "WIDTH",
    "OutputError",
    "SampleClip",
    "SampleReport",
    "render_clip",
    "render_frame",
    "write_sample",
]
