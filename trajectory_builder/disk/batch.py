"""The files of one shard: all flushed to the disk, then all given their final names.

A file that exists already with the right content is not touched.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from trajectory_builder.disk.atomic import fault_point, temporary_name
from trajectory_builder.errors import OutputError

if TYPE_CHECKING:
    from concurrent.futures import Future

FLUSH_THREADS = 4
"""Our choice: files of one shard that are flushed at the same time."""
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file, copy on write


class Batch:
    """Files that get their final names together: all flushed first, then all renamed.

    Flushing begins when a file is written, in threads of its own, and is waited for before the
    first rename: the disk works while the next images are made. Use it as a context manager; an
    error inside leaves no file behind.
    """

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._written: dict[Path, Path] = {}
        self._flushing: list[Future[None]] = []
        self._threads = ThreadPoolExecutor(FLUSH_THREADS, "flush")

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._commit()
        else:
            self.discard()

    def add(self, path: Path, payload: bytes) -> None:
        """Write `payload` under a temporary name, unless `path` contains it already."""
        if _contains(path, payload):
            return
        temporary = self._temporary(path)
        with open(temporary, "wb") as file:
            file.write(payload)
        self._flushing.append(self._threads.submit(_flush, temporary))
        fault_point("temp-written")

    def add_copy(self, path: Path, source: Path, payload: bytes, *, link: str) -> None:
        """Copy or link a file of the user's to `path`, unless that is done already.

        Args:
            path: final name.
            source: the user's file; only read.
            payload: its content, written where blocks cannot be shared.
            link: `copy` (sharing blocks where the file system can), `hardlink` or `symlink`.

        Raises:
            OutputError: the file system refuses the link.
        """
        if _is_taken_over(path, source, payload, link):
            return
        temporary = self._temporary(path)
        try:
            if link == "hardlink":
                os.link(source.resolve(), temporary)
            elif link == "symlink":
                os.symlink(source.resolve(), temporary)
            elif not _share_blocks(source, temporary):
                temporary.write_bytes(payload)
        except OSError as error:
            if link == "copy":
                raise
            raise OutputError(
                f"cannot make a {link}: {error.strerror}",
                where=f"{path} -> {source}",
                cure="use --files copy, or put --out on the same file system as the source",
            ) from error
        if not temporary.is_symlink():
            self._flushing.append(self._threads.submit(_flush, temporary))
        fault_point("temp-written")

    def _temporary(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        self._written[temporary] = path
        return temporary

    def _commit(self) -> None:
        try:
            for flushed in self._flushing:
                flushed.result()
            self._threads.shutdown()
            fault_point("before-rename")
            for temporary, path in list(self._written.items()):
                os.replace(temporary, path)
                # Two hard links to one file: rename does nothing and leaves both names.
                temporary.unlink(missing_ok=True)
                del self._written[temporary]
                fault_point("after-rename")
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the files that still have a temporary name."""
        self._threads.shutdown(cancel_futures=True)
        for temporary in self._written:
            temporary.unlink(missing_ok=True)
        self._written.clear()


def _contains(path: Path, payload: bytes) -> bool:
    """Whether `path` is a file, not a link, with this content."""
    try:
        same_size = os.lstat(path).st_size == len(payload)
        return same_size and not path.is_symlink() and path.read_bytes() == payload
    except OSError:
        return False


def _is_taken_over(path: Path, source: Path, payload: bytes, link: str) -> bool:
    if link == "copy":
        return _contains(path, payload)
    try:
        if link == "symlink":
            return os.readlink(path) == str(source.resolve())
        return not path.is_symlink() and path.samefile(source)
    except OSError:
        return False


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _share_blocks(source: Path, target: Path) -> bool:
    """Reflink `source` to `target` where the file system can (btrfs, XFS); False elsewhere."""
    with open(source, "rb") as read, open(target, "wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:
            return False
    return True
