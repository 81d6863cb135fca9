"""What a build writes about itself: stored plan, manifests, problems, card, build.json.

Images are made by `shard`; here is everything that follows from plan and markers.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.build import card
from trajectory_builder.disk.atomic import fault_point, write_atomic
from trajectory_builder.disk.regular import open_regular, read_regular
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import printable
from trajectory_builder.images import png
from trajectory_builder.plan.table import Plan
from trajectory_builder.trajectory import BUILD_FILE, SETTLED, SPLITS, Problem
from trajectory_builder.version import __version__

CONFIG = ".trajbuild/config.json"
PROBLEMS = "problems.parquet"
PLAN = ".trajbuild/plan.parquet"
SOURCES = ".trajbuild/sources.json"
"""Where the source is on this machine; build.json, which may be published, names it alone."""
ALIGNMENT = ".trajbuild/alignment.json"
PROBLEM_SCHEMA = pa.schema([pa.field(f.name, pa.string(), nullable=False) for f in fields(Problem)])
_PACKAGES = ("numpy", "opencv-python-headless", "pyarrow", "kornia-rs", "isal", "joblib")


def table_sha256(table: pa.Table, salt: str) -> str:
    """Digest of a table's values, by which a changed plan is noticed."""
    # The Arrow stream of one chunk is a canonical form: values, types, no statistics, no dates.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return hashlib.sha256(salt.encode() + sink.getvalue()).hexdigest()


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there and `size` bytes long."""
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def write_plan(folder: OutputFolder, table: pa.Table, config: Mapping[str, Any]) -> None:
    """Store the plan and the config that this folder now belongs to."""
    # The plan first: after a kill between the two, no config claims a plan that is absent.
    write_atomic(folder.root / PLAN, plan_bytes(table))
    folder.write_sealed(CONFIG, config)


def write_alignment(folder: OutputFolder, report: Mapping[str, Any]) -> None:
    """Store the report of the pixel check, so that a killed build need not check again."""
    # An equal report is not written again: a repeated run leaves the file alone.
    if read_alignment(folder) != report:
        folder.write_sealed(ALIGNMENT, report)


def read_alignment(folder: OutputFolder) -> dict[str, Any] | None:
    """What `write_alignment` stored, or None where it is absent or damaged."""
    stored = folder.read_sealed(ALIGNMENT)
    return {k: v for k, v in stored.items() if k != "sha256"} if stored else None


def write_sources(folder: OutputFolder, roots: Mapping[str, Path]) -> None:
    """Remember where the source is, for `verify --level deep`."""
    # `fsencode` and not `str`: names of any bytes survive.
    places = {name: os.fsencode(root).decode("latin-1") for name, root in roots.items()}
    stored = folder.read_sealed(SOURCES)
    if stored is None or stored.get("roots") != places:
        folder.write_sealed(SOURCES, {"roots": places})


def read_sources(folder: OutputFolder) -> dict[str, Path]:
    """Where the source was when this folder was built; beside the folder where no note says."""
    stored = folder.read_sealed(SOURCES)
    try:
        roots = (stored or {})["roots"].items()
        return {name: Path(os.fsdecode(place.encode("latin-1"))) for name, place in roots}
    except (KeyError, AttributeError, UnicodeError):
        pass
    # `/` takes an absolute name as it is: early builds have the paths in build.json.
    beside = folder.root.resolve().parent
    build = read_build(folder.root) or {}
    return {name: beside / place for name, place in build.get("source", {}).items()}


def plan_bytes(table: pa.Table) -> bytes:
    """A plan as a Parquet file: the same bytes for the same rows and the same pyarrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, version="2.6", compression="zstd", compression_level=9,
        row_group_size=manifest.ROWS_A_GROUP, write_page_checksum=True,
    )  # fmt: skip
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_plan(folder: OutputFolder) -> pa.Table | None:
    """The stored plan, or None where it is absent or damaged."""
    try:
        return _read_table(folder.root / PLAN)
    except (OSError, ValueError, pa.ArrowException):
        return None


def is_finished(
    folder: OutputFolder, plan_sha256: str, alignment: Mapping[str, Any] | None = None
) -> bool:
    """Whether build.json is of this very plan and all its files are there with their sizes.

    A build that met bad input is never finished: the input may have been fixed since.
    """
    build = read_build(folder.root)
    if build is None or build.get("plan_sha256") != plan_sha256 or build.get("bad_inputs"):
        return False
    # A new pixel check gives another report, which build.json must contain.
    if alignment is not None and build.get("alignment") != alignment:
        return False
    for name, entry in build.get("manifests", {}).items():
        path = folder.root / name
        try:
            content = read_regular(path, at_most=manifest.MAX_FILE_BYTES)
        except OSError:
            return False
        # Manifests are few and are compared by digest; images are many, and by size.
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return False
        file = pq.ParquetFile(pa.BufferReader(content))
        needed = [column for pair in manifest.FILE_COLUMNS.items() for column in pair]
        there = [name for name in needed if name in file.schema_arrow.names]
        rows = file.read(columns=there, use_threads=False)  # see `_read_table`
        if not _all_have_sizes(path.parent, rows):
            return False
    return all(
        file_sha256(folder.root / name) == sha256 for name, sha256 in build.get("files", {}).items()
    )


def _all_have_sizes(folder: Path, rows: pa.Table) -> bool:
    sizes: dict[str, int] = {}
    for name, size in manifest.FILE_COLUMNS.items():
        if name in rows.column_names:
            sizes.update(zip(rows[name].to_pylist(), rows[size].to_pylist(), strict=True))
    root = str(folder)
    try:
        return all(os.stat(f"{root}/{name}").st_size == size for name, size in sizes.items())
    except OSError:
        return False


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file, or None where it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def pair_counts(folder: OutputFolder) -> dict[str, int]:
    """Pairs per split of a finished build, from build.json."""
    manifests = (read_build(folder.root) or {}).get("manifests", {})
    return {name.split("/")[0]: manifests[name]["rows"] for name in _in_order(manifests)}


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: SPLITS.index(name.split("/")[0]))


