"""Summaries of scores beside the paper's rows: JSON, Markdown, perception-distortion plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import UsageError

SUMMARY_FILE, MARKDOWN_FILE, PLOT_FILE = "summary.json", "summary.md", "perception_distortion.png"
FORMAT = "fidediff-scores"
_SOURCE = "FideDiff, arXiv 2510.01641"


@dataclass(frozen=True)
class PaperScore:
    """A row of the paper: which set, whose, and its scores; None where it gives none."""

    data: str
    method: str
    psnr: float | None = None
    lpips: float | None = None
    dists: float | None = None
    source: str = _SOURCE


PAPER_SCORES = (
    PaperScore("gopro", "AdaRevD", 34.60, 0.0712, 0.0672),
    PaperScore("gopro", "DiffBIR", 26.15, 0.2366, 0.1460),
    PaperScore("gopro", "OSEDiff-s1", 24.34, 0.1738, 0.0834),
    PaperScore("gopro", "FideDiff", 28.79, 0.0831, 0.0525),
    PaperScore("realblur-j", "AdaRevD", 30.12, 0.1408, 0.1037),
    PaperScore("realblur-j", "DiffBIR", 26.92, 0.2587, 0.1599),
    PaperScore("realblur-j", "OSEDiff-s1", 26.83, 0.1793, 0.1198),
    PaperScore("realblur-j", "FideDiff", 28.96, 0.1142, 0.0800),
    PaperScore("realblur-r", "AdaRevD", lpips=0.0621),
    PaperScore("realblur-r", "DiffBIR", lpips=0.3388),
    PaperScore("realblur-r", "OSEDiff-s1", lpips=0.1057),
    PaperScore("realblur-r", "FideDiff", 36.01, 0.0584),
)
"""What the paper's tables say; taken over, not measured here."""

HEADINGS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ssim-matlab": "SSIM (MATLAB)",
    "lpips": "LPIPS",
    "dists": "DISTS",
    "blur-effect": "blur effect",
    "niqe": "NIQE",
    "musiq": "MUSIQ",
    "maniqa": "MANIQA",
    "clipiqa": "CLIP-IQA",
}
SETTINGS_TEXT = {
    "psnr": "PSNR: 8-bit RGB, 10 log10(255^2 / MSE) an image, then the mean over images.",
    "ssim": "SSIM: 8-bit RGB, Gaussian 11 x 11 of sigma 1.5, population covariance, range 255"
    " (scikit-image with those settings), the mean over channels.",
    "ssim-matlab": "SSIM (MATLAB): `ssim` on the RGB array as a volume, 11 x 11 x 11.",
    "lpips": "LPIPS: VGG16, version 0.1.",
    "dists": "DISTS: VGG16.",
    "blur-effect": "Blur effect (Crete et al. 2007): no reference; 0 sharp, 1 blurred; as"
    " scikit-image, window of 11.",
    "niqe": "NIQE: no reference, lower is better; by pyiqa.",
    "musiq": "MUSIQ: no reference, higher is better; by pyiqa.",
    "maniqa": "MANIQA: no reference, higher is better; by pyiqa.",
    "clipiqa": "CLIP-IQA: no reference, higher is better; by pyiqa.",
}


def summarise(
    name: str, rows: Sequence[Mapping[str, Any]], run: Mapping[str, Any], *, failed: int = 0
) -> dict[str, Any]:
    """Means over images, whole and by n_frames, ready for `write_summary`.

    An image restored without any error has an infinite PSNR: such are left out of its mean and
    counted in `identical`.
    """
    counts = sorted({row["n_frames"] for row in rows if row["n_frames"] is not None})
    by_n = {str(n): _means([r for r in rows if r["n_frames"] == n]) for n in counts}
    return {
        "format": FORMAT,
        "name": name,
        "run": dict(run),
        "failed": failed,
        **_means(rows),
        "by_n_frames": by_n,
    }


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores: dict[str, float | None] = {}
    for metric in HEADINGS:
        values = [float(row[metric]) for row in rows if row.get(metric) is not None]
        finite = [value for value in values if math.isfinite(value)]
        if values:
            scores[metric] = math.fsum(finite) / len(finite) if finite else None
    identical = sum(math.isinf(float(row.get("psnr") or 0)) for row in rows)
    return {"images": len(rows), "identical": identical, "scores": scores}


