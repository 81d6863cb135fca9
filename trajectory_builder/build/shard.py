"""Make one shard: its files, then its marker.

This is what runs in a worker process. It takes plain values, writes straight to the output folder
and returns a few counts; the records of its pairs are in its marker.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trajectory_builder.build import gopro_shard, workers
from trajectory_builder.build.writer import Contents
from trajectory_builder.disk.atomic import fault_point
from trajectory_builder.disk.batch import Batch
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import OutputError
from trajectory_builder.trajectory import Problem

if TYPE_CHECKING:  # a worker must not load tables
    from trajectory_builder.build.writer import Record
    from trajectory_builder.plan.order import FootageOrder
    from trajectory_builder.plan.table import PlanRow


@dataclass(frozen=True)
class Shard:
    """The work order of one shard.

    Attributes:
        name: `SPLIT/CLIP/NNNN`, also the marker's path.
        digest: of all that decides its result; a marker with another digest does not count.
        out: the output folder.
        roots: folders that the paths of sources start from.
        rows: its plan rows.
        size: (width, height) of the clip; an image of another size is refused.
        link: how files of the user's get into the output: copy, hardlink or symlink.
        order: for a user's footage, what a worker needs beyond the rows; else None.
    """

    name: str
    digest: str
    out: str
    roots: dict[str, str]
    rows: tuple[PlanRow, ...]
    size: tuple[int, int] | None
    link: str = "copy"
    order: FootageOrder | None = None


@dataclass(frozen=True)
class ShardResult:
    """What a worker reports: the shard's name, the pairs made and the problems met.

    `died` says that an earlier worker died over the shard, so that this one left it alone.
    """

    name: str
    pairs: int
    problems: int
    died: bool = False


def make_shard(shard: Shard) -> ShardResult:
    """Make all files of a shard and its marker.

    A bad input file costs the pairs that need it: they become problems in the marker.

    Raises:
        OutputError: the output cannot be written (disk full, read-only, ...).
    """
    # Here and not in an initializer: Dask and Ray start their workers themselves.
    workers.set_up()
    fault_point("shard", shard.name)
    try:
        with Batch() as batch:
            contents = _contents(shard, batch)
        # After the batch has renamed its files: a marker never names a file that is not there.
        write_marker(shard, contents.records, contents.problems, contents.frames)
    # A disk that refuses one shard refuses the next one too, so this ends the build.
    except OSError as error:
        raise write_error(error, shard.out) from error
    return ShardResult(shard.name, len(contents.records), len(contents.problems))


def _contents(shard: Shard, batch: Batch) -> Contents:
    if shard.order is None:
        return gopro_shard.make(shard, batch)
    # Imported here: each worker of `expand` would otherwise load the video library at its start.
    from trajectory_builder.build import footage_shard

    return footage_shard.make(shard, shard.order, batch)


def write_marker(
    shard: Shard, records: Sequence[Record], problems: Sequence[Problem], frames: dict[str, str]
) -> None:
    """Write the marker: from now on the shard counts as complete."""
    OutputFolder(Path(shard.out)).write_marker(
        shard.name,
        {
            "shard": shard.name,
            "digest": shard.digest,
            "pairs": list(records),
            "problems": [asdict(problem) for problem in problems],
            "frames": frames,
        },
    )


def write_error(error: OSError, out: str) -> OutputError:
    """The error for an output that cannot be written."""
    cures = {
        errno.ENOSPC: "free some space and run the same command again; all finished shards stay",
        errno.EDQUOT: "raise the quota and run the same command again; all finished shards stay",
    }
    cure = cures.get(error.errno or 0, "fix it and run the same command again to resume")
    return OutputError(
        f"cannot write to the output: {error.strerror or error}",
        where=str(error.filename or out),
        cure=cure,
    )
