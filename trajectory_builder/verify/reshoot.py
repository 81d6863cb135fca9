"""Render every blur of a footage build again, and compare its bits: `verify --level deep`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajectory_builder import manifest
from trajectory_builder.build import backends, footage_shard, worker
from trajectory_builder.build.writer import Work
from trajectory_builder.disk.progress import Progress
from trajectory_builder.images import png
from trajectory_builder.plan import footage

Difference = tuple[str, str, str, str]
"""Reason, sentence, the blur's file, the cure."""

_CURE = "bring back the footage as it was, or generate the set again into a new folder"


@dataclass(frozen=True)
class _Task:
    work: Work
    wanted: dict[str, str]  # sample_id -> pixel_sha256


def differences(
    folder: Path,
    rows: manifest.Manifest,
    build: Mapping[str, Any],
    *,
    jobs: int = 1,
    sources: Path | None = None,
    progress: bool = False,
) -> list[Difference]:
    """Blurs that the footage does not give again, or no longer.

    Args:
        folder: a finished build of footage.
        rows: its manifest.
        build: its build.json.
        jobs: worker processes.
        sources: where the footage is now, if it was one source; else where build.json says.
        progress: show progress on stderr.

    Raises:
        DataError, VideoError, ImageError: the footage is not there any more.
    """
    wanted = {row["sample_id"]: row for row in rows.rows()}
    told = sorted(build["source"].items(), key=lambda item: int(item[0].removeprefix("src")))
    paths = [Path(path) for _, path in told]
    request = footage.request_of(build["config"], [sources] if sources else paths)
    tasks = list(_tasks(folder, footage.plan_footage(request), wanted))
    found: list[Difference] = []
    with Progress(len(wanted), "blurs", shown=progress) as bar:
        for seen, different in backends.each(_compare, tasks, jobs=jobs):
            for sample_id in seen:
                wanted.pop(sample_id, None)
            found += different
            bar.advance(len(seen), problems=len(different))
    found += [
        _difference(row, "footage-changed", "the footage does not give this window any more")
        for row in wanted.values()
    ]
    return sorted(found, key=lambda one: one[2])


def _tasks(folder: Path, plan: Any, wanted: Mapping[str, Mapping[str, Any]]) -> Iterator[_Task]:
    shards: dict[str, list[dict[str, Any]]] = {}
    for row in plan.table.to_pylist():
        if row["sample_id"] in wanted:
            shards.setdefault(row["shard"], []).append(row)
    roots = {name: str(root) for name, root in plan.roots.items()}
    for name, rows in shards.items():
        pixels = {row["sample_id"]: wanted[row["sample_id"]]["blur_pixel_sha256"] for row in rows}
        yield _Task(Work(folder, roots, tuple(rows), plan.orders[name]), pixels)


def _compare(task: _Task) -> tuple[list[str], list[Difference]]:
    """sample_ids that were rendered again, and those of them that came out differently."""
    worker.set_up()
    seen, found = [], []
    for row, pixels in footage_shard.render(task.work):
        seen.append(row["sample_id"])
        if png.pixel_sha256(pixels) != task.wanted[row["sample_id"]]:
            found.append(_difference(row, "pixels-differ", "the footage gives other pixels"))
    return seen, found


def _difference(row: Mapping[str, Any], reason: str, why: str) -> Difference:
    file = f"{row['split']}/{row['blur_file_name']}"
    return reason, f"{file}: {why}", file, _CURE
