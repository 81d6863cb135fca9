"""Doing an export in units that are whole or absent, so that the same command again goes on.

The output folder's state (lock, config, one marker a unit) is that of a build's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajectory_builder.build import record
from trajectory_builder.curate import card
from trajectory_builder.disk import ownership
from trajectory_builder.disk.atomic import temporary_name, write_atomic
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import DataError, ExitCode, OutputError
from trajectory_builder.export.request import Request

CONFIG = ".trajbuild/config.json"
INDEX = "export.json"


@dataclass(frozen=True)
class Unit:
    """Some rows that one worker exports at a time.

    Attributes:
        name: of its marker.
        out: the export's folder.
        rows: as `request.read_rows` gives them.
        request: what was asked for.
        file: the unit's own file below `out`; "" where a unit writes many.
    """

    name: str
    out: str
    rows: tuple[dict[str, Any], ...]
    request: Request
    file: str = ""


Made = dict[str, Any]
"""A marker: `files` (name -> bytes, sha256), `split`, `pairs`."""


@contextmanager
def claimed(
    request: Request, target: str, rows: Sequence[dict[str, Any]]
) -> Iterator[OutputFolder]:
    """The output folder, locked and known to belong to this very request and source.

    Raises:
        OutputError: it is not ours, is held by another process, or holds another export (5).
    """
    folder = OutputFolder(request.out)
    folder.prepare()
    with folder.lock():
        digest = hashlib.sha256()
        for row in rows:
            files = [row[f"{kind}_sha256"] for kind in ("blur", "sharp")]
            files += [row["kernel_sha256"]] if row.get("kernels_path") else []
            digest.update("\0".join([row["key"], *files, "\n"]).encode())
        config = request.config(target) | {"rows_sha256": digest.hexdigest()}
        held = folder.read_sealed(CONFIG)
        if held is None and (request.out / CONFIG).exists():
            raise OutputError(
                "the note of which export this folder holds is damaged",
                where=f"{request.out}/{CONFIG}",
                cure="choose another --out, or delete the folder and run the same command again",
            )
        if held is not None:
            ownership.refuse_other_config(
                request.out, held.get("config", {}), config, file=CONFIG, contents="an export"
            )
        else:
            if (request.out / record.BUILD).exists():
                raise DataError(
                    f"{request.out} is a data set, not an export",
                    cure="choose another --out",
                    exit_code=ExitCode.OTHER_CONFIG,
                )
            folder.write_sealed(CONFIG, {"config": config})
        folder.remove_temporaries()
        yield folder


def run(
    folder: OutputFolder, units: Sequence[Unit], make: Callable[[Unit], Made]
) -> tuple[list[Made], int]:
    """Make all units that are not whole; all markers in the units' order, and how many were made.

    Args:
        folder: claimed.
        units: what to do.
        make: a function of a module, as it runs in worker processes; returns the marker.
    """
    from joblib import Parallel, delayed

    pending = [unit for unit in units if _whole(folder, unit) is None]
    if not units:
        return [], 0
    request = units[0].request
    total = sum(len(unit.rows) for unit in units)
    done = total - sum(len(unit.rows) for unit in pending)
    with Progress(total, "pairs", done=done, shown=request.progress) as bar:
        jobs = min(request.jobs, len(pending)) or 1
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        for name, rows, marker in parallel(delayed(_make)(make, unit) for unit in pending):
            folder.write_marker(name, marker)
            bar.advance(rows)
    markers = [folder.read_marker(unit.name) for unit in units]
    return [marker for marker in markers if marker is not None], len(pending)


def _make(make: Callable[[Unit], Made], unit: Unit) -> tuple[str, int, Made]:
    return unit.name, len(unit.rows), make(unit)


def _whole(folder: OutputFolder, unit: Unit) -> Made | None:
    marker = folder.read_marker(unit.name)
    if marker is None:
        return None
    sizes = ((folder.root / name, entry["bytes"]) for name, entry in marker["files"].items())
    return marker if all(record.has_size(path, size) for path, size in sizes) else None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` which becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_entry(path: Path) -> dict[str, Any]:
    """Size and digest of a finished file, for markers and indices."""
    return {"bytes": path.stat().st_size, "sha256": record.file_sha256(path)}


def pairs_a_split(markers: Sequence[Made]) -> dict[str, int]:
    """Exported pairs a split, summed over markers."""
    pairs: dict[str, int] = {}
    for marker in markers:
        pairs[marker["split"]] = pairs.get(marker["split"], 0) + marker["pairs"]
    return pairs


def write_index(request: Request, target: str, markers: Sequence[Made]) -> None:
    """Write export.json: the config, the pairs a split, each file with its size and digest."""
    content = {
        "target": target,
        "config": request.config(target),
        "pairs": pairs_a_split(markers),
        "shards": [
            {"file": name, "split": marker["split"], "pairs": marker["pairs"]} | entry
            for marker in markers
            for name, entry in marker["files"].items()
            if entry.get("sha256")
        ],
    }
    write_atomic(request.out / INDEX, (json.dumps(content, indent=1) + "\n").encode())


def write_card(
    request: Request,
    title: str,
    pairs: dict[str, int],
    reading: Sequence[str],
    front: dict[str, Any] | None = None,
) -> None:
    """Write README.md: what this is, how to read it, and below it the source's own card.

    Args:
        request: the export.
        title: its heading.
        pairs: exported pairs a split.
        reading: Markdown lines that show how to read it.
        front: entries for the YAML head beyond the licence and the like.
    """
    place = request.source / "README.md"
    source = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    head, body = card.split_front(source)
    kept = {key: head[key] for key in card.KEPT_KEYS if key in head}
    crops = "Whole images, the source's files byte for byte."
    if request.crop is not None:
        crops = (
            f"Crops of {request.crop} x {request.crop} pixels that overlap by {request.overlap},"
            " lossless; the last of each row and column is moved back to the edge."
        )
    size = {"size_categories": [card.size_category(sum(pairs.values()))]}
    lines = [
        *card.front_lines(kept | size | (front or {})),
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
    write_atomic(request.out / "README.md", "\n".join(lines).encode())
