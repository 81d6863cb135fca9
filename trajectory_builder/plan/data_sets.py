"""Refuse folders of pairs and GoPro's trees as footage: their blurs would be blurs of blurs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from trajectory_builder import manifest
from trajectory_builder.errors import UsageError, printable

_PARTS = ("blur", "blur_gamma", "sharp")
_GOPRO_SEQUENCE = re.compile(r"GOPR\d{4}_\d{2}_\d{2}")


def refuse_data_sets(sources: Sequence[Path]) -> None:
    """Look through the sources by names alone.

    A single sequence of GOPRO_Large_all is footage like any other, where it is named itself.

    Raises:
        UsageError: one contains a data set, with the command that reads it.
    """
    for source in sources:
        root = source.resolve()
        _refuse_part(root, source)
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if not name.startswith(".")]
            found = _kind(Path(folder), root, {*below}, {*names})
            if found is not None:
                what, cure = found
                raise UsageError(
                    f"{printable(str(source))} contains {what}, not footage",
                    where=printable(folder),
                    cure=cure,
                )


def _refuse_part(root: Path, source: Path) -> None:
    """Refuse the folder `blur` or `sharp` of a data set, and what is below it."""
    for child, parent in pairwise((root, *root.parents)):
        if child.name not in _PARTS:
            continue
        try:
            names = {*os.listdir(parent)}
        except OSError:  # a folder that may be passed through but not listed
            continue
        found = _kind(parent, parent, names, names)
        if found is not None:
            what, cure = found
            raise UsageError(
                f"{printable(str(source))} is part of {what}, not footage",
                where=printable(parent),
                cure=cure,
            )


def _kind(folder: Path, root: Path, below: set[str], names: set[str]) -> tuple[str, str] | None:
    """What kind of data set a folder is, and what to do instead; None for footage."""
    elsewhere = "name the folders of your footage themselves with --src"
    if manifest.FILE_NAME in names:
        return "a data set of trajbuild", f"{elsewhere}; this one is ready for training"
    if "sharp" in below and below & {"blur", "blur_gamma"}:
        expand = "for GoPro use `trajbuild expand`, for other pairs `trajbuild index`"
        return "pairs of blur and sharp images", f"{expand}; or {elsewhere}"
    if folder != root and _GOPRO_SEQUENCE.fullmatch(folder.name):
        return "GoPro's tree of frames", f"use `trajbuild expand`; or {elsewhere}"
    return None
