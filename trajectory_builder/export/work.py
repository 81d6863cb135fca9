"""Doing an export in units that are complete or absent, so that the same command resumes it.

The output folder's state (lock, config, one marker per unit) is that of a build's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from trajectory_builder.build import record, workers
from trajectory_builder.build.card import size_category
from trajectory_builder.curate import card
from trajectory_builder.disk import ownership
from trajectory_builder.disk.atomic import (
    flush,
    reporting_disk_errors,
    temporary_name,
    write_atomic,
)
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import ExitCode, OutputError
from trajectory_builder.export.pairs import Pair, shards
from trajectory_builder.export.request import Request
from trajectory_builder.trajectory import BUILD_FILE

CONFIG = ".trajbuild/config.json"
INDEX = "export.json"


@dataclass(frozen=True)
class Unit:
    """Some pairs that one worker exports at a time.

    Attributes:
        name: of its marker.
        pairs: all of one split.
        request: the export.
        file: the unit's own file below the export's folder; "" where a unit writes many.
    """

    name: str
    pairs: tuple[Pair, ...]
    request: Request
    file: str = ""


@dataclass(frozen=True)
class FileEntry:
    """A finished file: its size, and its SHA-256 where it was computed."""

    bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class Written:
    """What a unit wrote, as its marker keeps it.

    Attributes:
        files: name below the export's folder -> its entry.
        split: of the unit's pairs.
        pairs: exported pairs; crops count.
    """

    files: Mapping[str, FileEntry]
    split: str
    pairs: int


@dataclass(frozen=True)
class Done:
    """All units of an export, in their order, and how many of them this run made."""

    units: Sequence[Written]
    made: int

    @property
    def pairs(self) -> dict[str, int]:
        """Exported pairs per split."""
        pairs: dict[str, int] = {}
        for unit in self.units:
            pairs[unit.split] = pairs.get(unit.split, 0) + unit.pairs
        return pairs


@contextmanager
def claimed(request: Request, target: str, pairs: Sequence[Pair]) -> Iterator[OutputFolder]:
    """The output folder, locked and known to belong to this very request and source.

    Raises:
        OutputError: it is not ours, another process writes it, or it contains another export (5).
    """
    folder = OutputFolder(request.out)
    folder.prepare()
    with reporting_disk_errors(request.out), folder.lock():
        config = request.config(target) | {"rows_sha256": _digest(pairs)}
        stored = folder.read_sealed(CONFIG)
        if stored is not None:
            ownership.refuse_other_config(
                request.out, stored.get("config", {}), config, file=CONFIG, contents="an export"
            )
        elif (request.out / CONFIG).exists():
            raise OutputError(
                "the record of which export this folder contains is damaged",
                where=f"{request.out}/{CONFIG}",
                cure="choose another --out, or delete the folder and run the same command again",
            )
        elif (request.out / BUILD_FILE).exists():
            raise OutputError(
                f"{request.out} is a data set, not an export",
                where=str(request.out / BUILD_FILE),
                cure="choose another --out",
                exit_code=ExitCode.OTHER_CONFIG,
            )
        else:
            folder.write_sealed(CONFIG, {"config": config})
        folder.remove_temporaries()
        yield folder


def _digest(pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        files = [pair.blur.sha256, pair.sharp.sha256]
        files += [pair.kernels.sha256] if pair.kernels else []
        digest.update("\0".join([pair.key, *files, "\n"]).encode())
    return digest.hexdigest()


def shard_units(
    pairs: Sequence[Pair], request: Request, name: Callable[[str, int, int], str]
) -> list[Unit]:
    """One unit per shard of `pairs`; `name` makes its file of split, index and count of shards."""
    return [
        Unit(f"{split}-{index:06d}", tuple(run), request, name(split, index, len(runs)))
        for split, runs in shards(pairs, request).items()
        for index, run in enumerate(runs)
    ]


def run(folder: OutputFolder, units: Sequence[Unit], make: Callable[[Unit], Written]) -> Done:
    """Make all units that are not complete.

    Args:
        folder: claimed.
        units: what to do.
        make: a function of a module, as it runs in worker processes.
    """
    from joblib import Parallel, delayed

    markers = {unit.name: read_marker(folder, unit.name) for unit in units}
    pending = [unit for unit in units if markers[unit.name] is None]
    total = sum(len(unit.pairs) for unit in units)
    done = total - sum(len(unit.pairs) for unit in pending)
    if pending:
        request = pending[0].request
        jobs = min(request.jobs, len(pending))
        if jobs > 1:
            workers.refuse_without_semaphores()
        with Progress(total, "pairs", done=done, shown=request.progress) as bar:
            parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
            for index, written in parallel(
                delayed(_make)(make, unit, index) for index, unit in enumerate(pending)
            ):
                write_marker(folder, pending[index].name, written)
                markers[pending[index].name] = written
                bar.advance(len(pending[index].pairs))
    return Done([marker for marker in markers.values() if marker is not None], len(pending))


def _make(make: Callable[[Unit], Written], unit: Unit, index: int) -> tuple[int, Written]:
    return index, make(unit)


def write_marker(folder: OutputFolder, name: str, written: Written) -> None:
    """Record that a unit is complete."""
    folder.write_marker(name, asdict(written))


def read_marker(folder: OutputFolder, name: str) -> Written | None:
    """What a unit wrote; None where it is not complete, or a file of it has another size."""
    marker = folder.read_marker(name)
    if marker is None:
        return None
    files = {file: FileEntry(**entry) for file, entry in marker["files"].items()}
    complete = all(record.has_size(folder.root / file, e.bytes) for file, e in files.items())
    return Written(files, marker["split"], marker["pairs"]) if complete else None


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` which becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_entry(path: Path) -> FileEntry:
    """Size and digest of a finished file."""
    return FileEntry(path.stat().st_size, record.file_sha256(path))


def describe(
    request: Request,
    target: str,
    done: Done,
    title: str,
    reading: Sequence[str],
    front: Mapping[str, object] | None = None,
) -> str:
    """Write export.json and README.md, and return the latter's text.

    Args:
        request: the export.
        target: its name.
        done: its units.
        title: heading of README.md.
        reading: Markdown lines that show how to read the export.
        front: entries for the YAML head beyond the licence and the like.
    """
    index = {
        "target": target,
        "config": request.config(target),
        "pairs": done.pairs,
        "shards": [
            {"file": name, "split": unit.split, "pairs": unit.pairs} | asdict(entry)
            for unit in done.units
            for name, entry in unit.files.items()
            if entry.sha256
        ],
    }
    write_atomic(request.out / INDEX, (json.dumps(index, indent=1) + "\n").encode())
    text = _card(request, title, done.pairs, reading, front or {})
    write_atomic(request.out / "README.md", text.encode())
    return text


def _card(
    request: Request,
    title: str,
    pairs: Mapping[str, int],
    reading: Sequence[str],
    front: Mapping[str, object],
) -> str:
    """What this is, how to read it, and below it the source's own card."""
    head, body = card.split_front(card.read_card(request.source))
    kept = {key: head[key] for key in card.KEPT_KEYS if key in head}
    crops = "Complete images, the source's files byte for byte."
    if request.crop is not None:
        crops = (
            f"Crops of {request.crop} x {request.crop} pixels that overlap by {request.overlap},"
            " lossless; the last of each row and column is moved back to the edge."
        )
    size = {"size_categories": [size_category(sum(pairs.values()))]}
    lines = [
        *card.front_lines(kept | size | dict(front)),
        "",
        f"# {title}",
        "",
        crops,
        "",
        "| split | pairs |",
        "|---|---|",
        *(f"| {split} | {count:,} |" for split, count in pairs.items()),
        "",
        "## How to read it",
        "",
        *reading,
        "",
    ]
    if body.strip():
        lines += ["## The card of what was exported", ""]
        lines += [card.demoted(card.demoted(card.without_loading(body))), ""]
    return "\n".join(lines)
