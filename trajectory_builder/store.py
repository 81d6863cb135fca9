"""The output folder on disk: files that are whole or absent, markers, the lock.

Only this module gives a file of an output folder its final name. Everything is written under a
temporary name in the same folder, flushed, and renamed; a marker is written after the files that
it speaks of. So a kill at any moment leaves either the old state or the new one.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

TEMPORARY = ".tmp-"
"""Every temporary file's name begins so; no payload's name does."""


def temporary_name(path: Path) -> Path:
    """A fresh name beside `path` that no reader takes for a payload."""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{path.name}"[:250])


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
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)
