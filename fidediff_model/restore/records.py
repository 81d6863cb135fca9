"""`restored.jsonl`: a line per restored file, from which a repeated command knows what is done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fidediff_model.data.json_lines import append_line, read_lines
from fidediff_model.restore.request import Job
from trajectory_builder.disk.ownership import differences
from trajectory_builder.errors import UsageError, printable, shorten

RECORD_FILE = "restored.jsonl"
Record = dict[str, Any]


def read_records(out: Path) -> dict[str, Record]:
    """The records of an output folder by target; a line that a kill cut short is left out."""
    try:
        lines = read_lines(out / RECORD_FILE)
    except OSError:  # larger than any record
        return {}
    return {line["target"]: line for line in lines if isinstance(line.get("target"), str)}


def append_record(job: Job, out: Path, settings: Mapping[str, Any], result: Record) -> None:
    """Append the record of a job.

    Args:
        job: what was restored.
        out: the output folder.
        settings: `RestoreRequest.recorded`.
        result: size, t_hat, seconds and notes, or `failed`, the reason.
    """
    record = _identity(job, out, settings) | result
    append_line(out / RECORD_FILE, record)


def left_to_do(
    jobs: Sequence[Job],
    out: Path,
    settings: Mapping[str, Any],
    *,
    overwrite: bool,
    skip_existing: bool,
    keeps_records: bool = True,
) -> list[Job]:
    """The jobs whose outputs do not exist yet.

    An output that a record says to be of the same source, model and settings is done.

    Args:
        jobs: all.
        out: the output folder.
        settings: `RestoreRequest.recorded`.
        overwrite: do them all again.
        skip_existing: leave alone whatever exists.
        keeps_records: whether outputs of former commands are in the records; one file has none.

    Raises:
        UsageError: an output exists, and no record says that it is the same.
    """
    if overwrite:
        return list(jobs)
    records = read_records(out)
    existing = {job.target for job in jobs if os.path.lexists(job.target)}
    done = {
        job.target
        for job in jobs
        if job.target in existing and (skip_existing or _is_same(job, out, settings, records))
    }
    foreign = sorted(printable(target) for target in existing - done)
    if foreign and not keeps_records:
        raise UsageError(
            f"{foreign[0]} exists already; no record beside one file says which command wrote it",
            where="--out",
            cure="give --overwrite to write it again, or another --out",
        )
    if foreign:
        raise UsageError(
            f"{len(foreign):,} outputs exist already, from another command or other settings",
            where=shorten(foreign),
            cure="choose another --out, or give --skip-existing or --overwrite",
        )
    return [job for job in jobs if job.target not in done]


def _is_same(
    job: Job, out: Path, settings: Mapping[str, Any], records: Mapping[str, Record]
) -> bool:
    wanted = _identity(job, out, settings)
    record = records.get(wanted["target"])
    if record is None or "failed" in record:
        return False
    return not differences({key: record.get(key) for key in wanted}, wanted)


def _identity(job: Job, out: Path, settings: Mapping[str, Any]) -> Record:
    source: Record = {"path": str(job.source.absolute())}
    with suppress(OSError):  # a file that failed may be gone
        state = job.source.stat()
        source |= {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
    target = job.target.relative_to(out).as_posix()
    return {"target": target, "source": source, "settings": settings}
