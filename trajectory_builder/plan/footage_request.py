"""The request of `trajbuild generate`, in one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from trajectory_builder.errors import UsageError
from trajectory_builder.images.video.hdr import Handling
from trajectory_builder.pixels import hand_motion, motion
from trajectory_builder.plan import windows
from trajectory_builder.plan.recipe import Recipe, load_recipe
from trajectory_builder.plan.windows import TimestepMap

MOST_INTERPOLATED = 63
"""Our choice: more frames between two neighbours would be drawings of drawings."""


@dataclass(frozen=True)
class FootageRequest:
    """The request of `trajbuild generate`.

    Attributes:
        sources: videos, folders of videos, folders of frames, photographs.
        recipe: which n; a recipe, a built-in name or a file; None for `n_frames`.
        n_frames: odd numbers of frames; empty for `windows.DEFAULT_N_FRAMES` or a recipe's.
        average: domain of the averages, None for the recipe's or srgb; `camera` replaces it.
        every, max_per_clip, timestep_map: as in `windows.WindowChoice`.
        split: split name to share; by shot.
        seed: of the split, of camera paths and of noise.
        fps: frames per second at which all was shot; None takes each file's own.
        join_chapters: chapter files of a shot become one clip.
        interpolate: frames drawn between two neighbours.
        camera: settings as text, see `camera.parse`; "" for a plain mean.
        stills: pictures are photographs on their own.
        paths_per_still: camera paths for each photograph.
        max_side: photographs are reduced to at most this many pixels per side; 0 leaves them.
        blur_px: least and largest side of a photograph's longest kernel, in pixels.
        bits: of the written files, 8 or 16.
        motion_floor: windows that move less, in pixels, make no pair.
        white: the value of white in 16-bit pictures; None takes them as they are.
        hdr: `refuse`, or `convert` to ordinary video as `images.video.hdr` does.
    """

    sources: tuple[Path, ...]
    recipe: Recipe | str | None = None
    n_frames: tuple[int, ...] = ()
    average: str | None = None
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
    blur_px: tuple[float, float] = hand_motion.BLUR_PX
    bits: int = 8
    motion_floor: float = motion.STATIC_PX
    hdr: Handling = "refuse"
    white: int | None = None

    def chosen_recipe(self) -> Recipe:
        """The recipe of all windows, averaged in the domain asked for.

        Raises:
            UsageError: no such recipe, n that cannot be, or a recipe and n as well.
        """
        if self.recipe is None:
            n_frames = self.n_frames or windows.DEFAULT_N_FRAMES
            return windows.own_recipe(n_frames, self.average or "srgb")
        if self.n_frames:
            raise UsageError(
                "--recipe and --n-frames exclude one another",
                where="--recipe, --n-frames",
                cure="give one of them",
            )
        chosen = load_recipe(self.recipe) if isinstance(self.recipe, str) else self.recipe
        return replace(chosen, average=self.average or chosen.average)
