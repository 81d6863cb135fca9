"""A manifest for an existing set of pairs: every file checked and hashed, the originals untouched.

The pairs have no trajectory: n, t and window are unknown and null, and the only backward point is
the sharp image itself. The manifest is in a folder of its own, with the files linked or copied
into it, as its paths must not leave it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from trajectory_builder import manifest
from trajectory_builder.build import record
from trajectory_builder.curate import card, layouts
from trajectory_builder.curate.layouts import FoundPair, Splitting, find
from trajectory_builder.curate.links import LINK_OF_MODE, FileMode, FileTransfer, fresh_folder
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import DataError, ExitCode, ImageError
from trajectory_builder.images import png, png_check
from trajectory_builder.trajectory import SPLITS, Problem
from trajectory_builder.version import __version__

PAIRS_PER_TASK = 32
SETS = {
    "hide": "HIDE: Shen and others, Human-Aware Motion Deblurring, ICCV 2019.",
    "realblur": "RealBlur: Rim and others, Real-World Blur Dataset for Learning and Benchmarking"
    " Deblurring Algorithms, ECCV 2020. Scores are computed after ECC alignment.",
    "reds": "REDS: Nah and others, NTIRE 2019 Challenge on Video Deblurring and Super-Resolution,"
    " CVPRW 2019.",
    "rsblur": "RSBlur: Rim and others, Realistic Blur Synthesis for Learning Image Deblurring,"
    " ECCV 2022.",
    "bsd": "BSD: Zhong and others, Efficient Spatio-Temporal Recurrent Neural Network for Video"
    " Deblurring, ECCV 2020.",
    "pairs": "A set of pairs of the user's own.",
}


@dataclass(frozen=True)
class IndexReport:
    """What was indexed.

    Attributes:
        out: the folder of the manifest.
        pairs: pairs per split.
        problems: what is missing or odd; also in problems.parquet.
    """

    out: Path
    pairs: dict[str, int]
    problems: tuple[Problem, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Done, or done in part."""
        return ExitCode.DONE_IN_PART if self.problems else ExitCode.DONE

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        reasons: dict[str, int] = {}
        for problem in self.problems:
            reasons[problem.reason] = reasons.get(problem.reason, 0) + 1
        return {"out": str(self.out), "pairs": self.pairs, "problems": reasons}


def index(
    root: Path,
    out: Path,
    layout: str,
    *,
    splitting: Splitting | None = None,
    files: FileMode = "hardlink",
    jobs: int = 1,
    progress: bool = False,
) -> IndexReport:
    """Write a manifest for the pairs in `root`.

    Every file is read once: its chunks' checksums are checked, its SHA-256 taken; pixels are not
    decoded (`verify --level full` does that).

    Args:
        root: the set; only read.
        out: the new data set; must not exist and not be in `root`.
        layout: one of `layouts.LAYOUTS`.
        splitting: splits of sets without split folders; as `layouts.splitting` finds when None.
        files: `hardlink`, `reference` or `copy`.
        jobs: threads that read.
        progress: show progress on stderr.

    Raises:
        DataError: `root` has no such pairs, or none that can be read.
        OutputError: `out` exists already, or the file system refuses a link.
    """
    _refuse_places(root, out)
    listing = find(layout, root, splitting or layouts.splitting(root, layout))
    checked: list[_Row | Problem] = []
    with Progress(len(listing.pairs), "pairs", shown=progress) as bar:
        for results in _checked(listing.pairs, jobs):
            checked += results
            bar.advance(len(results), problems=sum(isinstance(r, Problem) for r in results))
    results = [*listing.problems, *_refuse_odd_names(checked)]
    rows = [result for result in results if isinstance(result, _Row)]
    problems = [result for result in results if isinstance(result, Problem)]
    if not rows:
        raise DataError(
            f"no pair in {root} can be used",
            where=f"{len(problems):,} problems, the first: {problems[0].what}",
            cure=problems[0].cure,
        )
    with fresh_folder(out) as folder:
        pairs = _write(folder, rows, problems, layout, files)
    return IndexReport(out, pairs, tuple(problems))


def _refuse_places(root: Path, out: Path) -> None:
    """Refuse a set that is no folder, and an output inside it."""
    if not root.is_dir():
        raise DataError(
            f"{root} is a file" if root.exists() else f"{root} does not exist",
            where="DIR",
            cure="give the folder of the set, in the layout that --layout names",
            exit_code=ExitCode.WRONG_USE,
        )
    if out.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"--out {out} is inside the set",
            where=str(root),
            cure="choose a folder outside it; the set is only read",
            exit_code=ExitCode.WRONG_USE,
        )


@dataclass(frozen=True)
class _Row:
    """A sound pair and its columns in the manifest."""

    pair: FoundPair
    columns: dict[str, object]

    def name(self, kind: str) -> str:
        """The file name of the `blur` or the `sharp` in the new set."""
        return str(self.columns[f"{kind}_file_name"])


def _checked(pairs: Sequence[FoundPair], jobs: int) -> Iterator[list[_Row | Problem]]:
    """A row or a problem per pair, in their order; hashing and checksums leave the GIL free."""
    from joblib import Parallel, delayed

    tasks = [pairs[i : i + PAIRS_PER_TASK] for i in range(0, len(pairs), PAIRS_PER_TASK)]
    parallel = Parallel(n_jobs=jobs, backend="threading", return_as="generator")
    yield from parallel(delayed(_check_all)(task) for task in tasks)


