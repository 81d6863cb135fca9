"""What a build recorded beside the manifests: problems.parquet and build.json.

Both are untrusted: what cannot be read or understood is reported, and the report is still written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.disk.regular import read_regular, read_regular_json
from trajectory_builder.trajectory import BUILD_FILE

EXAMPLES = 5
MAX_PROBLEM_BYTES = 256 << 20


@dataclass(frozen=True)
class ProblemGroup:
    """Rows of problems.parquet with the same reason and cure."""

    reason: str
    cure: str
    count: int
    examples: tuple[str, ...]
    sample_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Agreement:
    """What the build's check of the pixels found, over all clips.

    Attributes:
        level: `quick` or `full`.
        checked: official sharp images looked for among the frames; `found` of them are there.
        equal: official blurs equal to the mean of their window; `differing` are not, and of
            `absent` some frames are not published.
        moved: clips whose images lie some frames from where the name says, and how many.
        distrusted: (trajectory_id, why) of pairs whose windows were left out.
    """

    level: str
    checked: int
    found: int
    equal: int
    absent: int
    differing: int
    moved: tuple[tuple[str, int], ...]
    distrusted: tuple[tuple[str, str], ...]


def agreement(build: Mapping[str, Any]) -> Agreement | None:
    """Sum the `alignment` entry of build.json; None where there is none of the known form."""
    report = build.get("alignment")
    try:
        clips = [dict(clip) for clip in report["clips"]]  # type: ignore[index]  # caught below
        return Agreement(
            level=str(report["level"]),  # type: ignore[index]
            checked=_total(clips, "sharp_checked"),
            found=_total(clips, "sharp_found"),
            equal=_total(clips, "blurs_equal"),
            absent=_total(clips, "blurs_absent"),
            differing=_total(clips, "blurs_differing"),
            moved=tuple((str(k), int(v)) for k, v in report["corrected"].items()),  # type: ignore[index]
            distrusted=tuple(
                (str(name), str(why)) for clip in clips for name, why in clip["distrusted"].items()
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        # build.json is not trusted: what is not understood is shown unchanged.
        return None


def _total(clips: list[dict[str, int]], key: str) -> int:
    return sum(int(clip[key]) for clip in clips)


def read_problems(path: Path) -> tuple[tuple[ProblemGroup, ...] | None, str]:
    """Group problems.parquet by reason and cure.

    Returns:
        the groups, most frequent first, or None without such a file; and why the file could not be
        read, or "".
    """
    if not path.is_file():
        return None, ""
    try:
        payload = read_regular(path, at_most=MAX_PROBLEM_BYTES)
        content = pa.BufferReader(payload)
        manifest.check_bounds(content, len(payload))
        table = pq.ParquetFile(content, page_checksum_verification=True).read(
            ["reason", "what", "cure", "sample_id"], use_threads=False
        )  # a small file
        rows = [tuple(map(_text, row)) for row in zip(*table.to_pydict().values(), strict=True)]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        return None, f"problems.parquet cannot be read: {str(error).splitlines()[0]}"
    examples: dict[tuple[str, str], list[str]] = {}
    names: dict[tuple[str, str], set[str]] = {}
    for reason, what, cure, sample_id in rows:
        examples.setdefault((reason, cure), []).append(what)
        names.setdefault((reason, cure), set()).add(sample_id)
    counts = Counter((reason, cure) for reason, _, cure, _ in rows)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    groups = (
        ProblemGroup(*k, count, tuple(examples[k][:EXAMPLES]), frozenset(names[k]))
        for k, count in ranked
    )
    return tuple(groups), ""


def _text(value: object) -> str:
    return "" if value is None else str(value)


def read_build(folder: Path) -> Mapping[str, Any]:
    """build.json, empty where there is none that can be read."""
    try:
        build = read_regular_json(folder / BUILD_FILE)
    except (OSError, ValueError):
        return {}
    return build if isinstance(build, dict) else {}
