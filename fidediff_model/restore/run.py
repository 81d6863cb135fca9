"""Restoring many files: read ahead, batches on the device, written behind.

Reading and writing run in threads beside the device. Every file is written under a temporary name
and renamed, and only then recorded in `restored.jsonl`. A file that fails, whatever the error, is
recorded with its reason and the others go on; only a full disk ends the run.
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
from trajectory_builder.errors import DataError, OutputError, UserError, printable
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
    """The outcome of the jobs: how many are restored, and failures with their reasons."""

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
        report: called after each file ("image") and each batch of video frames ("frame").

    Raises:
        OutputError: nothing more can be written.
    """
    started = time.monotonic()
    run = _Run(ready, out, options, report)
    with reporting_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        run.restore_images([job for job in jobs if not job.is_video])
        for job in jobs:
            if job.is_video:
                run.restore_video(job)
    run.result.seconds = time.monotonic() - started
    return run.result


_Read = tuple[Job, Future[Picture]]
_Ready = tuple[Job, Picture]
_Write = Callable[[], dict[str, Any]]


class _Run:
    """One run over many files, and its outcome so far."""

    def __init__(self, ready: ReadyModel, out: Path, options: RunOptions, report: Report) -> None:
        self.ready, self.out, self.options, self.report = ready, out, options, report
        self.result = RunReport()

    def restore_images(self, jobs: Sequence[Job]) -> None:
        batch = self.options.batch
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
            pending: deque[tuple[Job, Future[dict[str, Any]]]] = deque()
            try:
                ahead = _read_ahead(jobs, readers, depth=2 * batch + READERS)
                for group in _same_size(self._readable(ahead), batch):
                    for job, write in self._restored(group):
                        pending.append((job, writers.submit(write)))
                    while len(pending) > 2 * batch + WRITERS:
                        self._finish(*pending.popleft())
                while pending:
                    self._finish(*pending.popleft())
            except BaseException:
                readers.shutdown(wait=False, cancel_futures=True)
                writers.shutdown(wait=True, cancel_futures=True)
                raise

    def restore_video(self, job: Job) -> None:
        from fidediff_model.restore.video import restore_video

        started = time.monotonic()
        temporary = temporary_name(job.target)
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            values = restore_video(
                self.ready, job.source, temporary, batch=self.options.batch, report=self.report
            )
            os.replace(temporary, job.target)
        except Exception as error:
            self._fail(job, error)
            return
        finally:
            with suppress(OSError):
                temporary.unlink()
        values["seconds"] = round(time.monotonic() - started, 3)
        self.result.frames += values["frames"]
        self.result.notes.update(values["notes"])
        self._done(job, values)

    def _readable(self, ahead: Iterator[_Read]) -> Iterator[_Ready]:
        for job, future in ahead:
            try:
                picture = future.result()
            except Exception as error:
                self._fail(job, error)
            else:
                yield job, picture

    def _restored(self, group: list[_Ready]) -> Iterator[tuple[Job, _Write]]:
        """Restore pictures of one size; yields a function per picture that writes it."""
        started = time.monotonic()
        options = self.options
        try:
            blur = torch.stack([to_tensor(picture) for _, picture in group])  # (B, 3, H, W)
            answer = self.ready.run(blur)
            kernels = [
                self.ready.kernel_picture(image[None]) if options.show_kernels else None
                for image in blur
            ]
        except Exception as error:
            if len(group) == 1:
                self._fail(group[0][0], error)
                return
            # Neighbours in a batch must not fail with the picture that is at fault.
            for member in group:
                yield from self._restored([member])
            return
        self.result.notes.update(answer.notes)
        seconds = (time.monotonic() - started) / len(group)
        for index, (job, picture) in enumerate(group):
            yield (
                job,
                partial(_write, job, picture, answer, index, kernels[index], options, seconds),
            )

    def _finish(self, job: Job, future: Future[dict[str, Any]]) -> None:
        """Wait until a file is written, and record it."""
        try:
            values = future.result()
        except Exception as error:
            self._fail(job, error)
        else:
            self._done(job, values)

    def _done(self, job: Job, values: dict[str, Any]) -> None:
        add_record(job, self.out, self.options, values)
        self.result.restored += 1
        self.report("image", 1)

    def _fail(self, job: Job, error: Exception) -> None:
        """List and record a file that failed; a full disk ends the run."""
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise error
        failure = _user_error(job, error)
        self.result.failures.append((job.source, failure))
        reason = {"what": failure.what, "where": failure.where, "cure": failure.cure}
        add_record(job, self.out, self.options, {"failed": reason})
        self.report("image", 1)


def _user_error(job: Job, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        return OutputError(
            f"it cannot be written: {error.strerror}",
            where=printable(error.filename or job.target),
            cure="check the permissions of --out and run the same command again",
        )
    return DataError(
        f"restoring it failed: {type(error).__name__}: {error}",
        where=printable(job.source),
        cure="check that it opens in other programs; if so, this is a bug: report it",
    )


def _read_ahead(jobs: Sequence[Job], readers: ThreadPoolExecutor, *, depth: int) -> Iterator[_Read]:
    """Jobs with their pictures being read, `depth` of them ahead of the consumer."""
    rest = iter(jobs)
    ahead: deque[_Read] = deque(
        (job, readers.submit(read, job.source)) for job in islice(rest, depth)
    )
    while ahead:
        yield ahead.popleft()
        ahead.extend((job, readers.submit(read, job.source)) for job in islice(rest, 1))


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


def add_record(job: Job, out: Path, options: RunOptions, values: dict[str, Any]) -> None:
    """Append a job's record; names are kept in ASCII escapes, so that any bytes survive."""
    record = {
        "target": target_name(job, out),
        "source": source_state(job) if job.source.exists() else {"path": str(job.source)},
        **values,
        "settings": options.settings,
    }
    with open(out / RECORD_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