def _check_all(pairs: Sequence[FoundPair]) -> list[_Row | Problem]:
    return [_check(pair) for pair in pairs]


def _check(pair: FoundPair) -> _Row | Problem:
    try:
        return _row(pair)
    except ImageError as error:
        return Problem(
            error.reason, f"{error.what}: {error.where}", error.cure, pair.split, pair.clip,
            _sample_id(pair), error.where,
        )  # fmt: skip


def _sample_id(pair: FoundPair) -> str:
    return f"{pair.clip}/{pair.name}/{pair.kind}"


def _row(pair: FoundPair) -> _Row:
    """The manifest row of a pair.

    Raises:
        ImageError: a file is damaged or no 8-bit RGB PNG, or the two differ in size.
    """
    columns: dict[str, object] = dict.fromkeys(manifest.SCHEMA.names)
    size: tuple[int, int] | None = None
    for kind, path in (("sharp", pair.sharp), ("blur", pair.blur)):
        payload = png.read_bytes(path)
        header = png_check.check_png(payload, name=str(path), expect=size)
        size = header.width, header.height
        columns[f"{kind}_sha256"] = hashlib.sha256(payload).hexdigest()
        columns[f"{kind}_bytes"] = len(payload)
    suffix = "" if pair.kind == "blur" else f"_{pair.kind}"
    columns |= {
        "sample_id": _sample_id(pair),
        "trajectory_id": f"{pair.clip}/{pair.name}",
        "split": pair.split,
        "clip_id": pair.clip,
        "backward_n_frames": [1],
        "blur_file_name": f"blur/{pair.clip}/{pair.name}{suffix}.png",
        "sharp_file_name": f"sharp/{pair.clip}/{pair.name}.png",
        "origin": pair.origin,
        "exposure_ms": pair.exposure_ms,
        "width": header.width,
        "height": header.height,
    }
    return _Row(pair, columns)


def _refuse_odd_names(results: Sequence[_Row | Problem]) -> list[_Row | Problem]:
    """The same with problems for rows whose names a manifest must not have, or has already."""
    rows = [result for result in results if isinstance(result, _Row)]
    names = pa.table({"name": pa.array([row.name("blur") for row in rows], pa.string())})
    hostile = set(manifest.hostile_paths(names, ["name"]))
    kept: list[_Row | Problem] = []
    seen: set[str] = set()
    for result in results:
        if isinstance(result, Problem):
            kept.append(result)
            continue
        pair, sample_id = result.pair, _sample_id(result.pair)
        is_odd = result.name("blur") in hostile
        if not is_odd and sample_id not in seen:
            seen.add(sample_id)
            kept.append(result)
            continue
        why = "has a name that a manifest must not have" if is_odd else "occurs twice"
        kept.append(
            Problem(
                "name-odd" if is_odd else "name-twice", f"{pair.blur} {why}",
                "rename the file and index again", pair.split, pair.clip, sample_id,
                str(pair.blur),
            )
        )  # fmt: skip
    return kept


def _write(
    folder: Path,
    rows: Sequence[_Row],
    problems: Sequence[Problem],
    layout: str,
    files: FileMode,
) -> dict[str, int]:
    """Write files, manifests, problems, card and build.json; pairs per split."""
    transfer = FileTransfer(files)
    manifests = {}
    counts = {}
    for split in SPLITS:
        members = [row for row in rows if row.pair.split == split]
        if not members:
            continue
        for row in members:
            transfer.add(row.pair.sharp.absolute(), folder / split / row.name("sharp"))
            transfer.add(row.pair.blur.absolute(), folder / split / row.name("blur"))
        table = pa.Table.from_pylist([row.columns for row in members], schema=manifest.SCHEMA)
        name = f"{split}/{manifest.FILE_NAME}"
        metadata = {"source": layout, "recipe": f"indexed-{layout}"}
        digest = manifest.write(table, folder / name, metadata)
        manifests[name] = {"sha256": digest, "rows": len(members)}
        counts[split] = len(members)
    transfer.flush()
    written = {"README.md": _card(folder, layout, problems).encode()}
    if problems:
        written[record.PROBLEMS] = record.problem_bytes(problems)
    for name, content in written.items():
        write_atomic(folder / name, content)
    build = {
        "format_version": manifest.FORMAT_VERSION,
        "tool_version": __version__,
        "config": {"command": "index", "layout": layout, "link": LINK_OF_MODE[files]},
        "manifests": manifests,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in written.items()},
        "problems": len(problems),
        "versions": record.versions(),
    }
    record.write_build(folder, build)
    return counts


def _card(folder: Path, layout: str, problems: Sequence[Problem]) -> str:
    lines = [
        "# Pairs of an existing set",
        "",
        f"{SETS[layout]} The files are the set's own, unchanged; its licence and its request for"
        " citation hold. Made by `trajbuild index`: n and t of these pairs are unknown.",
        "",
        *card.counts(folder),
    ]
    if problems:
        lines += ["", f"{len(problems):,} files are missing or odd: see `{record.PROBLEMS}`."]
    return "\n".join([*lines, ""])
