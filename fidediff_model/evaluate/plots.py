"""Figures without a display: made, saved atomically, and nothing global touched."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import UserError


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
