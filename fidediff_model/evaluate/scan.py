"""Scores over timesteps given by hand, per native n_frames: the paper's curve.

Also what a trajectory looks like restored from each of its points, and how near t_hat comes to the
true t. Rows are kept as they come, so that the same command goes on from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fidediff_model.data.image_files import Image, read_image
from fidediff_model.evaluate.run import ROWS_FILE, Scorer, to_tensor, write_table
from fidediff_model.evaluate.sets import Pair
from fidediff_model.restore.engine import ReadyModel
from fidediff_model.scores import metrics
from fidediff_model.scores.no_reference import LOWER_IS_BETTER
from trajectory_builder.errors import UserError

TIMESTEPS = tuple(range(0, 401, 40))
"""t at which scores are taken (ours); the paper's curves are best near t = 200 on 11 frames."""
SCAN_FILE, T_HAT_FILE = "scan.parquet", "t_hat.parquet"


@dataclass
class Scan:
    """What a scan gave.

    Attributes:
        rows: one a pair and timestep: sample_id, native_n_frames, t and the scores.
        t_hats: one a pair: sample_id, n_frames, timestep, t_hat; empty where the model has no T.
        failures: sample_id and what is wrong.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    t_hats: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def scan(
    ready: ReadyModel,
    pairs: Sequence[Pair],
    scorer: Scorer,
    out: Path,
    *,
    timesteps: Sequence[float] = TIMESTEPS,
    batch: int = 1,
    report: Callable[[int], Any] = lambda count: None,
) -> Scan:
    """Restore every pair at every timestep and score it.

    Args:
        ready: the model.
        pairs: what to restore.
        scorer: how to score.
        out: a claimed folder.
        timesteps: t in [0, 999].
        batch: timesteps of one image at once.
        report: told of each pair that is done.
    """
    result = Scan()
    known = _read(out)
    for pair in pairs:
        rows = known.get(pair.sample_id)
        if rows is None:
            try:
                rows = _scan_pair(ready, pair, scorer, timesteps, batch)
            except UserError as error:
                result.failures.append((pair.sample_id, error.what))
                report(1)
                continue
            with open(out / ROWS_FILE, "a", encoding="utf-8") as file:
                file.write(json.dumps({"sample_id": pair.sample_id, "rows": rows}) + "\n")
        result.rows += rows
        report(1)
    write_table(result.rows, out / SCAN_FILE)
    return result


def _read(out: Path) -> dict[str, list[dict[str, Any]]]:
    known: dict[str, list[dict[str, Any]]] = {}
    if not (out / ROWS_FILE).is_file():
        return known
    for line in (out / ROWS_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            known[values["sample_id"]] = values["rows"]
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _scan_pair(
    ready: ReadyModel, pair: Pair, scorer: Scorer, timesteps: Sequence[float], batch: int
) -> list[dict[str, Any]]:
    blur, sharp = to_tensor(read_image(pair.blur))[None], read_image(pair.sharp)
    rows = []
    for start in range(0, len(timesteps), batch):
        ts = torch.tensor(timesteps[start : start + batch], dtype=torch.float32)
        images = ready.run(blur.expand(len(ts), -1, -1, -1), ts).images
        for t, image in zip(ts.tolist(), images, strict=True):
            about = {"sample_id": pair.sample_id, "native_n_frames": pair.native_n_frames, "t": t}
            rows.append(about | scorer(metrics.as_uint8(image), sharp))
    return rows


def curves(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, list[tuple[float, float]]]:
    """Mean score at each t, a curve for each native n_frames: [(t, score), ...], ascending."""
    groups: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        if row.get(metric) is not None:
            n = row["native_n_frames"]
            label = "unknown n" if n is None else f"{n} frames"
            groups.setdefault(label, {}).setdefault(row["t"], []).append(row[metric])
    return {
        label: [(t, sum(v) / len(v)) for t, v in sorted(points.items())]
        for label, points in sorted(groups.items())
    }


def best_timesteps(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, float]:
    """The t of the best mean score, for each native n_frames; high or low as each is read."""
    lower_is_better = (*LOWER_IS_BETTER, "lpips", "dists")
    sign = -1 if metric in lower_is_better else 1
    return {
        label: max(points, key=lambda point: sign * point[1])[0]
        for label, points in curves(rows, metric).items()
    }


def read_t_hats(ready: ReadyModel, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """t_hat beside the true timestep, for pairs that have one; nothing where the model has no T."""
    model = ready.model
    if model.kernel_estimator is None or model.timestep_regressor is None:
        return []
    rows = []
    for pair in pairs:
        if pair.timestep is None:
            continue
        blur = to_tensor(read_image(pair.blur))[None].to(ready.device)
        with torch.inference_mode():
            t_hat = float(model.timestep(blur))
        about = {"sample_id": pair.sample_id, "n_frames": pair.n_frames}
        rows.append(about | {"timestep": pair.timestep, "t_hat": t_hat})
    return rows


@dataclass(frozen=True)
class RestoredTrajectory:
    """All points of one trajectory restored.

    Attributes:
        trajectory_id: its name.
        points: n_frames, t used, blur, restoration; ascending in n.
        sharp: what all of them are to become.
        gap: mean L1 between restorations in 8-bit values (`metrics.trajectory_gap`), or None
            with one point only.
    """

    trajectory_id: str
    points: list[tuple[int | None, float, Image, Image]]
    sharp: Image
    gap: float | None


def restore_trajectory(ready: ReadyModel, pairs: Sequence[Pair]) -> RestoredTrajectory:
    """Restore the points of one trajectory, each at its estimated t, or its true one without T."""
    estimates = ready.model.timestep_regressor is not None
    points, restored = [], []
    for pair in sorted(pairs, key=lambda p: p.n_frames or 0):
        blur = read_image(pair.blur)
        t = None if estimates or pair.timestep is None else float(pair.timestep)
        answer = ready.run(to_tensor(blur)[None], t)
        restored.append(answer.images[0])
        image = metrics.as_uint8(answer.images[0])
        points.append((pair.n_frames, float(answer.t_hat[0]), blur, image))
    gap = None
    if len(restored) > 1:
        gap = metrics.trajectory_gap(torch.stack(restored)) * 127.5
    return RestoredTrajectory(pairs[0].trajectory_id, points, read_image(pairs[0].sharp), gap)
