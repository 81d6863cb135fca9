"""Bringing files into a new folder: hard links, symbolic links or copies; nothing is moved.

Paths in a manifest are relative and stay inside its folder, so a data set made from others needs
its files inside too. A hard link (the default) costs no space and is a file like any other. A
symbolic link leads out of the folder: readers refuse those without `--allow-links`,
because an untrusted manifest must not make a program open files elsewhere.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pyarrow as pa

from trajectory_builder import manifest
from trajectory_builder.disk.atomic import TEMPORARY, flush, reporting_disk_errors
from trajectory_builder.disk.batch import Batch
from trajectory_builder.errors import OutputError
from trajectory_builder.images.files import read_bytes

FileMode = Literal["hardlink", "copy", "symlink", "reference", "none"]
LINK_OF_MODE = {"hardlink": "hardlink", "copy": "copy", "symlink": "symlink",
                "reference": "symlink", "none": "none"}  # fmt: skip
"""The words of `batch.Batch` and build.json for each."""


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends without an error.

    Anything that a killed run of the same command left under the temporary name is removed.

    Raises:
        OutputError: `out` exists and is not empty, or another process writes it.
    """
    from filelock import FileLock, Timeout

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"{out} exists already",
            where="nothing in it was changed",
            cure="choose another --out, or remove that one first",
        )
    with reporting_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.absolute().with_name(f"{TEMPORARY}{out.name}")
    lock = FileLock(str(folder) + ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            "another trajbuild writes this folder", where=str(out), cure="wait for it to end"
        ) from error
    try:
        shutil.rmtree(folder, ignore_errors=True)
        with reporting_disk_errors(out):
            folder.mkdir()
            yield folder
            os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(str(folder) + ".lock").unlink(missing_ok=True)
        lock.release()


def path_columns(schema: pa.Schema) -> list[str]:
    """The columns that name payload files: those of the contract and further ones like them."""
    return [
        field.name
        for field in schema
        if (field.name.endswith("_file_name") or field.name in manifest.FILE_COLUMNS)
        and pa.types.is_string(field.type)
    ]


class FileTransfer:
    """Files on their way from data sets into a new folder, each once.

    Attributes:
        mode: `hardlink`, `copy`, or `symlink` (also called `reference`).
        allow_links: follow symbolic links that lead out of the source's folder.
        count: files that are in the new folder because of this transfer.
    """

    def __init__(self, mode: FileMode, *, allow_links: bool = False) -> None:
        self.mode = mode
        self.allow_links = allow_links
        self.count = 0
        self._is_inside: dict[Path, bool] = {}
        self._folders: set[Path] = set()

    def add_all(self, source: Path, home: Path, names: Iterable[str], prefix: str = "") -> None:
        """Bring files of the manifest folder `source` into `home`.

        Args:
            source: the folder that the files' names are relative to, without `prefix`.
            home: the new manifest's folder.
            names: relative POSIX paths in the new folder.
            prefix: the beginning of each name, absent in `source`.

        Raises:
            ManifestError: a file is absent or a link out of the folder.
            OutputError: the file system refuses the link.
        """
        for name in names:
            self.add(self._resolved(source, name.removeprefix(prefix)), home / name)

    def add(self, origin: Path, target: Path) -> None:
        """Link or copy the file `origin` to `target`, unless `target` exists."""
        if target.parent not in self._folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(target.parent)
        if os.path.lexists(target):
            return
        if self.mode == "hardlink":
            self._hardlink(origin, target)
        elif LINK_OF_MODE[self.mode] == "symlink":
            os.symlink(origin.resolve(), target)
        else:
            with Batch() as batch:
                batch.add_copy(target, origin, read_bytes(origin), link="copy")
        self.count += 1

    def _hardlink(self, origin: Path, target: Path) -> None:
        try:
            os.link(origin.resolve() if origin.is_symlink() else origin, target)
        except OSError as error:
            raise OutputError(
                f"cannot make a hard link: {error.strerror}",
                where=f"{target} -> {origin}",
                cure="use --files copy or --files symlink, or put --out on the same file system",
            ) from error

    def _resolved(self, source: Path, name: str) -> Path:
        """The file itself; a link out of the manifest's folder is refused.

        A folder is resolved once, so a million files do not cost a million walks up the tree.
        """
        path = source / name
        parent = path.parent
        if parent not in self._is_inside:
            self._is_inside[parent] = parent.resolve().is_relative_to(source.resolve())
        if self._is_inside[parent]:
            with suppress(OSError):
                if stat.S_ISREG(os.lstat(path).st_mode):
                    return path
        return manifest.resolve(source, name, allow_links=self.allow_links).resolve()

    def flush(self) -> None:
        """Flush the folders' entries to the disk."""
        for folder in self._folders:
            flush(folder)
