"""Choosing windows in footage of any rate, and the timestep of what they give.

For GoPro the official pairs say where windows are. Here they are set at equal distances, and a
window that something breaks makes no pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trajectory_builder.errors import UsageError
from trajectory_builder.plan.recipe import Recipe
from trajectory_builder.trajectory import GOPRO_FPS, MAX_TIMESTEP, SPLITS, TIMESTEP_STEP

TimestepMap = Literal["frames", "exposure"]
DEFAULT_N_FRAMES = (5, 7, 9, 11, 13)
"""The n of the recipe fidediff-7877, which are also the paper's range."""


@dataclass(frozen=True)
class WindowChoice:
    """Which windows of a clip become pairs.

    Attributes:
        recipe: which n are made round one sharp frame.
        native_n_frames: the recipe's n that gives the longest window.
        every: frames between the centres of neighbouring trajectories; None takes the longest n.
        max_per_clip: at most this many trajectories per clip, evenly spread; None takes all.
        timestep_map: `frames`: t = (n - 1) x 20 whatever the rate; `exposure`: by the time that
            the window spans, so that equal exposures have equal t.
    """

    recipe: Recipe
    native_n_frames: int
    every: int | None = None
    max_per_clip: int | None = None
    timestep_map: TimestepMap = "frames"


def own_recipe(n_frames: Sequence[int], average: str) -> Recipe:
    """The recipe of a list of n, such as 5, 7, 9, 11, 13.

    Raises:
        UsageError: an even n, one below 3, or one twice.
    """
    bad = [n for n in n_frames if n < 3 or n % 2 == 0]
    if bad or not n_frames or len(set(n_frames)) < len(n_frames):
        raise UsageError(
            f"n must be odd and at least 3, not {bad[0]}" if bad else "each n is given once",
            where=f"--n-frames {','.join(map(str, n_frames))}",
            cure="a window has a middle frame only if n is odd: for example --n-frames 5,7,9,11,13",
        )
    longest = max(n_frames)
    further = tuple(sorted(n for n in n_frames if n != longest))
    return Recipe(name="own", windows={longest: further}, average=average)


def native_of(recipe: Recipe) -> int:
    """The longest native n that a recipe names; 13 where it speaks of any n alone (ours)."""
    return max((key for key in recipe.windows if isinstance(key, int)), default=13)


def timestep_of(n_frames: int, fps: float, how: TimestepMap, *, step: int = TIMESTEP_STEP) -> int:
    """Timestep of a window.

    `frames` gives (n - 1) x step. `exposure` (ours) first takes n to the n' that spans the same
    time at 240 fps, n' = 1 + (n - 1) x 240 / fps, so that the sharp frame keeps t = 0; rounded.

    Raises:
        UsageError: `exposure` without a known rate.
    """
    if how == "frames":
        return (n_frames - 1) * step
    if fps <= 0:
        raise UsageError(
            "--timestep-map exposure needs to know how many frames per second were shot",
            where="the frames of a folder do not record it",
            cure="give it: --fps 240",
        )
    return round((n_frames - 1) * step * GOPRO_FPS / fps)


def check_timesteps(choice: WindowChoice, fps: float, clip: str) -> None:
    """Refuse windows whose t is beyond the schedule.

    Raises:
        UsageError: naming the largest n that works.
    """
    step = choice.recipe.timestep_step
    longest = max(longest_n(choice, ""), choice.native_n_frames)
    t = timestep_of(longest, fps, choice.timestep_map, step=step)
    if t <= MAX_TIMESTEP:
        return
    largest = longest
    while timestep_of(largest, fps, choice.timestep_map, step=step) > MAX_TIMESTEP:
        largest -= 2
    raise UsageError(
        f"a window of {longest} frames has t = {t}, above {MAX_TIMESTEP}",
        where=f"{clip}, {fps:g} frames per second, --timestep-map {choice.timestep_map}",
        cure=_cure(choice, largest),
    )


def _cure(choice: WindowChoice, largest: int) -> str:
    if largest < 3:
        return "the footage is too slow for exposures: --timestep-map frames"
    fitting = fitting_n(choice, largest) or str(largest)
    other = ", or --timestep-map frames" if choice.timestep_map == "exposure" else ""
    return f"{largest} is the largest n that works: --n-frames {fitting}{other}"


def fitting_n(choice: WindowChoice, most: int) -> str:
    """The wanted n up to `most`, as `--n-frames` takes them; "" if there is none."""
    wanted = choice.recipe.n_frames(choice.native_n_frames, "")
    return ",".join(str(n) for n in wanted if n <= most)


def longest_n(choice: WindowChoice, trajectory_id: str) -> int:
    """The longest window that the recipe asks of a trajectory, its draws at their longest."""
    recipe = choice.recipe
    drawn = recipe.draws.get(choice.native_n_frames, {})
    return max(*recipe.n_frames(choice.native_n_frames, trajectory_id), *drawn, 1, 1)


def centers(choice: WindowChoice, length: int, *, factor: int = 1) -> list[int]:
    """Ranks of the centre frames in a clip of `length` frames.

    Args:
        choice: how far apart, and how many at most.
        length: frames of the clip as shot.
        factor: frames after interpolation for one before; ranks count frames as shot.
    """
    longest = longest_n(choice, "")
    # The longest window must fit on both sides, counted in frames as shot.
    reach = -(-(longest // 2) // factor)
    every = choice.every or max(-(-longest // factor), 1)
    found = list(range(reach, length - reach, every))
    wanted = choice.max_per_clip
    if wanted is None or len(found) <= wanted:
        return found
    if wanted == 1:
        return [found[len(found) // 2]]
    return [found[round(i * (len(found) - 1) / (wanted - 1))] for i in range(wanted)]


def parse_split(text: str) -> dict[str, float]:
    """Read `train=0.9,test=0.1`.

    Raises:
        UsageError: an unknown split, a share that is no number, or shares that do not sum to 1.
    """
    shares: dict[str, float] = {}
    try:
        for part in text.split(","):
            name, _, share = part.strip().partition("=")
            if name not in SPLITS or name in shares:
                raise ValueError(f"{name or part!r} is no split, or is there twice")
            shares[name] = float(share)
        if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError("shares are not negative and sum to 1")
    except ValueError as error:
        raise UsageError(
            f"--into cannot be read: {error}",
            where=text,
            cure="for example --into train=0.8,validation=0.1,test=0.1",
        ) from error
    return shares


def split_shots(shots: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Give each shot one split, so that no shot is in two.

    Shots are ordered by a digest of seed and name, then cut at the shares, rounded; a split with
    a share gets a shot as long as there are enough.

    Returns:
        shot to split.
    """
    order = sorted(set(shots), key=lambda s: hashlib.sha256(f"{seed}\0{s}".encode()).digest())
    wanted = [name for name, share in shares.items() if share > 0]
    counts = {name: int(shares[name] * len(order)) for name in wanted}
    while sum(counts.values()) < len(order):
        lacking = max(wanted, key=lambda name: shares[name] * len(order) - counts[name])
        counts[lacking] += 1
    for name in wanted:
        largest = max(wanted, key=lambda other: counts[other])
        if counts[name] == 0 and counts[largest] > 1:
            counts[largest] -= 1
            counts[name] += 1
    names = [name for name in wanted for _ in range(counts[name])]
    return dict(zip(order, names, strict=True))
