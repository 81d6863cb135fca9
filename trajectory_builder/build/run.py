"""Carry out a plan: shards to files and markers, markers to manifests; run it again to resume.

The manifest is a pure function of plan and markers and is written last, so the same input and
recipe give the same bytes whatever the workers, their order, or how often the build was killed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from trajectory_builder.build import backends, record, workers
from trajectory_builder.build.clip_sizes import ClipSizes
from trajectory_builder.build.ghosts import ghost_notes
from trajectory_builder.build.manifest_rows import with_records
from trajectory_builder.build.ownership import claim
from trajectory_builder.build.shard import Shard, write_error
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import BuildError, ExitCode, OutputError
from trajectory_builder.images import png
from trajectory_builder.plan.table import Plan, by_shard
from trajectory_builder.trajectory import LEFT_OUT, SETTLED, Problem

BYTES_PER_PIXEL = 1.7
"""Our choice: a generous guess of a blur's PNG size, for the check of free space at the start."""


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        out: the output folder.
        pairs: pairs on disk per split.
        made: pairs made by this run; 0 when everything was complete already.
        problems: what is damaged or missing: rows of problems.parquet.
        left_out: windows that make no pair on purpose: further rows of problems.parquet.
        seconds: wall time of this run.
        notes: what the finished pairs show, e.g. ghosts.
    """

    out: Path
    pairs: dict[str, int]
    made: int
    problems: int
    left_out: int
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """Done; in part, where something is damaged or missing, or no pair could be made."""
        is_complete = any(self.pairs.values()) and not self.problems
        return ExitCode.DONE if is_complete else ExitCode.DONE_IN_PART

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "out": str(self.out),
            "pairs": self.pairs,
            "made": self.made,
            "problems": self.problems,
            "left_out": self.left_out,
            "seconds": round(self.seconds, 3),
            "exit_code": int(self.exit_code),
        }


@dataclass(frozen=True)
class BuildOptions:
    """How to build. Nothing here changes a byte of the result; `link` changes how files get there.

    Attributes:
        jobs: workers.
        backend: one of `backends.BACKENDS`.
        address: of a Dask scheduler or a Ray head; one is started on this machine when None.
        link: how the user's files get into the output: `copy`, `hardlink` or `symlink`.
        strict: stop at the first problem.
        wait_seconds: how long to wait for another builder in the same folder.
        progress: show a bar or lines on stderr.
        command: the words after `trajbuild` that began it, shown while the build is not complete.
    """

    jobs: int = 1
    backend: str = "loky"
    address: str | None = None
    link: str = "copy"
    strict: bool = False
    wait_seconds: float = 0.0
    progress: bool = True
    command: tuple[str, ...] = ()


def build_plan(plan: Plan, out: Path, options: BuildOptions | None = None) -> BuildReport:
    """Make everything in `plan` that `out` does not contain yet.

    Args:
        plan: what to make.
        out: the output folder; new, empty, or one that the same config has begun.
        options: workers, links, strictness.

    Raises:
        OutputError: `out` is not ours, locked by another builder, or of another config (exit 5).
        BuildError: too little space, or a problem under `strict`.
    """
    options = options or BuildOptions()
    started = time.monotonic()
    # Before the folder is created: a refusal leaves nothing on the disk.
    refuse(plan, out, options)
    with locked(out, options) as folder:
        report = build_in(folder, plan, options)
    return replace(report, seconds=time.monotonic() - started)


@contextmanager
def locked(out: Path, options: BuildOptions) -> Iterator[OutputFolder]:
    """Create the output folder and lock it against other builders.

    Raises:
        OutputError: it is not ours, locked by another builder, or cannot be written.
    """
    folder = OutputFolder(out)
    folder.prepare()
    try:
        with folder.lock(wait_seconds=options.wait_seconds):
            yield folder
    except OSError as error:  # errors of reading are handled where it is read
        raise write_error(error, str(out)) from error


def build_in(folder: OutputFolder, plan: Plan, options: BuildOptions) -> BuildReport:
    """`build_plan` in a folder that is locked already."""
    # Under the lock, or two builders of different configs could both claim a new folder.
    digest = claim(folder, plan, options.link)
    # Before the look at a finished build: a run of it may have been killed over a new alignment.
    folder.remove_temporaries()
    folder.begin(options.command)
    if record.is_finished(folder, digest, plan.alignment):
        problems, left_out = _counts(record.read_problems(folder.root))
        folder.end()
        return BuildReport(folder.root, record.pair_counts(folder), 0, problems, left_out)
    shards = list(_shards(plan, folder.root, options.link))
    # Markers and file sizes decide: a run that was killed reported nothing.
    pending = [shard for shard in shards if not _is_complete(folder, shard)]
    _check_space(pending, folder.root)
    with _temporaries_removed(folder, options):
        made = _run(pending, plan, folder, options)
    report = _finish(folder, plan, shards, digest, options)
    return replace(report, made=made)


def refuse(plan: Plan, out: Path, options: BuildOptions) -> None:
    """Refuse what cannot be built, before anything is written.

    Raises:
        OutputError: `out` is inside the source.
        BuildError: the backend's package is not installed, or a problem under `strict`.
    """
    backends.refuse_absent(options.backend)
    for root in plan.roots.values():
        if out.resolve().is_relative_to(root):
            raise OutputError(
                f"--out {out} is inside the source",
                where=str(root),
                cure="choose a folder outside it; the source is only read",
                exit_code=ExitCode.WRONG_USE,
            )
    refuse_problems(plan, options)


def refuse_problems(plan: Plan, options: BuildOptions) -> None:
    """Refuse a plan with problems under `strict`.

    Raises:
        BuildError: naming the first.
    """
    problems = [problem for problem in plan.problems if problem.reason not in LEFT_OUT]
    if options.strict and problems:
        raise _strict(problems[0], len(problems))


def _strict(problem: Problem, count: int) -> BuildError:
    return BuildError(
        f"{problem.what} ({count:,} problems in all)" if count > 1 else problem.what,
        where=problem.file or f"{problem.split}/{problem.clip_id}",
        cure=f"{problem.cure}, or leave out --strict to build the rest",
    )


def _shards(plan: Plan, out: Path, link: str) -> Iterator[Shard]:
    """The plan's shards in plan order, each with the digest that its marker must carry."""
    roots = {name: str(root) for name, root in plan.roots.items()}
    # Other codecs give other bytes: a shard that was made with them is made again.
    salt = f"{plan.config_sha256}/{link}/{png.codecs()}".encode()
    sizes = ClipSizes(roots)
    for name, rows in by_shard(plan.rows()).items():
        order = plan.orders.get(name)
        # What is not asked for is left out, so that a new option makes no shard again.
        asked = {k: v for k, v in asdict(order).items() if v is not None} if order else {}
        decisive = [rows, asked] if order else rows
        text = json.dumps(decisive, sort_keys=True, default=str).encode()
        yield Shard(
            name=name,
            digest=hashlib.sha256(salt + text).hexdigest(),
            out=str(out),
            roots=roots,
            rows=tuple(rows),
            size=order.size if order else sizes.of_clip(rows),
            link=link,
            order=order,
        )


