"""Make one shard: read its frames once, average its windows, write its files, then its marker.

This is what runs in a worker process. It takes plain values, writes straight to the output folder
and returns a few counts; what it made stands in its marker.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.build import worker
from trajectory_builder.disk.atomic import fault_point
from trajectory_builder.disk.batch import Batch
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import ImageError, OutputError, UserError
from trajectory_builder.images import png
from trajectory_builder.pixels import averaging
from trajectory_builder.trajectory import Problem

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Shard:
    """The work order of one shard.

    Attributes:
        name: `SPLIT/CLIP/NNNN`, also the marker's path.
        digest: of all that decides its result; a marker with another digest does not count.
        out: the output folder.
        roots: folders that `pairs:` and `frames:` paths start from.
        rows: its plan rows.
        size: (width, height) of the clip; an image of another size is refused.
        link: how files of the user's are taken over: copy, hardlink or symlink.
        order: for footage of one's own, what `exposure` needs beyond the rows; else None.
    """

    name: str
    digest: str
    out: str
    roots: dict[str, str]
    rows: tuple[dict[str, Any], ...]
    size: tuple[int, int] | None
    link: str = "copy"
    order: dict[str, Any] | None = None


@dataclass(frozen=True)
class Image:
    """One file to write: encoded bytes and what the manifest tells of them.

    `source` is the user's file where the bytes are taken over as they are; `extra` holds further
    manifest columns of a blur.
    """

    file_name: str
    payload: bytes
    sha256: str
    width: int
    height: int
    source: Path | None = None
    pixel_sha256: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """What a worker tells of a shard: its name, pairs made, and problems met.

    `died` says that an earlier worker died over it, so that this one left it alone.
    """

    name: str
    pairs: int
    problems: int
    died: bool = False


def make(shard: Shard) -> Made:
    """Make all files of a shard and its marker.

    A bad input file costs the pairs that need it: they become problems in the marker.

    Raises:
        OutputError: the output cannot be written (disk full, read-only, ...).
    """
    worker.set_up()
    fault_point("shard", shard.name)
    out = OutputFolder(Path(shard.out))
    try:
        with Batch(out.begun_path(shard.name)) as batch:
            if shard.order is None:
                records, problems, frames = _expand(shard, batch)
            else:
                records, problems, frames = _expose(shard, batch)
        done = [record for record in records if "blur_sha256" in record]
        out.write_marker(
            shard.name,
            {
                "shard": shard.name,
                "digest": shard.digest,
                "pairs": done,
                "problems": [asdict(problem) for problem in problems],
                "frames": frames,
            },
        )
    except OSError as error:
        raise write_error(error, shard.out) from error
    return Made(shard.name, len(done), len(problems))


def _expand(
    shard: Shard, batch: Batch
) -> tuple[list[dict[str, Any]], list[Problem], dict[str, str]]:
    """Official files taken over and new windows averaged: records, problems, frames' digests."""
    records: list[dict[str, Any]] = []
    problems: list[Problem] = []
    frames: dict[str, str] = {}
    for trajectory in _trajectories(shard):
        trajectory.copy(batch, problems)
        records += trajectory.records()
    _average(shard, batch, records, problems, frames)
    return records, problems, frames


def _expose(
    shard: Shard, batch: Batch
) -> tuple[list[dict[str, Any]], list[Problem], dict[str, str]]:
    """A shard of footage: records, problems, frames' digests."""
    # Here, or each worker of `expand` would import at its start what it never needs.
    from trajectory_builder.build import footage_shard
    from trajectory_builder.build.writer import Work

    made = footage_shard.make(
        Work(Path(shard.out), shard.roots, shard.rows, shard.order or {}), batch
    )
    return made.records, made.problems, made.frames


def write_error(error: OSError, out: str) -> OutputError:
    """What to tell when the output could not be written."""
    cures = {
        errno.ENOSPC: "free some space and run the same command again; all finished shards stay",
        errno.EDQUOT: "raise the quota and run the same command again; all finished shards stay",
    }
    cure = cures.get(error.errno or 0, "mend it and run the same command again to resume")
    return OutputError(
        f"cannot write to the output: {error.strerror or error}",
        where=str(error.filename or out),
        cure=cure,
    )


