"""Restoring many files: read ahead, batches on the device, written behind.

Reading and writing run in threads beside the device. Every file is written under a temporary name
and renamed, and only then recorded in `restored.jsonl`. A file that fails, whatever the error, is
recorded with its reason and the others go on; only a full disk ends the run.
"""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fidediff_model.model.engine import ReadyModel, choose_device
from fidediff_model.model.fidediff import open_model
from fidediff_model.restore.files import (
    EIGHT_BIT_FORMATS,
    encode_picture,
    format_of,
    lost_in,
    to_tensor,
    to_unit,
    with_image,
)
from fidediff_model.restore.records import Record, append_record, left_to_do
from fidediff_model.restore.request import Job, RestoreRequest, collect
from trajectory_builder.disk.atomic import (
    NO_ROOM,
    reporting_disk_errors,
    temporary_name,
    write_atomic,
)
from trajectory_builder.errors import DataError, OutputError, UserError, printable
from trajectory_builder.images.picture import Picture
from trajectory_builder.images.pictures import decode, read
from trajectory_builder.images.white import refuse_few_levels

READERS, WRITERS = 2, 2

Report = Callable[[Literal["image", "frame"], int], None]


@dataclass(frozen=True)
class RestorePlan:
    """The work of a command, planned without reading pixels or weights.

    Attributes:
        request: the command.
        jobs: what is left to do.
        skipped: how many jobs were done before.
    """

    request: RestoreRequest
    jobs: list[Job]
    skipped: int

    def load(self) -> ReadyModel:
        """The model, ready to restore."""
        request = self.request
        return open_model(request.model, request.settings, base_model=request.base_model)


def make_plan(request: RestoreRequest) -> RestorePlan:
    """Plan the work without reading pixels or weights.

    Raises:
        UserError: the model folder, the device, an input or an output cannot be used.
    """
    request.check_parts()
    choose_device(request.settings.device)
    jobs = collect(request.inputs, request.out)
    left = left_to_do(
        jobs,
        request.folder,
        request.recorded,
        overwrite=request.overwrite,
        skip_existing=request.skip_existing,
        keeps_records=not request.is_one_file,
    )
    return RestorePlan(request, left, len(jobs) - len(left))


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job: its record, or the reason why it failed."""

    job: Job
    record: Record
    error: UserError | None = None


def _failed(job: Job, error: Exception) -> Outcome:
    """The outcome of a file that failed, whatever the error; a full disk ends the run."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        raise error
    failure = _user_error(job, error)
    reason = {"what": failure.what, "where": failure.where, "cure": failure.cure}
    return Outcome(job, {"failed": reason}, failure)


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


