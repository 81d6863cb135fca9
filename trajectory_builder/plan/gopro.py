"""The plan of a GoPro tree: official pairs, and the recipe's windows round their sharp frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trajectory_builder import manifest
from trajectory_builder.errors import UsageError, shorten
from trajectory_builder.plan.recipe import Recipe
from trajectory_builder.plan.table import (
    TRAJECTORIES_PER_SHARD,
    Plan,
    PlannedWindow,
    PlanRow,
    Trajectory,
    pair_rows,
    rows_table,
    sample_name,
)
from trajectory_builder.sources import gopro
from trajectory_builder.sources.gopro_layout import HOME
from trajectory_builder.trajectory import Clip, Problem, Window, centred_window, timestep


@dataclass(frozen=True)
class Corrections:
    """Where the pixels disagree with the names (see `build.alignment`).

    Attributes:
        offsets: clip to the frames by which its windows are later than its name says.
        distrusted: trajectory_id to why its frames are not trusted; its windows are left out.
    """

    offsets: Mapping[str, int] = field(default_factory=dict)
    distrusted: Mapping[str, str] = field(default_factory=dict)


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
        src: GOPRO_Large, GOPRO_Large_all or the folder that contains them.
        recipe: which windows become pairs of the training split.
        frames: GOPRO_Large_all, where it is neither inside nor beside `src`.
        expand_test: give the test split the recipe's windows too; by default it stays official.
        corrections: where the pixels disagree with the names.

    Raises:
        UsageError: no GoPro tree, or one without the frames that the recipe needs.
        UsageError: the recipe has no entry for a sequence's number of frames.
    """
    source = gopro.scan(src, frames, domain=recipe.average)
    if source.trees.frames is None and not recipe.only_official():
        raise UsageError(
            f"recipe {recipe.name} needs the 240 fps frames, and only the official pairs are here",
            where=f"{source.trees.pairs}; GOPRO_Large_all is neither in it nor beside it"
            + _target(source.trees.pairs),
            cure=f"get GOPRO_Large_all from {HOME} and give --frames DIR, or use --recipe official",
        )
    corrections = corrections or Corrections()
    has_pairs = source.trees.pairs is not None
    trajectories = [
        _trusted(_trajectory(sequence, pair, rank, recipe, expand, has_pairs), corrections)
        for sequence in source.sequences
        for expand in [sequence.clip.split == "train" or expand_test]
        for rank, pair in enumerate(_moved(sequence, corrections))
    ]
    roots = {"pairs": source.trees.pairs, "frames": source.trees.frames}
    return Plan(
        table=rows_table(row for planned in trajectories for row in planned.rows),
        roots={name: root.resolve() for name, root in roots.items() if root is not None},
        config={
            "source": "gopro",
            "recipe": recipe.as_data(),
            "expand_test": expand_test,
            "format_version": manifest.FORMAT_VERSION,
            **({"offsets": dict(corrections.offsets)} if corrections.offsets else {}),
        },
        problems=(*source.problems, *(p for planned in trajectories for p in planned.problems)),
        skipped=tuple(name for planned in trajectories for name in planned.skipped),
        notes=source.notes,
        clip_frames={sequence.clip.name: sequence.clip.frames for sequence in source.sequences},
    )


def _target(pairs: Path | None) -> str:
    """For an error: the folder that `pairs` links to, beside which the frames were looked for."""
    if pairs is None or pairs.resolve() == pairs.absolute():
        return ""
    return f", nor beside {pairs.resolve()}, to which it leads"


def _moved(sequence: gopro.Sequence, corrections: Corrections) -> Iterable[gopro.OfficialPair]:
    """A sequence's pairs, their windows moved to where the pixels were found."""
    offset = corrections.offsets.get(sequence.clip.name, 0)
    for pair in sequence.pairs:
        window = Window(pair.window.first_index + offset, pair.window.n_frames)
        yield replace(pair, window=window)


