"""What a new user runs first: whether this machine has what a build needs, and what a source lacks.

Nothing but the standard library is imported before it is known that the packages are there.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

from trajectory_builder.errors import UserError, shorten
from trajectory_builder.version import __version__

State = Literal["good", "note", "blocks"]

FASTER = ("isal", "kornia-rs")
"""Needed only for speed: OpenCV replaces them."""
EXTRAS = {"video": "av", "export": "lmdb", "dask": "distributed", "ray": "ray", "model": "torch"}
"""Extra -> a package that it brings."""
LEAST_FREE = 1 << 30
"""Bytes of free space below which a note is given, where the need of a build is not known."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;>]*(?:>=\s*([\d.]+))?")
_FRAME = (720, 1280)
_ROUNDS = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: a fixed word such as `python`, `opencv`, `space`; scripts may rely on it.
        state: good; note, a build works but could be better or needs a look; blocks, it will fail.
        text: what was found, one line.
        cure: what to do, "" where nothing needs doing.
        values: the same as plain values, for `--json`.
    """

    name: str
    state: State
    text: str
    cure: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def examine(
    src: Path | None = None, *, frames: Path | None = None, out: Path | None = None
) -> list[Finding]:
    """Look at Python, packages, codecs, space and, where given, a source.

    Args:
        src: GOPRO_Large or GOPRO_Large_all, as for `expand`.
        frames: GOPRO_Large_all, where it is neither inside nor beside `src`.
        out: where a build is to go; beside `src` when None, else the current folder.
    """
    findings = [_python(), _packages(), _opencv(), _extras()]
    if not blocking(findings):
        speed = _codecs()
        findings += [speed, *_source_and_space(src, frames, out, speed)]
    return findings


def blocking(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that would make a build fail."""
    return [finding for finding in findings if finding.state == "blocks"]


def space(out: Path, needed: int | None) -> Finding:
    """Free space and rights where a build would go.

    Args:
        out: the output folder, which need not exist.
        needed: bytes that the build will write, None where that is not known.
    """
    folder = out.resolve()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    values = {"folder": str(out), "free_bytes": free, "needed_bytes": needed}
    text = f"{free / 1e9:.1f} GB free for {out}"
    if needed is not None:
        size = f"{needed / 1e9:.1f} GB" if needed >= 1e8 else f"{needed / 1e6:.1f} MB"
        text += f", about {size} needed"
    if not os.access(folder, os.W_OK | os.X_OK):
        cure = "choose another --out, or give yourself the right to write there"
        return Finding("space", "blocks", f"{folder} cannot be written", cure, values)
    if free < (LEAST_FREE if needed is None else needed):
        cure = "free some space, choose another --out, or save some with --files hardlink"
        return Finding("space", "note" if needed is None else "blocks", text, cure, values)
    return Finding("space", "good", text, values=values)


def _python() -> Finding:
    version = platform.python_version()
    values = {"version": version, "fidediff": __version__, "platform": platform.platform()}
    text = f"Python {version}, fidediff {__version__}, {platform.system()} {platform.machine()}"
    return Finding("python", "good", text, values=values)


def _packages() -> Finding:
    """Whether the packages that the builder imports are installed and new enough."""
    lowest = _lowest_versions()
    versions = {name: _version(name) for name in lowest}
    missing = [name for name, version in versions.items() if version is None]
    old = [
        name
        for name, version in versions.items()
        if version is not None and _numbers(version) < _numbers(lowest[name])
    ]
    cure = f"pip install --upgrade {' '.join([*missing, *old])}"
    needed = [name for name in missing if name not in FASTER]
    if needed or old:
        wrong = [f"{name} is missing" for name in needed]
        wrong += [f"{n} {versions[n]} (needs {lowest[n]}) is too old" for n in old]
        return Finding("packages", "blocks", "; ".join(wrong), cure, {"versions": versions})
    if missing:
        text = f"{' and '.join(missing)} missing: OpenCV reads and writes instead, slower"
        return Finding("packages", "note", text, cure, {"versions": versions})
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding("packages", "good", text, values={"versions": versions})


def _opencv() -> Finding:
    """Whether `cv2` can be imported.

    Several distributions install it into one folder; when one of them is uninstalled, `import cv2`
    fails while pip still lists the other (opencv/opencv-python#467).
    """
    try:
        version = str(import_module("cv2").__version__)
    except (ImportError, AttributeError) as error:
        rivals = sorted({n for n in _installed() if n.startswith("opencv-")})
        first = f"pip uninstall -y {' '.join(rivals)} && " if rivals else ""
        cure = f"{first}pip install opencv-python-headless"
        return Finding("opencv", "blocks", f"import cv2 fails: {error}", cure)
    return Finding("opencv", "good", f"cv2 {version}", values={"version": version})


