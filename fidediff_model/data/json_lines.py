"""Files of JSON lines that grow while a command runs and survive a kill in the middle of a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trajectory_builder.disk.regular import read_regular_text

MAX_BYTES = 1 << 30
"""Larger files are not read: a line has a few hundred bytes."""


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append one object as one line of ASCII, so that names of any bytes survive."""
    line = (json.dumps(values) + "\n").encode()
    with open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            # A kill may have cut the last line short; this one must not be joined to it.
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, or none where it is absent; lines that are no object are left out."""
    if not path.is_file():
        return []
    objects = []
    for line in read_regular_text(path, at_most=MAX_BYTES, errors="replace").splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a kill cut the line short
        if isinstance(values, dict):
            objects.append(values)
    return objects
