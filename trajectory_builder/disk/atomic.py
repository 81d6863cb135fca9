"""Atomic file writes, and the errors of a disk that refuses them.

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
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trajectory_builder.errors import OutputError

TEMPORARY = ".tmp-"
"""Prefix of every temporary file's name; no payload's name starts with it."""
FAULT_VARIABLE = "TRAJBUILD_TEST_FAULT"
SIGNAL_VARIABLE = "TRAJBUILD_TEST_SIGNAL"
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Error numbers after which no other file can be written either."""
REFUSALS = NO_ROOM | {errno.EACCES, errno.EIO}
"""Error numbers by which a disk says that it is full, read-only or broken."""
_LONGEST_SUFFIX = 32
_passed: dict[str, int] = {}
_counting = threading.Lock()


def fault_point(name: str, subject: str = "") -> None:
    """Kill or stop this process if a test asks for it; each name is a step of a write.

    `TRAJBUILD_TEST_FAULT=NAME:K` kills the process when it passes NAME for the K-th time,
    `NAME=SUBJECT` every process that passes NAME with that subject. With
    `TRAJBUILD_TEST_SIGNAL=SIGSTOP` it stops instead, so that a test can inspect the build there.
    """
    wanted = os.environ.get(FAULT_VARIABLE)
    if wanted is None:
        return
    with _counting:  # flushing threads pass here too
        _passed[name] = passes = _passed.get(name, 0) + 1
    if wanted in (f"{name}:{passes}", f"{name}={subject}"):
        os.kill(os.getpid(), signal.Signals[os.environ.get(SIGNAL_VARIABLE, "SIGKILL")])


def temporary_name(path: Path) -> Path:
    """Return a fresh temporary name beside `path`, with the same suffix.

    The rest of the name is left out, so that a name of the maximum length works too.
    """
    suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def flush(path: Path) -> None:
    """Flush a file's content, or a folder's entries, so that it survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, payload: bytes, *, sync: bool = True) -> None:
    """Write `payload` to `path` so that `path` is never half-written.

    Args:
        path: final name; its folder must exist. An existing file is replaced.
        payload: the complete content.
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
        flush(path.parent)


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Indented JSON with sorted keys: equal content gives equal bytes."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def not_written(what: str, reason: Exception, out: Path, cure: str) -> OutputError:
    """The error for a file that the disk refused.

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
    """Turn an `OSError` over `out`, or of a full disk, inside the block into one with a cure.

    Raises:
        OutputError: in its place; errors over other files pass.
    """
    cure = "make room or choose another --out, then run the same command again to resume"
    try:
        yield
    except OSError as error:
        named = os.fsdecode(error.filename) if error.filename else ""
        if error.errno not in REFUSALS and not named.startswith(str(out)):
            raise
        raise not_written("the output", error, out, cure) from error
