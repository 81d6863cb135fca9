"""What this machine offers training and restoring: versions, devices, precisions, files."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trajectory_builder.errors import UserError

PACKAGES = ("torch", "diffusers", "peft", "accelerate", "safetensors", "tensorboard")
OPTIONAL = {
    "bitsandbytes": "--optimizer adamw8bit",
    "triton": "the fused reblur on a GPU",
    "av": "video in and out",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        value: what was found.
        cure: what to do about it; empty where nothing is wrong.
    """

    name: str
    value: str
    cure: str = ""


def look(vgg16: Path | None = None) -> list[Finding]:
    """Look at everything; nothing is changed.

    Args:
        vgg16: a VGG16 file to try, or None.
    """
    found = [Finding("python", f"{platform.python_version()}, {platform.platform()}")]
    found += [_package(name) for name in PACKAGES]
    found += [_optional(name, use) for name, use in OPTIONAL.items()]
    found += _torchvision()
    found += _devices()
    found += [_memory(), _vgg16(vgg16)]
    return found


def as_dict(findings: list[Finding]) -> dict[str, Any]:
    """The report as plain values, for `--json`; `wrong` counts the findings with a cure."""
    wrong = sum(bool(finding.cure) for finding in findings)
    return {
        "schema_version": 1,
        "wrong": wrong,
        "findings": [asdict(finding) for finding in findings],
    }


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", "pip install 'fidediff[model]'")


def _optional(name: str, use: str) -> Finding:
    try:
        return Finding(name, f"{version(name)} ({use})")
    except PackageNotFoundError:
        return Finding(name, f"not installed; only {use} needs it")


def _torchvision() -> list[Finding]:
    """torchvision beside another torch breaks diffusers and peft at import."""
    if None in map(importlib.util.find_spec, ("torch", "torchvision")):
        return []
    try:
        import torchvision  # type: ignore[import-not-found, unused-ignore]
    except (RuntimeError, ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        return [Finding("torchvision", f"broken: {reason}", "pip uninstall torchvision")]
    return [Finding("torchvision", str(torchvision.__version__))]


def _devices() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [Finding("cpu", f"{os.cpu_count()} cores")]
    import torch

    from fidediff_model.model.engine import has_bf16

    found = [Finding("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, fp32")]
    if not torch.cuda.is_available():
        slow = "none: training at full size is not practical, restoring is slow"
        return [*found, Finding("gpu", slow)]
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        kinds = precisions(bf16=has_bf16(torch.device("cuda", number)))
        size = f"{gpu.total_memory / 2**30:.0f} GiB"
        found.append(Finding(f"gpu {number}", f"{gpu.name}, {size}, {kinds}"))
    return found


def precisions(*, bf16: bool) -> str:
    """What a GPU trains and restores in, and why where it is not bf16."""
    if bf16:
        return "bf16, fp32"
    return (
        "fp32: it only emulates bf16, which is slower; fp16 is offered for restoring alone"
        " (--dtype fp16), since two optimizers of a training would share one loss scale"
    )


def _memory() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Finding("memory", f"{pages * size / 2**30:.0f} GiB; {free:.0f} GiB free on disk here")


def _vgg16(path: Path | None) -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("vgg16", "not looked at: torch reads it")
    from fidediff_model.weights import vgg

    if path is None:
        name = vgg.FILE.name
        needed = f"not looked at; LPIPS, EA-LPIPS and DISTS need it: {vgg.FILE.url}"
        cached = Path(os.environ.get("TORCH_HOME", "~/.cache/torch")).expanduser()
        here = cached / "hub" / "checkpoints" / name
        return Finding(
            "vgg16", f"{here} is there; give it as --vgg16" if here.is_file() else needed
        )
    try:
        vgg.load_vgg16(path)
    except UserError as error:
        return Finding("vgg16", error.what, error.cure)
    return Finding("vgg16", f"{path} contains all 26 tensors")
