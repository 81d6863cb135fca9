"""The report's first section: what is good, what to look at, what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trajectory_builder.manifest import Manifest
from trajectory_builder.report.counts import POINTS_WANTED, Numbers, Points
from trajectory_builder.report.measures import Near, Outlier, soft_limit
from trajectory_builder.report.pictures import Gallery
from trajectory_builder.report.records import agreement

State = Literal["good", "look", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One sentence, its state, and the section with the details."""

    state: State
    text: str
    section: str


def findings(
    numbers: Numbers,
    gallery: Gallery,
    alike: Sequence[Near],
    strange: Sequence[Outlier],
    rows: Manifest,
) -> list[Finding]:
    """Everything that a person should know first, worst first."""
    found = [
        _three_points(numbers.points),
        _soft(gallery),
        _problems(numbers),
        _alignment(numbers),
        _same_files(numbers),
        _identical(numbers),
        _alike(alike, rows),
        _strange(strange, gallery),
        _motion(numbers),
    ]
    if gallery.unread:
        text = f"{len(gallery.unread):,} of the images that were opened could not be read"
        found.append(Finding("wrong", text, "unread"))
    order = {"wrong": 0, "look": 1, "good": 2}
    return sorted((f for f in found if f is not None), key=lambda f: order[f.state])


def _three_points(points: Points) -> Finding | None:
    if not points.pairs:
        return Finding("look", "no pair has a known n, so no trajectory can be walked", "points")
    enough, all_longest = points.renderable, points.longest
    short = points.pairs - enough
    text = (
        f"{enough:,} of {points.pairs:,} pairs can have at least {POINTS_WANTED} backward points"
        f" rendered from their frames; {points.longest_on_disk:,} of {all_longest:,} trajectories"
        " have them on disk"
    )
    state: State = "good" if short <= points.short else "look"
    return Finding(state, text, "points")


def _soft(gallery: Gallery) -> Finding | None:
    limit = soft_limit(gallery.looks)
    soft = sum(look.sharpness < limit for look in gallery.looks.values())
    if not soft:
        return None
    text = f"{soft:,} of {len(gallery.looks):,} sharp images opened are not sharp"
    return Finding("look", text, "extremes")


def _problems(numbers: Numbers) -> Finding:
    if numbers.problems_error:
        return Finding("wrong", numbers.problems_error, "problems")
    count = sum(group.count for group in numbers.problems or ())
    if not count:
        return Finding("good", "the build recorded no problem", "problems")
    kinds = len(numbers.problems or ())
    text = f"{count:,} problems of {kinds} {'kind' if kinds == 1 else 'kinds'}, with their cures"
    return Finding("wrong", text, "problems")


def _alignment(numbers: Numbers) -> Finding | None:
    report = agreement(numbers.build)
    if report is None:
        return None
    compared = report.equal + report.differing
    text = (
        f"{report.found:,} of {report.checked:,} official sharp images were found among the frames;"
        f" {report.equal:,} of {compared:,} official blurs compared are the mean of their window"
    )
    state: State = "good" if report.found == report.checked and not report.differing else "look"
    return Finding("wrong" if report.distrusted else state, text, "alignment")


def _same_files(numbers: Numbers) -> Finding:
    across = sum(len(set(same.splits)) > 1 for same in numbers.same_sharp)
    if across:
        return Finding("wrong", f"{across:,} sharp files are in more than one split", "alike")
    if numbers.same_sharp:
        text = f"{len(numbers.same_sharp):,} sharp files are in several trajectories"
        return Finding("look", text, "alike")
    return Finding("good", "no sharp file is in two trajectories", "alike")


def _identical(numbers: Numbers) -> Finding | None:
    if not numbers.blur_is_sharp:
        return None
    text = f"{numbers.blur_is_sharp:,} blurs are their own sharp image, byte for byte"
    return Finding("wrong", text, "alike")


def _alike(alike: Sequence[Near], rows: Manifest) -> Finding:
    if not alike:
        return Finding("good", "no two sharp images of the sample look alike", "alike")
    splits = rows.table["split"]
    across = sum(splits[a.first].as_py() != splits[a.second].as_py() for a in alike)
    text = f"{len(alike):,} pairs of sharp images in the sample look alike"
    text += f", {across:,} of them across splits" if across else ""
    return Finding("look", text, "alike")


def _strange(strange: Sequence[Outlier], gallery: Gallery) -> Finding:
    seen = len(gallery.looks)
    if not strange:
        return Finding("good", f"no outlier among {seen:,} sharp images opened", "alike")
    count = len({outlier.key for outlier in strange})
    return Finding("look", f"{count:,} outliers among {seen:,} sharp images opened", "alike")


def _motion(numbers: Numbers) -> Finding | None:
    known = len(numbers.motion)
    if known == numbers.pairs:
        return None
    text = f"motion is known for {known:,} of {numbers.pairs:,} pairs"
    return Finding("look", text, "motion") if known else None
