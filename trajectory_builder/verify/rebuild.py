"""Average every new blur of a finished build again, from the frames, and compare its bits.

What a frame was when the build read it stands in the markers, so a blur that comes out differently
can name the frame that has changed since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trajectory_builder import manifest
from trajectory_builder.build import backends, record, worker
from trajectory_builder.build.shard import Shard, render_windows
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import BuildError, ImageError, shorten
from trajectory_builder.images import png
from trajectory_builder.plan import gopro, recipe
from trajectory_builder.verify import reshoot

MEND_FRAME = "restore that frame from its source, or build again into a new folder"


class Difference(NamedTuple):
    """A blur that does not come out as it was built: reason, sentence, its file, the cure."""

    reason: str
    what: str
    file: str
    cure: str


@dataclass(frozen=True)
class _Task:
    """A shard's averaged rows with the pixels they should have and the frames as they were."""

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
) -> list[Difference]:
    """Blurs that the frames do not give again, or no longer.

    Args:
        folder: a finished build of GoPro or of one's own footage.
        rows: its manifest.
        jobs: worker processes.
        frames: where the frames or the footage are; where build.json says when None.
        progress: show progress on stderr.

    Raises:
        BuildError: no record of the build, another source, or no frames.
    """
    build = record.read_build(folder)
    if build is not None and build["config"]["source"] == "footage":
        again = reshoot.differences(
            folder, rows, build, jobs=jobs, sources=frames, progress=progress
        )
        return [Difference(*one) for one in again]
    wanted = {row["sample_id"]: row for row in rows.rows() if row["origin"] == "averaged"}
    if not wanted:
        return []
    if build is None:
        raise BuildError(
            "build.json is missing or damaged, so nothing tells where the frames are",
            where=str(folder / record.BUILD),
            cure="run the command that built it again",
        )
    root = _frames_root(build, frames)
    tasks = list(_tasks(folder, build, root, wanted))
    found: list[Difference] = []
    with Progress(len(wanted), "blurs", shown=progress) as bar:
        for count, different in backends.each(_compare, tasks, jobs=jobs):
            found += different
            bar.advance(count, problems=len(different))
    return sorted(found, key=lambda one: one.file)


def _frames_root(build: Mapping[str, Any], frames: Path | None) -> Path:
    if build["config"]["source"] != "gopro":
        raise BuildError(
            f"level deep rebuilds GoPro and one's own footage; this is {build['config']['source']}",
            cure="use --level full, or generate it again and compare with `trajbuild diff`",
        )
    root = frames or Path(build["source"].get("frames", ""))
    if (not build["source"].get("frames") and frames is None) or not root.is_dir():
        raise BuildError(
            "the frames are not where the build found them",
            where=str(root),
            cure="say where they are now: --frames GOPRO_Large_all",
        )
    return root


def _tasks(
    folder: Path, build: Mapping[str, Any], root: Path, wanted: Mapping[str, Mapping[str, Any]]
) -> Iterator[_Task]:
    output = OutputFolder(folder)
    table = record.read_plan(output)
    if table is None:
        table = _plan_again(build, root).table
    shards: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["sample_id"] in wanted:
            shards.setdefault(row["shard"], []).append(row)
    lost = wanted.keys() - {row["sample_id"] for rows in shards.values() for row in rows}
    if lost:
        raise BuildError(
            f"{len(lost):,} averaged pairs are not in the plan, so their frames are unknown",
            where=shorten(sorted(lost)),
            cure="run the command that built it again",
        )
    for name, rows in shards.items():
        first = wanted[rows[0]["sample_id"]]
        shard = Shard(
            name=name, digest="", out=str(folder), roots={"frames": str(root)}, rows=tuple(rows),
            size=(first["width"], first["height"]),
        )  # fmt: skip
        pixels = {row["sample_id"]: wanted[row["sample_id"]]["blur_pixel_sha256"] for row in rows}
        yield _Task(shard, pixels, (output.read_marker(name) or {}).get("frames", {}))


def _plan_again(build: Mapping[str, Any], root: Path) -> gopro.Plan:
    """The plan from names, where `.trajbuild` was deleted."""
    config = build["config"]
    pairs = Path(build["source"].get("pairs", ""))
    return gopro.plan_gopro(
        pairs if pairs.is_dir() and "pairs" in build["source"] else root,
        recipe.from_data(config["recipe"]),
        frames=root,
        expand_test=config["expand_test"],
        corrections=gopro.Corrections(config.get("offsets", {})),
    )


def _compare(task: _Task) -> tuple[int, list[Difference]]:
    """Average a shard's windows again; what differs, with the frame that explains it."""
    worker.set_up()
    rows = {(row["center_index"], row["n_frames"]): row for row in task.shard.rows}
    frames: dict[str, str] = {}
    bad: dict[str, ImageError] = {}
    # All windows first: which frames changed is known when all are read.
    wrong = []
    for center, n, mean in render_windows(task.shard, list(rows.values()), frames, bad):
        row = rows.pop((center, n))
        if png.pixel_sha256(mean) != task.wanted[row["sample_id"]]:
            wrong.append(row)
    changed = {name for name, digest in frames.items() if task.known.get(name, digest) != digest}
    found = [_other(row, [n for n in row["frame_names"] if n in changed], bool(task.known))
             for row in wrong]  # fmt: skip
    for row in rows.values():
        name = next(name for name in row["frame_names"] if name in bad)
        error = bad[name]
        found.append(_difference(row, error.reason, f"{name}: {error.what}", error.cure))
    return len(task.shard.rows), found


def _other(row: Mapping[str, Any], changed: list[str], marked: bool) -> Difference:
    if changed:
        names = shorten(changed)
        return _difference(row, "frame-changed", f"changed since it was built: {names}", MEND_FRAME)
    span = f"{row['frame_names'][0]} to {row['frame_names'][-1]}"
    why = "although none of its frames changed" if marked else "and the markers which could say"
    why += "" if marked else " which frame changed are gone"
    return _difference(row, "pixels-differ", f"averages differently from {span}, {why}", MEND_FRAME)


def _difference(row: Mapping[str, Any], reason: str, why: str, cure: str) -> Difference:
    file = f"{row['split']}/{row['blur_file_name']}"
    return Difference(reason, f"{file}: {why}", file, cure)
