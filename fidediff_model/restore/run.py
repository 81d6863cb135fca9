"""Restoring many files: read ahead, batches on the device, written behind; one bad file is listed.

Reading and writing run in threads beside the device. Every file is written under a temporary name
and renamed, and only then recorded in `restored.jsonl`.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from fidediff_model.model.engine import Answer, ReadyModel
from fidediff_model.restore.files import (
    encode_picture,
    format_of,
    lost_in,
    to_tensor,
    to_unit,
    with_image,
)
from fidediff_model.restore.jobs import RECORD_FILE, Job, source_state, target_name
from trajectory_builder.disk.atomic import (
    NO_ROOM,
    reporting_disk_errors,
    temporary_name,
    write_atomic,
)
from trajectory_builder.errors import OutputError, UserError, printable
from trajectory_builder.images.picture import Picture
from trajectory_builder.images.pictures import read

READERS, WRITERS = 2, 2

Report = Callable[[Literal["image", "frame"], int], None]


@dataclass(frozen=True)
class RunOptions:
    """What is written besides the restorations, and how many images run at once.

    Attributes:
        batch: images of one size restored together.
        side_by_side: also write NAME_side_by_side.png, the input beside the restoration.
        show_kernels: also write NAME_kernels.png, the kernels that M sees.
        settings: what goes into each record besides the result.
    """

    batch: int = 1
    side_by_side: bool = False
    show_kernels: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunReport:
    """What became of the jobs: restored, and failed with their reasons."""

    restored: int = 0
    frames: int = 0
    failures: list[tuple[Path, UserError]] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    seconds: float = 0.0


def restore_files(
    ready: ReadyModel,
    jobs: Sequence[Job],
    out: Path,
    options: RunOptions,
    *,
    report: Report = lambda kind, count: None,
) -> RunReport:
    """Restore all jobs; a file that fails is listed and the others go on.

    Args:
        ready: the model.
        jobs: from `restore_jobs`; images come first, then videos.
        out: the output folder; made if needed.
        options: batch and further pictures.
        report: told of each image and each video frame that is done.

    Raises:
        OutputError: nothing more can be written.
    """
    started = time.monotonic()
    result = RunReport()
    images = [job for job in jobs if not job.is_video]
    with reporting_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        _restore_images(ready, images, out, options, result, report)
        for job in jobs:
            if job.is_video:
                _restore_video(ready, job, out, options, result, report)
    result.seconds = time.monotonic() - started
    return result


def _restore_images(
    ready: ReadyModel,
    jobs: Sequence[Job],
    out: Path,
    options: RunOptions,
    result: RunReport,
    report: Report,
) -> None:
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
        pending: deque[tuple[Job, Future[dict[str, Any]]]] = deque()
        try:
            read = _read_ahead(jobs, readers, depth=2 * options.batch + READERS)
            for group in _same_size(_readable(read, result, report), options.batch):
                for job, write in _run_group(ready, group, options, result, report):
                    pending.append((job, writers.submit(write)))
                while len(pending) > 2 * options.batch + WRITERS:
                    _finish(pending.popleft(), out, options, result, report)
            while pending:
                _finish(pending.popleft(), out, options, result, report)
        except BaseException:
            readers.shutdown(wait=False, cancel_futures=True)
            writers.shutdown(wait=True, cancel_futures=True)
            raise


_Read = tuple[Job, Future[Picture]]
_Ready = tuple[Job, Picture]


def _read_ahead(jobs: Sequence[Job], readers: ThreadPoolExecutor, *, depth: int) -> Iterator[_Read]:
    """Jobs with their pictures being read, `depth` of them ahead of the consumer."""
    rest = iter(jobs)
    ahead: deque[_Read] = deque((job, readers.submit(_read, job)) for job in islice(rest, depth))
    while ahead:
        yield ahead.popleft()
        ahead.extend((job, readers.submit(_read, job)) for job in islice(rest, 1))


def _read(job: Job) -> Picture:
    return read(job.source)


def _readable(read: Iterator[_Read], result: RunReport, report: Report) -> Iterator[_Ready]:
    for job, future in read:
        try:
            yield job, future.result()
        except UserError as error:
            _fail(job, error, result, report)


def _fail(job: Job, error: UserError, result: RunReport, report: Report) -> None:
    result.failures.append((job.source, error))
    report("image", 1)


def _same_size(pictures: Iterator[_Ready], batch: int) -> Iterator[list[_Ready]]:
    """Runs of neighbours of one size, at most `batch` long."""
    group: list[_Ready] = []
    for job, picture in pictures:
        if group and (len(group) == batch or group[0][1].pixels.shape != picture.pixels.shape):
            yield group
            group = []
        group.append((job, picture))
    if group:
        yield group


def _run_group(
    ready: ReadyModel,
    group: list[_Ready],
    options: RunOptions,
    result: RunReport,
    report: Report,
) -> Iterator[tuple[Job, Callable[[], dict[str, Any]]]]:
    """Restore pictures of one size; yields what is left to write."""
    started = time.monotonic()
    try:
        blur = torch.stack([to_tensor(picture) for _, picture in group])  # (B, 3, H, W)
        answer = ready.run(blur)
        kernels = [
            ready.kernel_picture(one[None]) if options.show_kernels else None for one in blur
        ]
    except UserError as error:
        for job, _ in group:
            _fail(job, error, result, report)
        return
    result.notes.update(answer.notes)
    seconds = (time.monotonic() - started) / len(group)
    for index, (job, picture) in enumerate(group):
        shown_kernels = kernels[index]
        yield job, partial(_write, job, picture, answer, index, shown_kernels, options, seconds)


def _write(
    job: Job,
    picture: Picture,
    answer: Answer,
    index: int,
    kernels: Any,
    options: RunOptions,
    seconds: float,
) -> dict[str, Any]:
    """Write a restoration and its further pictures; the values of its record."""
    restored = with_image(picture, answer.images[index])
    job.target.parent.mkdir(parents=True, exist_ok=True)
    file_format = format_of(job.target) or picture.format
    content = encode_picture(restored, file_format=file_format)
    if options.side_by_side:
        write_atomic(beside(job.target, "side_by_side"), side_by_side(picture, restored))
    if kernels is not None:
        picture_of = Image.fromarray(kernels)
        write_atomic(beside(job.target, "kernels"), _png(picture_of))
    # The restoration last: where it stands, all of its job stands.
    write_atomic(job.target, content)
    height, width = picture.pixels.shape[:2]
    return {
        "width": width,
        "height": height,
        "t_hat": round(float(answer.t_hat[index]), 3),
        "seconds": round(seconds, 4),
        "notes": [*picture.notes, *lost_in(picture, file_format), *answer.notes],
    }


def beside(target: Path, what: str) -> Path:
    """The name of a further picture of a target: its own whole name, then what it is."""
    return target.with_name(f"{target.name}_{what}.png")


def side_by_side(before: Picture, after: Picture) -> bytes:
    """An 8-bit PNG: the input, a thin white line, the restoration."""
    halves = [to_unit(to_tensor(p)) for p in (before, after)]
    line = np.ones((halves[0].shape[0], 4, 3), np.float32)
    values = np.rint(np.concatenate([halves[0], line, halves[1]], axis=1) * 255)
    return _png(Image.fromarray(values.astype(np.uint8)))


def _png(image: Image.Image) -> bytes:
    import io

    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def _finish(
    pending: tuple[Job, Future[dict[str, Any]]],
    out: Path,
    options: RunOptions,
    result: RunReport,
    report: Report,
) -> None:
    """Wait for a file, record it; a full disk ends the run, any other failure is the file's own."""
    job, future = pending
    try:
        values = future.result()
    except UserError as error:
        _fail(job, error, result, report)
        return
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        reason = OutputError(
            f"it cannot be written: {error.strerror}", where=printable(error.filename or job.target)
        )
        _fail(job, reason, result, report)
        return
    add_record(job, out, options, values)
    result.restored += 1
    report("image", 1)


def add_record(job: Job, out: Path, options: RunOptions, values: dict[str, Any]) -> None:
    """Append a job's record; names are kept in ASCII escapes, so that any bytes survive."""
    record = {
        "target": target_name(job, out),
        "source": source_state(job),
        **values,
        "settings": options.settings,
    }
    with open(out / RECORD_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _restore_video(
    ready: ReadyModel,
    job: Job,
    out: Path,
    options: RunOptions,
    result: RunReport,
    report: Report,
) -> None:
    from fidediff_model.restore.video import restore_video

    started = time.monotonic()
    job.target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(job.target)
    try:
        values = restore_video(ready, job.source, temporary, batch=options.batch, report=report)
        os.replace(temporary, job.target)
    except UserError as error:
        _fail(job, error, result, report)
        return
    finally:
        with suppress(OSError):
            temporary.unlink()
    values["seconds"] = round(time.monotonic() - started, 3)
    add_record(job, out, options, values)
    result.restored += 1
    result.frames += values["frames"]
    result.notes.update(values["notes"])
    report("image", 1)