class _Trajectory:
    """Rows round one centre frame, while their shard is made."""

    def __init__(self, shard: Shard, rows: list[dict[str, Any]]) -> None:
        self.shard = shard
        self.rows = rows
        self._sharp: Image | None = None
        self._blurs: dict[str, Image] = {}

    def copy(self, batch: Batch, problems: list[Problem]) -> None:
        """Take over the sharp image and the official blurs, as they are."""
        first = self.rows[0]
        self._sharp = self._take(batch, first, "sharp", problems)
        if self._sharp is None:
            return
        for row in self.rows:
            if row["blur_source"]:
                blur = self._take(batch, row, "blur", problems)
                if blur is not None:
                    self._blurs[row["sample_id"]] = blur
                    batch.count()

    def records(self) -> Iterator[dict[str, Any]]:
        """What the manifest tells of each pair so far; averaged blurs are added later."""
        sharp = self._sharp
        if sharp is None:
            return
        for row in self.rows:
            record = {
                "sample_id": row["sample_id"],
                "width": sharp.width,
                "height": sharp.height,
                "sharp_sha256": sharp.sha256,
                "sharp_bytes": len(sharp.payload),
            }
            blur = self._blurs.get(row["sample_id"])
            if blur is not None:
                record |= _of_blur(blur)
            if blur is not None or not row["blur_source"]:
                yield record

    def _take(
        self, batch: Batch, row: dict[str, Any], kind: str, problems: list[Problem]
    ) -> Image | None:
        """Copy the row's sharp or blur file after checking it; None and problems if it is bad."""
        shard = self.shard
        root, name = row[f"{kind}_source"].split(":", 1)
        source = Path(shard.roots[root], name)
        try:
            payload = png.read_bytes(source)
            header = png.check_png(payload, name=str(source), expect=shard.size)
        except ImageError as error:
            lost = self.rows if kind == "sharp" else [row]
            problems += [problem_of(error, one, name) for one in lost]
            return None
        taken = Image(
            file_name=row[f"{kind}_file_name"],
            payload=payload,
            sha256=hashlib.sha256(payload).hexdigest(),
            width=header.width,
            height=header.height,
            source=source,
        )
        path = Path(shard.out, row["split"], taken.file_name)
        batch.add_copy(path, source, payload, link=shard.link)
        return taken


def problem_of(error: UserError, row: dict[str, Any], file: str) -> Problem:
    """The problem of a pair whose input `file` is bad."""
    return Problem(
        reason=getattr(error, "reason", "unreadable"),
        what=f"{row['sample_id']} is left out: {error.what}",
        cure=error.cure,
        split=row["split"],
        clip_id=row["clip_id"],
        sample_id=row["sample_id"],
        file=file,
    )


def _of_blur(blur: Image) -> dict[str, Any]:
    return {
        "blur_sha256": blur.sha256,
        "blur_bytes": len(blur.payload),
        "blur_pixel_sha256": blur.pixel_sha256,
        **blur.extra,
    }


def _trajectories(shard: Shard) -> Iterator[_Trajectory]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in shard.rows:
        rows.setdefault(row["trajectory_id"], []).append(row)
    for of_one in rows.values():
        yield _Trajectory(shard, of_one)


def _average(
    shard: Shard,
    batch: Batch,
    records: list[dict[str, Any]],
    problems: list[Problem],
    frames: dict[str, str],
) -> None:
    """Render the shard's averaged blurs, each frame read once; fill in their records."""
    open_records = {r["sample_id"]: r for r in records if "blur_sha256" not in r}
    rows = {
        (row["center_index"], row["n_frames"]): row
        for row in shard.rows
        if row["sample_id"] in open_records
    }
    bad: dict[str, ImageError] = {}
    for center, n, mean in render_windows(shard, list(rows.values()), frames, bad):
        row = rows.pop((center, n))
        payload = png.encode_png(mean)
        blur = Image(
            file_name=row["blur_file_name"],
            payload=payload,
            sha256=hashlib.sha256(payload).hexdigest(),
            width=mean.shape[1],
            height=mean.shape[0],
            pixel_sha256=png.pixel_sha256(mean),
        )
        batch.add(Path(shard.out, row["split"], blur.file_name), payload)
        batch.count()
        open_records[row["sample_id"]] |= _of_blur(blur)
    for row in rows.values():
        name = next(name for name in row["frame_names"] if name in bad)
        problems.append(problem_of(bad[name], row, name))


def render_windows(
    shard: Shard,
    rows: list[dict[str, Any]],
    frames: dict[str, str],
    bad: dict[str, ImageError],
) -> Iterator[tuple[int, int, Pixels]]:
    """Means of the rows' windows, each frame decoded once.

    Args:
        shard: whose roots and size are used.
        rows: plan rows with `frame_names`.
        frames: filled with the SHA-256 of each frame that was read.
        bad: filled with the error of each frame that could not be.

    Yields:
        (center_index, n_frames, mean (H, W, 3) uint8) of each window whose frames are all sound.
    """
    names: dict[int, str] = {}
    windows: dict[int, list[int]] = {}
    for row in rows:
        names.update(enumerate(row["frame_names"], start=row["first_index"]))
        windows.setdefault(row["center_index"], []).append(row["n_frames"])

    def read() -> Iterator[tuple[int, Pixels | None]]:
        """(rank, pixels) of each needed frame, once; None for one that is noted as bad."""
        for rank in sorted(names):
            name = names[rank]
            try:
                frame = png.read_frame(Path(shard.roots["frames"], name), expect=shard.size)
            except ImageError as error:
                bad[name] = error
                yield rank, None
                continue
            frames[name] = frame.sha256
            yield rank, frame.pixels

    if rows:
        wanted = [(center, tuple(sorted(ns))) for center, ns in sorted(windows.items())]
        yield from averaging.in_one_pass(read(), wanted, rows[0]["average_domain"])
