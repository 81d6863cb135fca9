"""A manifest for an existing set of pairs: every file checked and hashed, the originals untouched.

The pairs have no trajectory: n, t and window are unknown and null, and the only backward point is
the sharp image itself. The manifest lies in a folder of its own, with the files hardlinked,
referenced or copied into it, as its paths must not leave it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from trajectory_builder import manifest
from trajectory_builder.build import record
from trajectory_builder.curate import card, layouts
from trajectory_builder.curate.layouts import FoundPair, Splitting, find
from trajectory_builder.curate.links import LINK_OF_MODE, FileMode, Placing, fresh_folder
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import DataError, ExitCode, ImageError
from trajectory_builder.images import png, png_check
from trajectory_builder.trajectory import Problem
from trajectory_builder.version import __version__

PAIRS_A_TASK = 32
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
        pairs: pairs a split.
        problems: what is missing or odd; also in problems.parquet.
    """

    out: Path
    pairs: dict[str, int]
    problems: tuple[Problem, ...]

    @property
    def exit_code(self) -> ExitCode:
        """Done, or done in part."""
        return ExitCode.DONE_IN_PART if self.problems else ExitCode.DONE

    def as_data(self) -> dict[str, Any]:
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
        out: the new data set; must not exist and not lie in `root`.
        layout: one of `pair_layouts.LAYOUTS`.
        splitting: splits of sets without split folders; as `pair_layouts.splitting` finds when
            None.
        files: `hardlink`, `reference` or `copy`.
        jobs: threads that read.
        progress: show progress on stderr.

    Raises:
        DataError: `root` holds no such pairs, or none that can be read.
        OutputError: `out` is there already, or the file system refuses a link.
    """
    _refuse_places(root, out)
    listing = find(layout, root, splitting or layouts.splitting(root, layout))
    rows: list[dict[str, Any]] = []
    problems = list(listing.problems)
    with Progress(len(listing.pairs), "pairs", shown=progress) as bar:
        for found, bad in _checked(listing.pairs, jobs):
            rows += found
            problems += bad
            bar.advance(len(found) + len(bad), problems=len(bad))
    rows = _sound_names(rows, problems)
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
            cure="give the folder that holds the set, with the layout that --layout names",
            exit_code=ExitCode.WRONG_USE,
        )
    if out.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"--out {out} lies inside the set",
            where=str(root),
            cure="choose a folder outside it; the set is only read",
            exit_code=ExitCode.WRONG_USE,
        )


def _checked(
    pairs: Sequence[FoundPair], jobs: int
) -> Iterator[tuple[list[dict[str, Any]], list[Problem]]]:
    """Rows and problems, in the order of the pairs; hashing and checksums leave the GIL free."""
    from joblib import Parallel, delayed

    tasks = [pairs[i : i + PAIRS_A_TASK] for i in range(0, len(pairs), PAIRS_A_TASK)]
    parallel = Parallel(n_jobs=jobs, backend="threading", return_as="generator")
    yield from parallel(delayed(_check_all)(task) for task in tasks)


def _check_all(pairs: Sequence[FoundPair]) -> tuple[list[dict[str, Any]], list[Problem]]:
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for pair in pairs:
        try:
            rows.append(_row(pair))
        except ImageError as error:
            problems.append(
                Problem(
                    error.reason, f"{error.what}: {error.where}", error.cure, pair.split,
                    pair.clip, _sample_id(pair), error.where,
                )
            )  # fmt: skip
    return rows, problems


def _sample_id(pair: FoundPair) -> str:
    return f"{pair.clip}/{pair.name}/{pair.kind}"


def _row(pair: FoundPair) -> dict[str, Any]:
    """The manifest row of a pair, and where its files are.

    Raises:
        ImageError: a file is damaged or no 8-bit RGB PNG, or the two differ in size.
    """
    row: dict[str, Any] = dict.fromkeys(manifest.SCHEMA.names)
    size: tuple[int, int] | None = None
    for kind, path in (("sharp", pair.sharp), ("blur", pair.blur)):
        payload = png.read_bytes(path)
        header = png_check.check_png(payload, name=str(path), expect=size)
        size = header.width, header.height
        row[f"{kind}_sha256"] = hashlib.sha256(payload).hexdigest()
        row[f"{kind}_bytes"] = len(payload)
    suffix = "" if pair.kind == "blur" else f"_{pair.kind}"
    return row | {
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
        "blur": pair.blur,
        "sharp": pair.sharp,
    }


def _sound_names(rows: list[dict[str, Any]], problems: list[Problem]) -> list[dict[str, Any]]:
    """The rows whose names a manifest may hold, each once; the others become problems."""
    names = pa.table({"name": pa.array([row["blur_file_name"] for row in rows], pa.string())})
    hostile = set(manifest.hostile_paths(names, ["name"]))
    kept: dict[str, dict[str, Any]] = {}
    for row in rows:
        odd = row["blur_file_name"] in hostile
        if odd or row["sample_id"] in kept:
            why = "has a name that a manifest must not hold" if odd else "stands there twice"
            problems.append(
                Problem(
                    "name-odd" if odd else "name-twice", f"{row['blur']} {why}",
                    "rename the file and index again", row["split"], row["clip_id"],
                    row["sample_id"], str(row["blur"]),
                )
            )  # fmt: skip
        else:
            kept[row["sample_id"]] = row
    return list(kept.values())


def _write(
    folder: Path,
    rows: list[dict[str, Any]],
    problems: list[Problem],
    layout: str,
    files: FileMode,
) -> dict[str, int]:
    """Files, manifests, problems, card and build.json; pairs a split."""
    placing = Placing(files)
    manifests: dict[str, dict[str, Any]] = {}
    config = {"command": "index", "layout": layout, "link": LINK_OF_MODE[files]}
    for split in manifest.SPLITS:
        members = [row for row in rows if row["split"] == split]
        if not members:
            continue
        home = folder / split
        for row in members:
            for kind in ("sharp", "blur"):
                placing.add_file(row[kind].absolute(), home / row[f"{kind}_file_name"])
        plain = [{name: row[name] for name in manifest.SCHEMA.names} for row in members]
        table = pa.Table.from_pylist(plain, schema=manifest.SCHEMA)
        name = f"{split}/{manifest.FILE_NAME}"
        metadata = {"source": layout, "recipe": f"indexed-{layout}"}
        digest = manifest.write(table, folder / name, metadata)
        manifests[name] = {"sha256": digest, "rows": len(members)}
    placing.flush()
    written = {"README.md": _card(folder, layout, problems).encode()}
    if problems:
        written[record.PROBLEMS] = record.problem_bytes(problems)
    for name, content in written.items():
        write_atomic(folder / name, content)
    build = {
        "format_version": manifest.FORMAT_VERSION,
        "tool_version": __version__,
        "config": config,
        "manifests": manifests,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in written.items()},
        "problems": len(problems),
        "versions": record.versions(),
    }
    record.write_build(folder, build)
    return {name.split("/")[0]: entry["rows"] for name, entry in manifests.items()}


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
