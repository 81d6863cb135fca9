"""What a new user runs first: does this machine have what a build needs, and what a source lacks.

`examine` asks everything in a second or two and returns findings, each with its cure. The builder
never imports torch; whether torch sees a GPU is asked in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["good", "note", "blocks"]


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
    """Look at Python, packages, codecs, cores, memory, space, GPU and, where given, a source.

    Args:
        src: GOPRO_Large or GOPRO_Large_all, as for `expand`.
        frames: GOPRO_Large_all, where it is neither inside nor beside `src`.
        out: where a build is to go; beside `src` when None, else the current folder.
    """
    from trajectory_builder.doctor import machine, packages, source

    with ThreadPoolExecutor(1) as pool:
        # Asking torch takes seconds where there is a GPU, so it runs beside the rest.
        gpu = pool.submit(machine.gpu)
        found = [packages.python(), packages.required(), packages.opencv(), packages.extras()]
        found += [machine.cores(), machine.memory()]
        if not blocking(found):
            speed = machine.codecs()
            found += [speed, *source.examine(src, frames, out, speed.values)]
        found.append(gpu.result())
    return found


def blocking(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with which a build will fail."""
    return [finding for finding in findings if finding.state == "blocks"]
