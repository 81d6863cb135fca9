"""One offline HTML file that shows a data set: numbers, trajectories to walk, what is odd.

All rows are counted, images are sampled, and the same data set
gives the same bytes.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from trajectory_builder import manifest
from trajectory_builder.disk import atomic
from trajectory_builder.errors import ExitCode, OutputError
from trajectory_builder.trajectory import BUILD_FILE

FILE_NAME = "report.html"


def write_report(folder: Path, out: Path | None = None, *, allow_links: bool = False) -> Path:
    """Write the report of a data set as one HTML file that loads nothing from elsewhere.

    Args:
        folder: a data set's folder, or one split's.
        out: the file to write, `folder`/report.html when None; an earlier report is replaced.
        allow_links: follow links out of the folder, for a data set made with --files symlink.

    Returns:
        the file that was written.

    Raises:
        ManifestError: no manifest that can be trusted.
        OutputError: `folder` is a file; `out` is another file than a report, in no folder, or
            cannot be written.
    """
    from trajectory_builder.report import page
    from trajectory_builder.report.counts import count
    from trajectory_builder.report.links import links
    from trajectory_builder.report.pictures import gather
    from trajectory_builder.report.rejected import rejected

    if folder.is_file():
        raise OutputError(
            "a report is of a data set's folder, and this is a file",
            where=str(folder),
            cure=f"trajbuild report {shlex.quote(str(folder.parent))}",
            exit_code=ExitCode.WRONG_USE,
        )
    # First of all: without a data set, nothing else matters.
    manifest.files(folder, allow_links=allow_links)
    out = folder / FILE_NAME if out is None else out
    _refuse_foreign(out, page.GENERATOR)
    rows = manifest.read(folder, allow_links=allow_links)
    numbers = count(rows, _home(folder))
    gallery = gather(rows)
    lost = rejected(_home(folder), numbers.problems or ())
    shown = links(rows, folder, out)
    text = page.render(folder.resolve().name, rows, numbers, gallery, shown, lost)
    # A name of bytes that are no UTF-8 comes as lone surrogates; it is shown, not refused.
    payload = text.encode("utf-8", "backslashreplace")
    try:
        atomic.write_atomic(out, payload)
    except OSError as error:
        cure = "give --out FILE in a folder that you may write to"
        raise atomic.not_written("the report", error, out, cure) from error
    return out


def _home(folder: Path) -> Path:
    """Where build.json is: above a split's folder, or the folder itself."""
    above = folder.resolve().parent
    is_split = (folder / manifest.FILE_NAME).is_file() and (above / BUILD_FILE).is_file()
    return above if is_split else folder


def _refuse_foreign(out: Path, generator: str) -> None:
    """Nothing but an earlier report is ever replaced."""
    if not out.parent.is_dir():
        raise OutputError(
            f"the folder of the report does not exist: {out.parent}",
            where=str(out),
            cure="make it first, or give another --out",
            exit_code=ExitCode.WRONG_USE,
        )
    if out.is_dir() or (out.exists() and generator.encode() not in _beginning(out)):
        raise OutputError(
            f"{out.name} exists and is not a report",
            where=str(out),
            cure="give another --out, or move it away",
            exit_code=ExitCode.WRONG_USE,
        )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2048)
