"""A plan as a table: one row per pair, with its window and its files, before a pixel is read.

GoPro (`plan.gopro`) and a user's footage (`plan.footage`) both give a `Plan` of these rows.
`trajbuild plan` and `--dry-run` print it, `build` carries it out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.plan.order import FootageOrder
from trajectory_builder.trajectory import Problem, centred_window

TRAJECTORIES_PER_SHARD = 8
"""Our choice: a second or two of work, so that an interrupt loses little, the progress bar moves,
and a marker costs nothing."""

_ROWS_AT_ONCE = 4096
_FROM_MANIFEST = [
    "sample_id", "trajectory_id", "split", "clip_id", "n_frames", "timestep", "native_n_frames",
    "backward_n_frames", "blur_file_name", "sharp_file_name", "origin", "average_domain",
    "first_index", "center_index", "center_frame", "fps", "exposure_ms",
]  # fmt: skip


class PlanRow(TypedDict):
    """One row of a plan; `SCHEMA` says what each column means."""

    sample_id: str
    trajectory_id: str
    split: str
    clip_id: str
    n_frames: int
    timestep: int
    native_n_frames: int
    backward_n_frames: list[int]
    blur_file_name: str
    sharp_file_name: str
    origin: str
    average_domain: str
    first_index: int
    center_index: int
    center_frame: str | None
    fps: float | None
    exposure_ms: float | None
    shard: str
    blur_source: str
    sharp_source: str
    frame_names: list[str]


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, nullable=False, metadata={b"meaning": meaning.encode()})


SCHEMA = pa.schema(
    [
        *(manifest.SCHEMA.field(name) for name in _FROM_MANIFEST),
        _field("shard", pa.string(), "the unit of work and resume that makes the row"),
        _field(
            "blur_source",
            pa.string(),
            "where an official blur is copied from: `pairs:PATH`; empty where it is averaged",
        ),
        _field(
            "sharp_source", pa.string(), "where the sharp is copied from: `pairs:` or `frames:`"
        ),
        _field(
            "frame_names",
            pa.list_(pa.field("element", pa.string(), nullable=False)),
            "the window's frames in time order, relative to the root of the frames; empty where"
            " they are not at hand",
        ),
    ]
)
"""The manifest's columns that need no pixels, then what only a build needs."""


@dataclass(frozen=True)
class Trajectory:
    """What the rows round one centre frame have in common.

    Attributes:
        clip_id: the clip; its folder in the output.
        split: train, validation or test.
        pair: name of the trajectory within the clip, e.g. the six-digit number.
        shard: what makes it.
        center_index: rank of the centre frame.
        center_frame: its file name or time; None where it is absent.
        native_n_frames: n of the official pair, or the largest n.
        fps: frames per second; 0 where unknown.
        domain: where frames are averaged.
        sharp_source: where the sharp image is taken from.
        origin: of the blurs that are not official.
    """

    clip_id: str
    split: str
    pair: str
    shard: str
    center_index: int
    center_frame: str | None
    native_n_frames: int
    fps: float
    domain: str
    sharp_source: str
    origin: str = "averaged"

    @property
    def trajectory_id(self) -> str:
        """`CLIP/PAIR`."""
        return f"{self.clip_id}/{self.pair}"


@dataclass(frozen=True)
class PlannedWindow:
    """One pair of a trajectory: its n, its t, its frames, and its official blur if it has one."""

    n_frames: int
    timestep: int
    frame_names: Sequence[str]
    blur_source: str = ""


def pair_rows(trajectory: Trajectory, windows: Sequence[PlannedWindow]) -> Iterator[PlanRow]:
    """Rows of one trajectory; `windows` ascend in n."""
    clip_id, pair, fps = trajectory.clip_id, trajectory.pair, trajectory.fps
    for position, window in enumerate(windows):
        n = window.n_frames
        yield {
            "sample_id": sample_name(trajectory.trajectory_id, n),
            "trajectory_id": trajectory.trajectory_id,
            "split": trajectory.split,
            "clip_id": clip_id,
            "n_frames": n,
            "timestep": window.timestep,
            "native_n_frames": trajectory.native_n_frames,
            "backward_n_frames": [1, *(smaller.n_frames for smaller in windows[:position])],
            "blur_file_name": f"blur/{clip_id}/{pair}_n{n:02d}.png",
            "sharp_file_name": f"sharp/{clip_id}/{pair}.png",
            "origin": "official" if window.blur_source else trajectory.origin,
            "average_domain": trajectory.domain,
            "first_index": centred_window(trajectory.center_index, n).first_index,
            "center_index": trajectory.center_index,
            "center_frame": trajectory.center_frame,
            "fps": fps or None,
            "exposure_ms": 1000.0 * n / fps if fps else None,
            "shard": trajectory.shard,
            "blur_source": window.blur_source,
            "sharp_source": trajectory.sharp_source,
            "frame_names": list(window.frame_names),
        }


