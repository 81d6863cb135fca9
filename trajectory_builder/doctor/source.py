"""A GoPro source and the space for its build: what is missing, bytes needed, time expected."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajectory_builder.doctor import Finding
from trajectory_builder.doctor.machine import usable_cores
from trajectory_builder.errors import UserError, shorten

if TYPE_CHECKING:
    from trajectory_builder.plan.table import Plan

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "lustre", "beegfs")
LEAST_FREE = 1 << 30


def examine(
    src: Path | None, frames: Path | None, out: Path | None, speed: Mapping[str, Any]
) -> list[Finding]:
    """Findings on the source (where one is given) and on the folder of the output.

    Args:
        src: GOPRO_Large or GOPRO_Large_all, or None.
        frames: GOPRO_Large_all, or None to look beside `src`.
        out: where the build goes; None for the default.
        speed: `encode_ms` and `decode_ms` of a frame, for the guess of time.
    """
    if src is None:
        folder = out or Path()
        text = "no source given"
        cure = "trajbuild doctor --src GOPRO_Large tells what is missing and the space needed"
        return [Finding("source", "good", text, cure), space(folder, None)]
    from trajectory_builder.build import run
    from trajectory_builder.build.expand import default_out
    from trajectory_builder.plan import gopro, recipe

    target = out or default_out(src)
    try:
        made = gopro.plan_gopro(src, recipe.load_recipe("fidediff-7877"), frames=frames)
    except UserError as error:
        where = f" ({error.where})" if error.where else ""
        return [
            Finding("source", "blocks", f"{error.what}{where}", error.cure),
            space(target, None),
        ]
    return [_source(made, speed), space(target, run.needed_bytes(made, target))]


def space(out: Path, needed: int | None) -> Finding:
    """Free space, rights and file system where a build would go.

    Args:
        out: the output folder, which need not exist.
        needed: bytes that the build will write, None where that is not known.
    """
    folder = _existing(out)
    free, kind = shutil.disk_usage(folder).free, file_system(folder)
    values = {"folder": str(out), "free_bytes": free, "needed_bytes": needed, "file_system": kind}
    text = f"{free / 1e9:.1f} GB free for {out}" + (f" ({kind})" if kind else "")
    if needed is not None:
        text += f", about {_size(needed)} needed"
    if not os.access(folder, os.W_OK | os.X_OK):
        cure = "choose another --out, or give yourself the right to write there"
        return Finding("space", "blocks", f"{folder} cannot be written", cure, values)
    if free < (LEAST_FREE if needed is None else needed):
        cure = "free some space, choose another --out, or save some with --link hardlink"
        return Finding("space", "note" if needed is None else "blocks", text, cure, values)
    if kind in NETWORK:
        cure = "run one builder at a time: locks may not reach other hosts on a network mount"
        return Finding("space", "note", text, cure, values)
    return Finding("space", "good", text, values=values)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def file_system(folder: Path) -> str:
    """Type of the mount that holds `folder`, e.g. ext4 or nfs4; "" where that cannot be told."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = folder.resolve()
    best, found = -1, ""
    for line in lines:
        _, mount, kind, *_ = line.split(" ")
        place = Path(mount.replace(r"\040", " "))
        if len(place.parts) >= best and real.is_relative_to(place):
            best, found = len(place.parts), kind
    return found


def _source(plan: Plan, speed: Mapping[str, Any]) -> Finding:
    counts = plan.counts()
    values: dict[str, Any] = {
        "counts": counts,
        "problems": len(plan.problems),
        "reasons": _reasons(plan),
        "notes": list(plan.notes),
        "seconds": _seconds(plan, speed),
    }
    pairs = ", ".join(f"{entry['pairs']:,} {split}" for split, entry in counts.items())
    text = f"{pairs} pairs can be made, in about {_duration(values['seconds'])} with all cores"
    if not plan.problems:
        return Finding("source", "good", text, values=values)
    named = shorten([f"{count:,} {reason}" for reason, count in values["reasons"].items()])
    text += f"; {len(plan.problems):,} problems: {named}; first: {plan.problems[0].what}"
    return Finding("source", "note", text, plan.problems[0].cure, values)


def _reasons(plan: Plan) -> dict[str, int]:
    found: dict[str, int] = {}
    for problem in plan.problems:
        found[problem.reason] = found.get(problem.reason, 0) + 1
    return found


def _seconds(plan: Plan, speed: Mapping[str, Any]) -> float:
    """A guess: each frame of a trajectory decoded once, each averaged pair encoded once."""
    longest: dict[str, int] = {}
    encodes = 0
    columns = ("trajectory_id", "n_frames", "blur_source")
    for name, n, source in zip(*(plan.table[c].to_pylist() for c in columns), strict=True):
        if not source:
            encodes += 1
            longest[name] = max(longest.get(name, 0), n)
    decodes = sum(longest.values())
    work = decodes * float(speed["decode_ms"]) + encodes * float(speed["encode_ms"])
    return round(work / 1000 / usable_cores(), 1)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _existing(path: Path) -> Path:
    """The nearest folder of `path` that exists."""
    path = path.resolve()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path