@dataclass(frozen=True)
class _Planned:
    """Rows of one official pair, its problems, and the windows that leave the clip."""

    rows: Sequence[PlanRow] = ()
    problems: Sequence[Problem] = ()
    skipped: Sequence[str] = ()


def _trusted(planned: _Planned, corrections: Corrections) -> _Planned:
    """Leave out the averaged rows of a trajectory whose frames disagree with its pixels."""
    rows = planned.rows
    why = corrections.distrusted.get(rows[0]["trajectory_id"]) if rows else None
    if why is None:
        return planned
    kept: list[PlanRow] = [{**row, "backward_n_frames": [1]} for row in rows if row["blur_source"]]
    problems = [
        Problem("frames-disagree", f"{row['sample_id']} is left out: {why}",
                "compare the sequence with a fresh copy, or trust its name with --check off",
                row["split"], row["clip_id"], row["sample_id"], row["frame_names"][0])
        for row in rows if not row["blur_source"]
    ]  # fmt: skip
    return _Planned(kept, [*planned.problems, *problems], planned.skipped)


def _trajectory(
    sequence: gopro.Sequence,
    pair: gopro.OfficialPair,
    rank: int,
    recipe: Recipe,
    expand: bool,
    has_pairs: bool,
) -> _Planned:
    """Rows of one official pair: itself, and the recipe's windows round its sharp frame."""
    clip, native, center = sequence.clip, sequence.n_frames, pair.window.center_index
    number = f"{pair.number:06d}"
    trajectory_id = f"{clip.name}/{number}"
    wanted = recipe.n_frames(native, trajectory_id) if expand else (native,)
    sharp = _sharp_source(clip, pair, center, has_pairs)
    if sharp is None:
        return _Planned(problems=[_missing_sharp(clip, pair, center, trajectory_id, has_pairs)])
    official = f"pairs:{pair.blur}" if has_pairs and pair.blur is not None else ""
    windows: list[PlannedWindow] = []
    problems: list[Problem] = []
    skipped: list[str] = []
    for n in wanted:
        window = centred_window(center, n)
        names = clip.names(window)
        sample_id = sample_name(trajectory_id, n)
        t = timestep(n, step=recipe.timestep_step)
        if n == native and has_pairs and not official:
            problems.append(_missing_blur(clip, sample_id))
        elif n == native and has_pairs:
            windows.append(PlannedWindow(n, t, names or (), official))
        elif names is not None:
            windows.append(PlannedWindow(n, t, names))
        elif n != native and not clip.frames:
            continue  # one problem of the sequence reports it
        elif n != native and _leaves(clip, window):
            skipped.append(sample_id)
        else:
            problems.append(_missing_frames(clip, window, sample_id))
    frame = clip.frames[center] if 0 <= center < len(clip.frames) else None
    trajectory = Trajectory(
        clip_id=clip.name,
        split=clip.split,
        pair=number,
        shard=f"{clip.split}/{clip.name}/{rank // TRAJECTORIES_PER_SHARD:04d}",
        center_index=center,
        center_frame=None if frame is None else frame.rsplit("/", 1)[-1],
        native_n_frames=native,
        fps=clip.fps,
        domain=recipe.average,
        sharp_source=sharp,
    )
    return _Planned(list(pair_rows(trajectory, windows)), problems, skipped)


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


def _missing_blur(clip: Clip, sample_id: str) -> Problem:
    what = f"the official blur of {sample_id} is not there"
    return Problem("blur-missing", what, gopro.COPY_CURE, clip.split, clip.name, sample_id)


def _missing_frames(clip: Clip, window: Window, sample_id: str) -> Problem:
    if _leaves(clip, window):
        return Problem(
            "window-leaves-clip",
            f"{sample_id} begins before the first published frame and cannot be averaged",
            "give GOPRO_Large, which has this official blur",
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