def _is_complete(folder: OutputFolder, shard: Shard) -> bool:
    """Whether a shard's marker is of this plan, without problems, and its files have their sizes.

    A shard with problems is made again, since its input may have been fixed meanwhile; but not for
    problems of the footage itself.
    """
    marker = folder.read_marker(shard.name)
    if marker is None or marker["digest"] != shard.digest:
        return False
    if any(problem["reason"] not in SETTLED for problem in marker["problems"]):
        return False
    settled = {problem["sample_id"] for problem in marker["problems"]}
    pairs = {pair["sample_id"]: pair for pair in marker["pairs"]}
    for row in (row for row in shard.rows if row["sample_id"] not in settled):
        pair = pairs.get(row["sample_id"])
        if pair is None:
            return False
        sizes = {row["blur_file_name"]: pair["blur_bytes"]}
        sizes |= {row["sharp_file_name"]: pair["sharp_bytes"]}
        if "kernel_path" in pair:
            sizes[pair["kernel_path"]] = pair["kernel_bytes"]
        split = folder.root / row["split"]
        if not all(record.has_size(split / name, size) for name, size in sizes.items()):
            return False
    return True


def _check_space(pending: list[Shard], out: Path) -> None:
    """Refuse to start what cannot fit.

    Raises:
        BuildError: with the bytes needed and free.
    """
    need = sum(map(_bytes_of, pending))
    free = shutil.disk_usage(out).free
    if need > free:
        raise BuildError(
            f"the build needs about {need / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free",
            where=str(out),
            cure="free some space, choose another --out, or save some with --files hardlink",
        )


