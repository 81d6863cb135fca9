"""Summaries of scores beside the paper's rows: means and deviations as JSON, Markdown, CSV, LaTeX.

`summary.json` is complete: `--compare` prints the same table from it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from fidediff_model.evaluate.scoring import Row
from fidediff_model.evaluate.sets import Pair
from fidediff_model.scores.definitions import METRICS
from trajectory_builder.disk.regular import read_regular_json
from trajectory_builder.errors import UsageError

SUMMARY_FILE = "summary.json"
FORMAT, VERSION = "fidediff-scores", 2
Layout = Literal["md", "csv", "latex"]
FILES: dict[Layout, str] = {"md": "summary.md", "csv": "summary.csv", "latex": "summary.tex"}
MOTION_EDGES = (0.0, 5.0, 10.0, 20.0, 40.0, math.inf)
"""Bounds of the rows by motion_px, the lower one included (our choice)."""


SOURCE = "FideDiff, arXiv 2510.01641"
IMAGES = {"gopro": 1_111, "realblur-j": 980, "realblur-r": 980}
"""Images of each test set."""
_GOPRO_TEST = (
    *("GOPR0384_11_00", "GOPR0384_11_05", "GOPR0385_11_01", "GOPR0396_11_00", "GOPR0410_11_00"),
    *("GOPR0854_11_00", "GOPR0862_11_00", "GOPR0868_11_00", "GOPR0869_11_00", "GOPR0871_11_00"),
    "GOPR0881_11_01",
)
"""The test sequences of GoPro (Nah et al. 2017)."""


@dataclass(frozen=True)
class PaperScore:
    """A row of the paper: the set, the method, and its scores; None where it gives none."""

    data: str
    method: str
    psnr: float | None = None
    lpips: float | None = None
    dists: float | None = None

    @property
    def scores(self) -> dict[str, float | None]:
        """The scores by metric; `lpips` is of a network that the paper does not state."""
        return {"psnr": self.psnr, "lpips": self.lpips, "dists": self.dists}


PAPER = (
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


@dataclass(frozen=True)
class PaperRows:
    """Which rows of the paper to print: those of the set `data`."""

    data: str

    def notes(self, images: Sequence[int]) -> Iterable[str]:
        """What a reader must know of these rows beside results on so many images."""
        yield f"Rows marked (paper) are from {SOURCE}; they were not measured here."
        whole = IMAGES[self.data]
        if any(count != whole for count in images):
            counts = ", ".join(f"{count:,}" for count in images)
            yield (
                f"The paper's rows are of all {whole:,} images of {self.data}, the results here of"
                f" {counts}: NOT comparable."
            )


def rows_for(choice: str, pairs: Sequence[Pair]) -> PaperRows | None:
    """The paper's rows that `--paper` asks for.

    Args:
        choice: a set; `none`; or `auto`: GoPro's where `pairs` are its whole test set.
        pairs: what is scored.
    """
    if choice == "auto":
        names = {pair.sample_id.replace("-", "/").partition("/")[0] for pair in pairs}
        native = all(pair.n_frames in (None, 11) for pair in pairs)
        whole = len(pairs) == IMAGES["gopro"] and names == set(_GOPRO_TEST) and native
        choice = "gopro" if whole else "none"
    return None if choice == "none" else PaperRows(choice)


@dataclass(frozen=True)
class Means:
    """Means over some images.

    Attributes:
        images: their number.
        identical: restorations equal to their sharp image. Their PSNR is infinite; they are left
            out of its mean.
        scores: mean by metric; None where no image has a finite score.
        deviations: standard deviation over images (n - 1) by metric; None below two images.
    """

    images: int
    identical: int
    scores: dict[str, float | None]
    deviations: dict[str, float | None]


@dataclass(frozen=True)
class Summary:
    """The scores of one method on one set.

    Attributes:
        name: of the method.
        run: what decided the scores.
        failed: pairs without scores.
        whole: means over all images.
        by_n_frames: means by number of averaged frames, ascending.
        by_motion: means by motion_px, ascending, such as `5 to 10 px`.
    """

    name: str
    run: dict[str, Any]
    failed: int
    whole: Means
    by_n_frames: dict[str, Means]
    by_motion: dict[str, Means]

    def to_json(self) -> dict[str, Any]:
        """An entry of `methods` in `summary.json`."""
        parts = {"by_n_frames": self.by_n_frames, "by_motion": self.by_motion}
        by = {key: {k: asdict(m) for k, m in part.items()} for key, part in parts.items()}
        return {
            "name": self.name,
            "run": self.run,
            "failed": self.failed,
            **asdict(self.whole),
            **by,
        }


def summarise(name: str, rows: Sequence[Row], run: dict[str, Any], *, failed: int = 0) -> Summary:
    """Means over images: all of them, by n_frames, and by motion."""
    counts = sorted({row.n_frames for row in rows if row.n_frames is not None})
    by_n = {str(n): _means([row for row in rows if row.n_frames == n]) for n in counts}
    by_motion = {}
    for low, high in pairwise(MOTION_EDGES):
        within = [r for r in rows if r.motion_px is not None and low <= r.motion_px < high]
        if within:
            label = f"over {low:g} px" if math.isinf(high) else f"{low:g} to {high:g} px"
            by_motion[label] = _means(within)
    return Summary(name, run, failed, _means(rows), by_n, by_motion)


def _means(rows: Sequence[Row]) -> Means:
    scores: dict[str, float | None] = {}
    deviations: dict[str, float | None] = {}
    for metric in METRICS:
        values = [row.scores[metric] for row in rows if metric in row.scores]
        if values:
            finite = [value for value in values if math.isfinite(value)]
            mean = math.fsum(finite) / len(finite) if finite else None
            scores[metric], deviations[metric] = mean, None
            if mean is not None and len(finite) > 1:
                squares = math.fsum((value - mean) ** 2 for value in finite)
                deviations[metric] = math.sqrt(squares / (len(finite) - 1))
    identical = sum(math.isinf(row.scores.get("psnr", 0)) for row in rows)
    return Means(len(rows), identical, scores, deviations)


def to_json(summaries: Sequence[Summary], about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        summaries: the methods.
        about: versions, digests and the table's settings.
    """
    methods = [summary.to_json() for summary in summaries]
    return {"format": FORMAT, "version": VERSION, **about, "methods": methods}