@dataclass(frozen=True)
class RestoreReport:
    """The outcome of all jobs.

    Attributes:
        restored: files written.
        frames: frames of the videos among them.
        failures: source and reason of each file that failed.
        notes: what was done differently or could not be kept, each once.
        seconds: in all.
    """

    restored: int = 0
    frames: int = 0
    failures: tuple[tuple[Path, UserError], ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def restore_files(
    plan: RestorePlan, ready: ReadyModel, *, report: Report = lambda kind, count: None
) -> RestoreReport:
    """Restore all jobs; a file that fails is reported, and the others go on.

    Args:
        plan: what to do; images come first, then videos.
        ready: the model that `plan.load` returns.
        report: called for each image and each video frame that is done.

    Raises:
        OutputError: nothing more can be written.
    """
    started = time.monotonic()
    out, settings = plan.request.folder, plan.request.recorded
    keeps_records = not plan.request.is_one_file  # nobody expects a list beside one picture
    failures, notes, restored, frames = [], set[str](), 0, 0
    with reporting_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        # Closed at once also after an interrupt, so that no thread starts another file.
        with closing(_outcomes(plan, ready, report)) as outcomes:
            for outcome in outcomes:
                if keeps_records:
                    append_record(outcome.job, out, settings, outcome.record)
                if outcome.error is not None:
                    failures.append((outcome.job.source, outcome.error))
                else:
                    restored += 1
                    frames += outcome.record.get("frames", 0)
                    notes.update(outcome.record["notes"])
                report("image", 1)
    seconds = time.monotonic() - started
    return RestoreReport(restored, frames, tuple(failures), tuple(sorted(notes)), seconds)


def _outcomes(
    plan: RestorePlan, ready: ReadyModel, report: Report
) -> Generator[Outcome, None, None]:
    images = [job for job in plan.jobs if not job.is_video]
    yield from _restore_images(plan.request, ready, images)
    for job in plan.jobs:
        if job.is_video:
            yield _restore_video(job, ready, batch=plan.request.batch, report=report)


def _restore_images(
    request: RestoreRequest, ready: ReadyModel, jobs: Sequence[Job]
) -> Iterator[Outcome]:
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:
        pending: deque[Future[Outcome]] = deque()
        try:
            read_one = partial(_read, white=request.white)
            files = _read_ahead(jobs, read_one, readers, depth=2 * request.batch + READERS)
            for group in _same_size(files, request.batch):
                for write in _restore_group(request, ready, group):
                    pending.append(writers.submit(write))
                while len(pending) > 2 * request.batch + WRITERS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            readers.shutdown(wait=False, cancel_futures=True)
            # A file that is being written gets its final name; those behind it are dropped.
            writers.shutdown(wait=True, cancel_futures=True)
            raise


@dataclass(frozen=True)
class _File:
    """A job with its content, or with the reason why there is none."""

    job: Job
    picture: Picture | None = None
    failure: Outcome | None = None

    @property
    def size(self) -> tuple[int, ...]:
        return self.picture.pixels.shape if self.picture is not None else ()


def _read(job: Job, white: int | None) -> _File:
    try:
        picture = read(job.source, white=white)
        if (format_of(job.target) or picture.format) in EIGHT_BIT_FORMATS:
            refuse_few_levels(picture.ends_at, printable(job.source))
        return _File(job, picture)
    except Exception as error:
        return _File(job, failure=_failed(job, error))


def _read_ahead(
    jobs: Sequence[Job],
    read_one: Callable[[Job], _File],
    readers: ThreadPoolExecutor,
    *,
    depth: int,
) -> Iterator[_File]:
    """The files of all jobs in order, `depth` of them being read ahead of the consumer."""
    rest = iter(jobs)
    ahead = deque(readers.submit(read_one, job) for job in islice(rest, depth))
    while ahead:
        yield ahead.popleft().result()
        ahead.extend(readers.submit(read_one, job) for job in islice(rest, 1))


def _same_size(files: Iterator[_File], batch: int) -> Iterator[list[_File]]:
    """Runs of neighbours of one size, at most `batch` long; unreadable files have a size too."""
    group: list[_File] = []
    for file in files:
        if group and (len(group) == batch or group[0].size != file.size):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _restore_group(
    request: RestoreRequest, ready: ReadyModel, group: list[_File]
) -> Iterator[Callable[[], Outcome]]:
    """Restore pictures of one size; yields a call per file that writes it."""
    started = time.monotonic()
    failures = [file.failure for file in group if file.failure is not None]
    if failures:  # files without a picture have no size, so these are all of the group
        yield from (partial(_same, failure) for failure in failures)
        return
    pictures = [file.picture for file in group if file.picture is not None]
    try:
        blur = torch.stack([to_tensor(picture) for picture in pictures])  # (B, 3, H, W)
        result = ready.run(blur)
        kernels = [ready.kernel_picture(x[None]) if request.show_kernels else None for x in blur]
    except Exception as error:
        if len(group) == 1:
            yield partial(_same, _failed(group[0].job, error))
            return
        # Neighbours in a batch must not fail with the picture that is at fault.
        for file in group:
            yield from _restore_group(request, ready, [file])
        return
    seconds = round((time.monotonic() - started) / len(group), 4)
    for i, (file, picture) in enumerate(zip(group, pictures, strict=True)):
        record = {
            "width": picture.pixels.shape[1],
            "height": picture.pixels.shape[0],
            "t_hat": round(float(result.t_hat[i]), 3),
            "seconds": seconds,
            "notes": [*picture.notes, *result.notes],
        }
        yield _Write(file.job, picture, result.images[i], kernels[i], record, request.side_by_side)


def _same(outcome: Outcome) -> Outcome:
    """A file that failed goes through the writers' queue too, so that outcomes keep their order."""
    return outcome


@dataclass(frozen=True)
class _Write:
    """A restoration that is ready to be written by a thread."""

    job: Job
    picture: Picture
    image: Tensor
    kernels: npt.NDArray[np.uint8] | None
    record: Record
    side_by_side: bool

    def __call__(self) -> Outcome:
        """Write it."""
        try:
            lost = self._write()
        except Exception as error:
            return _failed(self.job, error)
        return Outcome(self.job, self.record | {"notes": [*self.record["notes"], *lost]})

    def _write(self) -> tuple[str, ...]:
        restored, target = with_image(self.picture, self.image), self.job.target
        target.parent.mkdir(parents=True, exist_ok=True)
        file_format = format_of(target) or self.picture.format
        content = encode_picture(restored, file_format=file_format)
        if self.side_by_side:
            write_atomic(beside(target, "side_by_side"), side_by_side(self.picture, restored))
        if self.kernels is not None:
            write_atomic(beside(target, "kernels"), _png(self.kernels))
        # The restoration comes last: where it exists, all files of its job exist.
        write_atomic(target, content)
        return lost_in(self.picture, file_format)


def beside(target: Path, what: str) -> Path:
    """The name of an extra picture of a target: the target's full name, then `what`."""
    return target.with_name(f"{target.name}_{what}.png")


def side_by_side(before: Picture, after: Picture) -> bytes:
    """An 8-bit PNG: the input, a thin white line, the restoration."""
    halves = [to_unit(to_tensor(picture)) for picture in (before, after)]
    line = np.ones((halves[0].shape[0], 4, 3), np.float32)
    values = np.rint(np.concatenate([halves[0], line, halves[1]], axis=1) * 255)
    return _png(values.astype(np.uint8))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def _restore_video(job: Job, ready: ReadyModel, *, batch: int, report: Report) -> Outcome:
    from fidediff_model.restore.video import restore_video

    started = time.monotonic()
    temporary = temporary_name(job.target)
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        record = restore_video(ready, job.source, temporary, batch=batch, report=report)
        os.replace(temporary, job.target)
    except Exception as error:
        return _failed(job, error)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return Outcome(job, record | {"seconds": round(time.monotonic() - started, 3)})


def restore_bytes(request: RestoreRequest, content: bytes) -> tuple[bytes, float]:
    """The content of one image file, restored, in its own format; and its timestep."""
    picture = decode(content, name="standard input", white=request.white)
    ready = open_model(request.model, request.settings, base_model=request.base_model)
    result = ready.run(to_tensor(picture)[None])
    restored = with_image(picture, result.images[0])
    return encode_picture(restored), float(result.t_hat[0])
