"""From clips and a recipe to a plan: every pair, its window and its files, before a pixel is read.

A plan is an Arrow table. `trajbuild plan` and `expand --dry-run` print it, `build` carries it out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.errors import UsageError, shorten
from trajectory_builder.plan.recipe import Recipe
from trajectory_builder.sources import gopro
from trajectory_builder.sources.gopro_layout import HOME
from trajectory_builder.trajectory import Clip, Problem, Window, centred_window, timestep

TRAJECTORIES_A_SHARD = 8
"""Ours: some seconds of work, so that an interrupt loses little and a marker costs nothing."""

_FROM_MANIFEST = [
    "sample_id", "trajectory_id", "split", "clip_id", "n_frames", "timestep", "native_n_frames",
    "backward_n_frames", "blur_file_name", "sharp_file_name", "origin", "average_domain",
    "first_index", "center_index", "center_frame", "fps", "exposure_ms",
]  # fmt: skip


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
class Corrections:
    """What the pixels say against the names (see `alignment`).

    Attributes:
        offsets: clip to the frames by which its windows lie later than its name says.
        distrusted: trajectory_id to why its frames are not trusted; its windows are left out.
    """

    offsets: Mapping[str, int] = field(default_factory=dict)
    distrusted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a build will make.

    Attributes:
        table: one row a pair, columns of `SCHEMA`, in manifest order.
        roots: folders that `pairs:` and `frames:` paths start from.
        config: what decides the pairs; two builds may share a folder only if theirs are equal.
        problems: what cannot be made, and why.
        skipped: sample_ids of recipe windows that leave their clip (part of the rule, no problem).
        notes: oddities of the source that change nothing.
        alignment: what a check of the pixels against the names said; None without one.
        clip_frames: all frames of a GoPro clip by rank, for that check; None where one is missing.
        orders: for footage of one's own, shard name -> what its worker needs beyond its rows.
    """

    table: pa.Table
    roots: dict[str, Path]
    config: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    alignment: dict[str, Any] | None = None
    clip_frames: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def config_sha256(self) -> str:
        """Digest of the config, also written into every manifest."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def described(self) -> pa.Table:
        """The rows with recipe, config digest and source in the schema's metadata, for a file.

        The columns' meanings stand in manifests/README.md; without them here a better wording
        changes no byte of a published plan.
        """
        entries = {
            "trajbuild.config_sha256": self.config_sha256,
            "trajbuild.recipe": self.config["recipe"]["name"],
            "trajbuild.source": self.config["source"],
        }
        bare = pa.schema([field.remove_metadata() for field in self.table.schema], entries)
        return self.table.cast(bare)

    def counts(self) -> dict[str, Any]:
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
            entry["trajectories"] = _distinct(self.table, split)
            entry["per_n"] = {str(n): count for n, count in sorted(per_n[split].items())}
        return splits

    def truncated(self) -> list[str]:
        """Official pairs whose window begins before the first published frame."""
        early = pc.less(self.table["first_index"], 0)
        names: list[str] = self.table.filter(early)["sample_id"].to_pylist()
        return names


def _distinct(table: pa.Table, split: str) -> int:
    rows = table.filter(pc.equal(table["split"], split))
    return int(pc.count_distinct(rows["trajectory_id"]).as_py())


def plan_gopro(
    src: Path,
    recipe: Recipe,
    *,
    frames: Path | None = None,
    expand_test: bool = False,
    corrections: Corrections | None = None,
) -> Plan:
    """Plan the expansion of a GoPro tree, from names alone.

    Args:
        src: GOPRO_Large, GOPRO_Large_all or the folder that holds them.
        recipe: which windows become pairs of the training split.
        frames: GOPRO_Large_all, where it is neither inside nor beside `src`.
        expand_test: give the test split the recipe's windows too; by default it stays official.
        corrections: what the pixels said against the names.

    Raises:
        UsageError: no GoPro tree, or one without the frames that the recipe needs.
        UsageError: the recipe says nothing of a sequence's number of frames.
    """
    source = gopro.scan(src, frames, domain=recipe.average)
    if source.trees.frames is None and not recipe.only_official():
        raise UsageError(
            f"recipe {recipe.name} needs the 240 fps frames, and only the official pairs are here",
            where=f"{source.trees.pairs}; GOPRO_Large_all is neither in it nor beside it",
            cure=f"get GOPRO_Large_all from {HOME} and give --frames DIR, or use --recipe official",
        )
    rows: list[dict[str, Any]] = []
    problems = list(source.problems)
    skipped: list[str] = []
    corrections = corrections or Corrections()
    for sequence in source.sequences:
        expand = sequence.clip.split == "train" or expand_test
        for rank, pair in enumerate(_moved(sequence, corrections)):
            made = _trajectory(sequence, pair, rank, recipe, expand, source.trees.pairs is not None)
            made = _trusted(made, corrections)
            rows += made.rows
            problems += made.problems
            skipped += made.skipped
    roots = {"pairs": source.trees.pairs, "frames": source.trees.frames}
    return Plan(
        table=pa.Table.from_pylist(rows, schema=SCHEMA),
        roots={name: root.resolve() for name, root in roots.items() if root is not None},
        config={
            "source": "gopro",
            "recipe": recipe.as_data(),
            "expand_test": expand_test,
            "format_version": manifest.FORMAT_VERSION,
            **({"offsets": dict(corrections.offsets)} if corrections.offsets else {}),
        },
        problems=tuple(problems),
        skipped=tuple(skipped),
        notes=source.notes,
        clip_frames={sequence.clip.name: sequence.clip.frames for sequence in source.sequences},
    )


def _moved(sequence: gopro.Sequence, corrections: Corrections) -> Iterable[gopro.OfficialPair]:
    """A sequence's pairs, their windows moved to where the pixels were found."""
    offset = corrections.offsets.get(sequence.clip.name, 0)
    for pair in sequence.pairs:
        window = Window(pair.window.first_index + offset, pair.window.n_frames)
        yield replace(pair, window=window)


