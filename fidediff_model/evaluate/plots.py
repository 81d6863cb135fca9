"""The pictures of an evaluation and of a scan, drawn without a display and saved atomically."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fidediff_model.evaluate.scoring import Row
from fidediff_model.evaluate.tables import PAPER, PaperRows, Summary
from fidediff_model.scores.definitions import METRICS
from fidediff_model.scores.metrics import Image
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import UserError

if TYPE_CHECKING:
    from fidediff_model.evaluate.scan import Curves, RestoredTrajectory, TimestepEstimate

PLANE_FILE, PICTURES_FILE = "perception_distortion.png", "pictures.png"
_DISTANCES = ("lpips-alex", "lpips-vgg", "dists")
PAPER_BEST = 200
"""Where the paper's PSNR and LPIPS curves are best on its 11-frame test set."""


@dataclass(frozen=True)
class PictureRow:
    """One line of a page of pictures: its label, and blur, restorations and sharp (H, W, 3)."""

    label: str
    images: list[Image]


def new_figure(rows: int, columns: int, *, width: float = 5.0, height: float = 4.0) -> Any:
    """A figure and its axes (rows, columns), each of that many inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "matplotlib is not installed, which draws the plots",
            where="plots of evaluate and scan",
            cure="pip install 'fidediff[model]'",
        ) from error
    # Not pyplot: it keeps figures alive and may open a display.
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    write_atomic(path, sink.getvalue())


def plot_plane(summaries: Sequence[Summary], paper: PaperRows | None, path: Path) -> bool:
    """Plot the perception-distortion plane: PSNR against a perceptual distance; good is up, left.

    A panel per distance and network: the paper does not state LPIPS' network, so its points are in
    the panel of DISTS alone.

    Args:
        summaries: results with PSNR and LPIPS or DISTS.
        paper: rows of the paper to draw.
        path: a PNG.

    Returns:
        Whether there was a point to draw; nothing is written otherwise.
    """
    points: list[tuple[str, str, Mapping[str, float | None]]] = [
        (s.name, "o", s.whole.scores) for s in summaries
    ]
    ours = [scores for _, _, scores in points if scores.get("psnr") is not None]
    panels = [m for m in _DISTANCES if any(scores.get(m) is not None for scores in ours)]
    if not panels:
        return False
    if paper is not None:
        points += [(f"{r.method} (paper)", "x", r.scores) for r in PAPER if r.data == paper.data]
    figure, axes = new_figure(1, len(panels))
    for axis, metric in zip(axes[0], panels, strict=True):
        for name, marker, scores in points:
            x, y = scores.get(metric), scores.get("psnr")
            if x is not None and y is not None:
                axis.scatter(x, y, marker=marker)
                axis.annotate(name, (x, y), fontsize=7)
        axis.set_xlabel(f"{METRICS[metric].heading} (lower is better)")
        axis.set_ylabel("PSNR in dB (higher is better)")
    save_figure(figure, path)
    return True


@dataclass(frozen=True)
class Extremes:
    """The worst and the median image of a method by one metric; sample_ids with their scores."""

    metric: str
    worst: tuple[str, float]
    median: tuple[str, float]


def extremes(rows: Sequence[Row]) -> Extremes | None:
    """The worst and the median image by LPIPS, DISTS or PSNR, the first scored; None of no rows."""
    scored = rows[0].scores if rows else {}
    metric = next((m for m in (*_DISTANCES, "psnr", *METRICS) if m in scored), None)
    if metric is None:
        return None
    sign = -1 if METRICS[metric].lower_is_better else 1
    ranked = sorted((sign * row.scores[metric], row.sample_id) for row in rows)
    worst, median = ranked[0], ranked[len(ranked) // 2]
    return Extremes(metric, (worst[1], sign * worst[0]), (median[1], sign * median[0]))


def plot_pictures(rows: Sequence[PictureRow], columns: Sequence[str], path: Path) -> None:
    """Plot images side by side, one line per `PictureRow`, one column per image in it."""
    if not rows:
        return
    figure, axes = new_figure(len(rows), len(columns), width=3.2, height=2.1)
    for line, row in zip(axes, rows, strict=True):
        for axis, column, image in zip(line, columns, row.images, strict=True):
            axis.imshow(image)
            axis.set_title(column, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(row.label, fontsize=7)
    save_figure(figure, path)


def plot_curves(curves: Mapping[str, Curves], path: Path) -> None:
    """Plot scores over t: a panel per metric, a curve per native n_frames."""
    figure, axes = new_figure(1, len(curves))
    for axis, (metric, by_n) in zip(axes[0], curves.items(), strict=True):
        for label, points in by_n.items():
            axis.plot([t for t, _ in points], [s for _, s in points], marker="o", label=label)
        axis.axvline(PAPER_BEST, linestyle=":", color="gray", label="paper: best, 11 frames")
        axis.set_xlabel("timestep t")
        axis.set_ylabel(METRICS[metric].heading)
        axis.legend(fontsize=7)
    save_figure(figure, path)


def plot_trajectory(trajectory: RestoredTrajectory, path: Path) -> None:
    """Plot blurs above, their restorations below, the sharp image in the last column."""
    columns = len(trajectory.points) + 1
    figure, axes = new_figure(2, columns, width=3.2, height=2.2)
    for column, point in enumerate(trajectory.points):
        axes[0][column].imshow(point.blur)
        axes[0][column].set_title(f"{point.n_frames or '?'} frames", fontsize=8)
        axes[1][column].imshow(point.restored)
        axes[1][column].set_title(f"restored at t = {point.t:.0f}", fontsize=8)
    axes[0][-1].imshow(trajectory.sharp)
    axes[0][-1].set_title("sharp", fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    gap = "" if trajectory.gap is None else f", mean gap {trajectory.gap:.2f} of 255"
    figure.suptitle(f"{trajectory.trajectory_id}{gap}", fontsize=9)
    save_figure(figure, path)


def plot_estimates(estimates: Sequence[TimestepEstimate], path: Path) -> None:
    """Plot t_hat against t, with the line where both are equal."""
    figure, axes = new_figure(1, 1)
    axis = axes[0][0]
    true = [one.timestep for one in estimates]
    axis.scatter(true, [one.t_hat for one in estimates], s=10, alpha=0.6)
    top = max([*true, *(one.t_hat for one in estimates), 1])
    axis.plot([0, top], [0, top], linestyle=":", color="gray")
    axis.set_xlabel("true timestep, (n - 1) x 20")
    axis.set_ylabel("estimated timestep")
    save_figure(figure, path)
