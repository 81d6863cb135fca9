"""The request of an export, and its report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from trajectory_builder.curate.links import FileMode
from trajectory_builder.errors import DataError, ExitCode


@dataclass(frozen=True)
class Request:
    """An export, whatever the target; each target ignores what it has no use for.

    Attributes:
        source: the data set.
        out: the folder to write; new, empty, or begun by the same request.
        crop: edge of square crops in pixels; None for complete images.
        overlap: pixels that neighbouring crops share.
        rows: `pair` or `trajectory`: what a row of `hf` is.
        layout: whose folders `folders` writes, one of `folders.LAYOUTS`.
        blur_key: name of DeepDeblur's folders of blurs; it reads `blur_gamma` alone.
        files: how complete images come into `folders`.
        shard_bytes: about how many bytes of images a file of `hf` and `webdataset` has.
        jobs: worker processes.
        allow_links: follow symbolic links out of the source.
        progress: show progress on stderr.
    """

    source: Path
    out: Path
    crop: int | None = None
    overlap: int = 0
    rows: Literal["pair", "trajectory"] = "pair"
    layout: str = "mprnet"
    blur_key: str = "blur_gamma"
    files: FileMode = "hardlink"
    shard_bytes: int = 300_000_000
    jobs: int = 1
    allow_links: bool = False
    progress: bool = False

    def config(self, target: str) -> dict[str, object]:
        """The settings that decide the exported bytes; a folder resumes with equal ones only."""
        config = asdict(self) | {"target": target}
        for name in ("source", "out", "jobs", "allow_links", "progress"):
            del config[name]
        return config

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            DataError: the overlap is not smaller than the crop, or `out` is in the source.
        """
        if self.out.resolve().is_relative_to(self.source.resolve()):
            raise DataError(
                f"--out {self.out} is inside the data set",
                where=str(self.source),
                cure="choose a folder outside it",
                exit_code=ExitCode.WRONG_USE,
            )
        if self.crop is not None and not 0 <= self.overlap < self.crop:
            raise DataError(
                f"crops of {self.crop} pixels cannot overlap by {self.overlap}",
                where="--crop, --overlap",
                cure="give an overlap from 0 to one less than the crop",
                exit_code=ExitCode.WRONG_USE,
            )


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        out: the folder.
        target: hf, webdataset, lmdb or folders.
        pairs: exported pairs (crops count) per split.
        files: files that contain them.
        made: units of work done by this run; 0 when all were complete already.
        hint: how to read it; one sentence.
    """

    out: Path
    target: str
    pairs: dict[str, int]
    files: int
    made: int
    hint: str

    def as_data(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return asdict(self) | {"out": str(self.out)}
