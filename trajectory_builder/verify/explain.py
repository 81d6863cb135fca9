"""Where one pair comes from: its frames, its rule, its timestep, its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.build import record
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import LISTED_AT_MOST, DataError, ExitCode, shorten


@dataclass(frozen=True)
class Explanation:
    """All that is known of a pair.

    Attributes:
        row: its manifest row.
        frames: names of the averaged frames; empty where the stored plan is gone or the frames
            never existed here.
        backward: (n, timestep, file) of each point between this blur and the sharp image.
    """

    row: dict[str, Any]
    frames: tuple[str, ...]
    backward: tuple[tuple[int, int, str], ...]

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "row": self.row,
            "frames": list(self.frames),
            "backward": [
                {"n_frames": n, "timestep": t, "file": file} for n, t, file in self.backward
            ],
        }

    def rule(self) -> str:
        """In words: how the blur came to be."""
        row = self.row
        n, first = row["n_frames"], row["first_index"]
        if n is None or first is None:
            return "a photographed pair; its place on a trajectory is unknown"
        window = f"frames {first} to {first + n - 1} of the clip (0-based), centre {first + n // 2}"
        if row["origin"] == "official":
            return f"the official pair, copied as it is; {window}"
        made = f"averaged in {row['average_domain']}, rounded to nearest"
        if row["origin"] == "synthetic":
            return f"mean of the middle {n} slices of a drawn camera path, {made}"
        if row["origin"] == "interpolated":
            return f"mean of {window}, those between frames as shot drawn by optical flow, {made}"
        return f"mean of {window}, {made}"


def explain_pair(folder: Path, sample_id: str) -> Explanation:
    """Explain one pair of a data set.

    Raises:
        DataError: no such pair; the error names the nearest ones.
        ManifestError: no sound manifest.
    """
    rows = manifest.read(folder, allow_links=True)
    found = rows.table.filter(pc.equal(rows.table["sample_id"], sample_id)).to_pylist()
    if not found:
        raise _unknown(rows, sample_id)
    row = found[0]
    same = pc.equal(rows.table["trajectory_id"], row["trajectory_id"])
    others = {one["n_frames"]: one for one in rows.table.filter(same).to_pylist()}
    backward = [(1, 0, f"{row['split']}/{row['sharp_file_name']}")]
    for n in row["backward_n_frames"]:
        if n in others:
            one = others[n]
            backward.append((n, one["timestep"], f"{row['split']}/{one['blur_file_name']}"))
    return Explanation(row, _frames(folder, sample_id), tuple(backward))


def _frames(folder: Path, sample_id: str) -> tuple[str, ...]:
    plan = record.read_plan(OutputFolder(folder))
    if plan is None:
        return ()
    rows = plan.filter(pc.equal(plan["sample_id"], sample_id)).to_pylist()
    return tuple(rows[0]["frame_names"]) if rows else ()


def _unknown(rows: manifest.Manifest, sample_id: str) -> DataError:
    names = rows.table["sample_id"].to_pylist()
    near = _nearest(sample_id, names)
    return DataError(
        f"no pair {sample_id} in this data set",
        where=f"{len(names):,} rows; near it: {shorten(near)}",
        cure="give one of the names in column sample_id",
        exit_code=ExitCode.WRONG_USE,
    )


def _nearest(sample_id: str, names: Sequence[str]) -> list[str]:
    """Names of the clip whose name is nearest, those first that begin most like `sample_id`."""
    import difflib

    clip, _, rest = sample_id.partition("/")
    by_clip: dict[str, list[str]] = {}
    for name in names:
        by_clip.setdefault(name.partition("/")[0], []).append(name)
    own = difflib.get_close_matches(clip, by_clip, n=1, cutoff=0.0)[0]
    wanted = f"{own}/{rest}"
    return sorted(by_clip[own], key=lambda name: -_alike(name, wanted))[:LISTED_AT_MOST]


def _alike(one: str, other: str) -> int:
    """How many characters two names begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