def write(
    folder: OutputFolder,
    plan: Plan,
    table: pa.Table,
    problems: list[Problem],
    metadata: Mapping[str, str],
    plan_sha256: str,
    *,
    link: str,
) -> None:
    """Write problems, manifests, card and, last, build.json.

    Args:
        folder: the output folder, locked.
        plan: what was asked for.
        table: the manifest's rows of all splits.
        problems: what is not there and why, from the plan and from the shards.
        metadata: entries of the manifests' schema metadata.
        plan_sha256: digest of the plan, by which a later run knows that nothing has changed.
        link: how the user's files were copied or linked.
    """
    files: dict[str, str] = {}
    if problems:
        files[PROBLEMS] = _write_file(folder, PROBLEMS, problem_bytes(problems))
    else:
        # Left by an earlier run, and its causes have been fixed since.
        (folder.root / PROBLEMS).unlink(missing_ok=True)
    manifests = _write_manifests(folder, table, metadata)
    text = card.text(plan, table, problems)
    files["README.md"] = _write_file(folder, "README.md", text.encode())
    # Last of all: with build.json the folder counts as a finished build.
    build = {
        "format_version": manifest.FORMAT_VERSION,
        "tool_version": __version__,
        "config": plan.config | {"link": link},
        "config_sha256": plan.config_sha256,
        "plan_sha256": plan_sha256,
        "counts": plan.counts(),
        "skipped": list(plan.skipped),
        "truncated": plan.truncated(),
        "notes": list(plan.notes),
        "alignment": plan.alignment,
        "problems": len(problems),
        "bad_inputs": sum(
            problem.reason not in SETTLED for problem in problems[len(plan.problems) :]
        ),
        "manifests": manifests,
        "files": files,
        "source": {name: printable(root.name) for name, root in sorted(plan.roots.items())},
        "codecs": png.codecs(),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_build(folder.root, build)


def _write_manifests(
    folder: OutputFolder, table: pa.Table, metadata: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Write each split's manifest that has rows; its name -> digests and rows."""
    manifests: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        rows = table.filter(pc.equal(table["split"], split))
        if rows.num_rows == 0:
            continue
        (folder.root / split).mkdir(exist_ok=True)
        name = f"{split}/{manifest.FILE_NAME}"
        fault_point("before-manifest")
        sha256 = manifest.write(rows, folder.root / name, metadata)
        manifests[name] = {
            "sha256": sha256,
            "content_sha256": manifest.content_sha256(rows),
            "rows": rows.num_rows,
        }
    return manifests


def write_build(root: Path, build: Mapping[str, Any]) -> None:
    """Write build.json with its own digest in it."""
    OutputFolder(root).write_sealed(BUILD_FILE, build)


def read_build(root: Path) -> dict[str, Any] | None:
    """build.json, or None where it is absent, torn, altered or of another form."""
    build = OutputFolder(root).read_sealed(BUILD_FILE)
    return build if build is not None and _has_form(build) else None


def _has_form(build: Mapping[str, Any]) -> bool:
    """Whether what is read of build.json has the types that are written, and names files below it.

    Its digest shows an accident, not an author: anybody can compute it.
    """
    tables = [build.get(k, {}) for k in ("config", "manifests", "files", "source")]
    derived = build.get("derived_from", [])
    if not all(isinstance(table, dict) for table in tables) or not isinstance(derived, list):
        return False
    _, manifests, files, source = tables
    entries = [entry for entry in manifests.values() if isinstance(entry, dict)]
    return (
        len(entries) == len(manifests)
        and all(_is_split_file(name) for name in manifests)
        and all(type(entry.get("sha256")) is str for entry in entries)
        and all(type(entry.get("rows")) is int for entry in entries)
        and all(type(text) is str for text in (*files.values(), *source.values()))
        and all(isinstance(one, dict) and type(one.get("set")) is str for one in derived)
        and not any(manifest.is_hostile(name) for name in files)
    )


def _is_split_file(name: str) -> bool:
    split, slash, rest = name.partition("/")
    return bool(slash) and split in SPLITS and not manifest.is_hostile(rest)


def _write_file(folder: OutputFolder, name: str, content: bytes) -> str:
    write_atomic(folder.root / name, content)
    return hashlib.sha256(content).hexdigest()


def problem_bytes(problems: Iterable[Problem]) -> bytes:
    """problems.parquet's content."""
    table = pa.Table.from_pylist([asdict(problem) for problem in problems], schema=PROBLEM_SCHEMA)
    return plan_bytes(table)


def read_problems(root: Path) -> list[Problem]:
    """The rows of a folder's problems.parquet; empty where there is none."""
    path = root / PROBLEMS
    if not path.is_file():
        return []
    return [Problem(**row) for row in _read_table(path).to_pylist()]


def _read_table(path: Path) -> pa.Table:
    """A Parquet file, from its bytes: pyarrow takes no path that is not UTF-8.

    In this thread: where threads still start while a command ends, about one process in thirty
    aborted (pyarrow 26, "terminate called without an active exception").
    """
    payload = read_regular(path, at_most=manifest.MAX_FILE_BYTES)
    content = pa.BufferReader(payload)
    manifest.check_bounds(content, len(payload))
    return pq.ParquetFile(content, page_checksum_verification=True).read(use_threads=False)


def versions() -> dict[str, str]:
    """Versions of what decides a build's bytes."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
