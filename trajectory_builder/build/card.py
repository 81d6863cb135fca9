"""The data-set card: README.md of an output folder, for people and for the hub's viewer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from trajectory_builder.plan.table import Plan
from trajectory_builder.trajectory import Problem
from trajectory_builder.version import __version__

LICENCES = {"gopro": "cc-by-4.0"}
SOURCES = {
    "gopro": "The frames are from the GOPRO data set (Nah, Kim and Lee, Deep Multi-scale"
    " Convolutional Neural Network for Dynamic Scene Deblurring, CVPR 2017), CC BY 4.0."
    " Changed: windows of other lengths were averaged round its sharp frames.",
}


def text(plan: Plan, table: pa.Table, problems: Sequence[Problem]) -> str:
    """The card of a build: contents, source, how it was made. No clock and no host: same bytes."""
    return "\n".join([*_front(plan, table), *_body(plan, table, problems), ""])


def _front(plan: Plan, table: pa.Table) -> list[str]:
    lines = ["---"]
    licence = LICENCES.get(plan.config["source"])
    if licence:
        lines.append(f"license: {licence}")
    return [
        *lines,
        "task_categories: [image-to-image]",
        "tags: [deblurring, motion-blur, trajectory]",
        f"size_categories: [{size_category(table.num_rows)}]",
        f"pretty_name: Blur trajectories ({plan.config['recipe']['name']})",
        "---",
    ]


def size_category(rows: int) -> str:
    """The hub's word for a number of rows."""
    for limit, name in ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if rows < limit:
            return name
    return "100K<n<1M" if rows < 1_000_000 else "1M<n<10M"


def _body(plan: Plan, table: pa.Table, problems: Sequence[Problem]) -> list[str]:
    recipe: dict[str, Any] = plan.config["recipe"]
    return [
        "",
        "# Blur trajectories",
        "",
        "Each row of `metadata.parquet` is a pair: a blur, the mean of n consecutive frames, and"
        " the sharp frame in the middle of its window. All windows round one sharp frame form a"
        " trajectory; t = (n - 1) x "
        f"{recipe['timestep_step']} is the blur's place on it.",
        "",
        "```python",
        "from datasets import load_dataset",
        'pairs = load_dataset("imagefolder", data_dir="THIS_FOLDER")["train"]',
        "```",
        "",
        *_counts(table),
        "",
        f"Recipe `{recipe['name']}`, averaged in {recipe['average']}, config"
        f" `{plan.config_sha256[:12]}`, made by fidediff {__version__} (`trajbuild`).",
        "",
        SOURCES.get(plan.config["source"], "Source: footage of the maker's own."),
        *_missing(problems),
    ]


def _counts(table: pa.Table) -> list[str]:
    counts = Counter(zip(table["split"].to_pylist(), table["n_frames"].to_pylist(), strict=True))
    lines = ["| split | n | t | pairs |", "|---|---|---|---|"]
    times = dict(zip(table["n_frames"].to_pylist(), table["timestep"].to_pylist(), strict=True))
    order = {"train": 0, "validation": 1, "test": 2}
    for (split, n), count in sorted(counts.items(), key=lambda i: (order[i[0][0]], i[0][1] or 0)):
        lines.append(f"| {split} | {n} | {times[n]} | {count:,} |")
    return lines


def _missing(problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return []
    reasons = Counter(problem.reason for problem in problems)
    lines = ["", f"{len(problems):,} things are missing; `problems.parquet` names each:", ""]
    return [*lines, *(f"- {reason}: {count:,}" for reason, count in sorted(reasons.items()))]
