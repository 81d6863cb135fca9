"""What `trajbuild generate` is asked for, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trajectory_builder.images.video.hdr import Handling
from trajectory_builder.pixels import motion
from trajectory_builder.plan import windows
from trajectory_builder.plan.recipe import Recipe
from trajectory_builder.plan.windows import TimestepMap

MOST_INTERPOLATED = 63
"""Our choice: more frames between two neighbours would be drawings of drawings."""


@dataclass(frozen=True)
class FootageRequest:
    """What `trajbuild generate` is asked for.

    Attributes:
        sources: videos, folders of videos, folders of frames, photographs.
        recipe: which n; None for `n_frames`.
        n_frames: odd numbers of frames.
        average: domain of the averages; `camera` settings replace it.
        every, max_per_clip, timestep_map: as in `windows.WindowChoice`.
        split: split name to share; by shot.
        seed: of the split, of camera paths and of noise.
        fps: frames a second at which all was shot; None takes each file's own.
        join_chapters: chapter files of a shot become one clip.
        interpolate: frames drawn between two neighbours.
        camera: settings as text, see `camera.parse`; "" for a plain mean.
        stills: pictures are photographs on their own.
        paths_per_still: camera paths for each photograph.
        max_side: photographs are reduced to at most this many pixels per side; 0 leaves them.
        bits: of the written files, 8 or 16.
        motion_floor: windows that move less, in pixels, make no pair.
        white: the value of white in 16-bit pictures; None takes them as they are.
        hdr: `refuse`, or `convert` to ordinary video as `images.video.hdr` does.
    """

    sources: tuple[Path, ...]
    recipe: Recipe | None = None
    n_frames: tuple[int, ...] = windows.DEFAULT_N_FRAMES
    average: str = "srgb"
    every: int | None = None
    max_per_clip: int | None = None
    timestep_map: TimestepMap = "frames"
    split: str = "train=1"
    seed: int = 0
    fps: float | None = None
    join_chapters: bool = False
    interpolate: int = 0
    camera: str = ""
    stills: bool = False
    paths_per_still: int = 1
    max_side: int = 1920
    bits: int = 8
    motion_floor: float = motion.STATIC_PX
    hdr: Handling = "refuse"
    white: int | None = None
