"""Writing files so that a name never stands for half a file, and what a disk's refusal means.

Only this module and `batch` give a file its final name. Everything is written under a temporary
name in the same folder, flushed, and renamed. So a kill at any moment leaves the old file or the
new one.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trajectory_builder.errors import OutputError

TEMPORARY = ".tmp-"
"""Every temporary file's name begins so; no payload's name does."""
FAULT_VARIABLE = "TRAJBUILD_TEST_FAULT"
SIGNAL_VARIABLE = "TRAJBUILD_TEST_SIGNAL"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Error numbers after which no other file can be written either."""
REFUSALS = NO_ROOM | {errno.EACCES, errno.EIO}
"""Error numbers by which a disk says that it is full, read-only or broken."""
_LONGEST_SUFFIX = 32
_passed: dict[str, int] = {}


def fault_point(name: str, subject: str = "") -> None:
    """Die here if a test asks for it, or stand still.

    A kill test can only prove what it hits; these names let it hit each step of a write.
    `TRAJBUILD_TEST_FAULT=NAME:K` kills a process at its K-th pass, `NAME=SUBJECT` kills each
    process that comes by with that subject. `TRAJBUILD_TEST_SIGNAL=SIGSTOP` stops it instead, so
    that a test can look at a build that is just so far, however busy the machine is.
    """
    wanted = os.environ.get(FAULT_VARIABLE)
    if wanted is None:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if wanted in (f"{name}:{_passed[name]}", f"{name}={subject}"):
        os.kill(os.getpid(), signal.Signals[os.environ.get(SIGNAL_VARIABLE, "SIGKILL")])


def temporary_name(path: Path) -> Path:
    """A fresh name beside `path` that no reader takes for a payload; it keeps the suffix.

    The rest of the name is left out, so that the longest names that a file system takes work too.
    """
    suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, payload: bytes, *, sync: bool = True) -> None:
    """Write `payload` to `path` so that `path` is never half-written.

    Args:
        path: final name; its folder must exist. An existing file is replaced.
        payload: the whole content.
        sync: also flush file and folder to the disk; needed against power loss, not against kills.

    Raises:
        OSError: the disk is full, the folder read-only, ...; nothing is left under either name.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            fault_point("temp-written", path.name)
            if sync:
                os.fsync(file.fileno())
        fault_point("before-rename", path.name)
        os.replace(temporary, path)
        fault_point("after-rename", path.name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """A table of keys as the same JSON text every time, for people to read too."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def not_written(what: str, reason: Exception, out: Path, cure: str) -> OutputError:
    """The error for a disk that refused a file.

    Args:
        what: what could not be written, e.g. `the output`.
        reason: the exception of the disk or of a library.
        out: the file or folder, where `reason` names none.
        cure: what to do.
    """
    why = reason.strerror if isinstance(reason, OSError) else None
    file = reason.filename if isinstance(reason, OSError) else None
    return OutputError(
        f"{what} cannot be written: {why or reason}", where=str(file or out), cure=cure
    )


@contextmanager
def reporting_disk_errors(out: Path) -> Iterator[None]:
    """Inside, an error of the file system ends the command with its cure.

    Raises:
        OutputError: in its place.
    """
    cure = "make room or choose another --out, then run the same command again to resume"
    try:
        yield
    except OSError as error:
        raise not_written("the output", error, out, cure) from error
