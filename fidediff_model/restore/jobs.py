"""What `restore` is asked for, as a list of files and their targets, before a model is loaded.

All that can be refused by names alone is refused here: nothing to restore, two inputs with one
target, an output on its input, outputs that exist and are someone else's.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajectory_builder.errors import UsageError, printable, shorten
from trajectory_builder.images.formats import FORMATS
from trajectory_builder.images.video.containers import SUFFIXES as VIDEO_SUFFIXES

RECORD_FILE = "restored.jsonl"


@dataclass(frozen=True)
class Job:
    """One file to restore, and the file to write."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        """Whether it is restored frame by frame."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES


def collect(inputs: Sequence[str], out: Path) -> list[Job]:
    """The jobs that inputs ask for, in order, each once.

    Args:
        inputs: files, folders (searched through, their structure is kept below `out`), or glob
            patterns (`**` goes through folders), for shells that do not expand them.
        out: the output folder.

    Raises:
        UsageError: an input is not there or gives nothing, two inputs share a target, or a target
            is a source.
    """
    jobs: dict[Path, Job] = {}
    for name in inputs:
        for job in _jobs_of(name, out):
            known = jobs.setdefault(job.target, job)
            if known.source.resolve() != job.source.resolve():
                raise UsageError(
                    f"two inputs would become {printable(job.target)}",
                    where=printable(f"{known.source} and {job.source}"),
                    cure="restore them into different folders, or give their common folder",
                )
    sources = {os.path.realpath(job.source) for job in jobs.values()}
    for job in jobs.values():
        if os.path.realpath(job.target) in sources:
            raise UsageError(
                f"the output {printable(job.target)} would replace an input",
                where=f"--out {printable(out)}",
                cure="choose another --out; inputs are never overwritten",
            )
    return list(jobs.values())


def _jobs_of(name: str, out: Path) -> list[Job]:
    path = Path(name)
    if path.is_dir():
        jobs = [Job(file, out / file.relative_to(path)) for file in _files_below(path, out)]
        if not jobs:
            raise UsageError(
                f"the folder {printable(path)} holds no image and no video",
                where=f"looked for {', '.join([*FORMATS, *VIDEO_SUFFIXES])}",
                cure="give the folder that holds them",
            )
        return jobs
    if path.exists():
        return [Job(path, out / path.name)]
    if glob.has_magic(name):
        found = [Path(f) for f in sorted(glob.glob(name, recursive=True)) if Path(f).is_file()]
        if found:
            return [Job(file, out / file.name) for file in found]
        raise UsageError(f"the pattern {printable(name)} matches no file", cure="check it with ls")
    raise UsageError(f"{printable(name)} does not exist", where="INPUT", cure="check the path")


def _files_below(folder: Path, out: Path) -> Iterable[Path]:
    """Images and videos below a folder, sorted; not what an earlier run wrote into it."""
    own = out.resolve()
    endings = {*FORMATS, *VIDEO_SUFFIXES}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in endings and file.is_file():
            if own != folder.resolve() and own in file.resolve().parents:
                continue
            yield file


def read_records(out: Path) -> dict[str, dict[str, Any]]:
    """What `restored.jsonl` says, by target; a line that a kill cut short is left out."""
    records: dict[str, dict[str, Any]] = {}
    try:
        lines = (out / RECORD_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return records
    for line in lines:
        try:
            values = json.loads(line)
            records[values["target"]] = values
        except (ValueError, KeyError, TypeError):
            continue
    return records


def left_to_do(
    jobs: Sequence[Job], out: Path, settings: dict[str, Any], *, overwrite: bool, skip: bool
) -> list[Job]:
    """The jobs whose outputs are not there yet.

    An output that `restored.jsonl` knows to be of the same source, model and settings is done.

    Args:
        jobs: all.
        out: the output folder.
        settings: as `record_of` writes them.
        overwrite: do them all again.
        skip: leave alone whatever exists.

    Raises:
        UsageError: outputs exist that are not known to be the same.
    """
    if overwrite:
        return list(jobs)
    records = read_records(out)
    existing = {job.target for job in jobs if os.path.lexists(job.target)}
    done = {
        job.target
        for job in jobs
        if job.target in existing and (skip or _is_same(job, out, records, settings))
    }
    foreign = sorted(printable(target) for target in existing - done)
    if foreign:
        raise UsageError(
            f"{len(foreign):,} outputs exist already, made by something else or otherwise",
            where=shorten(foreign),
            cure="choose another --out, or give --skip-existing or --overwrite",
        )
    return [job for job in jobs if job.target not in done]


def _is_same(
    job: Job, out: Path, records: dict[str, dict[str, Any]], settings: dict[str, Any]
) -> bool:
    record = records.get(target_name(job, out))
    if record is None or "failed" in record:
        return False
    # Through JSON, as the record went: tuples and floats then compare alike.
    wanted = json.loads(json.dumps({"source": source_state(job), "settings": settings}))
    return all(record.get(key) == value for key, value in wanted.items())


def target_name(job: Job, out: Path) -> str:
    """The target relative to the output folder, as a POSIX path."""
    return job.target.relative_to(out).as_posix()


def source_state(job: Job) -> dict[str, Any]:
    """A source's path, size and time of change: whether it is still the same file."""
    state = job.source.stat()
    return {
        "path": str(job.source.absolute()),
        "bytes": state.st_size,
        "mtime_ns": state.st_mtime_ns,
    }
