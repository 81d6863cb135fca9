"""Summaries of scores beside the paper's rows: means over images, JSON, Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fidediff_model.evaluate.scoring import Row
from fidediff_model.scores.definitions import METRICS
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.errors import UsageError

SUMMARY_FILE, MARKDOWN_FILE = "summary.json", "summary.md"
FORMAT = "fidediff-scores"
_SOURCE = "FideDiff, arXiv 2510.01641"


@dataclass(frozen=True)
class PaperScore:
    """A row of the paper: the set, the method, and its scores; None where it gives none."""

    data: str
    method: str
    psnr: float | None = None
    lpips: float | None = None
    dists: float | None = None
    source: str = _SOURCE

    @property
    def scores(self) -> dict[str, float | None]:
        """The scores by metric."""
        return {"psnr": self.psnr, "lpips": self.lpips, "dists": self.dists}


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
"""The paper's tables, copied; not measured here."""


def paper_rows(data: str | None) -> list[PaperScore]:
    """The paper's rows for a set; none where `data` is None."""
    return [row for row in PAPER_SCORES if row.data == data]


@dataclass(frozen=True)
class Means:
    """Means over some images.

    Attributes:
        images: their number.
        identical: restorations equal to their sharp image. Their PSNR is infinite; they are left
            out of its mean.
        scores: by metric; None where no image has a finite score.
    """

    images: int
    identical: int
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Summary:
    """The scores of one method on one set.

    Attributes:
        name: of the method.
        run: what decided the scores.
        failed: pairs without scores.
        whole: means over all images.
        by_n_frames: means by number of averaged frames, ascending.
    """

    name: str
    run: dict[str, Any]
    failed: int
    whole: Means
    by_n_frames: dict[str, Means]

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        about = {"format": FORMAT, "name": self.name, "run": self.run, "failed": self.failed}
        by_n = {n: asdict(part) for n, part in self.by_n_frames.items()}
        return {**about, **asdict(self.whole), "by_n_frames": by_n}


def summarise(name: str, rows: Sequence[Row], run: dict[str, Any], *, failed: int = 0) -> Summary:
    """Means over images, all of them and by n_frames."""
    counts = sorted({row.n_frames for row in rows if row.n_frames is not None})
    by_n = {str(n): _means([row for row in rows if row.n_frames == n]) for n in counts}
    return Summary(name, run, failed, _means(rows), by_n)


def _means(rows: Sequence[Row]) -> Means:
    scores: dict[str, float | None] = {}
    for metric in METRICS:
        values = [row.scores[metric] for row in rows if metric in row.scores]
        finite = [value for value in values if math.isfinite(value)]
        if values:
            scores[metric] = math.fsum(finite) / len(finite) if finite else None
    identical = sum(math.isinf(row.scores.get("psnr", 0)) for row in rows)
    return Means(len(rows), identical, scores)


def write_summary(summary: Summary, out: Path) -> None:
    """Write `summary.json`."""
    content = json.dumps(summary.to_json(), indent=2, allow_nan=False) + "\n"
    write_atomic(out / SUMMARY_FILE, content.encode())


def read_summary(place: Path) -> Summary:
    """A summary, from its file or the folder that contains it.

    Raises:
        UsageError: it is absent or something else.
    """
    file = place / SUMMARY_FILE if place.is_dir() else place
    cure = "give a folder that fidediff evaluate finished, or its summary.json"
    try:
        values = json.loads(read_regular_text(file))
    except (OSError, ValueError) as error:
        raise UsageError(f"{place} has no scores", where=str(file), cure=cure) from error
    try:
        if values["format"] != FORMAT:
            raise ValueError(values["format"])
        by_n = {n: _read_means(part) for n, part in values["by_n_frames"].items()}
        return Summary(values["name"], values["run"], values["failed"], _read_means(values), by_n)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{file.name} is no summary of scores", where=str(file), cure=cure
        ) from error


def _read_means(values: dict[str, Any]) -> Means:
    return Means(values["images"], values["identical"], values["scores"])


def to_markdown(summaries: Sequence[Summary], paper: str | None) -> str:
    """A table of results, the paper's rows under them, and how the scores are defined.

    Args:
        summaries: the results.
        paper: the set whose rows of the paper to print.
    """
    used = [m for m in METRICS if any(m in s.whole.scores for s in summaries)]
    rows = [row for summary in summaries for row in _rows(summary, used)]
    rows += [[f"{row.method} (paper)", "", *_cells(row.scores, used)] for row in paper_rows(paper)]
    head = ["result", "images", *(METRICS[m].heading for m in used)]
    lines = [_line(row) for row in (head, ["---"] * len(head), *rows)]
    notes = [METRICS[metric].text for metric in used] + list(_notes(summaries, paper))
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _rows(summary: Summary, used: Sequence[str]) -> Iterable[list[str]]:
    """The row of a result, and one per n_frames where there are several."""
    parts = {summary.name: summary.whole}
    if len(summary.by_n_frames) > 1:
        parts |= {f"{summary.name}, {n} frames": p for n, p in summary.by_n_frames.items()}
    for label, part in parts.items():
        yield [label, f"{part.images:,}", *_cells(part.scores, used)]


def _notes(summaries: Sequence[Summary], paper: str | None) -> Iterable[str]:
    """What a reader must know besides the definitions."""
    if any(s.run.get("aligned") for s in summaries):
        yield "Aligned by ECC as RealBlur's authors do; scores over the covered pixels."
    if any(str(s.run.get("vgg16", "")).startswith("random") for s in summaries):
        yield "LPIPS and DISTS on a RANDOM backbone, for tests: not comparable."
    if paper:
        yield f"Rows marked (paper) are from {_SOURCE}; they were not measured here."
    for s in summaries:
        if s.failed or s.whole.identical:
            yield (
                f"{s.name}: {s.failed:,} pairs failed and are in no mean;"
                f" {s.whole.identical:,} restorations equal their sharp image"
            )


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def _cells(scores: dict[str, float | None], used: Sequence[str]) -> list[str]:
    values = [(metric, scores.get(metric)) for metric in used]
    return ["" if v is None else f"{v:.{METRICS[m].decimals}f}" for m, v in values]