def _trusted(made: _Made, corrections: Corrections) -> _Made:
    """Without the averaged rows of a trajectory whose frames the pixels speak against."""
    why = corrections.distrusted.get(made.rows[0]["trajectory_id"]) if made.rows else None
    if why is None:
        return made
    lost = [row for row in made.rows if not row["blur_source"]]
    kept = [row | {"backward_n_frames": [1]} for row in made.rows if row["blur_source"]]
    problems = [
        Problem("frames-disagree", f"{row['sample_id']} is left out: {why}",
                "compare the sequence with a fresh copy, or trust its name with --check off",
                row["split"], row["clip_id"], row["sample_id"], row["frame_names"][0])
        for row in lost
    ]  # fmt: skip
    return _Made(kept, [*made.problems, *problems], made.skipped)


@dataclass(frozen=True)
class _Made:
    rows: list[dict[str, Any]]
    problems: list[Problem]
    skipped: list[str]


def _trajectory(
    sequence: gopro.Sequence,
    pair: gopro.OfficialPair,
    rank: int,
    recipe: Recipe,
    expand: bool,
    has_pairs: bool,
) -> _Made:
    """Rows of one official pair: itself, and the recipe's windows round its sharp frame."""
    clip, native, center = sequence.clip, sequence.n_frames, pair.window.center_index
    trajectory_id = f"{clip.name}/{pair.number:06d}"
    wanted = recipe.n_frames(native, trajectory_id) if expand else (native,)
    made = _Made([], [], [])
    sharp = _sharp_source(clip, pair, center, has_pairs)
    if sharp is None:
        made.problems.append(_missing_sharp(clip, pair, center, trajectory_id, has_pairs))
        return made
    found: list[tuple[int, str, tuple[str, ...]]] = []
    for n in wanted:
        window = centred_window(center, n)
        names = clip.names(window)
        sample_id = sample_name(trajectory_id, n)
        if n == native and has_pairs:
            if pair.blur is None:
                made.problems.append(
                    Problem("blur-missing", f"the official blur of {sample_id} is not there",
                            gopro.COPY_CURE, clip.split, clip.name, sample_id)
                )  # fmt: skip
                continue
            found.append((n, f"pairs:{pair.blur}", names or ()))
        elif names is not None:
            found.append((n, "", names))
        elif n != native and not clip.frames:
            continue  # one problem of the whole sequence tells it
        elif n != native and _leaves(clip, window):
            made.skipped.append(sample_id)
        else:
            made.problems.append(_missing_frames(clip, window, sample_id))
    made.rows.extend(
        pair_rows(clip, f"{pair.number:06d}", center, native, found, sharp_source=sharp,
                  domain=recipe.average, step=recipe.timestep_step, shard=rank)
    )  # fmt: skip
    return made


