"""Files of JSON lines that grow while a command runs and survive a kill in the middle of a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # a kill cut the line short
        if isinstance(values, dict):
            objects.append(values)
    return objects
