"""Render every blur of a finished build again and compare its pixels: `verify --level deep`.

Markers record the digest of each frame that the build read, so a blur that comes out differently
can name the frame that has changed since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trajectory_builder import manifest
from trajectory_builder.build import nearness, record, workers
from trajectory_builder.build.gopro_shard import FrameReader, render_windows
from trajectory_builder.build.shard import Shard
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import BuildError, ExitCode, ImageError, shorten
from trajectory_builder.images import png
from trajectory_builder.images.png import Pixels
from trajectory_builder.plan import footage, gopro, recipe
from trajectory_builder.plan.table import Plan, PlanRow, by_shard
from trajectory_builder.trajectory import BUILD_FILE
from trajectory_builder.verify.finding import Finding

_RESTORE_FRAME = "restore that frame from its source, or build again into a new folder"
_OTHER_CENTER = "run `trajbuild expand` with --check full into a new folder"
_RESTORE_FOOTAGE = "bring back the footage as it was, or generate the set again into a new folder"

Rows = Mapping[str, Mapping[str, Any]]  # manifest rows by sample_id


@dataclass(frozen=True)
class _Task:
    """A shard's rendered rows with the pixels they should have and the frames as they were."""

    shard: Shard
    wanted: dict[str, str]  # sample_id -> pixel_sha256
    known: dict[str, str]  # frame -> sha256; empty where the marker is gone


def differences(
    folder: Path,
    rows: manifest.Manifest,
    *,
    jobs: int = 1,
    frames: Path | None = None,
    progress: bool = False,
) -> list[Finding]:
    """Blurs that the frames do not give again.

    Args:
        folder: a finished build of GoPro or of a user's footage.
        rows: its manifest.
        jobs: worker processes.
        frames: where the frames or the footage are; where build.json says when None.
        progress: show progress on stderr.

    Raises:
        BuildError: no record of the build, a set made from others, or no frames.
        DataError, VideoError, ImageError: the footage is not there any more.
    """
    wanted = {row["sample_id"]: row for row in rows.rows() if row["origin"] != "official"}
    if not wanted:
        return []
    build = record.read_build(folder)
    if build is None:
        raise BuildError(
            "build.json is missing or damaged, so nothing says where the frames are",
            where=str(folder / BUILD_FILE),
            cure="run the command that built it again",
        )
    source = build["config"].get("source")
    if source not in ("gopro", "footage"):
        raise _not_rendered(folder, build, len(wanted))
    make_tasks = _gopro_tasks if source == "gopro" else _footage_tasks
    try:
        tasks = list(make_tasks(folder, build, frames, wanted))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # An untrusted config may have any form; where that shows depends on what reads it first.
        raise BuildError(
            f"build.json or the plan is not of this release: {error!r}",
            where=str(folder),
            cure="run the command that built it again",
        ) from error
    left, findings = dict(wanted), []
    with Progress(len(wanted), "blurs", shown=progress) as bar:
        for seen, found in workers.each(_compare, tasks, jobs=jobs):
            for sample_id in seen:
                del left[sample_id]
            findings += found
            bar.advance(len(seen), problems=len(found))
    findings += [
        _finding(row, "footage-changed", "the footage does not give this window any more",
                 _RESTORE_FOOTAGE)
        for row in left.values()
    ]  # fmt: skip
    return sorted(findings, key=lambda one: one.file)


def _not_rendered(folder: Path, build: Mapping[str, Any], count: int) -> BuildError:
    """The error for a set whose frames build.json does not name: one made from other sets."""
    command = build["config"].get("command", "another program")
    names = sorted({source["set"] for source in build.get("derived_from", ())})
    sets = shorten(names)
    original = names[0] if len(names) == 1 else "SET"
    which = "each of the original builds" if len(names) > 1 else "the original build"
    return BuildError(
        f"this set was made by {command}, and its {count:,} rendered blurs can only be rebuilt in"
        " the build that they come from",
        where=f"{folder / BUILD_FILE}: " + (f"made from {sets}" if sets else "no source named"),
        cure=f"run `trajbuild verify {original} --level deep` on {which}; --level full checks all"
        " files of this set",
        exit_code=ExitCode.WRONG_USE,
    )


def _gopro_tasks(
    folder: Path, build: Mapping[str, Any], frames: Path | None, wanted: Rows
) -> Iterator[_Task]:
    known = record.read_sources(OutputFolder(folder))
    root = _frames_root(known, frames)
    table = record.read_plan(OutputFolder(folder))
    rows: list[PlanRow] = (
        _gopro_plan(build, known, root).rows() if table is None else table.to_pylist()
    )
    lost = wanted.keys() - {row["sample_id"] for row in rows}
    if lost:
        raise BuildError(
            f"{len(lost):,} averaged pairs are not in the plan, so their frames are unknown",
            where=shorten(sorted(lost)),
            cure="run the command that built it again",
        )
    roots = {"frames": str(root)}
    wanted_rows = (row for row in rows if row["sample_id"] in wanted)
    for name, group in by_shard(wanted_rows).items():
        first = wanted[group[0]["sample_id"]]
        size = (first["width"], first["height"])
        shard = Shard(name, "", str(folder), roots, tuple(group), size)
        yield _task(shard, wanted)


