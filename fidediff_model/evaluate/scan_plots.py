"""The pictures of a scan: score curves, a trajectory restored, t_hat against the true timestep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fidediff_model.evaluate.plots import new_figure, save_figure
from fidediff_model.evaluate.scan import RestoredTrajectory, curves
from fidediff_model.evaluate.tables import HEADINGS

PAPER_BEST = 200
"""Where the paper's PSNR and LPIPS curves are best on its 11-frame test set."""


def plot_curves(rows: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """A panel a score, a curve a native n_frames, over t."""
    figure, axes = new_figure(1, len(names))
    for axis, metric in zip(axes[0], names, strict=True):
        for label, points in curves(rows, metric).items():
            axis.plot([t for t, _ in points], [s for _, s in points], marker="o", label=label)
        axis.axvline(PAPER_BEST, linestyle=":", color="gray", label="paper: best, 11 frames")
        axis.set_xlabel("timestep t")
        axis.set_ylabel(HEADINGS[metric])
        axis.legend(fontsize=7)
    save_figure(figure, path)


def plot_trajectory(trajectory: RestoredTrajectory, path: Path) -> None:
    """Blurs above, their restorations below, the sharp image in the last column."""
    columns = len(trajectory.points) + 1
    figure, axes = new_figure(2, columns, width=3.2, height=2.2)
    for column, (n, t, blur, restored) in enumerate(trajectory.points):
        axes[0][column].imshow(blur)
        axes[0][column].set_title(f"{n or '?'} frames", fontsize=8)
        axes[1][column].imshow(restored)
        axes[1][column].set_title(f"restored at t = {t:.0f}", fontsize=8)
    axes[0][-1].imshow(trajectory.sharp)
    axes[0][-1].set_title("sharp", fontsize=8)
    for axis in axes.flat:
        axis.axis("off")
    gap = "" if trajectory.gap is None else f", mean gap {trajectory.gap:.2f} of 255"
    figure.suptitle(f"{trajectory.trajectory_id}{gap}", fontsize=9)
    save_figure(figure, path)


def plot_t_hats(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """t_hat against t, with the line where both are equal."""
    figure, axes = new_figure(1, 1)
    axis = axes[0][0]
    true = [row["timestep"] for row in rows]
    axis.scatter(true, [row["t_hat"] for row in rows], s=10, alpha=0.6)
    top = max([*true, *(row["t_hat"] for row in rows), 1])
    axis.plot([0, top], [0, top], linestyle=":", color="gray")
    axis.set_xlabel("true timestep, (n - 1) x 20")
    axis.set_ylabel("estimated timestep")
    save_figure(figure, path)
