"""What a `restore` command asks for, and the files that it means.

All that names alone can refuse is refused here, before a model is loaded: nothing to restore, two
inputs with one target, an output on its input.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fidediff_model.model.engine import Settings
from fidediff_model.model.folder import model_digest, read_config
from fidediff_model.model.step import Part, no_part
from trajectory_builder.errors import UsageError, printable
from trajectory_builder.images.formats import FORMATS, VIDEO_NOT_READ, kind_not_read
from trajectory_builder.images.video.containers import SUFFIXES as VIDEO_SUFFIXES


@dataclass(frozen=True)
class RestoreRequest:
    """One `restore` command.

    Attributes:
        inputs: files, folders, glob patterns.
        out: output folder, or the name of the output file for one input file.
        model: model folder.
        base_model: folder or hub id of the base weights; None takes the name that it remembers.
        settings: how to restore.
        batch: images of one size restored together.
        white: the value of white in 16-bit images; None takes them as they are.
        side_by_side: also write NAME_side_by_side.png, the input beside the restoration.
        show_kernels: also write NAME_kernels.png, the kernels that M sees.
        skip_existing: leave alone whatever exists.
        overwrite: replace whatever exists.
    """

    inputs: tuple[str, ...]
    out: Path
    model: Path
    base_model: str | None = None
    settings: Settings = field(default_factory=Settings)
    batch: int = 1
    white: int | None = None
    side_by_side: bool = False
    show_kernels: bool = False
    skip_existing: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.skip_existing and self.overwrite:
            raise UsageError(
                "--skip-existing and --overwrite exclude each other",
                where="--skip-existing, --overwrite",
                cure="give one of them",
            )

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.out.parent if self.is_one_file else self.out

    @property
    def is_one_file(self) -> bool:
        """Whether `out` names a file; see `names_a_file`."""
        return names_a_file(self.inputs, self.out)

    @property
    def recorded(self) -> dict[str, Any]:
        """What decides the output files, for `restored.jsonl`: the same values, the same files."""
        values = {"model": model_digest(self.model), **asdict(self.settings)}
        # Where it ran does not change what was asked for.
        del values["device"], values["compile"]
        if self.white is not None:
            values["white"] = self.white
        return values | {"side_by_side": self.side_by_side, "show_kernels": self.show_kernels}

    def check_parts(self) -> None:
        """Refuse a model that lacks a part which every image needs.

        Raises:
            ModelError: T or M is missing, or the folder is not a model.
        """
        parts = read_config(self.model)["parts"]
        needed: tuple[Part, ...] = ("kernel_estimator", "timestep_regressor")
        for part in needed if self.settings.timestep is None else ():
            if part not in parts:
                raise no_part(part, parts)
        if self.show_kernels and "kernel_estimator" not in parts:
            raise no_part("kernel_estimator", parts, where="--show-kernels")


@dataclass(frozen=True)
class Job:
    """One file to restore, and the file to write."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        """Whether it is restored frame by frame."""
        unread = kind_not_read(self.source.name) == VIDEO_NOT_READ
        return unread or self.source.suffix.lower() in VIDEO_SUFFIXES


def collect(inputs: Sequence[str], out: Path) -> list[Job]:
    """The jobs that inputs ask for, in order, each once.

    Args:
        inputs: files, folders (searched through, their structure is kept below `out`), or glob
            patterns (`**` goes through folders), for shells that do not expand them.
        out: the output folder, or for one input file the name of the output file.

    Raises:
        UsageError: an input is missing or gives nothing, two inputs share a target, or a target
            is a source.
    """
    if names_a_file(inputs, out):
        _refuse_source(job := Job(Path(inputs[0]), out), {os.path.realpath(job.source)}, out)
        return [job]
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
        _refuse_source(job, sources, out)
    return list(jobs.values())


def names_a_file(inputs: Sequence[str], out: Path) -> bool:
    """Whether `out` names a file and not a folder: by its ending, for one input that is a file.

    Raises:
        UsageError: a picture would become a video, a video a picture, or several inputs one file.
    """
    suffix = out.suffix.lower()
    if out.is_dir() or suffix not in (*FORMATS, *VIDEO_SUFFIXES):
        return False
    source = Path(inputs[0])
    if len(inputs) > 1 or not source.is_file():
        raise UsageError(
            f"{printable(out)} is the name of one file, for one picture or video",
            where="--out",
            cure="give a folder, or one input file",
        )
    if (suffix in VIDEO_SUFFIXES) != (source.suffix.lower() in VIDEO_SUFFIXES):
        raise UsageError(
            f"{printable(source)} cannot be written as {suffix}",
            where=f"--out {printable(out)}",
            cure=f"give a name that ends in {source.suffix.lower()}",
        )
    return True


def _refuse_source(job: Job, sources: set[str], out: Path) -> None:
    if os.path.realpath(job.target) in sources:
        raise UsageError(
            f"the output {printable(job.target)} would replace an input",
            where=f"--out {printable(out)}",
            cure="choose another --out; inputs are never overwritten",
        )


def _jobs_of(name: str, out: Path) -> list[Job]:
    path = Path(name)
    if path.is_dir():
        jobs = [Job(file, out / file.relative_to(path)) for file in _files_below(path, out)]
        if not jobs:
            raise UsageError(
                f"the folder {printable(path)} contains no image and no video",
                where=f"looked for {', '.join([*FORMATS, *VIDEO_SUFFIXES])}",
                cure="give the folder that contains them",
            )
        return jobs
    if path.exists():
        return [Job(path, out / path.name)]
    if glob.has_magic(name):
        files = [Path(f) for f in sorted(glob.glob(name, recursive=True)) if Path(f).is_file()]
        if files:
            return [Job(file, out / file.name) for file in files]
        raise UsageError(f"the pattern {printable(name)} matches no file", cure="check it with ls")
    raise UsageError(f"{printable(name)} does not exist", where="INPUT", cure="check the path")


def _files_below(folder: Path, out: Path) -> Iterable[Path]:
    """Images and videos below a folder, sorted; not what an earlier run wrote into it.

    Files of kinds that are not read are among them, so that each is named as one that failed.
    """
    own = out.resolve()
    endings = {*FORMATS, *VIDEO_SUFFIXES}
    for file in sorted(folder.rglob("*")):
        is_read = file.suffix.lower() in endings and not file.name.startswith("._")
        if (is_read or kind_not_read(file.name)) and file.is_file():
            if own != folder.resolve() and own in file.resolve().parents:
                continue
            yield file
