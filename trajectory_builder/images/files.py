"""The bytes of an image file, read once; the file is regular and no larger than any image."""

from __future__ import annotations

import os
from pathlib import Path

from trajectory_builder.disk.regular import read_regular
from trajectory_builder.errors import ImageError, printable
from trajectory_builder.images.picture import COPY_AGAIN

MAX_FILE_BYTES = 1 << 30


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes.

    Raises:
        ImageError: missing, unreadable, no regular file, or larger than 1 GiB.
    """
    name = printable(os.fspath(path))
    try:
        return read_regular(path, at_most=MAX_FILE_BYTES)
    except OSError as error:
        raise unreadable(error, name) from error


def unreadable(error: OSError, name: str) -> ImageError:
    """The error for an image file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return ImageError(
            "the image is missing", reason="frame-missing", where=name, cure=COPY_AGAIN
        )
    return ImageError(
        f"the image cannot be read: {error.strerror or error}",
        reason="frame-unreadable",
        where=name,
        cure="check the file, its permissions and the disk, then run the same command again",
    )
