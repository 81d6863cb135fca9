"""What a build of interpolated footage will cost, for dry runs: drawing frames is the slow part."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from trajectory_builder.build.footage_shard import FrameReader
from trajectory_builder.build.shard import Shard
from trajectory_builder.pixels import interpolation
from trajectory_builder.plan.table import Plan, by_shard

if TYPE_CHECKING:
    from trajectory_builder.images.picture import Pixels
    from trajectory_builder.plan.order import FootageOrder


def seconds_to_draw(plan: Plan, jobs: int) -> float | None:
    """About how long `jobs` workers draw the frames between those of a plan of footage.

    Draws a few frames of the first clip to measure this machine; the first clip represents all.
    None where no frame is drawn, or the first clip cannot be read.
    """
    drawn = {name: order for name, order in plan.orders.items() if order.interpolate}
    first = next(iter(drawn.items()), None)
    pair = _two_frames(plan, *first) if first else []
    if first is None or len(pair) < 2:
        return None
    # The flows of a gap cost the same however many frames are drawn in it.
    once, thrice = (_seconds(pair, count) for count in (1, 3))
    each = max(thrice - once, 0) / 2
    gap = once + (first[1].interpolate - 1) * each
    return _gaps(plan, drawn) * gap / jobs


def _two_frames(plan: Plan, name: str, order: FootageOrder) -> list[Pixels]:
    roots = {root: str(path) for root, path in plan.roots.items()}
    shard = Shard(name, "", "", roots, (), order.size, order=order)
    frames = FrameReader(shard, replace(order, interpolate=0)).stream()
    return [pixels for _, pixels in islice(frames, 2) if pixels is not None]


def _seconds(pair: list[Pixels], count: int) -> float:
    started = time.perf_counter()
    interpolation.between(pair[0], pair[1], count)
    return time.perf_counter() - started


def _gaps(plan: Plan, drawn: dict[str, FootageOrder]) -> int:
    """Gaps between frames as shot in which frames are drawn; once per shard."""
    count = 0
    for name, rows in by_shard(plan.rows()).items():
        if name in drawn:
            factor = drawn[name].factor
            spans = (range(r["first_index"], r["first_index"] + r["n_frames"]) for r in rows)
            count += len({rank // factor for span in spans for rank in span if rank % factor})
    return count
