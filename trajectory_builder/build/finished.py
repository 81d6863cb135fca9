"""Tell that an expansion has nothing to do, by names and sizes alone, before a plan is made.

A plan of GoPro follows from the names of the source's files, the recipe and the rules; making it
again takes longer than looking at every file of the finished build. So a command that ends without
problems leaves a note of what it was asked and what stands there. The next one holds its own
question and the files against that note; whatever is not the same leads the long way, through the
plan. The note may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import ExitCode, UserError
from trajectory_builder.plan.recipe import file_of
from trajectory_builder.sources import gopro_layout
from trajectory_builder.trajectory import SPLITS
from trajectory_builder.version import __version__

NOTE = ".trajbuild/finished.json"
CONFIG = ".trajbuild/config.json"
CHECKS = ("off", "quick", "full")
"""How closely pixels are held against names; each holds what the ones before it do."""
_RULES = (
    "plan/gopro.py", "plan/recipe.py", "trajectory.py", "sources/gopro.py",
    "sources/gopro_layout.py",
    "sources/gopro_sequences.csv",
)  # fmt: skip


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        out: the output folder.
        pairs: pairs on disk per split.
        made: pairs made by this run; 0 when everything was whole already.
        problems: rows of problems.parquet.
        seconds: wall time of this run.
    """

    out: Path
    pairs: dict[str, int]
    made: int
    problems: int
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """Done, or done in part."""
        return ExitCode.DONE_IN_PART if self.problems else ExitCode.DONE

    def as_data(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "out": str(self.out),
            "pairs": self.pairs,
            "made": self.made,
            "problems": self.problems,
            "seconds": round(self.seconds, 3),
            "exit_code": int(self.exit_code),
        }


def default_out(src: Path) -> Path:
    """Where `expand` writes unless told: the source's name and `_trajectories`, beside it."""
    try:
        src = src.resolve()
    except (OSError, RuntimeError):  # links in a circle; looking for the trees tells it
        src = src.absolute()
    return src.with_name(src.name + "_trajectories")


def question_sha256(
    src: Path, frames: Path | None, recipe: str, options: Mapping[str, Any]
) -> str | None:
    """Digest of all that decides a plan and how its files are taken over.

    Args:
        src: as `plan_gopro` takes it.
        frames: as `plan_gopro` takes it.
        recipe: a built-in name or a file.
        options: further plain values that decide the build.

    Returns:
        None where source or recipe cannot be used; making the plan tells why.
    """
    here = Path(__file__).parents[1]
    digest = hashlib.sha256(json.dumps([__version__, options], sort_keys=True).encode())
    try:
        digest.update(gopro_layout.names_sha256(gopro_layout.find_trees(src, frames)).encode())
        # The rules by their own text: a version may stay while a rule is mended.
        for path in (file_of(recipe), *(here / name for name in _RULES)):
            if not path.is_file():  # a pipe can be read once only, by the plan
                return None
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    except (OSError, UserError):
        return None
    return digest.hexdigest()


def remember(out: Path, question: str | None, check: str) -> None:
    """Leave a note that `out` answers the question `question`; not where it has problems.

    A note that cannot be written costs the next command some time and nothing else.

    Args:
        out: a build that has just ended.
        question: `question_sha256` of what was asked.
        check: one of `CHECKS`, at which its pixels were held against names.
    """
    folder = OutputFolder(out)
    build = folder.read_sealed("build.json")
    known = folder.read_sealed(NOTE)
    if question is None or build is None or build["problems"]:
        return
    if (build["alignment"] or {}).get("corrected"):
        return  # such a build hangs on what the pixels said; the long way asks them
    told = {
        "question": question,
        "check": check,
        "build": build["sha256"],
        "sizes": known["sizes"] if known and known["build"] == build["sha256"] else _sizes(out),
    }
    if known is None or known != told | {"sha256": known["sha256"]}:
        with suppress(OSError):
            folder.write_sealed(NOTE, told)


def _sizes(out: Path) -> dict[str, int]:
    """Bytes of each file that the manifests name, by its name from `out`."""
    from trajectory_builder import manifest

    sizes: dict[str, int] = {}
    for path in manifest.files(out):
        file, _ = manifest.open_file(path)
        for name, size in manifest.FILE_COLUMNS.items():
            if name in file.schema_arrow.names:
                # In this thread, since the command ends right after.
                rows = file.read(columns=[name, size], use_threads=False)
                names = [f"{path.parent.name}/{one}" for one in rows[name].to_pylist()]
                sizes.update(zip(names, rows[size].to_pylist(), strict=True))
    return sizes


def look(out: Path, question: str | None, check: str) -> tuple[BuildReport, list[str]] | None:
    """The report and the notes of a build that has nothing to do, or None.

    Every file is looked at as `build` does for a finished build: manifests, card and build.json by
    digest, images by size. It reads only, so it takes no lock.

    Args:
        out: the output folder.
        question: `question_sha256` of what is asked.
        check: how closely pixels must have been held against names.
    """
    folder = OutputFolder(out)
    note = folder.read_sealed(NOTE)
    if note is None or note["question"] != question:
        return None
    if CHECKS.index(note["check"]) < CHECKS.index(check):
        return None
    build = folder.read_sealed("build.json")
    if build is None or build["sha256"] != note["build"] or folder.read_sealed(CONFIG) is None:
        return None
    digests = build["files"] | {name: one["sha256"] for name, one in build["manifests"].items()}
    root = str(out)
    try:
        sizes = (os.stat(f"{root}/{name}").st_size == size for name, size in note["sizes"].items())
        whole = all(sizes) and all(
            hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
            for name, digest in digests.items()
        )
    except OSError:
        return None
    if not whole:
        return None
    pairs = {name.split("/")[0]: one["rows"] for name, one in build["manifests"].items()}
    pairs = {split: pairs[split] for split in SPLITS if split in pairs}
    return BuildReport(out, pairs, 0, 0, 0.0), build["notes"]
