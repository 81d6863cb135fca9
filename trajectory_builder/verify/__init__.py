"""Compare a data set's folder with its manifest.

`quick` looks at names and sizes, `full` hashes and decodes every file, `deep` also averages every
new blur again from its frames (see `rerender`). Nothing is changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from trajectory_builder import manifest
from trajectory_builder.build import record, workers
from trajectory_builder.build.record import CONFIG
from trajectory_builder.disk.atomic import TEMPORARY
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import ImageError, ManifestError, printable
from trajectory_builder.images import pictures, png
from trajectory_builder.trajectory import BUILD_FILE, SPLITS
from trajectory_builder.verify import rerender
from trajectory_builder.verify.finding import Finding, VerifyReport

FILES_PER_TASK = 64


@dataclass(frozen=True)
class _Expected:
    """A payload file as the manifest lists it; a width of 0 marks one that is no picture."""

    name: str
    size: int
    sha256: str
    width: int
    height: int
    pixel_sha256: str | None


def verify_folder(
    folder: Path,
    level: str = "quick",
    *,
    jobs: int = 1,
    frames: Path | None = None,
    allow_links: bool = False,
    progress: bool = False,
) -> VerifyReport:
    """Compare a data set with its manifest.

    Args:
        folder: a data set's folder.
        level: `quick` (names and sizes), `full` (hashes, strict decoding, image sizes) or `deep`
            (averaged blurs are rebuilt from the frames too).
        jobs: worker processes of `full` and `deep`.
        frames: where the frames are now, for `deep`; where build.json says when None.
        allow_links: accept symbolic links out of the folder (a build with `--files symlink`).
        progress: show progress on stderr.

    Raises:
        ManifestError: there is no manifest at all.
        BuildError: `deep` without the frames or the record of the build.
    """
    manifest.files(folder, allow_links=allow_links)
    findings = list(_records(folder))
    try:
        rows = manifest.read(folder, allow_links=allow_links)
    except ManifestError as error:
        findings.append(Finding("manifest-unsound", error.what, error.where, error.cure))
        return VerifyReport(folder, level, 0, 0, tuple(findings))
    expected = _expected(rows, folder)
    findings += _strays(folder, {one.name for one in expected})
    sound = []
    for one in expected:
        finding = _quick(folder, one, allow_links)
        if finding:
            findings.append(finding)
        else:
            sound.append(one)
    if level != "quick":
        findings += _full(folder, sound, jobs, progress)
    rebuilt = 0
    if level == "deep":
        rebuilt = sum(row["origin"] != "official" for row in rows.rows())
        unsound = {finding.file for finding in findings}
        different = rerender.differences(folder, rows, jobs=jobs, frames=frames, progress=progress)
        findings += [finding for finding in different if finding.file not in unsound]
    problems = _problem_count(folder)
    found = tuple(findings)
    return VerifyReport(folder, level, len(rows), len(expected), found, problems, rebuilt)


def _records(folder: Path) -> Iterator[Finding]:
    """build.json against its own digest, and the small files against build.json."""
    if (folder / CONFIG).exists() and OutputFolder(folder).read_sealed(CONFIG) is None:
        yield Finding("state-altered", f"{CONFIG} is damaged or was altered", CONFIG)
    if not (folder / BUILD_FILE).is_file():
        yield Finding("record-missing", "build.json is not there, so digests cannot be checked",
                      BUILD_FILE)  # fmt: skip
        return
    build = record.read_build(folder)
    if build is None:
        yield Finding("record-altered", "build.json is damaged or was altered", BUILD_FILE)
        return
    for name, sha256 in build.get("files", {}).items():
        if record.file_sha256(folder / name) != sha256:
            yield Finding("file-altered", f"{name} is missing or differs from what was built", name)
    for name in build.get("manifests", {}):
        if not (folder / name).is_file():
            yield Finding("manifest-missing", f"{name} is not there", name)


def _problem_count(folder: Path) -> int:
    try:
        return len(record.read_problems(folder))
    except (OSError, ValueError, TypeError, pa.ArrowException):
        return 0  # a damaged file is a finding by its digest


def _expected(rows: manifest.Manifest, folder: Path) -> list[_Expected]:
    found: dict[str, _Expected] = {}
    for index, row in enumerate(rows.rows()):
        prefix = rows.folder(index).relative_to(folder).as_posix()
        kernels = row.get("kernel_path")
        if kernels:
            name = f"{prefix}/{kernels}".removeprefix("./")
            found[name] = _Expected(name, row["kernel_bytes"], row["kernel_sha256"], 0, 0, None)
        for kind in ("sharp", "blur"):
            name = f"{prefix}/{row[f'{kind}_file_name']}".removeprefix("./")
            found[name] = _Expected(
                name,
                row[f"{kind}_bytes"],
                row[f"{kind}_sha256"],
                row["width"],
                row["height"],
                row["blur_pixel_sha256"] if kind == "blur" else None,
            )
    return list(found.values())


def _strays(folder: Path, expected: set[str]) -> Iterator[Finding]:
    """Files beside the payload that no row names, and what a killed builder left."""
    for split in SPLITS:
        for parent, _, names in os.walk(folder / split):
            for name in sorted(names):
                path = Path(parent, name).relative_to(folder).as_posix()
                shown = printable(path)
                if name.startswith(TEMPORARY):
                    yield Finding("temporary-left", f"{shown} was left by a killed build", path)
                elif path not in expected and name != manifest.FILE_NAME:
                    yield Finding("file-unknown", f"{shown} is in no row of the manifest", path,
                                  "remove it if you do not need it")  # fmt: skip


def _quick(folder: Path, one: _Expected, allow_links: bool) -> Finding | None:
    try:
        split, name = one.name.split("/", 1)
        path = manifest.resolve(folder / split, name, allow_links=allow_links)
        size = path.stat().st_size
    except ManifestError as error:
        reason = "link-outside" if "link out" in error.what else "file-missing"
        return Finding(reason, error.what, one.name)
    except OSError as error:
        return Finding("file-unreadable", f"{one.name}: {error.strerror}", one.name)
    if size != one.size:
        return Finding("size-differs", f"{one.name} has {size:,} bytes, not {one.size:,}", one.name)
    return None


def _full(folder: Path, expected: list[_Expected], jobs: int, progress: bool) -> list[Finding]:
    tasks = [expected[i : i + FILES_PER_TASK] for i in range(0, len(expected), FILES_PER_TASK)]
    findings: list[Finding] = []
    with Progress(len(expected), "files", shown=progress) as bar:
        for count, found in workers.each(partial(_decode_all, folder), tasks, jobs=jobs):
            findings += found
            bar.advance(count, problems=len(found))
    return sorted(findings, key=lambda finding: finding.file)


def _decode_all(folder: Path, expected: list[_Expected]) -> tuple[int, list[Finding]]:
    found = [finding for one in expected if (finding := _decode(folder, one))]
    return len(expected), found


def _decode(folder: Path, one: _Expected) -> Finding | None:
    """Hash and decode one file; the first thing that is wrong with it."""
    try:
        payload = png.read_bytes(folder / one.name)
        if hashlib.sha256(payload).hexdigest() != one.sha256:
            return Finding("hash-differs", f"{one.name} is not the file that was built", one.name)
        if one.width == 0:
            return None
        if png.png_header(payload, name=one.name).depth == 16:
            pixels = pictures.decode(payload, name=one.name).pixels
        else:
            pixels = png.decode_png(payload, name=one.name, expect=(one.width, one.height))
    except ImageError as error:
        return Finding(error.reason, f"{one.name}: {error.what}", one.name)
    if one.pixel_sha256 and png.pixel_sha256(pixels) != one.pixel_sha256:
        return Finding("pixels-differ", f"{one.name} decodes to other pixels", one.name)
    return None