def read_summaries(place: Path) -> list[Summary]:
    """The methods of a summary, from its file or the folder that contains it.

    Raises:
        UsageError: it is absent, of another version or something else.
    """
    file = place / SUMMARY_FILE if place.is_dir() else place
    cure = "give a folder that fidediff evaluate finished, or its summary.json"
    try:
        values = read_regular_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{place} has no scores", where=str(file), cure=cure) from error
    try:
        if (values["format"], values["version"]) != (FORMAT, VERSION):
            raise ValueError(values["format"])
        return [_read_summary(method) for method in values["methods"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{file.name} is no summary of scores that this version reads",
            where=str(file),
            cure=cure,
        ) from error


def _read_summary(values: Mapping[str, Any]) -> Summary:
    by_n, by_motion = (
        {key: _read_means(part) for key, part in values[name].items()}
        for name in ("by_n_frames", "by_motion")
    )
    whole = _read_means(values)
    return Summary(values["name"], values["run"], values["failed"], whole, by_n, by_motion)


def _read_means(values: Mapping[str, Any]) -> Means:
    return Means(values["images"], values["identical"], values["scores"], values["deviations"])


@dataclass(frozen=True)
class _Line:
    """One line of a table: means and deviations by metric."""

    label: str
    images: int | None
    scores: Mapping[str, float | None]
    deviations: Mapping[str, float | None]


def render(summaries: Sequence[Summary], paper: PaperRows | None, layout: Layout) -> str:
    """The results, the paper's rows under them, and how the scores are defined.

    Args:
        summaries: the results.
        paper: rows of the paper to print.
        layout: Markdown and LaTeX print mean and deviation together; CSV has a column for each.
    """
    lines = [line for summary in summaries for line in _lines(summary)]
    if paper is not None:
        rows = [row for row in PAPER if row.data == paper.data]
        lines += [_Line(f"{row.method} (paper)", None, row.scores, {}) for row in rows]
    used = [m for m in METRICS if any(line.scores.get(m) is not None for line in lines)]
    if layout == "csv":
        return _csv(lines, used)
    notes = [METRICS[metric].text for metric in used] + list(_notes(summaries, paper))
    return _latex(lines, used, notes) if layout == "latex" else _markdown(lines, used, notes)


def _lines(summary: Summary) -> Iterable[_Line]:
    """The line of a result, and one per n_frames and motion where there are several."""
    whole = summary.whole
    yield _Line(summary.name, whole.images, whole.scores, whole.deviations)
    for parts, unit in ((summary.by_n_frames, " frames"), (summary.by_motion, "")):
        for label, part in parts.items():
            if len(parts) > 1:
                name = f"{summary.name}, {label}{unit}"
                yield _Line(name, part.images, part.scores, part.deviations)


def _notes(summaries: Sequence[Summary], paper: PaperRows | None) -> Iterable[str]:
    """What a reader must know besides the definitions; alignment per result, never for all."""
    aligned = {summary.name: bool(summary.run.get("aligned")) for summary in summaries}
    for name, is_aligned in aligned.items():
        if is_aligned:
            yield f"{name}: aligned by ECC as RealBlur's authors do; over the covered pixels."
        elif any(aligned.values()):
            yield f"{name}: NOT aligned, so not comparable with aligned results."
    backbones = [b for s in summaries for b in s.run.get("backbones", {}).values()]
    if any(str(backbone).startswith("random") for backbone in backbones):
        yield "LPIPS and DISTS on a RANDOM backbone, for tests: not comparable."
    for s in summaries:
        if s.failed or s.whole.identical:
            yield (
                f"{s.name}: {s.failed:,} pairs failed and are in no mean;"
                f" {s.whole.identical:,} restorations equal their sharp image"
            )
    if paper is not None:
        yield from paper.notes(sorted({s.whole.images for s in summaries}))
        if paper.data.startswith("realblur") and not all(aligned.values()):
            yield "WARNING: RealBlur's published scores are of aligned images; give --align."


def _markdown(lines: Sequence[_Line], used: Sequence[str], notes: Sequence[str]) -> str:
    head = ["result", "images", *(METRICS[m].heading for m in used)]
    cells = [head, ["---"] * len(head), *(_cells(line, used, " ± ") for line in lines)]
    table = [_markdown_line(line) for line in cells]
    return "\n".join([*table, "", *(f"- {note}" for note in notes), ""])


def _markdown_line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def _latex(lines: Sequence[_Line], used: Sequence[str], notes: Sequence[str]) -> str:
    arrows = {m: "\\downarrow" if METRICS[m].lower_is_better else "\\uparrow" for m in used}
    head = ["result", "images", *(f"{_tex(METRICS[m].heading)} ${arrows[m]}$" for m in used)]
    rows = [
        " & ".join([_tex(cells[0]), *cells[1:]]) + " \\\\"
        for cells in (_cells(line, used, " $\\pm$ ") for line in lines)
    ]
    columns = "l" + "r" * (len(used) + 1)
    return "\n".join(
        [
            *(f"% {note}" for note in notes),
            f"\\begin{{tabular}}{{{columns}}}",
            "\\hline",
            " & ".join(head) + " \\\\",
            "\\hline",
            *rows,
            "\\hline",
            "\\end{tabular}",
            "",
        ]
    )


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"\n": " "}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _csv(lines: Sequence[_Line], used: Sequence[str]) -> str:
    sink = io.StringIO()
    table = csv.writer(sink, lineterminator="\n")
    columns = [column for metric in used for column in (metric, f"{metric}_std")]
    table.writerow(["result", "images", *columns])
    for line in lines:
        pairs = [(line.scores.get(m), line.deviations.get(m)) for m in used]
        values = ["" if v is None else repr(v) for pair in pairs for v in pair]
        table.writerow([line.label, "" if line.images is None else line.images, *values])
    return sink.getvalue()


def _cells(line: _Line, used: Sequence[str], between: str) -> list[str]:
    cells = [line.label, "" if line.images is None else f"{line.images:,}"]
    for metric in used:
        numbers = (line.scores.get(metric), line.deviations.get(metric))
        decimals = METRICS[metric].decimals
        cells.append(between.join(f"{n:.{decimals}f}" for n in numbers if n is not None))
    return cells
