"""The report's numbers: counts, points per trajectory, motion, problems; opens no image.

Everything is counted over all rows of the manifests with pyarrow; only `pictures` samples.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.report.points import Points, points

EXAMPLES = 5
MAX_PROBLEM_BYTES = 256 << 20


@dataclass(frozen=True)
class SplitCount:
    """What one split holds; `bytes` counts a sharp file once a trajectory."""

    split: str
    pairs: int
    trajectories: int
    clips: int
    bytes: int


@dataclass(frozen=True)
class LevelCount:
    """Pairs of one n and t: how many a split, and their median motion in pixels where known."""

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
class ProblemGroup:
    """Rows of problems.parquet with the same reason and cure."""

    reason: str
    cure: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class SameFile:
    """One content under several trajectories: the sharp file's digest is equal."""

    trajectories: tuple[str, ...]
    splits: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Numbers:
    """All that the report says in numbers.

    Attributes:
        pairs, trajectories, clips: over all splits.
        splits, levels, clip_counts, origins, domains, sizes: counts; origins per split.
        points: the three-points rule.
        motion: all known `motion_px`, float32.
        same_sharp: sharp files that stand in several trajectories.
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
    build: dict[str, Any]
    metadata: dict[str, str]


def collect(rows: manifest.Manifest, folder: Path) -> Numbers:
    """Count everything that the report tells.

    Args:
        rows: the manifests of the data set.
        folder: where build.json and problems.parquet stand, if there are any.
    """
    table = rows.table
    problems, problems_error = read_problems(folder / "problems.parquet")
    splits = _splits(table)
    return Numbers(
        pairs=table.num_rows,
        trajectories=sum(split.trajectories for split in splits),
        clips=sum(split.clips for split in splits),
        splits=splits,
        levels=_levels(table),
        clip_counts=_clips(table),
        origins=_origins(table),
        domains=_counts(table, "average_domain"),
        sizes=_sizes(table),
        points=points(table),
        motion=_motion(table),
        same_sharp=same_sharp(table),
        blur_is_sharp=_true(pc.equal(table["blur_sha256"], table["sharp_sha256"])),
        problems=problems,
        problems_error=problems_error,
        build=_build(folder),
        metadata=rows.metadata,
    )


def _splits(table: pa.Table) -> tuple[SplitCount, ...]:
    trajectories = table.group_by(["split", "trajectory_id"]).aggregate(
        [("sharp_bytes", "max"), ("clip_id", "min")]
    )
    sharp = trajectories.group_by("split").aggregate(
        [("sharp_bytes_max", "sum"), ("trajectory_id", "count"), ("clip_id_min", "count_distinct")]
    )
    blur = table.group_by("split").aggregate([("blur_bytes", "sum"), ("sample_id", "count")])
    pairs = {r["split"]: (r["sample_id_count"], r["blur_bytes_sum"]) for r in blur.to_pylist()}
    found = {
        r["split"]: SplitCount(
            r["split"],
            pairs[r["split"]][0],
            r["trajectory_id_count"],
            r["clip_id_min_count_distinct"],
            pairs[r["split"]][1] + r["sharp_bytes_max_sum"],
        )
        for r in sharp.to_pylist()
    }
    return tuple(found[split] for split in manifest.SPLITS if split in found)


def _levels(table: pa.Table) -> tuple[LevelCount, ...]:
    keys = ["n_frames", "timestep"]
    counted = table.group_by([*keys, "split"]).aggregate([("sample_id", "count")]).to_pylist()
    motion = table.group_by(keys).aggregate([("motion_px", "approximate_median")]).to_pylist()
    medians = {(r["n_frames"], r["timestep"]): r["motion_px_approximate_median"] for r in motion}
    per_split: dict[tuple[int | None, int | None], dict[str, int]] = {}
    for row in counted:
        entry = per_split.setdefault((row["n_frames"], row["timestep"]), {})
        entry[row["split"]] = row["sample_id_count"]

    def ascending(key: tuple[int | None, int | None]) -> tuple[float, float]:
        return tuple(float("inf") if part is None else part for part in key)  # type: ignore[return-value]

    return tuple(
        LevelCount(*key, per_split[key], medians[key]) for key in sorted(per_split, key=ascending)
    )


def _clips(table: pa.Table) -> tuple[ClipCount, ...]:
    grouped = table.group_by(["split", "clip_id"]).aggregate(
        [
            ("sample_id", "count"),
            ("trajectory_id", "count_distinct"),
            ("n_frames", "distinct"),
            ("width", "max"),
            ("height", "max"),
            ("motion_px", "approximate_median"),
        ]
    )
    rank = {split: place for place, split in enumerate(manifest.SPLITS)}
    rows = sorted(grouped.to_pylist(), key=lambda r: (rank.get(r["split"], 9), r["clip_id"]))
    return tuple(
        ClipCount(
            r["split"],
            r["clip_id"],
            r["sample_id_count"],
            r["trajectory_id_count_distinct"],
            tuple(sorted(n for n in r["n_frames_distinct"] if n is not None)),
            f"{r['width_max']} × {r['height_max']}",
            r["motion_px_approximate_median"],
        )
        for r in rows
    )


def _origins(table: pa.Table) -> dict[str, dict[str, int]]:
    grouped = table.group_by(["origin", "split"]).aggregate([("sample_id", "count")]).to_pylist()
    found: dict[str, dict[str, int]] = {}
    for row in grouped:
        found.setdefault(row["origin"], {})[row["split"]] = row["sample_id_count"]
    return {origin: found[origin] for origin in manifest.ORIGINS if origin in found}


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    counted = table[column].value_counts().to_pylist()
    ranked = sorted(counted, key=lambda c: -c["counts"])
    return {str(c["values"] or "unknown"): c["counts"] for c in ranked}


def _sizes(table: pa.Table) -> dict[str, int]:
    counts = table.group_by(["width", "height"]).aggregate([("sample_id", "count")]).to_pylist()
    ranked = sorted(counts, key=lambda r: (-r["sample_id_count"], r["width"], r["height"]))
    return {f"{r['width']} × {r['height']}": r["sample_id_count"] for r in ranked}


def _motion(table: pa.Table) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = table["motion_px"].drop_null().to_numpy()
    return values[np.isfinite(values)]


def same_sharp(table: pa.Table) -> tuple[SameFile, ...]:
    """Sharp files equal byte by byte in several trajectories; those across splits first."""
    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    per_trajectory = numbered.group_by(["sharp_sha256", "trajectory_id"]).aggregate(
        [("row", "min")]
    )
    counts = per_trajectory["sharp_sha256"].value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    among = per_trajectory.filter(pc.is_in(per_trajectory["sharp_sha256"], value_set=twice))
    ordered = among.sort_by([("sharp_sha256", "ascending"), ("row_min", "ascending")]).to_pylist()
    found = []
    for _, members in groupby(ordered, key=lambda r: r["sharp_sha256"]):
        listed = list(members)
        rows = tuple(int(m["row_min"]) for m in listed)
        splits = tuple(table["split"][row].as_py() for row in rows)
        found.append(SameFile(tuple(m["trajectory_id"] for m in listed), splits, rows))
    return tuple(sorted(found, key=lambda s: (-len(set(s.splits)), s.trajectories)))


def _true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask.cast(pa.int64())).as_py() or 0)


def read_problems(path: Path) -> tuple[tuple[ProblemGroup, ...] | None, str]:
    """Group problems.parquet by reason and cure.

    Returns:
        the groups, most frequent first, or None without such a file; and why the file could not be
        read, or "". The report is still written then.
    """
    if not path.is_file():
        return None, ""
    try:
        if path.stat().st_size > MAX_PROBLEM_BYTES:
            return None, f"problems.parquet is larger than {MAX_PROBLEM_BYTES >> 20} MiB"
        table = pq.ParquetFile(
            pa.BufferReader(path.read_bytes()), page_checksum_verification=True
        ).read(use_threads=False)  # a small file
        rows = table.select(["reason", "what", "cure", "split", "clip_id", "sample_id", "file"])
        listed = rows.to_pylist()
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        return None, f"problems.parquet cannot be read: {str(error).splitlines()[0]}"
    return _grouped(listed), ""


def _grouped(rows: list[dict[str, Any]]) -> tuple[ProblemGroup, ...]:
    counts = Counter((str(r["reason"]), str(r["cure"] or "")) for r in rows)
    examples: dict[tuple[str, str], list[str]] = {key: [] for key in counts}
    for row in rows:
        listed = examples[str(row["reason"]), str(row["cure"] or "")]
        if len(listed) < EXAMPLES:
            listed.append(str(row["what"]))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        ProblemGroup(reason, cure, count, tuple(examples[reason, cure]))
        for (reason, cure), count in ranked
    )


def _build(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "build.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
