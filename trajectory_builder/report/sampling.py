"""Which images the report opens: chosen by hash of their identity, so every run chooses the same.

The viewer gets one trajectory per clip, a complete one. The search for look-alikes and outliers
gets pairs of neighbours in time, because only neighbours are likely to look alike, and the sharp
files whose size is farthest from their clip's, because a black or torn frame shows in its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.report.measures import robust_z
from trajectory_builder.trajectory import SPLITS

MAX_TRAJECTORIES = 36
"""Our choice: one per clip for all 33 sequences of GoPro."""

MAX_POINTS = 8
"""Our choice: points of a trajectory that the viewer shows, the sharp one included."""

VIEWER_PIXELS = 160_000_000
SAMPLE_PIXELS = 45_000_000
"""Our choice: pixels decoded for each purpose; 720p frames are 0.9 million each, so 173 and 48."""

MAX_SAMPLE = 200
EXTREMES_SHARE = 6  # one in so many of the sample is an extreme of file size, twice


@dataclass(frozen=True)
class Chosen:
    """A trajectory to show: its rows in the manifest, ascending in n."""

    split: str
    clip: str
    trajectory_id: str
    rows: tuple[int, ...]


def identity_hash(name: str) -> bytes:
    """The order among equals; depends on the name alone."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def trajectories(table: pa.Table) -> list[Chosen]:
    """At most one trajectory per clip, the one with the most points; ordered by split and clip.

    Where there are more clips than can be shown, or their frames are too large, the hash of the
    clip's name decides.
    """
    numbered = _numbered(table)
    keys = ["split", "clip_id", "trajectory_id"]
    grouped = numbered.group_by(keys).aggregate(
        [("row", "list"), ("width", "max"), ("height", "max")]
    )
    best: dict[tuple[str, str], tuple[tuple[int, bytes], Chosen, int]] = {}
    for row in grouped.to_pylist():
        chosen = Chosen(row["split"], row["clip_id"], row["trajectory_id"], tuple(row["row_list"]))
        rank = (-len(chosen.rows), identity_hash(chosen.trajectory_id))
        clip = (chosen.split, chosen.clip)
        if clip not in best or rank < best[clip][0]:
            best[clip] = (rank, chosen, row["width_max"] * row["height_max"])
    ordered = sorted(best.values(), key=lambda b: identity_hash(f"{b[1].split}/{b[1].clip}"))
    kept: list[Chosen] = []
    pixels = 0
    for _, chosen, frame in ordered[:MAX_TRAJECTORIES]:
        chosen = _ascending(chosen, table)
        pixels += frame * (len(chosen.rows) + 1)
        if kept and pixels > VIEWER_PIXELS:
            break
        kept.append(chosen)
    rank_of = {split: rank for rank, split in enumerate(SPLITS)}
    return sorted(kept, key=lambda c: (rank_of.get(c.split, 9), c.clip))


def _ascending(chosen: Chosen, table: pa.Table) -> Chosen:
    """Its rows by n, thinned evenly to what the viewer shows; unknown n last."""
    n = {row: table["n_frames"][row].as_py() for row in chosen.rows}
    rows = sorted(chosen.rows, key=lambda row: (n[row] is None, n[row] or 0, row))
    if len(rows) > MAX_POINTS - 1:
        picked = np.linspace(0, len(rows) - 1, MAX_POINTS - 1).round().astype(int)
        rows = [rows[i] for i in picked]
    return Chosen(chosen.split, chosen.clip, chosen.trajectory_id, tuple(rows))


def sharp_sample(table: pa.Table, shown: Iterable[Chosen] = ()) -> list[int]:
    """Rows whose sharp files are compared with each other, one row per trajectory.

    Args:
        table: the manifest's rows.
        shown: trajectories of the viewer: their neighbours come first, as they are decoded anyway.

    Returns:
        row numbers, ascending: neighbours in time, and the extremes of file size.
    """
    order = _in_time(table)
    if not len(order):
        return []
    clips = _clip_codes(table)[order]
    names = table["trajectory_id"].take(pa.array(order)).to_pylist()
    limit = _sample_limit(table)
    chosen = set(_extremes(table, order, clips, limit // EXTREMES_SHARE))
    chosen |= set(_emptiest(table, order, limit // EXTREMES_SHARE))
    followed = np.flatnonzero(clips[1:] == clips[:-1]) if len(order) > 1 else np.array([], int)
    first = {c.trajectory_id for c in shown}
    ranked = sorted(followed, key=lambda i: (names[i] not in first, identity_hash(names[i])))
    for place in ranked:
        if len(chosen) >= limit:
            break
        chosen |= {int(order[place]), int(order[place + 1])}
    # Clips of one trajectory each have no neighbours; they fill what is left.
    for place in sorted(range(len(order)), key=lambda i: identity_hash(names[i])):
        if len(chosen) >= limit:
            break
        chosen.add(int(order[place]))
    return sorted(chosen)


def _sample_limit(table: pa.Table) -> int:
    frame = pc.mean(pc.multiply(table["width"].cast(pa.int64()), table["height"])).as_py()
    return int(max(8, min(MAX_SAMPLE, SAMPLE_PIXELS / max(frame, 1))))


def _in_time(table: pa.Table) -> npt.NDArray[np.int64]:
    """One row per trajectory, in the order of clip and time."""
    numbered = _numbered(table)
    one_each = numbered.group_by(["split", "clip_id", "trajectory_id"]).aggregate(
        [("row", "min"), ("center_index", "min")]
    )
    keys = ["split", "clip_id", "center_index_min", "trajectory_id"]
    ordered = one_each.sort_by([(key, "ascending") for key in keys])
    rows: npt.NDArray[np.int64] = ordered["row_min"].to_numpy()
    return rows


def _clip_codes(table: pa.Table) -> npt.NDArray[np.int64]:
    """A number per split and clip, for every row."""
    joined = pc.binary_join_element_wise(table["split"], table["clip_id"], "/")
    codes = joined.combine_chunks().dictionary_encode().indices
    numbers: npt.NDArray[np.int64] = codes.to_numpy().astype(np.int64)
    return numbers


def _emptiest(table: pa.Table, order: npt.NDArray[np.int64], count: int) -> list[int]:
    """Rows whose sharp file has the fewest bytes per pixel: the least likely to be sharp."""
    pixels = table["width"].to_numpy()[order] * table["height"].to_numpy()[order].astype(np.int64)
    density = table["sharp_bytes"].to_numpy()[order] / np.maximum(pixels, 1)
    return [int(order[i]) for i in np.lexsort((order, density))[:count]]


def _extremes(
    table: pa.Table, order: npt.NDArray[np.int64], clips: npt.NDArray[np.int64], count: int
) -> list[int]:
    """Rows whose sharp file's size is farthest from the others of the clip."""
    sizes = np.log(np.maximum(table["sharp_bytes"].to_numpy()[order], 1))
    scores = np.zeros(len(order))
    for clip in np.unique(clips):
        scores[clips == clip] = np.abs(robust_z(sizes[clips == clip]))
    farthest = np.lexsort((order, -scores))[:count]
    return [int(order[i]) for i in farthest if scores[i] > 0]


def _numbered(table: pa.Table) -> pa.Table:
    return table.append_column("row", pa.array(np.arange(table.num_rows)))