def _bytes_of(shard: Shard) -> int:
    """A generous guess of the bytes that a shard writes."""
    is_copied = shard.link == "copy"  # links take no space; averages are written in any case
    files = {row["sharp_file_name"] for row in shard.rows if is_copied}
    files |= {row["blur_file_name"] for row in shard.rows if is_copied or not row["blur_source"]}
    width, height = shard.size or (1280, 720)
    return int(len(files) * width * height * BYTES_PER_PIXEL)


def _run(pending: list[Shard], plan: Plan, folder: OutputFolder, options: BuildOptions) -> int:
    """Make the shards; return how many pairs were made."""
    made = 0
    done = plan.table.num_rows - sum(len(shard.rows) for shard in pending)
    progress = Progress(plan.table.num_rows, "pairs", done=done, shown=options.progress)
    results = backends.run(
        pending, backend=options.backend, jobs=options.jobs, address=options.address
    )
    # Closed, or an interrupt would leave workers that go on writing.
    with progress, closing(results):
        for result in results:
            made += result.pairs
            progress.advance(result.pairs, problems=result.problems)
            if options.strict and result.problems:
                marker = folder.read_marker(result.name) or {"problems": []}
                problems = [Problem(**problem) for problem in marker["problems"]]
                problems = [problem for problem in problems if problem.reason not in LEFT_OUT]
                if problems:
                    raise _strict(problems[0], len(problems))
    return made


@contextmanager
def _temporaries_removed(folder: OutputFolder, options: BuildOptions) -> Iterator[None]:
    """On an error, remove what workers left that were killed in the middle of a write."""
    try:
        yield
    except BaseException:
        # Threads tidy up themselves; workers of a cluster may still be at work on their shards.
        if options.backend == "loky":
            workers.end_workers()
            with suppress(OSError):
                folder.remove_temporaries()
        raise


def _finish(
    folder: OutputFolder, plan: Plan, shards: list[Shard], digest: str, options: BuildOptions
) -> BuildReport:
    """Write problems, manifests, card and build.json from the markers."""
    # In plan order: the order in which workers ended must not show in the files.
    markers = [folder.read_marker(shard.name) for shard in shards]
    if any(marker is None for marker in markers):
        raise BuildError(
            "a shard was made but its marker is gone",
            where=str(folder.state),
            cure="run the same command again",
        )
    pairs = {pair["sample_id"]: pair for marker in markers if marker for pair in marker["pairs"]}
    problems = list(plan.problems)
    problems += [Problem(**p) for marker in markers if marker for p in marker["problems"]]
    table = with_records(plan.table, pairs)
    metadata = {
        "recipe": plan.config["recipe"]["name"],
        "config_sha256": plan.config_sha256,
        "source": plan.config["source"],
        "timestep_map": plan.config.get("timestep_map", "frames"),
        "timestep_step": str(plan.config["recipe"]["timestep_step"]),
    }
    is_film = plan.config["source"] == "footage" and not plan.config["stills"]
    notes = ghost_notes(table, plan.config["interpolate"] + 1) if is_film else []
    plan = replace(plan, notes=(*plan.notes, *notes))
    try:
        folder.remove_temporaries()  # of workers that died while others went on
        # Orphans before the record: a finished folder must have none.
        _remove_orphans(folder, plan.table, table)
        record.write(folder, plan, table, problems, metadata, digest, link=options.link)
        folder.end()
    except OSError as error:
        raise write_error(error, str(folder.root)) from error
    counts = dict(Counter(table["split"].to_pylist()))
    return BuildReport(folder.root, counts, 0, *_counts(problems), notes=tuple(notes))


def _counts(problems: Sequence[Problem]) -> tuple[int, int]:
    """How many are damaged or missing, and how many windows are left out on purpose."""
    left_out = sum(problem.reason in LEFT_OUT for problem in problems)
    return len(problems) - left_out, left_out


def _remove_orphans(folder: OutputFolder, planned: pa.Table, made: pa.Table) -> None:
    """Remove files of planned pairs that were not made: a sharp image whose only blur is bad.

    Only names in the plan are removed, so files that the build did not write stay.
    """
    if made.num_rows == planned.num_rows:
        return
    columns = ("split", "blur_file_name", "sharp_file_name")
    names = [
        {
            f"{row['split']}/{row[kind]}"
            for row in table.select(columns).to_pylist()
            for kind in columns[1:]
        }
        for table in (planned, made)
    ]
    for name in names[0] - names[1]:
        (folder.root / name).unlink(missing_ok=True)


def needed_bytes(plan: Plan, out: Path) -> int:
    """A generous guess of the bytes that a build of `plan` writes, for dry runs."""
    return sum(map(_bytes_of, _shards(plan, out, "copy")))
