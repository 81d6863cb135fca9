"""Taking files over into a new folder: hardlinked, referenced or copied; never moved.

Paths in a manifest are relative and stay inside its folder, so a data set made from others has to
have its files inside too. A hardlink (the default) costs no space and is a file like any other. A
reference is a symbolic link out of the folder: readers refuse those unless `--allow-links` is
given, for a manifest from a stranger must not make a program open files elsewhere.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa

from trajectory_builder import manifest
from trajectory_builder.disk.atomic import TEMPORARY
from trajectory_builder.disk.batch import Batch
from trajectory_builder.errors import OutputError

FileMode = Literal["hardlink", "reference", "copy", "none"]
LINK_OF_MODE = {"hardlink": "hardlink", "reference": "symlink", "copy": "copy", "none": "none"}
"""What `batch.Batch` and build.json call each."""


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends without an error.

    What an earlier, killed run of the same command left under the temporary name is removed.

    Raises:
        OutputError: `out` is there and not empty, or another process writes it.
    """
    from filelock import FileLock, Timeout

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"{out} is there already",
            where="nothing in it was touched",
            cure="choose another --out, or remove that one first",
        )
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


class Placing:
    """Payload files on their way from data sets into a new folder, each once.

    Args:
        files: `hardlink`, `reference` or `copy`.
        allow_links: follow symbolic links that lead out of the source's folder.
    """

    def __init__(self, files: FileMode, *, allow_links: bool = False) -> None:
        self.files = files
        self.allow_links = allow_links
        self.placed = 0
        self._homes: dict[Path, bool] = {}
        self._made: set[Path] = set()

    def add_all(self, source: Path, home: Path, names: Iterable[str], prefix: str = "") -> None:
        """Place files of the manifest folder `source` as `names` under `home`.

        Args:
            source: the folder that the files' names are relative to, once `prefix` is taken off.
            home: the new manifest's folder.
            names: relative POSIX paths in the new folder.
            prefix: what stands before each name and is no part of it in `source`.
        """
        for name in names:
            self.add(source, name.removeprefix(prefix), home / name)

    def add(self, source: Path, name: str, target: Path) -> None:
        """Place file `name` of a manifest's folder as `target`, unless that stands already.

        Raises:
            ManifestError: the file is absent or a link out of the folder.
            OutputError: the file system refuses the link.
        """
        self.add_file(self._resolved(source, name), target)

    def add_file(self, origin: Path, target: Path) -> None:
        """Place a file of the user's as `target`, unless that stands already."""
        if target.parent not in self._made:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(target.parent)
        if os.path.lexists(target):
            return
        if self.files == "hardlink":
            self._hardlink(origin, target)
        elif self.files == "reference":
            os.symlink(origin.resolve(), target)
        else:
            with Batch() as batch:
                batch.add_copy(target, origin, origin.read_bytes(), link="copy")
        self.placed += 1

    def _hardlink(self, origin: Path, target: Path) -> None:
        try:
            os.link(origin.resolve() if origin.is_symlink() else origin, target)
        except OSError as error:
            raise OutputError(
                f"cannot make a hardlink: {error.strerror}",
                where=f"{target} -> {origin}",
                cure="use --files copy or --files reference, or put --out on the same file system",
            ) from error

    def _resolved(self, source: Path, name: str) -> Path:
        """The file itself; a link out of the manifest's folder is refused.

        A folder is resolved once, so a million files do not cost a million walks up the tree.
        """
        path = source / name
        if self._inside(source, path.parent):
            try:
                kind = os.lstat(path).st_mode
            except OSError:
                kind = 0
            if stat.S_ISREG(kind):
                return path
        return manifest.resolve(source, name, allow_links=self.allow_links).resolve()

    def _inside(self, source: Path, parent: Path) -> bool:
        if parent not in self._homes:
            self._homes[parent] = parent.resolve().is_relative_to(source.resolve())
        return self._homes[parent]

    def flush(self) -> None:
        """Flush the folders' entries to the disk."""
        for folder in self._made:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
