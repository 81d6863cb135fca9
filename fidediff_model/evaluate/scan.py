"""Scan the timestep: the evaluation repeated at each of a list of t, which is the paper's curve.

Also what a trajectory looks like restored from each of its points, and how near t_hat comes to the
true t. The same command resumes from the rows of an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from fidediff_model.evaluate import EvaluateRequest, plots, prepare
from fidediff_model.evaluate.scoring import Evaluation, Method, Row, Scoring, write_table
from fidediff_model.evaluate.sets import Pair, choose_pairs
from fidediff_model.model.diffusion import LAST_TIMESTEP
from fidediff_model.model.engine import ReadyModel, Settings
from fidediff_model.model.fidediff import open_model
from fidediff_model.model.tiles import Report
from fidediff_model.scores import metrics
from fidediff_model.scores.definitions import METRICS
from fidediff_model.scores.metrics import Image
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import UsageError
from trajectory_builder.images.pictures import read_rgb8

SCAN_FILE, T_HAT_FILE = "scan.parquet", "t_hat.parquet"
CURVES_FILE, SCATTER_FILE, MARKDOWN_FILE = "scan.png", "t_hat.png", "scan.md"
MODEL = "model"
# A tiny step would ask for millions of restorations.
_MOST_TIMESTEPS = 10_000

Curves = dict[str, list[tuple[float, float]]]
"""By native n_frames: (t, mean score), ascending in t."""


@dataclass(frozen=True)
class ScanRequest:
    """What `fidediff scan` is asked for.

    Attributes:
        out: folder of tables and plots.
        data: a trajbuild folder.
        model: model folder.
        timesteps: t in [0, 999].
        base_model: folder or hub id of the base weights, if they moved.
        settings: how to restore.
        metrics: names of `definitions.METRICS`.
        vgg16: file of the backbone.
        alexnet: file of the backbone.
        split: of the manifest; `all` takes all.
        limit: the first N native pairs only.
        batch: images of one size restored at once.
        trajectories: pictures of the first N trajectories.
    """

    out: Path
    data: Path
    model: Path
    timesteps: tuple[float, ...]
    base_model: str | None = None
    settings: Settings = field(default_factory=Settings)
    metrics: tuple[str, ...] = ("psnr", "ssim")
    vgg16: str | None = None
    alexnet: str | None = None
    split: str = "test"
    limit: int | None = None
    batch: int = 1
    trajectories: int = 3

    def pairs(self, points: str = "native") -> list[Pair]:
        """The pairs to scan, native ones or all points of the trajectories."""
        split = None if self.split == "all" else self.split
        limit = self.limit if points == "native" else None
        return choose_pairs((self.data,), split=split, points=points, limit=limit)

    @property
    def evaluation(self) -> EvaluateRequest:
        """The part that a scan shares with an evaluation."""
        return EvaluateRequest(
            out=self.out, model=self.model, settings=self.settings, metrics=self.metrics,
            vgg16=self.vgg16, alexnet=self.alexnet,
        )  # fmt: skip


@dataclass(frozen=True)
class TimestepEstimate:
    """t_hat of one blur beside its true t."""

    sample_id: str
    n_frames: int | None
    timestep: int
    t_hat: float


@dataclass(frozen=True)
class RestoredPoint:
    """One point of a trajectory: n_frames, the t used, blur and restoration (H, W, 3) uint8."""

    n_frames: int | None
    t: float
    blur: Image
    restored: Image


@dataclass(frozen=True)
class RestoredTrajectory:
    """All points of one trajectory restored.

    Attributes:
        trajectory_id: its name.
        points: ascending in n_frames.
        sharp: the image that all of them should become.
        gap: mean L1 between restorations in 8-bit values (`metrics.trajectory_gap`), or None
            with one point only.
    """

    trajectory_id: str
    points: list[RestoredPoint]
    sharp: Image
    gap: float | None


@dataclass(frozen=True)
class ScanResult:
    """What a command prints: the text, the best t by metric and n_frames, and what failed."""

    markdown: str
    best: dict[str, dict[str, float]]
    evaluation: Evaluation


def read_timesteps(text: str) -> tuple[float, ...]:
    """Numbers joined by commas, or FIRST:LAST:STEP with LAST included.

    Raises:
        UsageError: neither, empty, or out of range.
    """
    values: tuple[float, ...] = ()
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            count = int((last - first) // step) + 1 if step > 0 else 0
            values = tuple(first + i * step for i in range(min(count, _MOST_TIMESTEPS)))
        else:
            values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 <= value <= LAST_TIMESTEP for value in values):
        raise UsageError(
            f"{text!r} names no timesteps from 0 to {LAST_TIMESTEP:g}",
            where="--timesteps",
            cure="give 0,100,200 or 0:400:40",
        )
    return values


def run(request: ScanRequest, report: Callable[[int], Any] = lambda count: None) -> ScanResult:
    """Score at every timestep, write tables and plots, and find the best t.

    Args:
        request: what to do.
        report: called with the number of restorations that are newly done.
    """
    pairs, out = request.pairs(), request.out
    method = Method(MODEL, model=request.model)
    scorer, _ = prepare(request.evaluation, pairs, [method], request.timesteps)
    ready = open_model(request.model, request.settings, base_model=request.base_model)
    score = Scoring(out, scorer, batch=request.batch)
    evaluation = score(method, ready, pairs, timesteps=request.timesteps, report=report)
    write_table([row.flat() for row in evaluation.rows], out / SCAN_FILE)
    by_metric = {metric: curves(evaluation.rows, metric) for metric in request.metrics}
    if evaluation.rows:
        plots.plot_curves(by_metric, out / CURVES_FILE)
    native = set(dict.fromkeys(pair.trajectory_id for pair in pairs))
    points = [pair for pair in request.pairs("all") if pair.trajectory_id in native]
    gaps = _draw_trajectories(ready, points, request)
    estimates = estimate_timesteps(ready, points)
    if estimates:
        write_table([asdict(one) for one in estimates], out / T_HAT_FILE)
        plots.plot_estimates(estimates, out / SCATTER_FILE)
    best = {metric: best_timesteps(by_n, metric) for metric, by_n in by_metric.items()}
    markdown = to_markdown(by_metric, best, estimates, gaps)
    write_atomic(out / MARKDOWN_FILE, markdown.encode())
    return ScanResult(markdown, best, evaluation)


def curves(rows: Sequence[Row], metric: str) -> Curves:
    """Mean score at each t, a curve for each native n_frames."""
    groups: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if row.t is not None and metric in row.scores:
            n = row.native_n_frames
            label = "unknown n" if n is None else f"{n} frames"
            groups.setdefault(label, {}).setdefault(row.t, []).append(row.scores[metric])
    return {
        label: [(t, sum(v) / len(v)) for t, v in sorted(points.items())]
        for label, points in sorted(groups.items())
    }


def best_timesteps(by_n: Curves, metric: str) -> dict[str, float]:
    """The t of the best mean score on each curve; high or low as the metric is read."""
    sign = -1 if METRICS[metric].lower_is_better else 1
    return {
        label: max(points, key=lambda point: sign * point[1])[0] for label, points in by_n.items()
    }


def estimate_timesteps(ready: ReadyModel, pairs: Sequence[Pair]) -> list[TimestepEstimate]:
    """t_hat beside the true timestep, for pairs that have one; none where the model has no T."""
    model = ready.model
    if model.kernel_estimator is None or model.timestep_regressor is None:
        return []
    estimates = []
    for pair in pairs:
        if pair.timestep is not None:
            blur = metrics.to_tensor(read_rgb8(pair.blur))[None].to(ready.device)
            with torch.inference_mode():
                t_hat = float(model.timestep(blur))
            one = TimestepEstimate(pair.sample_id, pair.n_frames, pair.timestep, t_hat)
            estimates.append(one)
    return estimates


def restore_trajectory(
    ready: ReadyModel, pairs: Sequence[Pair], *, report: Report | None = None
) -> RestoredTrajectory:
    """Restore the points of one trajectory, each at its estimated t, or its true one without T.

    Args:
        ready: the model.
        pairs: the points.
        report: as for `ReadyModel.run`, anew for each point.
    """
    estimates = ready.model.timestep_regressor is not None
    points, restored = [], []
    for pair in sorted(pairs, key=lambda p: p.n_frames or 0):
        blur = read_rgb8(pair.blur)
        t = None if estimates or pair.timestep is None else float(pair.timestep)
        answer = ready.run(metrics.to_tensor(blur)[None], t, report=report)
        restored.append(answer.images[0])
        image = metrics.as_uint8(answer.images[0])
        points.append(RestoredPoint(pair.n_frames, float(answer.t_hat[0]), blur, image))
    gap = None
    if len(restored) > 1:
        # From [-1, 1] to 8-bit values.
        gap = metrics.trajectory_gap(torch.stack(restored)) * 127.5
    return RestoredTrajectory(pairs[0].trajectory_id, points, read_rgb8(pairs[0].sharp), gap)


def _draw_trajectories(
    ready: ReadyModel, points: Sequence[Pair], request: ScanRequest
) -> dict[str, float | None]:
    """Write the pictures of the first trajectories; their gaps."""
    names = list(dict.fromkeys(pair.trajectory_id for pair in points))
    chosen = {name: rank for rank, name in enumerate(names[: request.trajectories], 1)}
    by_name = attrgetter("trajectory_id")
    gaps = {}
    for name, group in groupby(sorted(points, key=by_name), by_name):
        if name in chosen:
            trajectory = restore_trajectory(ready, list(group))
            gaps[name] = trajectory.gap
            picture = request.out / f"trajectory_{chosen[name]:02d}.png"
            plots.plot_trajectory(trajectory, picture)
    return gaps


def to_markdown(
    by_metric: Mapping[str, Curves],
    best: Mapping[str, Mapping[str, float]],
    estimates: Sequence[TimestepEstimate],
    gaps: Mapping[str, float | None],
) -> str:
    """The curves as tables, the best t, the error of t_hat, and the gaps of trajectories."""
    lines = []
    for metric, by_n in by_metric.items():
        ts = sorted({t for points in by_n.values() for t, _ in points})
        lines += [f"| {metric} at t = | " + " | ".join(f"{t:g}" for t in ts) + " | best |"]
        lines += ["|" + " --- |" * (len(ts) + 2)]
        for label, points in by_n.items():
            cells = " | ".join(f"{score:.4g}" for _, score in points)
            lines.append(f"| {label} | {cells} | {best[metric][label]:g} |")
        lines.append("")
    if estimates:
        errors = [abs(one.t_hat - one.timestep) for one in estimates]
        mean = sum(errors) / len(errors)
        lines.append(f"- mean |t_hat - t| over {len(errors):,} blurs: {mean:.1f}")
    for name, gap in gaps.items():
        size = "one point only" if gap is None else f"{gap:.2f} of 255"
        lines.append(f"- {name}: mean gap between restorations {size}")
    lines.append(f"- the paper's curves are best near t = {plots.PAPER_BEST} on 11 frames")
    return "\n".join([*lines, ""])