def _extras() -> Finding:
    """Which optional parts can be used; none of them is needed to expand GoPro."""
    there = [extra for extra, package in EXTRAS.items() if _version(package)]
    absent = [extra for extra in EXTRAS if extra not in there]
    text = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    cure = f"pip install 'fidediff[{','.join(absent)}]' to get the others" if absent else ""
    return Finding("extras", "good", text, cure, {"there": there, "absent": absent})


def _codecs() -> Finding:
    """Write and read a synthetic 720p PNG; median milliseconds of each.

    A codec that does not give back the same pixels blocks: averages would be wrong.
    """
    import numpy as np

    from trajectory_builder.images import png

    frame = _synthetic_frame()
    used = png.codecs()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.png"
        path.write_bytes(png.encode_png(frame))
        same = bool(np.array_equal(png.read_frame(path).pixels, frame))
        decode_ms = _milliseconds(lambda: png.read_frame(path))
    encode_ms = _milliseconds(lambda: png.encode_png(frame))
    values = {**used, "encode_ms": encode_ms, "decode_ms": decode_ms, "exact": same}
    text = (
        f"1280 x 720 PNG: read in {decode_ms:.1f} ms by {used['reader']},"
        f" written in {encode_ms:.1f} ms by {used['writer']}"
    )
    if not same:
        cure = f"pip install --force-reinstall {used['reader'].split()[0]}"
        return Finding("codecs", "blocks", f"{text}, but the pixels differ", cure, values)
    return Finding("codecs", "good", text, values=values)


def _source_and_space(
    src: Path | None, frames: Path | None, out: Path | None, speed: Finding
) -> list[Finding]:
    if src is None:
        cure = "trajbuild doctor --src GOPRO_Large lists what is missing and the space needed"
        return [Finding("source", "good", "no source given", cure), space(out or Path(), None)]
    from trajectory_builder.build import run
    from trajectory_builder.build.expand import default_out
    from trajectory_builder.plan import gopro, recipe

    target = out or default_out(src)
    try:
        plan = gopro.plan_gopro(src, recipe.load_recipe("fidediff-7877"), frames=frames)
    except UserError as error:
        where = f" ({error.where})" if error.where else ""
        source = Finding("source", "blocks", f"{error.what}{where}", error.cure)
        return [source, space(target, None)]
    counts, reasons = plan.counts(), Counter(problem.reason for problem in plan.problems)
    made = sum(not blur for blur in plan.table["blur_source"].to_pylist())
    # A guess: workers decode about as many frames as they encode pairs, several times over.
    cores = len(os.sched_getaffinity(0))
    per_pair = 3 * speed.values["decode_ms"] + speed.values["encode_ms"]
    minutes = made * per_pair / 60_000 / cores
    pairs = ", ".join(f"{entry['pairs']:,} {split}" for split, entry in counts.items())
    text = f"{pairs} pairs can be made, in about {minutes:.0f} min on {cores} cores"
    values = {"counts": counts, "problems": len(plan.problems), "reasons": dict(reasons)}
    if not plan.problems:
        source = Finding("source", "good", text, values=values)
    else:
        listed = shorten([f"{count:,} {reason}" for reason, count in reasons.items()])
        text += f"; {len(plan.problems):,} problems: {listed}; first: {plan.problems[0].what}"
        source = Finding("source", "note", text, plan.problems[0].cure, values)
    return [source, space(target, run.needed_bytes(plan, target))]


def _synthetic_frame() -> Any:
    """(H, W, 3) uint8 with slopes, edges and grain, about as hard to code as a photograph."""
    import numpy as np

    rows, columns = np.mgrid[: _FRAME[0], : _FRAME[1]]
    slopes = np.stack([rows / 4, columns / 6, (rows + columns) / 9], axis=2)
    squares = 40 * ((rows // 60 + columns // 80) % 2)[..., None]
    grain = np.random.default_rng(0).normal(0, 2, (*_FRAME, 3))
    return np.clip(slopes + squares + grain, 0, 255).astype(np.uint8)


def _milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(1000 * sorted(times)[_ROUNDS // 2], 2)


def _lowest_versions() -> dict[str, str]:
    """Package -> lowest version that this distribution asks for."""
    try:
        declared = metadata.requires("fidediff") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        declared = ["numpy", "pyarrow", "pandas", "click", "joblib", *FASTER]
    needed = [_REQUIREMENT.match(line) for line in declared if "extra ==" not in line]
    lowest = {match[1]: match[2] or "0" for match in needed if match}
    # Rival wheels bring the same module; `_opencv` tries it.
    lowest.pop("opencv-python-headless", None)
    return lowest


def _installed() -> list[str]:
    return [str(d.metadata["Name"] or "").lower() for d in metadata.distributions()]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
