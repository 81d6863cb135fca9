"""The report's numbers, counted over all rows of the manifests; opens no image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trajectory_builder import manifest
from trajectory_builder.report.records import ProblemGroup, read_build, read_problems
from trajectory_builder.trajectory import SPLITS

if TYPE_CHECKING:
    import pandas as pd

POINTS_WANTED = 3
"""Backward points that each blur should have (FideDiff: "at least 3 points")."""


@dataclass(frozen=True)
class SplitCount:
    """Counts of one split; `bytes` counts a sharp file once per trajectory."""

    split: str
    pairs: int
    trajectories: int
    clips: int
    bytes: int


@dataclass(frozen=True)
class LevelCount:
    """Pairs of one n and t: how many per split, and their median motion in pixels where known."""

    n_frames: int | None
    timestep: int | None
    per_split: dict[str, int]
    motion_px: float | None

    @property
    def pairs(self) -> int:
        """Pairs of all splits."""
        return sum(self.per_split.values())


@dataclass(frozen=True)
class ClipCount:
    """One clip: pairs, trajectories, its n from smallest to largest, size, median motion."""

    split: str
    clip: str
    pairs: int
    trajectories: int
    levels: tuple[int, ...]
    size: str
    motion_px: float | None


@dataclass(frozen=True)
class SameFile:
    """One sharp file, by its digest, under several trajectories."""

    trajectories: tuple[str, ...]
    splits: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class LevelPoints:
    """Backward points of the pairs of one n.

    Attributes:
        n_frames: n of the pairs.
        pairs: how many there are.
        on_disk: backward points standing as files (the sharp one included) -> pairs.
        renderable: points that the same frames can give (the sharp one included) -> pairs.
    """

    n_frames: int
    pairs: int
    on_disk: dict[int, int]
    renderable: dict[int, int]


@dataclass(frozen=True)
class Points:
    """The "at least three backward points" rule, checked for every row.

    Attributes:
        levels: per n, ascending.
        pairs: rows of known n; `unknown` rows have none and are left out.
        on_disk: rows with at least three points standing as files.
        renderable: rows whose frames can give at least three.
        longest: trajectories; `longest_on_disk` of them have three points below their longest blur.
        short: rows of n below 7, where three smaller odd n do not exist.
    """

    levels: tuple[LevelPoints, ...]
    pairs: int
    unknown: int
    on_disk: int
    renderable: int
    longest: int
    longest_on_disk: int
    short: int


@dataclass(frozen=True)
class Numbers:
    """All that the report says in numbers.

    Attributes:
        pairs, trajectories, clips: over all splits.
        splits, levels, clip_counts, origins, domains, sizes: counts; origins per split.
        points: the three-points rule.
        motion: all known `motion_px`, float32.
        same_sharp: sharp files that are in several trajectories.
        blur_is_sharp: pairs whose blur file equals their sharp file byte by byte.
        problems: grouped; None when the data set has no problems.parquet.
        problems_error: why problems.parquet could not be read, or "".
        build: build.json, {} when there is none.
        metadata: what the manifests say of themselves.
    """

    pairs: int
    trajectories: int
    clips: int
    splits: tuple[SplitCount, ...]
    levels: tuple[LevelCount, ...]
    clip_counts: tuple[ClipCount, ...]
    origins: dict[str, dict[str, int]]
    domains: dict[str, int]
    sizes: dict[str, int]
    points: Points
    motion: npt.NDArray[np.float32]
    same_sharp: tuple[SameFile, ...]
    blur_is_sharp: int
    problems: tuple[ProblemGroup, ...] | None
    problems_error: str
    build: Mapping[str, Any]
    metadata: dict[str, str]


def count(rows: manifest.Manifest, folder: Path) -> Numbers:
    """Count everything that the report says in numbers.

    Args:
        rows: the manifests of the data set.
        folder: where build.json and problems.parquet are, if there are any.
    """
    frame = rows.to_pandas()
    problems, problems_error = read_problems(folder / "problems.parquet")
    splits = _splits(frame)
    motion = frame["motion_px"].dropna().to_numpy(np.float32)
    return Numbers(
        pairs=len(frame),
        trajectories=sum(split.trajectories for split in splits),
        clips=sum(split.clips for split in splits),
        splits=splits,
        levels=_levels(frame),
        clip_counts=_clips(frame),
        origins=_origins(frame),
        domains=_ranked(frame["average_domain"].fillna("unknown")),
        sizes=_ranked(_sizes(frame)),
        points=points(frame),
        motion=motion[np.isfinite(motion)],
        same_sharp=same_sharp(frame),
        blur_is_sharp=int((frame["blur_sha256"] == frame["sharp_sha256"]).sum()),
        problems=problems,
        problems_error=problems_error,
        build=read_build(folder),
        metadata=rows.metadata,
    )


def _splits(frame: pd.DataFrame) -> tuple[SplitCount, ...]:
    sharps = frame.drop_duplicates(["split", "trajectory_id"])
    counts = []
    for split in SPLITS:
        pairs, sharp = frame[frame["split"] == split], sharps[sharps["split"] == split]
        size = int(pairs["blur_bytes"].sum() + sharp["sharp_bytes"].sum())
        counts.append(SplitCount(split, len(pairs), len(sharp), sharp["clip_id"].nunique(), size))
    return tuple(count for count in counts if count.pairs)


def _levels(frame: pd.DataFrame) -> tuple[LevelCount, ...]:
    groups = frame.groupby(["n_frames", "timestep"], dropna=False)
    return tuple(
        LevelCount(
            *_plain(key),
            _ranked(members["split"]),
            _median(members["motion_px"]),
        )
        for key, members in groups
    )


def _plain(key: tuple[Any, ...]) -> tuple[int | None, int | None]:
    import pandas as pd

    n_frames, timestep = (None if pd.isna(value) else int(value) for value in key)
    return n_frames, timestep


def _clips(frame: pd.DataFrame) -> tuple[ClipCount, ...]:
    keys = ["split", "clip_id"]
    counted = frame.groupby(keys).agg(
        pairs=("sample_id", "size"),
        trajectories=("trajectory_id", "nunique"),
        width=("width", "max"),
        height=("height", "max"),
        motion_px=("motion_px", "median"),
    )
    known = frame[[*keys, "n_frames"]].dropna().drop_duplicates().sort_values("n_frames")
    levels = known.groupby(keys)["n_frames"].agg(list)
    plain: Any = counted.astype(object).where(counted.notna(), None).reset_index()
    clips = [
        ClipCount(
            row.split,
            row.clip_id,
            row.pairs,
            row.trajectories,
            tuple(int(n) for n in levels.get((row.split, row.clip_id), ())),
            f"{row.width} × {row.height}",
            row.motion_px,
        )
        for row in plain.itertuples()
    ]
    return tuple(sorted(clips, key=lambda c: (SPLITS.index(c.split), c.clip)))


def _median(values: pd.Series[float]) -> float | None:
    known = values.dropna().to_numpy(np.float64)
    return float(np.median(known)) if len(known) else None


def _origins(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    groups = {origin: frame["split"][frame["origin"] == origin] for origin in manifest.ORIGINS}
    return {origin: _ranked(splits) for origin, splits in groups.items() if len(splits)}


def _sizes(frame: pd.DataFrame) -> pd.Series[str]:
    return frame["width"].astype(str) + " × " + frame["height"].astype(str)


def _ranked(values: pd.Series[str]) -> dict[str, int]:
    """How often each value occurs, most frequent first, equal counts by name."""
    counts = {str(value): int(count) for value, count in values.value_counts().items()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def same_sharp(frame: pd.DataFrame) -> tuple[SameFile, ...]:
    """Sharp files equal byte by byte in several trajectories; those across splits first."""
    first = frame.drop_duplicates(["sharp_sha256", "trajectory_id"])
    shared = first[first["sharp_sha256"].duplicated(keep=False)]
    files = [
        SameFile(tuple(members["trajectory_id"]), tuple(members["split"]), tuple(members.index))
        for _, members in shared.groupby("sharp_sha256")
    ]
    return tuple(sorted(files, key=lambda s: (-len(set(s.splits)), s.trajectories)))


def points(frame: pd.DataFrame) -> Points:
    """Check every row against the rule of at least three backward points.

    On disk are the row's `backward_n_frames`. Renderable is every odd n below the row's n, since
    windows round one centre are nested; only a window that begins before the clip's first frame
    is not, and rows whose frames are not known (or were not averaged) have none.
    """
    known = frame[frame["n_frames"].notna()]
    n = known["n_frames"].to_numpy(np.int64)
    on_disk = known["backward_n_frames"].list.len().to_numpy(np.int64)
    renderable = np.maximum(_renderable(known, n), on_disk)
    levels = tuple(
        LevelPoints(
            int(level),
            int((n == level).sum()),
            _tally(on_disk[n == level]),
            _tally(renderable[n == level]),
        )
        for level in np.unique(n)
    )
    longest = known.assign(on_disk=on_disk).sort_values("n_frames")
    longest = longest.drop_duplicates("trajectory_id", keep="last")
    return Points(
        levels=levels,
        pairs=len(n),
        unknown=len(frame) - len(n),
        on_disk=int((on_disk >= POINTS_WANTED).sum()),
        renderable=int((renderable >= POINTS_WANTED).sum()),
        longest=len(longest),
        longest_on_disk=int((longest["on_disk"] >= POINTS_WANTED).sum()),
        short=int((n < 2 * POINTS_WANTED + 1).sum()),
    )


def _renderable(known: pd.DataFrame, n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Odd numbers below each row's n whose window is inside the clip."""
    center = known["center_index"].fillna(-1).to_numpy(np.int64)
    synthetic = (known["origin"] == "synthetic").to_numpy(np.bool_)
    inside = 2 * center + 1  # the largest centred window that does not begin below rank 0
    largest = np.minimum(n - 2, inside)
    counted: npt.NDArray[np.int64] = np.where((center < 0) | synthetic, 0, (largest + 1) // 2)
    return counted


def _tally(values: npt.NDArray[np.int64]) -> dict[int, int]:
    return {int(k): int(v) for k, v in zip(*np.unique(values, return_counts=True), strict=True)}