def pair_rows(  # noqa: PLR0913  # the columns of a row
    clip: Clip,
    pair: str,
    center: int,
    native: int,
    windows: Sequence[tuple[int, str, tuple[str, ...]]],
    *,
    sharp_source: str,
    domain: str,
    step: int,
    shard: int,
) -> Iterable[dict[str, Any]]:
    """Plan rows of one trajectory.

    Args:
        clip: the clip it lies in.
        pair: name of the trajectory within the clip, e.g. the six-digit number.
        center: rank of the centre frame.
        native: n of the official pair, or the largest n.
        windows: (n, blur_source, frame names) of each pair to make, ascending in n.
        sharp_source: where the sharp image is taken from.
        domain: where frames are averaged.
        step: timesteps for one more frame.
        shard: rank of the trajectory in its clip; neighbours share a shard.
    """
    ranked = 0 <= center < len(clip.frames) and clip.frames[center] is not None
    for position, (n, blur_source, names) in enumerate(windows):
        window: Window = centred_window(center, n)
        yield {
            "sample_id": sample_name(f"{clip.name}/{pair}", n),
            "trajectory_id": f"{clip.name}/{pair}",
            "split": clip.split,
            "clip_id": clip.name,
            "n_frames": n,
            "timestep": timestep(n, step=step),
            "native_n_frames": native,
            "backward_n_frames": [1, *(smaller for smaller, _, _ in windows[:position])],
            "blur_file_name": f"blur/{clip.name}/{pair}_n{n:02d}.png",
            "sharp_file_name": f"sharp/{clip.name}/{pair}.png",
            "origin": "official" if blur_source else "averaged",
            "average_domain": domain,
            "first_index": window.first_index,
            "center_index": center,
            "center_frame": str(clip.frames[center]).rsplit("/", 1)[-1] if ranked else None,
            "fps": clip.fps,
            "exposure_ms": 1000.0 * n / clip.fps,
            "shard": f"{clip.split}/{clip.name}/{shard // TRAJECTORIES_A_SHARD:04d}",
            "blur_source": blur_source,
            "sharp_source": sharp_source,
            "frame_names": list(names),
        }


def sample_name(trajectory_id: str, n_frames: int) -> str:
    """The sample_id of a pair: `CLIP/PAIR/n07`."""
    return f"{trajectory_id}/n{n_frames:02d}"


def _leaves(clip: Clip, window: Window) -> bool:
    return window.first_index < 0 or window.end_index > len(clip.frames)


def _sharp_source(clip: Clip, pair: gopro.OfficialPair, center: int, has_pairs: bool) -> str | None:
    if has_pairs:
        return f"pairs:{pair.sharp}" if pair.sharp else None
    names = clip.names(Window(center, 1))
    return f"frames:{names[0]}" if names else None


def _missing_sharp(
    clip: Clip, pair: gopro.OfficialPair, center: int, trajectory_id: str, has_pairs: bool
) -> Problem:
    where = f"sharp/{pair.number:06d}.png" if has_pairs else f"the frame of rank {center}"
    return Problem(
        "sharp-missing",
        f"{trajectory_id} has no sharp image: {where} is not there",
        gopro.COPY_CURE,
        clip.split,
        clip.name,
        trajectory_id,
    )


def _missing_frames(clip: Clip, window: Window, sample_id: str) -> Problem:
    if _leaves(clip, window):
        return Problem(
            "window-leaves-clip",
            f"{sample_id} begins before the first published frame and cannot be averaged",
            "give GOPRO_Large, which holds this official blur",
            clip.split,
            clip.name,
            sample_id,
        )
    span = range(window.first_index, window.end_index)
    lost = [_file_of_rank(clip, rank) for rank in span if clip.frames[rank] is None]
    return Problem(
        "frame-missing",
        f"{sample_id} needs frames that are not there: {shorten(lost)}",
        gopro.COPY_CURE,
        clip.split,
        clip.name,
        sample_id,
        file=lost[0],
    )


def _file_of_rank(clip: Clip, rank: int) -> str:
    """The name that an absent frame must have had, by the number of one that is there."""
    at, there = next((i, name) for i, name in enumerate(clip.frames) if name)
    folder, name = there.rsplit("/", 1)
    number = name.split(".", 1)[0]
    return f"{folder}/{int(number) + rank - at:0{len(number)}d}.png"
