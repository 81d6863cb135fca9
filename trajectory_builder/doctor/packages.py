"""Python and the installed distributions: versions, floors, and who owns `cv2`."""

from __future__ import annotations

import platform
import re
import sys
from importlib import import_module, metadata, util

from trajectory_builder.doctor import Finding
from trajectory_builder.version import __version__

DISTRIBUTION = "fidediff"
FASTER = ("isal", "kornia-rs")
"""Needed only for speed: OpenCV stands in for them."""

EXTRAS = {
    "video": ("av",),
    "export": ("lmdb", "matplotlib"),
    "dask": ("distributed",),
    "ray": ("ray",),
    "model": ("torch", "diffusers", "peft"),
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;>]*(?:>=\s*([\d.]+))?")
OLDEST_PYTHON = (3, 11)
OLDEST_OPENCV = (4, 10)


def python() -> Finding:
    """The interpreter and this package's version."""
    version = platform.python_version()
    values = {
        "version": version,
        "executable": sys.executable,
        "fidediff": __version__,
        "platform": platform.platform(),
    }
    text = f"Python {version}, fidediff {__version__}, {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("python", "blocks", text, "install Python 3.11 or later", values)
    return Finding("python", "good", text, values=values)


def required() -> Finding:
    """Whether what the builder imports is there and new enough."""
    floors = _floors()
    versions = {name: _version(name) for name in floors}
    missing = [name for name, version in versions.items() if version is None]
    old = [
        f"{name} {version} (needs {floors[name]})"
        for name, version in versions.items()
        if version is not None and _numbers(version) < _numbers(floors[name])
    ]
    needed = [name for name in missing if name not in FASTER]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    cure = f"pip install --upgrade {' '.join([*missing, *(o.split()[0] for o in old)])}"
    if needed or old:
        wrong = [*(f"{name} is missing" for name in needed), *(f"{o} is too old" for o in old)]
        return Finding("packages", "blocks", "; ".join(wrong), cure, {"versions": versions})
    if missing:
        text = f"{' and '.join(missing)} missing: OpenCV reads and writes instead, slower"
        return Finding("packages", "note", text, cure, {"versions": versions})
    return Finding("packages", "good", listed, values={"versions": versions})


def opencv() -> Finding:
    """Which distributions own `cv2`, and whether it can be imported.

    Two of them install into one folder; that works until one is uninstalled, and then `import cv2`
    fails while pip still lists the other (opencv/opencv-python#467).
    """
    owners = sorted(_owners())
    repair = (
        f"pip uninstall -y {' '.join(owners)} && pip install opencv-python-headless"
        if owners
        else "pip install opencv-python-headless"
    )
    values: dict[str, object] = {"owners": owners}
    try:
        version = import_module("cv2").__version__
    except (ImportError, AttributeError) as error:
        text = f"import cv2 fails: {str(error).splitlines()[0] if str(error) else error!r}"
        return Finding("opencv", "blocks", text, repair, values)
    values["version"] = version
    text = f"cv2 {version} from {', '.join(owners) or 'no known distribution'}"
    if _numbers(version) < OLDEST_OPENCV:
        return Finding("opencv", "blocks", f"{text}, too old", repair, values)
    if len(owners) > 1:
        text += "; removing either one will break it"
        return Finding("opencv", "note", text, repair, values)
    return Finding("opencv", "good", text, values=values)


def extras() -> Finding:
    """Which optional parts can be used; none of them is needed to expand GoPro."""
    absent = {
        extra: [name for name in names if _version(name) is None] for extra, names in EXTRAS.items()
    }
    lacking = [extra for extra, names in absent.items() if names]
    there = [extra for extra in EXTRAS if extra not in lacking]
    text = f"there: {', '.join(there) or 'none'}; absent: {', '.join(lacking) or 'none'}"
    cure = (
        f"pip install '{DISTRIBUTION}[{','.join(lacking)}]' for the absent ones" if lacking else ""
    )
    return Finding("extras", "good", text, cure, {"there": there, "absent": absent})


def torch_build() -> dict[str, str | None]:
    """Version of torch and the CUDA or ROCm it was built for, without importing it.

    Read from torch/version.py, which its build writes; empty without torch.
    """
    version = _version("torch")
    try:
        spec = util.find_spec("torch")
    except (ImportError, ValueError):
        spec = None
    if version is None or spec is None or not spec.submodule_search_locations:
        return {}
    built: dict[str, str | None] = {"version": version, "cuda": None, "hip": None}
    for folder in spec.submodule_search_locations:
        try:
            with open(f"{folder}/version.py", encoding="utf-8") as file:
                text = file.read(10_000)
        except OSError:
            continue
        for kind in ("cuda", "hip"):
            found = re.search(rf"^{kind}\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
            built[kind] = found[1] if found else None
    return built


def _floors() -> dict[str, str]:
    """Distribution -> lowest version, from what the installed package declares."""
    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        declared = ["numpy", "opencv-python-headless", "pyarrow", "click", "joblib", *FASTER]
    floors = {}
    for line in declared:
        if "extra ==" in line:
            continue
        found = _REQUIREMENT.match(line)
        if found:
            floors[found[1]] = found[2] or "0"
    # The rival wheels own the same module; `opencv` judges them.
    floors.pop("opencv-python-headless", None)
    return floors


def _owners() -> set[str]:
    """Distributions that install a top-level `cv2`."""
    found = set()
    for distribution in metadata.distributions():
        name = str(distribution.metadata["Name"] or "")
        if "opencv" not in name.lower():
            continue
        top = distribution.read_text("top_level.txt")
        if top is None or "cv2" in top.split():
            found.add(name)
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