def _footage_tasks(
    folder: Path, build: Mapping[str, Any], sources: Path | None, wanted: Rows
) -> Iterator[_Task]:
    known = record.read_sources(OutputFolder(folder))
    stored = sorted(known.items(), key=lambda item: int(item[0].removeprefix("src")))
    paths = [sources] if sources else [path for _, path in stored]
    plan = footage.plan_footage(footage.request_of(build["config"], paths))
    roots = {name: str(root) for name, root in plan.roots.items()}
    wanted_rows = (row for row in plan.rows() if row["sample_id"] in wanted)
    for name, group in by_shard(wanted_rows).items():
        order = plan.orders[name]
        shard = Shard(name, "", str(folder), roots, tuple(group), order.size, order=order)
        yield _task(shard, wanted)


def _task(shard: Shard, wanted: Rows) -> _Task:
    names = [row["sample_id"] for row in shard.rows]
    pixels = {name: wanted[name]["blur_pixel_sha256"] for name in names}
    marker = OutputFolder(Path(shard.out)).read_marker(shard.name) or {}
    return _Task(shard, pixels, marker.get("frames", {}))


def _frames_root(known: Mapping[str, Path], frames: Path | None) -> Path:
    root = frames or known.get("frames")
    if root is None or not root.is_dir():
        raise BuildError(
            "the frames are not where the build found them",
            where=str(root or "no folder is noted"),
            cure="give their place: --frames GOPRO_Large_all",
        )
    return root


def _gopro_plan(build: Mapping[str, Any], known: Mapping[str, Path], root: Path) -> Plan:
    """The plan from names, where `.trajbuild` was deleted."""
    config = build["config"]
    pairs = known.get("pairs", root)
    return gopro.plan_gopro(
        pairs if pairs.is_dir() else root,
        recipe.from_data(config["recipe"]),
        frames=root,
        expand_test=config["expand_test"],
        corrections=gopro.Corrections(config.get("offsets", {})),
    )


def _compare(task: _Task) -> tuple[list[str], list[Finding]]:
    """Render a shard's blurs again; returns their sample_ids, and those that differ."""
    workers.set_up()
    return _compare_gopro(task) if task.shard.order is None else _compare_footage(task)


def _compare_gopro(task: _Task) -> tuple[list[str], list[Finding]]:
    rows = task.shard.rows
    samples: dict[int, Pixels] = {}  # by rank

    def see(rank: int, pixels: Pixels) -> None:
        samples[rank] = nearness.sample(pixels)

    reader = FrameReader(Path(task.shard.roots["frames"]), task.shard.size, see=see)
    # All windows first: which frames changed is known when all are read.
    wrong = [
        row
        for row, mean in render_windows(reader, rows)
        if png.pixel_sha256(mean) != task.wanted[row["sample_id"]]
    ]
    known = task.known
    changed = {name for name, sha in reader.digests.items() if known.get(name, sha) != sha}
    findings = [_different(row, changed, bool(known)) for row in wrong]
    # Once per trajectory: decoding its sharp image costs as much as a frame.
    sharps = {
        file: _sharp_sample(Path(task.shard.out) / file)
        for file in {_sharp_file(row) for row in rows}
    }
    findings += [
        _finding(row, "center-differs", "its window is not round its sharp image", _OTHER_CENTER)
        for row in rows
        if not _shows_center(row, sharps[_sharp_file(row)], samples)
    ]
    for row in rows:
        bad = next((name for name in row["frame_names"] if name in reader.errors), None)
        if bad is not None:
            error = reader.errors[bad]
            findings.append(_finding(row, error.reason, f"{bad}: {error.what}", error.cure))
    return [row["sample_id"] for row in rows], findings


def _sharp_file(row: PlanRow) -> str:
    return f"{row['split']}/{row['sharp_file_name']}"


def _sharp_sample(path: Path) -> Pixels | None:
    try:
        return nearness.sample(png.decode_png(png.read_bytes(path), name=str(path)))
    except ImageError:
        return None  # level full reports the file


def _shows_center(row: PlanRow, sharp: Pixels | None, samples: Mapping[int, Pixels]) -> bool:
    """Whether a sharp image shows the middle frame of a row's window, as far as can be known."""
    first, center = row["first_index"], row["center_index"]
    frames = {rank: samples[rank] for rank in range(first, first + row["n_frames"])
              if rank in samples}  # fmt: skip
    if sharp is None or center not in frames or frames[center].shape != sharp.shape:
        return True  # the bad file is reported elsewhere
    # Official sharp images equal their frame, and then no other is nearer.
    return np.array_equal(sharp, frames[center]) or center in nearness.nearest(sharp, frames)


def _compare_footage(task: _Task) -> tuple[list[str], list[Finding]]:
    from trajectory_builder.build import footage_shard

    assert task.shard.order is not None  # noqa: S101
    seen, findings = [], []
    for row, pixels in footage_shard.render(task.shard, task.shard.order):
        seen.append(row["sample_id"])
        if png.pixel_sha256(pixels) != task.wanted[row["sample_id"]]:
            why = "the footage gives other pixels"
            findings.append(_finding(row, "pixels-differ", why, _RESTORE_FOOTAGE))
    return seen, findings


def _different(row: PlanRow, changed: set[str], has_marker: bool) -> Finding:
    names = [name for name in row["frame_names"] if name in changed]
    if names:
        why = f"changed since it was built: {shorten(names)}"
        return _finding(row, "frame-changed", why, _RESTORE_FRAME)
    why = f"averages differently from {row['frame_names'][0]} to {row['frame_names'][-1]}, "
    if has_marker:
        why += "although none of its frames changed"
    else:
        why += "and the markers which could say which frame changed are gone"
    return _finding(row, "pixels-differ", why, _RESTORE_FRAME)


def _finding(row: Mapping[str, Any], reason: str, why: str, cure: str) -> Finding:
    file = f"{row['split']}/{row['blur_file_name']}"
    return Finding(reason, f"{file}: {why}", file, cure)
