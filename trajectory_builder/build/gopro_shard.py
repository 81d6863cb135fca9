"""One shard of GoPro: official files are copied, further windows averaged, each frame read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from trajectory_builder.build.watch import Watch
from trajectory_builder.build.writer import (
    Contents,
    ImageFile,
    copy_image,
    pair_problem,
    pair_record,
    trajectories,
    write_image,
)
from trajectory_builder.disk.batch import Batch
from trajectory_builder.errors import ImageError
from trajectory_builder.images import png
from trajectory_builder.pixels import averaging, motion
from trajectory_builder.trajectory import Problem

if TYPE_CHECKING:
    from trajectory_builder.build.shard import Shard
    from trajectory_builder.plan.table import PlanRow

Pixels = npt.NDArray[np.uint8]


def make(shard: Shard, batch: Batch) -> Contents:
    """Make a shard's files, which get their names when `batch` ends."""
    contents = Contents()
    official: list[tuple[PlanRow, ImageFile]] = []
    sharps: dict[str, ImageFile] = {}  # by trajectory_id
    averaged: list[PlanRow] = []
    for rows in trajectories(shard.rows):
        sharp = _copy(shard, batch, rows[0], "sharp")
        if isinstance(sharp, ImageError):
            # Without its sharp image no blur of the trajectory makes a pair.
            contents.problems.extend(_problem(row, sharp, row["sharp_source"]) for row in rows)
            continue
        sharps[rows[0]["trajectory_id"]] = sharp
        for row in rows:
            if not row["blur_source"]:
                averaged.append(row)
                continue
            blur = _copy(shard, batch, row, "blur")
            if isinstance(blur, ImageError):
                contents.problems.append(_problem(row, blur, row["blur_source"]))
            else:
                official.append((row, blur))
    watch = Watch()
    reader = FrameReader(
        Path(shard.roots.get("frames", "")),
        shard.size,
        see=lambda rank, pixels: watch.see(rank, motion.coarse(pixels)),
    )
    records = []
    longest: dict[str, PlanRow] = {}  # by trajectory_id: the longest window that was read
    for row, mean in render_windows(reader, averaged):
        blur = write_image(batch, Path(shard.out, row["split"], row["blur_file_name"]), mean)
        sharp = sharps[row["trajectory_id"]]
        records.append(pair_record(row, sharp, blur, watch.columns(row)))
        known = longest.setdefault(row["trajectory_id"], row)
        if row["n_frames"] > known["n_frames"]:
            longest[row["trajectory_id"]] = row
    for row, blur in official:
        measured = watch.official(row, longest.get(row["trajectory_id"]))
        contents.records.append(pair_record(row, sharps[row["trajectory_id"]], blur, measured))
    contents.records.extend(records)
    # Only now, since bad frames are known when all have been read.
    contents.problems.extend(reader.problems(averaged))
    contents.frames.update(reader.digests)
    return contents


def _copy(shard: Shard, batch: Batch, row: PlanRow, kind: str) -> ImageFile | ImageError:
    """Copy the row's sharp or blur file after checking it, or return what is wrong with it."""
    source = row["sharp_source"] if kind == "sharp" else row["blur_source"]
    target = row["sharp_file_name"] if kind == "sharp" else row["blur_file_name"]
    root, name = source.split(":", 1)
    path = Path(shard.out, row["split"], target)
    try:
        return copy_image(
            batch, path, Path(shard.roots[root], name), size=shard.size, link=shard.link
        )
    except ImageError as error:
        return error


def _problem(row: PlanRow, error: ImageError, source: str) -> Problem:
    file = source.rsplit(":", 1)[-1]
    return pair_problem(row, error.reason, error.what, error.cure, file)


class FrameReader:
    """Reads frames of GoPro; keeps the digest of each, and the error of each that is bad.

    Args:
        root: the folder that frame names start from.
        size: (width, height) that frames must have; None takes any.
        see: gets each frame's rank and pixels as it passes.
    """

    def __init__(
        self,
        root: Path,
        size: tuple[int, int] | None,
        *,
        see: Callable[[int, Pixels], None] | None = None,
    ) -> None:
        self._root = root
        self._size = size
        self._see = see
        self.digests: dict[str, str] = {}
        self.errors: dict[str, ImageError] = {}

    def read(self, names: Mapping[int, str]) -> Iterator[tuple[int, Pixels | None]]:
        """(rank, pixels) of each frame by rank, once; None for one that cannot be read."""
        # Ascending, so that one pass opens and closes all windows.
        for rank in sorted(names):
            name = names[rank]
            try:
                frame = png.read_frame(self._root / name, expect=self._size)
            except ImageError as error:
                self.errors[name] = error
                yield rank, None
                continue
            self.digests[name] = frame.sha256
            if self._see is not None:
                self._see(rank, frame.pixels)
            yield rank, frame.pixels

    def problems(self, rows: Sequence[PlanRow]) -> Iterator[Problem]:
        """One problem for each row whose window has a frame that could not be read."""
        for row in rows:
            name = next((name for name in row["frame_names"] if name in self.errors), None)
            if name is not None:
                yield _problem(row, self.errors[name], name)


def render_windows(
    reader: FrameReader, rows: Sequence[PlanRow]
) -> Iterator[tuple[PlanRow, Pixels]]:
    """Means of the rows' windows, each frame decoded once.

    Yields:
        (row, mean (H, W, 3) uint8) of each window whose frames are all sound.
    """
    if not rows:
        return
    names: dict[int, str] = {}
    windows: dict[int, list[int]] = {}
    by_window = {(row["center_index"], row["n_frames"]): row for row in rows}
    for row in rows:
        names.update(enumerate(row["frame_names"], start=row["first_index"]))
        windows.setdefault(row["center_index"], []).append(row["n_frames"])
    wanted = [(center, tuple(sorted(ns))) for center, ns in sorted(windows.items())]
    domain = cast(averaging.Domain, rows[0]["average_domain"])
    means = averaging.in_one_pass(reader.read(names), wanted, domain)
    for center, n, mean in means:
        yield by_window[center, n], mean
