"""Core data types: frames, clips, windows, the timestep of a blur.

A clip is a run of frames from one shot. A window is n consecutive frames of it; their mean is a
blur. All windows round one centre frame form a trajectory, from sharp (n = 1) to the longest blur.
"""

from __future__ import annotations

from dataclasses import dataclass

TIMESTEP_STEP = 20
"""Timesteps for one more averaged frame (FideDiff, section 3: t = (n - 1) x 20)."""

MAX_TIMESTEP = 999
"""The last step of Stable Diffusion's schedule; t must not lie beyond it."""

SPLITS = ("train", "validation", "test")
"""The parts of a data set, in the order in which manifests and people name them."""

DOMAINS = ("srgb", "gamma2.2", "camera")
"""How frames were averaged: as stored, linearised by a power of 2.2, or by a camera model."""

BUILD_FILE = "build.json"
"""The record of a finished build, at the top of its folder."""

GOPRO_FPS = 240.0
"""Frames a second of the GoPro footage on which the timestep is defined."""


def timestep(n_frames: int, *, step: int = TIMESTEP_STEP) -> int:
    """Diffusion timestep of a blur that is the mean of `n_frames` frames shot at 240 fps.

    t = (n - 1) x step, so 1 frame is 0, 7 are 120, 11 are 200 and 13 are 240 (FideDiff, section 3).

    Raises:
        ValueError: `n_frames` is not an odd number of at least 1.
    """
    if n_frames < 1 or n_frames % 2 == 0:
        raise ValueError(f"n_frames must be odd and at least 1, not {n_frames}")
    return (n_frames - 1) * step


@dataclass(frozen=True, slots=True)
class Window:
    """The consecutive frames that one blur averages: 0-based rank of the first, and how many.

    `first_index` may be negative for official GoPro pairs whose window starts before the first
    frame that was published.
    """

    first_index: int
    n_frames: int

    @property
    def center_index(self) -> int:
        """Rank of the middle frame, which is the sharp image."""
        return self.first_index + self.n_frames // 2

    @property
    def end_index(self) -> int:
        """Rank one past the last frame."""
        return self.first_index + self.n_frames


def centred_window(center_index: int, n_frames: int) -> Window:
    """The window of `n_frames` (odd) frames whose middle is `center_index`."""
    return Window(center_index - n_frames // 2, n_frames)


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames in time order from one continuous shot.

    Attributes:
        name: unique within its split; also the name of its folder in the output.
        split: train, validation or test.
        frames: one entry a rank: the frame's POSIX path relative to the frames' root, or None
            where the numbering has a gap, so that ranks never close up over a missing frame. For
            a video the entry is the frame's time in seconds as text.
        fps: frames per second at which it was shot.
        video: for a clip that is one video file, its POSIX path relative to the root; else "".
    """

    name: str
    split: str
    frames: tuple[str | None, ...]
    fps: float
    video: str = ""

    def names(self, window: Window) -> tuple[str, ...] | None:
        """The window's frames, or None when it leaves the clip or crosses a gap."""
        if window.first_index < 0 or window.end_index > len(self.frames):
            return None
        names = self.frames[window.first_index : window.end_index]
        if any(name is None for name in names):
            return None
        return names  # type: ignore[return-value]  # no None is left in it


SETTLED = frozenset(
    {"scene-cut", "frame-repeated", "static", "photo-too-small", "video-frame-damaged"}
)
"""Reasons that are in the footage itself: reading the same file again does not fix them."""


LEFT_OUT = frozenset({"scene-cut", "frame-repeated", "static", "time-gap", "time-duplicate"})
"""Reasons to leave a window out on purpose: nothing is damaged or missing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not there or not right, and why: a row of problems.parquet.

    Attributes:
        reason: a short fixed word such as `frame-missing`; scripts may filter on it.
        what: the sentence for a person.
        cure: what to do about it.
        split, clip_id, sample_id, file: what it concerns, "" where that does not apply.
    """

    reason: str
    what: str
    cure: str = ""
    split: str = ""
    clip_id: str = ""
    sample_id: str = ""
    file: str = ""
