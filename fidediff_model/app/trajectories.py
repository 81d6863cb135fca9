"""Trajectories of a `trajbuild` set on the page: all their points, restored or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np

from fidediff_model.app import view
from fidediff_model.app.photo import Shown
from fidediff_model.evaluate.scan import restore_trajectory
from fidediff_model.evaluate.sets import Pair, pairs_of_manifest
from fidediff_model.model.engine import ReadyModel
from fidediff_model.model.tiles import Report
from fidediff_model.scores.metrics import Image, psnr
from trajectory_builder.errors import DataError
from trajectory_builder.images.pictures import read_rgb8
from trajectory_builder.trajectory import timestep

Place = Callable[[str, Shown], str]
"""Writes a picture under a name; where the browser finds it."""


class TrajectorySet:
    """The trajectories of a data set by name.

    Args:
        folder: what `trajbuild` wrote: a data set, a split or a manifest.

    Raises:
        ManifestError: it cannot be read or trusted.
    """

    def __init__(self, folder: Path) -> None:
        by_name = attrgetter("trajectory_id")
        pairs = sorted(pairs_of_manifest(folder, split=None, native=False), key=by_name)
        self._trajectories = {
            name: sorted(group, key=lambda pair: pair.n_frames or 0)
            for name, group in groupby(pairs, by_name)
        }

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return list(self._trajectories)

    def open(self, name: str | None) -> list[Pair]:
        """The points of a trajectory, fewest frames first.

        Raises:
            DataError: there is none of that name.
        """
        if name not in self._trajectories:
            raise DataError("no trajectory is chosen", cure="choose one from the list")
        return self._trajectories[name]


def steps_of(pairs: Sequence[Pair], place: Place) -> list[view.Step]:
    """The blurs of a trajectory, each beside the sharp image.

    Args:
        pairs: its points.
        place: keeps a picture for the browser.

    Raises:
        ImageError: a file cannot be read.
    """
    sharp = read_rgb8(pairs[0].sharp)
    after = place("sharp", _png(sharp))
    return [_step(pair, read_rgb8(pair.blur), sharp, place, after) for pair in pairs]


def restored_steps(
    ready: ReadyModel, pairs: Sequence[Pair], place: Place, *, report: Report
) -> tuple[list[view.Step], float | None]:
    """The points of a trajectory, each beside its restoration, and the gap between these.

    Args:
        ready: the model.
        pairs: the points.
        place: keeps a picture for the browser.
        report: called as `ReadyModel.run` does, point by point.

    Raises:
        ImageError: a file cannot be read.
    """
    restored = restore_trajectory(ready, pairs, report=report)
    steps = []
    for pair, point in zip(pairs, restored.points, strict=True):
        after = place(f"restored-{pair.n_frames}", _png(point.restored))
        step = _step(pair, point.blur, restored.sharp, place, after, used=point.t,
                     restored=_decibels(psnr(point.restored, restored.sharp)))  # fmt: skip
        steps.append(step)
    return steps, restored.gap


def _step(
    pair: Pair, blur: Image, sharp: Image, place: Place, after: str,
    *, used: float | None = None, restored: str | None = None,
) -> view.Step:  # fmt: skip
    n = pair.n_frames or 1
    height, width = blur.shape[:2]
    urls = view.Urls(place(f"blur-{n}", _png(blur)), after)
    shown = view.view(urls, (width, height), before=f"The blur of {n} frames",
                      after="The sharp image" if used is None else "Its restoration")  # fmt: skip
    t = pair.timestep if pair.timestep is not None else timestep(n)
    return view.Step(n, t, _decibels(psnr(blur, sharp)), shown, used, restored)


def _decibels(value: float) -> str:
    return "the same image" if math.isinf(value) else f"{value:.2f} dB"


def _png(image: Image) -> Shown:
    encoded = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1]
    return Shown(encoded.tobytes(), ".png")
