"""Opening untrusted files: regular files alone, and no more bytes than their kind can need.

A named pipe in a file's place would block its reader for ever, a device would never end, and a
file of gigabytes under the name of a note would fill the memory.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

SMALL = 1 << 24
"""Enough for notes, configs and records: 16 MiB."""


def open_regular(path: str | Path, *, at_most: int | None = None) -> BufferedReader:
    """Open a file for reading, in binary, at its beginning.

    Args:
        path: the file; a symbolic link is followed.
        at_most: bytes that it may have; any number when None.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger.
    """
    # The check comes after opening, so that nobody can exchange the file in between.
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  # the caller closes it
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        if at_most is not None and status.st_size > at_most:
            why = f"it has {status.st_size:,} bytes, more than the {at_most:,} that are read"
            raise OSError(errno.EINVAL, why, os.fspath(path))
    except BaseException:
        file.close()
        raise
    return file


def _open_at_once(path: str, flags: int) -> int:
    # Opening a pipe waits for its writer but with this flag, which regular files ignore.
    return os.open(path, flags | os.O_NONBLOCK)


def read_regular(path: str | Path, *, at_most: int = SMALL) -> bytes:
    """The content of a regular file of at most `at_most` bytes.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path, at_most=at_most) as file:
        # By its size, as read(n) allocates n bytes first; a file that grows meanwhile is cut here.
        return file.read(os.fstat(file.fileno()).st_size)


def read_regular_text(path: str | Path, *, at_most: int = SMALL, errors: str = "strict") -> str:
    """The content of a regular file as UTF-8 text.

    Raises:
        OSError: as `open_regular`.
        UnicodeDecodeError: it is not UTF-8, where `errors` is `strict`.
    """
    return read_regular(path, at_most=at_most).decode("utf-8", errors)


def read_regular_json(path: str | Path, *, at_most: int = SMALL) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is not UTF-8, not JSON, or nested too deeply.
    """
    try:
        return json.loads(read_regular_text(path, at_most=at_most))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
