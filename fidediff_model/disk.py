"""Files that are whole or absent, and what to say when the disk refuses one."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fidediff_model.errors import FideDiffError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Error numbers after which no other file can be written either."""

REFUSALS = NO_ROOM | {errno.EACCES, errno.EIO}
"""Error numbers by which a disk says that it is full, read-only or broken."""


class OutputError(FideDiffError):
    """A file that cannot be written."""


def printable(path: Path | str) -> str:
    """A name that is safe to print: what is no printable character is escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in str(path)
    )


def temporary_name(path: Path) -> Path:
    """A fresh name beside `path` with its ending; long names are cut to what file systems take."""
    mark = f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(mark + path.suffix)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of it.

    Raises:
        OSError: the disk is full, the folder read-only, ...; nothing is left.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def not_written(what: str, reason: OSError | Exception, out: Path, cure: str) -> OutputError:
    """The error of a disk that refused.

    Args:
        what: what could not be written, e.g. `the output`.
        reason: what the disk or a library said.
        out: the file or folder, where `reason` names none.
        cure: what to do.
    """
    told = reason.strerror if isinstance(reason, OSError) else None
    file = reason.filename if isinstance(reason, OSError) else None
    return OutputError(
        f"{what} cannot be written: {told or reason}", where=printable(file or out), cure=cure
    )


@contextmanager
def telling_disk_errors(out: Path) -> Iterator[None]:
    """Inside, an error of the file system ends the command with its cure.

    Raises:
        OutputError: in its place.
    """
    cure = "make room or choose another --out, then run the same command again to resume"
    try:
        yield
    except OSError as error:
        raise not_written("the output", error, out, cure) from error
