"""File names in a manifest are untrusted input: what they may be, and the file that they name.

A path that is absolute, climbs out of its folder or is a link out of it is refused by name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder.errors import ManifestError

# Names that are certainly harmless; the few others are examined closely.
_PLAIN_PATH = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$"
# What a relative POSIX path must not contain: absolute, drive letters, home, backslash, control
# characters, empty or dotted parts.
_HOSTILE_PATH = r"^$|^/|^[A-Za-z]:|^~|\\|[\x00-\x1f\x7f]|(^|/)\.{1,2}(/|$)|//|/$"
# No file system takes a longer name for one folder or file.
_LONG_PART = r"[^/]{256,}"


def resolve(folder: Path, name: str, *, allow_links: bool = False) -> Path:
    """The file `name` below `folder`, refused when it is hostile, absent or a link out of it."""
    if is_hostile(name):
        raise ManifestError(
            "a manifest names a path that leaves its folder",
            where=f"{folder}: {name!r}",
            cure="do not use this manifest; rebuild it from a source you trust",
        )
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ManifestError(
            f"a file of the manifest is not there: {name}",
            where=str(path),
            cure=f"run `trajbuild verify {folder.parent}` to see all that is missing",
        ) from error
    if not allow_links and not real.is_relative_to(folder.resolve()):
        raise ManifestError(
            f"a file of the manifest is a link out of its folder: {name}",
            where=f"{path} -> {real}",
            cure="allow links only for a data set that you made yourself with --files symlink",
        )
    return path


def is_hostile(path: str) -> bool:
    """Whether `hostile_paths` would refuse this one path; a table of one costs a millisecond."""
    return (
        re.search(_HOSTILE_PATH, path) is not None
        or re.search(_LONG_PART, path) is not None
        or not unicodedata.is_normalized("NFC", path)
    )


def hostile_paths(table: pa.Table, columns: Iterable[str]) -> list[str]:
    """The values of path columns that a manifest must not have; empty when all are sound."""
    hostile: set[str] = set()
    for column in columns:
        # Nearly all names are plain; one pass over them spares the other checks and their copies.
        plain = pc.match_substring_regex(table.column(column), _PLAIN_PATH)
        short = pc.less(pc.binary_length(table.column(column)), 256)
        doubtful = pc.invert(pc.and_(plain, short))
        values = pc.unique(table.column(column).filter(doubtful)).drop_null()
        bad = values.filter(pc.match_substring_regex(values, _HOSTILE_PATH))
        hostile.update(bad.to_pylist())
        odd = values.filter(pc.invert(pc.string_is_ascii(values)))
        hostile.update(v for v in odd.to_pylist() if not unicodedata.is_normalized("NFC", v))
        long = values.filter(pc.match_substring_regex(values, _LONG_PART))
        hostile.update(long.to_pylist())
    return sorted(hostile)
