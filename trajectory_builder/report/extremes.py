"""The ends of the scales: the sharps and blurs that a person should look at first, at full size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trajectory_builder.manifest import Manifest
from trajectory_builder.report.charts import short
from trajectory_builder.report.measures import Look
from trajectory_builder.report.pictures import Crops, crops_of_pairs

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 6
"""Our choice: images per strip; each is two crops of some 5 kB."""


@dataclass(frozen=True)
class Extreme:
    """A pair, its place on the scale, and crops of its two images."""

    row: int
    text: str
    crops: Crops


@dataclass(frozen=True)
class Strip:
    """One end of a scale, the farthest pair first.

    Attributes:
        title, note: what it shows.
        pairs: at most `SHOWN`.
    """

    title: str
    note: str
    pairs: tuple[Extreme, ...]


def strips(rows: Manifest, looks: Mapping[int, Look]) -> tuple[Strip, ...]:
    """Choose and open the extremes.

    Args:
        rows: the manifests; motion, steps and file sizes are compared over all of them.
        looks: row -> measures of the sharp images that were opened; only these are compared.
    """
    frame = rows.to_pandas()
    softest = sorted(looks, key=lambda row: (looks[row].sharpness, row))[:SHOWN]
    scales = [
        ("Least sharp sharps", "Least variance of the Laplacian among the sharp images that this"
         " report opened, the smallest files of the set among them.",
         {row: f"sharpness {short(looks[row].sharpness)}" for row in softest}),
        *_blur_scales(frame),
        ("Largest steps", "Largest displacement between two neighbouring frames of the window;"
         " above 2 to 3 px the average shows copies instead of a blur.",
         _farthest(frame, "step_px", "step {} px", largest=True)),
    ]  # fmt: skip
    wanted = sorted({row for _, _, scale in scales for row in scale})
    crops = dict(zip(wanted, crops_of_pairs(rows, wanted), strict=True))
    chosen = []
    for title, note, scale in scales:
        pairs = ((row, text, crops[row]) for row, text in scale.items())
        shown = tuple(Extreme(row, text, crop) for row, text, crop in pairs if crop is not None)
        chosen.append(Strip(title, note, shown))
    return tuple(strip for strip in chosen if strip.pairs)


def _blur_scales(frame: pd.DataFrame) -> list[tuple[str, str, dict[int, str]]]:
    """Weakest and strongest blurs: by motion where it is known, else by what is left of detail."""
    if 2 * frame["motion_px"].notna().sum() >= len(frame):
        column, text = "motion_px", "motion {} px"
        weak, strong = ("Least motion during the window.", "Most motion during the window.")
    else:
        ratio = 100 * frame["blur_bytes"] / frame["sharp_bytes"].clip(lower=1)
        # More bytes mean more detail, hence less blur.
        frame = frame.assign(loss=100 - ratio)
        column, text = "loss", "file {} % smaller"
        weak, strong = (
            f"Motion is unknown; here the blur's file is {word} compared with its sharp image's."
            for word in ("largest", "smallest")
        )
    return [
        ("Weakest blurs", weak, _farthest(frame, column, text, largest=False)),
        ("Strongest blurs", strong, _farthest(frame, column, text, largest=True)),
    ]


def _farthest(frame: pd.DataFrame, column: str, text: str, *, largest: bool) -> dict[int, str]:
    """Row -> text of the rows with the largest or smallest values, one per trajectory."""
    known = frame[frame[column].notna()].sort_values(column, ascending=not largest, kind="stable")
    first = known.drop_duplicates("trajectory_id")[column].head(SHOWN)
    return {int(str(row)): text.format(short(float(value))) for row, value in first.items()}