def sample_name(trajectory_id: str, n_frames: int) -> str:
    """The sample_id of a pair: `CLIP/PAIR/n07`."""
    return f"{trajectory_id}/n{n_frames:02d}"


def by_shard(rows: Iterable[PlanRow]) -> dict[str, list[PlanRow]]:
    """The rows of each shard, in plan order."""
    shards: dict[str, list[PlanRow]] = {}
    for row in rows:
        shards.setdefault(row["shard"], []).append(row)
    return shards


def rows_table(rows: Iterable[PlanRow]) -> pa.Table:
    """Build a table a few thousand rows at a time: an hour's rows fill gigabytes as dicts."""
    rows = iter(rows)
    parts = [SCHEMA.empty_table()]
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        parts.append(pa.Table.from_pylist(part, schema=SCHEMA))
    return pa.concat_tables(parts).combine_chunks()  # or the file would depend on the parts


@dataclass(frozen=True)
class Plan:
    """What a build will make.

    Attributes:
        table: one row per pair, columns of `SCHEMA`, in manifest order.
        roots: folders that the paths of sources start from.
        config: what decides the pairs; two builds may share a folder only if theirs are equal.
        problems: what cannot be made, and why.
        skipped: sample_ids of recipe windows that leave their clip (part of the rule, no problem).
        notes: oddities of the source that change nothing.
        alignment: result of the check of the pixels against the names; None without one.
        clip_frames: all frames of a GoPro clip by rank, for that check; None where one is missing.
        orders: for a user's footage, shard name -> what its worker needs beyond its rows.
    """

    table: pa.Table
    roots: dict[str, Path]
    config: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    alignment: Mapping[str, Any] | None = None
    clip_frames: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    orders: Mapping[str, FootageOrder] = field(default_factory=dict)

    @property
    def config_sha256(self) -> str:
        """Digest of the config, also written into every manifest."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def rows(self) -> list[PlanRow]:
        """All rows as plain values."""
        rows: list[PlanRow] = self.table.to_pylist()
        return rows

    def described(self) -> pa.Table:
        """The rows with recipe, config digest and source in the schema's metadata, for a file.

        The columns' meanings are in manifests/README.md; without them here a better wording
        changes no byte of a published plan.
        """
        entries = {
            "trajbuild.config_sha256": self.config_sha256,
            "trajbuild.recipe": self.config["recipe"]["name"],
            "trajbuild.source": self.config["source"],
        }
        bare = pa.schema([field.remove_metadata() for field in self.table.schema], entries)
        return self.table.cast(bare)

    def counts(self) -> dict[str, dict[str, Any]]:
        """Pairs per split and per split and n, and how many are new; plain values."""
        rows = zip(
            self.table["split"].to_pylist(),
            self.table["n_frames"].to_pylist(),
            self.table["blur_source"].to_pylist(),
            strict=True,
        )
        splits: dict[str, dict[str, Any]] = {}
        per_n: dict[str, Counter[int]] = {}
        for split, n, source in rows:
            entry = splits.setdefault(split, {"pairs": 0, "averaged": 0})
            entry["pairs"] += 1
            entry["averaged"] += source == ""
            per_n.setdefault(split, Counter())[n] += 1
        for split, entry in splits.items():
            of_split = self.table.filter(pc.equal(self.table["split"], split))
            entry["trajectories"] = pc.count_distinct(of_split["trajectory_id"]).as_py()
            entry["per_n"] = {str(n): count for n, count in sorted(per_n[split].items())}
        return splits

    def truncated(self) -> list[str]:
        """Official pairs whose window begins before the first published frame."""
        early = pc.less(self.table["first_index"], 0)
        names: list[str] = self.table.filter(early)["sample_id"].to_pylist()
        return names
