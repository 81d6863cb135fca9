"""The benchmark as a table, the paper's seconds beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER_SECONDS = (
    ("DiffBIR, 50 steps", 25.40),
    ("Diff-Plugin, 20 steps", 5.29),
    ("AdaRevD", 1.09),
    ("FideDiff, d = 4 in full", 1.52),
    ("FideDiff, d = 8 without Kernel ControlNet", 0.25),
)
"""Seconds per GoPro image (1280 x 720) as the paper, arXiv 2510.01641, gives them."""


def to_markdown(result: Mapping[str, Any]) -> str:
    """Rows of variants, then their parts, then the paper's rows."""
    height, width = result["size"]
    about = result["machine"]
    parts = list(dict.fromkeys(p for row in result["rows"] for p in row.get("parts", {})))
    lines = [
        f"`{result['preset']}` at {width} x {height} on {about['device']}"
        f" ({about['processor']}, {about['threads']} threads), torch {about['torch']};"
        f" base weights: {result['base']}; {result['repeats']} runs after {result['warm_up']}.",
        "",
        "| variant | p50 s | p95 s | processor s | peak GB | TFLOP | TFLOP/s | of peak | "
        + " | ".join(f"{part} s" for part in parts)
        + " |",
        "|" + " --- |" * (8 + len(parts)),
    ]
    lines += [_row(row, parts) for row in result["rows"]]
    if (height, width) == (720, 1280):
        lines += ["", "| paper, seconds an image on its own machine | |", "| --- | --- |"]
        lines += [f"| {name} | {seconds:.2f} |" for name, seconds in PAPER_SECONDS]
    notes = ["Parts are timed apart with the device waited for, so they add up to more."]
    notes.append("Without control the timestep is given, so no kernels are estimated.")
    if about["kind"] == "cpu":
        notes.append("Measured on a CPU: says nothing about a GPU.")
        notes.append(
            "Processor seconds are those of all threads; clock seconds well above them mean that"
            " the machine was busy with other work."
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _row(row: Mapping[str, Any], parts: list[str]) -> str:
    if row.get("out_of_memory"):
        return f"| {row['label']} | out of memory |" + " |" * (6 + len(parts))
    share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
    cells = [
        row["label"],
        f"{row['seconds_p50']:.3f}",
        f"{row['seconds_p95']:.3f}",
        f"{row['processor_seconds_p50']:.3f}",
        f"{row['peak_bytes'] / 1e9:.2f}",
        f"{row['tflop_total']:.3g}",
        f"{row['tflops']:.3g}",
        share,
        *(f"{row['parts'][p]:.3f}" if p in row["parts"] else "" for p in parts),
    ]
    return "| " + " | ".join(cells) + " |"
