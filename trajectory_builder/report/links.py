"""Relative links from the page to the files of the data set, so that both can be moved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from trajectory_builder.manifest import Manifest


@dataclass(frozen=True)
class Links:
    """Where the folders of the manifests are, seen from the page.

    Attributes:
        prefixes: (first row, URL of its manifest's folder with a slash at its end), ascending;
            empty where the page is not in the data set, which then has no links.
    """

    prefixes: tuple[tuple[int, str], ...]

    def of(self, rows: Manifest, row: int, column: str) -> str:
        """The URL of a row's file, "" without one."""
        before = [prefix for start, prefix in self.prefixes if start <= row]
        return before[-1] + quoted(rows.table[column][row].as_py()) if before else ""


def links(rows: Manifest, folder: Path, out: Path) -> Links:
    """Links from the page `out` to the files of `rows`, the data set in `folder`."""
    home, page = folder.resolve(), out.parent.resolve()
    if not (page.is_relative_to(home) or home.is_relative_to(page)):
        return Links(())
    urls = (quoted(os.path.relpath(place.resolve(), page)) for _, place in rows.folders)
    return Links(
        tuple((start, f"{url}/") for (start, _), url in zip(rows.folders, urls, strict=True))
    )


def quoted(path: str) -> str:
    """A POSIX path as a relative URL; a name of any bytes has one."""
    return quote(os.fsencode(path))
