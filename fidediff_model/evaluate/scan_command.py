"""One `scan` command: curves, trajectories and the scatter of t_hat, written into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from fidediff_model.evaluate import scan_plots
from fidediff_model.evaluate.command import about_run
from fidediff_model.evaluate.run import Scorer, claim, write_table
from fidediff_model.evaluate.scan import (
    T_HAT_FILE,
    Scan,
    best_timesteps,
    curves,
    read_t_hats,
    restore_trajectory,
    scan,
)
from fidediff_model.evaluate.sets import Pair, choose_pairs
from fidediff_model.model.diffusion import LAST_TIMESTEP
from fidediff_model.model.folder import read_config
from fidediff_model.restore.engine import ReadyModel, Settings, choose_device, open_model
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import DataError, ExitCode

CURVES_FILE, SCATTER_FILE, MARKDOWN_FILE = "scan.png", "t_hat.png", "scan.md"


@dataclass(frozen=True)
class ScanResult:
    """What a command prints."""

    markdown: str
    best: dict[str, dict[str, float]]
    failures: list[tuple[str, str]]
    scored: int


def read_timesteps(text: str) -> list[float]:
    """Numbers joined by commas, or FIRST:LAST:STEP with LAST included.

    Raises:
        DataError: neither, empty, or out of range.
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            # A tiny step would ask for millions of restorations, one of 0 for ever more.
            count = int((last - first) // step) + 1 if step > 0 else 0
            values = [first + i * step for i in range(min(count, 10_000))]
        else:
            values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 <= value <= LAST_TIMESTEP for value in values):
        raise DataError(
            f"{text!r} names no timesteps from 0 to {LAST_TIMESTEP:g}",
            where="--timesteps",
            cure="give 0,100,200 or 0:400:40",
            exit_code=ExitCode.WRONG_USE,
        )
    return values


def pairs_for(values: Mapping[str, Any], *, points: str) -> list[Pair]:
    """The pairs that the options ask for, native ones or all points."""
    split = None if values["split"] == "all" else values["split"]
    limit = values["limit"] if points == "native" else None
    return choose_pairs(values["data"], split=split, points=points, limit=limit)


def run(values: Mapping[str, Any], settings: Settings, report: Callable[[int], Any]) -> ScanResult:
    """Scan, plot, and say which t is best."""
    timesteps = read_timesteps(values["timesteps"])
    pairs = pairs_for(values, points="native")
    read_config(values["model"])
    device = choose_device(settings.device)
    scorer = Scorer(values["metrics"], vgg16=values["vgg16"], device=device)
    about = about_run({**values, "align": False}, settings, pairs)
    out: Path = values["out"]
    claim(out, {**about, "timesteps": timesteps})
    ready = open_model(values["model"], settings, base_model=values["base_model"])
    result = scan(
        ready, pairs, scorer, out, timesteps=timesteps, batch=values["batch"], report=report
    )
    if result.rows:
        scan_plots.plot_curves(result.rows, scorer.names, out / CURVES_FILE)
    gaps = _trajectories(ready, pairs, values, result)
    markdown = to_markdown(result, scorer.names, gaps)
    write_atomic(out / MARKDOWN_FILE, markdown.encode())
    best: dict[str, dict[str, float]] = {}
    best |= {str(metric): best_timesteps(result.rows, metric) for metric in scorer.names}
    return ScanResult(markdown, best, result.failures, len(result.rows))


def _trajectories(
    ready: ReadyModel, pairs: Sequence[Pair], values: Mapping[str, Any], result: Scan
) -> dict[str, float | None]:
    """Write the pictures of the first trajectories and the scatter; their gaps."""
    wanted = list(dict.fromkeys(pair.trajectory_id for pair in pairs))
    chosen = set(wanted[: values["trajectories"]])
    everything = [p for p in pairs_for(values, points="all") if p.trajectory_id in set(wanted)]
    gaps = {}
    by_name = attrgetter("trajectory_id")
    for name, points in groupby(sorted(everything, key=by_name), by_name):
        if name in chosen:
            trajectory = restore_trajectory(ready, list(points))
            gaps[name] = trajectory.gap
            path = values["out"] / f"trajectory_{len(gaps):02d}.png"
            scan_plots.plot_trajectory(trajectory, path)
    result.t_hats = read_t_hats(ready, everything)
    if result.t_hats:
        write_table(result.t_hats, values["out"] / T_HAT_FILE)
        scan_plots.plot_t_hats(result.t_hats, values["out"] / SCATTER_FILE)
    return gaps


def to_markdown(result: Scan, names: Sequence[str], gaps: Mapping[str, float | None]) -> str:
    """The curves as a table, the best t, how far t_hat is off, and the gaps of trajectories."""
    lines = []
    for metric in names:
        by_n = curves(result.rows, metric)
        ts = sorted({t for points in by_n.values() for t, _ in points})
        lines += [f"| {metric} at t = | " + " | ".join(f"{t:g}" for t in ts) + " | best |"]
        lines += ["|" + " --- |" * (len(ts) + 2)]
        best = best_timesteps(result.rows, metric)
        for label, points in by_n.items():
            cells = " | ".join(f"{score:.4g}" for _, score in points)
            lines.append(f"| {label} | {cells} | {best[label]:g} |")
        lines.append("")
    if result.t_hats:
        off = [abs(row["t_hat"] - row["timestep"]) for row in result.t_hats]
        lines.append(f"- mean |t_hat - t| over {len(off):,} blurs: {sum(off) / len(off):.1f}")
    for name, gap in gaps.items():
        told = "one point only" if gap is None else f"{gap:.2f} of 255"
        lines.append(f"- {name}: mean gap between restorations {told}")
    lines.append(f"- the paper's curves are best near t = {scan_plots.PAPER_BEST} on 11 frames")
    return "\n".join([*lines, ""])