def read_summary(place: Path) -> dict[str, Any]:
    """A summary, from its file or the folder that holds it.

    Raises:
        UsageError: it is not there or is something else.
    """
    file = place / SUMMARY_FILE if place.is_dir() else place
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{place} holds no scores",
            where=str(file),
            cure="give a folder that fidediff evaluate finished, or its summary.json",
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UsageError(f"{file.name} is no summary of scores", where=str(file))
    return values


def to_markdown(summaries: Sequence[Mapping[str, Any]], paper: str | None) -> str:
    """A table of results, the paper's rows under them, and how the scores are defined."""
    used = [m for m in HEADINGS if any(m in s["scores"] for s in summaries)]
    head = ["result", "images", *(HEADINGS[m] for m in used)]
    lines = [_line(head), _line(["---"] * len(head))]
    for summary in summaries:
        lines.append(_line([summary["name"], f"{summary['images']:,}", *_cells(summary, used)]))
        for n, part in summary["by_n_frames"].items():
            if len(summary["by_n_frames"]) > 1:
                label = f"{summary['name']}, {n} frames"
                lines.append(_line([label, f"{part['images']:,}", *_cells(part, used)]))
    for row in PAPER_SCORES:
        if row.data == paper:
            values = {"psnr": row.psnr, "lpips": row.lpips, "dists": row.dists}
            cells = [_number(metric, values.get(metric)) for metric in used]
            lines.append(_line([f"{row.method} (paper)", "", *cells]))
    notes = [SETTINGS_TEXT[metric] for metric in used]
    if any(s["run"].get("aligned") for s in summaries):
        notes.append("Aligned by ECC as RealBlur's authors do; scores over the covered pixels.")
    if any(str(s["run"].get("vgg16", "")).startswith("random") for s in summaries):
        notes.append("LPIPS and DISTS on a RANDOM backbone, for tests: not comparable.")
    if paper:
        notes.append(f"Rows marked (paper) are from {_SOURCE}; they were not measured here.")
    notes += [
        f"{s['name']}: {s['failed']:,} pairs failed and are in no mean;"
        f" {s['identical']:,} restorations equal their sharp image"
        for s in summaries
        if s["failed"] or s["identical"]
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _line(cells: Sequence[str]) -> str:
    return (
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    )


def _cells(summary: Mapping[str, Any], used: Sequence[str]) -> list[str]:
    return [_number(metric, summary["scores"].get(metric)) for metric in used]


def _number(metric: str, value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if metric == "psnr" else f"{value:.4f}"


def write_summary(summary: Mapping[str, Any], out: Path, markdown: str) -> None:
    """Write `summary.json` and `summary.md`."""
    content = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    write_atomic(out / SUMMARY_FILE, content.encode())
    write_atomic(out / MARKDOWN_FILE, markdown.encode())


def plot(summaries: Sequence[Mapping[str, Any]], paper: str | None, path: Path) -> bool:
    """The perception-distortion plane: PSNR against LPIPS and DISTS; good is up and left.

    Args:
        summaries: results with PSNR and LPIPS or DISTS.
        paper: whose set's points of the paper to draw.
        path: a PNG.

    Returns:
        Whether there was a point to draw; nothing is written otherwise.
    """
    from fidediff_model.evaluate.plots import new_figure, save_figure

    ours = [(s["name"], s["scores"]) for s in summaries]
    theirs = [
        (r.method, {"psnr": r.psnr, "lpips": r.lpips, "dists": r.dists})
        for r in PAPER_SCORES
        if r.data == paper
    ]
    figure, axes = new_figure(1, 2)
    drawn = 0
    for axis, metric in zip(axes[0], ("lpips", "dists"), strict=True):
        for points, marker, suffix in ((ours, "o", ""), (theirs, "x", " (paper)")):
            for name, scores in points:
                x, y = scores.get(metric), scores.get("psnr")
                if x is not None and y is not None:
                    axis.scatter(x, y, marker=marker)
                    axis.annotate(name + suffix, (x, y), fontsize=7)
                    drawn += not suffix
        axis.set_xlabel(f"{HEADINGS[metric]} (lower is better)")
        axis.set_ylabel("PSNR in dB (higher is better)")
    if drawn:
        save_figure(figure, path)
    return drawn > 0
