"""The trajectories of a run: those to learn from, and those held out for validation."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from fidediff_model.data.rules import DrawRules
from fidediff_model.data.trajectories import TrajectoryDataset
from fidediff_model.training.settings import TrainSettings
from trajectory_builder import manifest
from trajectory_builder.errors import UsageError, shorten

HELD_OUT_SHARE = 0.1
"""Share of the training clips that validate where the data set has no such split (our choice)."""
FEWEST_CLIPS = 4
"""Training clips below which none is held out (our choice)."""
log = logging.getLogger(__name__)


def open_datasets(
    source: manifest.Manifest, settings: TrainSettings
) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
    """The trajectories to learn from, and those held out.

    Raises:
        DataError: nothing to draw from, or images smaller than the crop.
        UsageError: a split that is not there, or a batch larger than the set.
    """
    rules = draw_rules(settings)
    held_out = _held_out(source, settings) if settings.validate_every else None
    clips = held_out.clips if held_out is not None else None
    train = TrajectoryDataset(source, rules, split="train", without=clips or ())
    if settings.batch > len(train):
        raise UsageError(
            f"a batch of {settings.batch} trajectories is more than the {len(train)} of the set",
            where="batch",
            cure=f"give --batch {len(train)} or less, or more data",
        )
    if held_out is None:
        return train, None
    # All points whatever is trained on, so that the scores of an ablation are of the same blurs.
    rules = replace(
        rules, points=settings.validation_points, identity=0.0, points_of="all", augment=False
    )
    return train, TrajectoryDataset(source, rules, split=held_out.split, clips=clips)


def draw_rules(settings: TrainSettings) -> DrawRules:
    """What a draw for training takes from a trajectory."""
    return DrawRules(
        crop=settings.crop,
        # A trajectory has one native blur; a fixed timestep leaves no room for t = 0.
        points=1 if settings.points_of == "native" else settings.points,
        identity=0.0 if settings.timestep_of == "fixed" else settings.identity,
        points_of=settings.points_of,
        timestep_of=settings.timestep_of,
        fixed_timestep=settings.fixed_timestep,
        augment=settings.augment,
        seed=settings.seed,
    )


class _HeldOut(NamedTuple):
    """Rows to validate on: a split, or some clips of it."""

    split: str
    clips: frozenset[str] | None = None


def _held_out(source: manifest.Manifest, settings: TrainSettings) -> _HeldOut | None:
    """The requested split; `auto` takes `validation`, or else holds out some clips."""
    splits = set(source.table.column("split").unique().to_pylist())
    wanted = settings.validation_split
    if wanted == "auto" and "validation" not in splits:
        return _held_out_clips(source, settings.seed)
    wanted = "validation" if wanted == "auto" else wanted
    if wanted not in splits or wanted == "train":
        raise UsageError(
            f"{wanted} cannot be held out: the data set has {', '.join(sorted(splits))}",
            where="validation_split",
            cure="hold clips out with `trajbuild split`, or give --validation-split test",
        )
    return _HeldOut(wanted)


def _held_out_clips(source: manifest.Manifest, seed: int) -> _HeldOut | None:
    """A tenth of the training clips, at least one; None and a warning where there are too few.

    By clip, since neighbouring trajectories of one clip show the same things.
    """
    mask = pc.equal(source.table.column("split"), "train")
    clips = sorted(set(source.table.filter(mask).column("clip_id").to_pylist()))
    if len(clips) < FEWEST_CLIPS:
        log.warning(
            "no validation: the data set has no such split, and of %d training clips none can be"
            " spared; the model that is kept is the last",
            len(clips),
        )
        return None
    generator = np.random.default_rng(seed)
    chosen = sorted(generator.permutation(clips)[: max(1, round(len(clips) * HELD_OUT_SHARE))])
    log.warning(
        "no validation split: %d of %d training clips are held out (--seed %d): %s",
        len(chosen),
        len(clips),
        seed,
        shorten([str(clip) for clip in chosen]),
    )
    return _HeldOut("train", frozenset(map(str, chosen)))
