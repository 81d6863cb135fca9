"""What a worker needs to make a shard of a user's footage, beyond its plan rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker that expands GoPro must not load the video library
    from trajectory_builder.images.video.reading import Stretch
    from trajectory_builder.sources.search import Kind


@dataclass(frozen=True)
class FootagePart:
    """A run of frames in one file or folder.

    Attributes:
        root, name: where it is: a name of `Plan.roots`, and the path from there.
        frames: of a folder, the file names by rank; None where one is missing.
        stretch: of a video, what to decode; its path is `name`, since the root may move.
    """

    root: str
    name: str
    frames: tuple[str | None, ...] = ()
    stretch: Stretch | None = None


@dataclass(frozen=True)
class FootageOrder:
    """The work order of one shard of footage.

    Attributes:
        kind: `video`, `frames` or `still`.
        first: rank, as shot, of the first frame of `parts`.
        size: (width, height) of the frames.
        parts: the frames in order.
        interpolate: frames drawn between two neighbours.
        camera: settings as text, see `camera.parse`; "" for a plain mean.
        seed: of camera paths and noise.
        bits: of the written files, 8 or 16.
        max_side: photographs are reduced to this many pixels per side; 0 leaves them.
        blur_px: sides of the longest kernels of photographs, see `hand_motion.HandMotion`.
        motion_floor: a trajectory that moves less, in pixels, makes no pair.
        white: the value of white in 16-bit pictures; None takes them as they are.
        decoder: version of the video library; another one makes the shard again.
    """

    kind: Kind
    first: int
    size: tuple[int, int]
    parts: tuple[FootagePart, ...]
    interpolate: int
    camera: str
    seed: int
    bits: int
    max_side: int
    blur_px: tuple[float, float]
    motion_floor: float
    decoder: str
    white: int | None = None

    @property
    def factor(self) -> int:
        """Frames after interpolation per frame as shot."""
        return self.interpolate + 1
