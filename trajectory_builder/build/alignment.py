"""Compare the official pairs with the frames before a build.

Which frames make a blur follows from a sequence's name. A copy may have been renamed, renumbered
or may contain a frame twice, and a window round the wrong frame looks like any other. So each
official sharp image is searched among the frames round its expected rank, and each official blur
is compared with the mean of its window. Where every image of a clip is found the same number of
frames away, the plan is made again with that offset; where they disagree, their windows are left
out as problems; where none is found (other pixels, e.g. encoded again), the name is trusted and a
note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trajectory_builder.build import record, workers
from trajectory_builder.build.alignment_worker import REACH, PairCheck, Task, check_task
from trajectory_builder.disk.progress import Progress
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import shorten
from trajectory_builder.plan.gopro import Corrections
from trajectory_builder.plan.table import Plan, PlanRow

CHECKS = ("off", "quick", "full")
"""How closely pixels are compared with names; each includes the ones before it."""
PAIRS_PER_TASK = 8
NO_CORRECTIONS = Corrections()
_COUNTS = ("sharp_checked", "sharp_found", "blurs_equal", "blurs_absent", "blurs_differing")


@dataclass
class ClipCheck:
    """The checks of one clip's official pairs."""

    split: str
    clip: str
    checks: list[PairCheck] = field(default_factory=list)

    @property
    def offset(self) -> int | None:
        """The one offset at which its sharp images were found, half of them at least."""
        found = {check.offset for check in self.checks if check.offset is not None}
        # Several offsets are no shift of the clip: no one correction suits all its images.
        if len(found) != 1:
            return None
        offset = found.pop()
        there = sum(offset in check.near for check in self.checks)
        # Our choice: half of the images must agree, since single ones may match by chance.
        return offset if 2 * there >= len(self.checks) else None

    @property
    def is_found(self) -> bool:
        """Whether any sharp image is among the frames."""
        return any(check.is_found for check in self.checks)

    @property
    def is_settled(self) -> bool:
        """Whether nothing speaks against the plan; a clip without any evidence is not settled."""
        return not self.distrusted() and (self.is_found or self._count("equal") > 0)

    def distrusted(self) -> dict[str, str]:
        """Trajectories whose frames are not trusted, and why."""
        reasons = {check.trajectory_id: self._doubt(check) for check in self.checks}
        return {name: reason for name, reason in reasons.items() if reason}

    def _doubt(self, check: PairCheck) -> str:
        """Why a pair's frames are not trusted; "" if they are."""
        equal, differing = self._count("equal"), self._count("differs")
        if check.offset:
            return f"its sharp image is {check.offset:+d} frames away"
        if check.blur == "equal":  # proves the window, whatever the sharp image shows
            return ""
        blur = "its official blur is not the mean of its window" if check.blur == "differs" else ""
        if not self.is_found:
            # Nothing but the blurs can be compared. The name is trusted unless all of them differ;
            # then a pair whose own blur cannot be compared is no better.
            if equal or not differing:
                return ""
            return blur or "no official blur of its clip is the mean of its window"
        if not check.is_found:
            return f"its sharp image is none of {2 * REACH + 1} frames"
        if check.offset is None and 0 not in check.near:
            return "its sharp image shows one of several frames, none of them the expected one"
        # In a copy that was encoded again blurs differ a little from the mean of its frames: one
        # that differs counts only where others prove that the copy is exact.
        is_exact_copy = equal and (check.is_exact or equal >= differing)
        return blur if is_exact_copy else ""

    def _count(self, blur: str) -> int:
        return sum(check.blur == blur for check in self.checks)

    def as_data(self) -> dict[str, object]:
        """Plain values for build.json."""
        return {
            "split": self.split,
            "clip": self.clip,
            "sharp_checked": len(self.checks),
            "sharp_found": sum(check.is_found for check in self.checks),
            "sharp_equal": sum(check.is_exact for check in self.checks),
            "offsets": sorted({c.offset for c in self.checks if c.offset is not None}),
            "blurs_equal": self._count("equal"),
            "blurs_absent": self._count("absent"),
            "blurs_differing": self._count("differs"),
            "differing": [c.trajectory_id for c in self.checks if c.blur == "differs"],
            "distrusted": self.distrusted(),
        }


def settle(
    plan: Plan,
    out: Path,
    *,
    level: str,
    jobs: int,
    plan_again: Callable[[Corrections], Plan],
    progress: bool = False,
) -> Plan:
    """Check a plan against the pixels; return the plan to build, with the report in it.

    A stored report of the same plan is used again, so that a finished build is not checked twice;
    one with disagreements is not, for they may have been fixed meanwhile.

    Args:
        plan: made from names alone.
        out: the output folder; it need not exist.
        level: one of `CHECKS`: nothing, a few pairs of each clip, all.
        jobs: worker processes.
        plan_again: makes the plan with corrections.
        progress: show a bar or lines on stderr.
    """
    if level == "off" or {"pairs", "frames"} - plan.roots.keys():
        return plan
    digest = record.table_sha256(plan.table, plan.config_sha256)
    report = _stored(out, digest, level)
    if report is None:
        report = _report(plan, level, jobs, plan_again, progress) | {"plan_sha256": digest}
    corrections = Corrections(
        report["corrected"], {k: v for c in report["clips"] for k, v in c["distrusted"].items()}
    )
    settled = plan_again(corrections) if corrections != NO_CORRECTIONS else plan
    return replace(settled, alignment=report, notes=(*settled.notes, *sentences(report)))


def _stored(out: Path, digest: str, level: str) -> dict[str, Any] | None:
    folder = OutputFolder(out)
    # alignment.json is there from the claim on, build.json only after a finished build.
    report = record.read_alignment(folder) or (record.read_build(out) or {}).get("alignment")
    if not report or report.get("plan_sha256") != digest:
        return None
    # A closer check includes a quicker one, but not the other way round.
    if CHECKS.index(report["level"]) < CHECKS.index(level):
        return None
    known: dict[str, Any] = report
    # A report of an older version lacks keys that are printed now.
    usable = all("sharp_equal" in clip and not clip["distrusted"] for clip in report["clips"])
    return known if usable else None


def _report(
    plan: Plan, level: str, jobs: int, plan_again: Callable[[Corrections], Plan], progress: bool
) -> dict[str, Any]:
    checks = check(plan, level, jobs=jobs, progress=progress)
    # One image alone is too little evidence to move all windows of a clip.
    offsets = {clip.clip: clip.offset for clip in checks if clip.offset and len(clip.checks) > 1}
    if offsets:
        # Check the corrected map as well: with it every image must be where it is expected.
        moved = plan_again(Corrections({name: k for name, k in offsets.items() if k}))
        again = {
            clip.clip: clip
            for clip in check(moved, "full", jobs=jobs, only=set(offsets), progress=progress)
        }
        checks = [again.get(clip.clip, clip) for clip in checks]
    return {
        "level": level,
        "corrected": offsets,
        "clips": [clip.as_data() for clip in checks],
    }


def check(
    plan: Plan,
    level: str = "quick",
    *,
    jobs: int = 1,
    only: set[str] | None = None,
    progress: bool = False,
) -> list[ClipCheck]:
    """Compare official pairs with the frames, clip by clip.

    Args:
        plan: with both trees among its roots.
        level: `quick` compares three pairs per clip, and all of a clip's where those disagree
            with the plan; `full` compares all.
        jobs: worker processes.
        only: names of the clips to check; all when None.
        progress: show a bar or lines on stderr.
    """
    clips = [clip for clip in _clips(plan) if only is None or clip.clip in only]
    found = _run(clips, level == "full", plan, jobs, progress)
    doubtful = {name for name, clip in found.items() if not clip.is_settled}
    if level != "full" and doubtful:
        doubted = [clip for clip in clips if clip.clip in doubtful]
        found |= _run(doubted, True, plan, jobs, progress)
    return [found[clip.clip] for clip in clips]


@dataclass(frozen=True)
class _Clip:
    """An official clip of a plan: its pairs' rows, and the name of each frame that exists."""

    split: str
    clip: str
    rows: list[PlanRow]
    names: dict[int, str]


def _clips(plan: Plan) -> list[_Clip]:
    columns = ["sample_id", "trajectory_id", "split", "clip_id", "n_frames", "first_index",
               "center_index", "blur_source", "sharp_source", "average_domain"]  # fmt: skip
    clips: dict[str, _Clip] = {}
    for row in plan.table.select(columns).to_pylist():
        if row["blur_source"]:
            frames = enumerate(plan.clip_frames.get(row["clip_id"], ()))
            if row["clip_id"] not in clips:
                names = {rank: name for rank, name in frames if name is not None}
                clips[row["clip_id"]] = _Clip(row["split"], row["clip_id"], [], names)
            clips[row["clip_id"]].rows.append(row)
    return [clip for clip in clips.values() if clip.rows and clip.names]


def _run(
    clips: list[_Clip], full: bool, plan: Plan, jobs: int, progress: bool
) -> dict[str, ClipCheck]:
    roots = {name: str(root) for name, root in plan.roots.items()}
    tasks = [task for clip in clips for task in _tasks(clip, full, roots)]
    found = {clip.clip: ClipCheck(clip.split, clip.clip) for clip in clips}
    rows = sum(len(task.rows) for task in tasks)
    with Progress(rows, "official pairs compared", shown=progress) as bar:
        for name, checks in workers.each(check_task, tasks, jobs=jobs, keep_workers=True):
            found[name].checks += checks
            bar.advance(len(checks))
        bar.advance(rows - sum(len(clip.checks) for clip in found.values()))  # could not be read
    for clip in found.values():
        # Workers end in any order, and the report must not depend on it.
        clip.checks.sort(key=lambda one: one.trajectory_id)
    return found


def _tasks(clip: _Clip, full: bool, roots: dict[str, str]) -> Iterator[Task]:
    rows = clip.rows
    if full:
        for begin in range(0, len(rows), PAIRS_PER_TASK):
            part = rows[begin : begin + PAIRS_PER_TASK]
            names = {row["sample_id"] for row in part}
            # Only names that are near: tasks are pickled, each with its names.
            yield Task(clip.clip, _near(clip, part), part, names, roots)
        return
    # Our choice: a shift or a repeated frame moves the last pair at the latest.
    middle = rows[len(rows) // 2]
    few = list({row["sample_id"]: row for row in (rows[0], middle, rows[-1])}.values())
    yield Task(clip.clip, _near(clip, few), few, {middle["sample_id"]}, roots)


def _near(clip: _Clip, rows: Iterable[PlanRow]) -> dict[int, str]:
    """Those of the clip's frame names that the rows' checks may need."""
    names: dict[int, str] = {}
    for row in rows:
        reach = max(REACH, row["n_frames"] // 2)
        span = range(row["center_index"] - reach, row["center_index"] + reach + 1)
        names |= {rank: clip.names[rank] for rank in span if rank in clip.names}
    return names


def sentences(report: dict[str, Any]) -> list[str]:
    """The report in words: a line per split, and one for each clip that is not as expected."""
    lines = []
    for split in dict.fromkeys(clip["split"] for clip in report["clips"]):
        clips = [clip for clip in report["clips"] if clip["split"] == split]
        total = {key: sum(clip[key] for clip in clips) for key in _COUNTS}
        lines.append(
            f"pixels ({report['level']}), {split}: {total['sharp_found']:,} of"
            f" {total['sharp_checked']:,} sharp images found among the frames; blurs:"
            f" {total['blurs_equal']:,} equal, {total['blurs_absent']:,} frames absent,"
            f" {total['blurs_differing']:,} differ"
        )
    for clip in report["clips"]:
        name = f"{clip['split']}/{clip['clip']}"
        if clip["clip"] in report["corrected"]:
            moved = report["corrected"][clip["clip"]]
            lines.append(f"{name}: all sharp images are {moved:+d} frames from where the name says;"
                         " windows are built round the frames that were found")  # fmt: skip
        if clip["distrusted"]:
            lines.append(f"{name}: {len(clip['distrusted']):,} pairs disagree with the frames"
                         f" (offsets {clip['offsets']}), and their windows are left out:"
                         f" {shorten([*clip['distrusted']])}")  # fmt: skip
        elif clip["differing"]:
            lines.append(f"{name}: {len(clip['differing']):,} official blurs differ from the mean"
                         f" of their window: {shorten(clip['differing'])}")  # fmt: skip
        if clip["sharp_checked"] and not clip["sharp_found"] and not clip["distrusted"]:
            why = (f"{clip['blurs_equal']:,} official blurs equal the mean of their window"
                   if clip["blurs_equal"] else "pixels prove nothing")  # fmt: skip
            lines.append(f"{name}: no sharp image is near a frame; {why}; the name is trusted")
        elif clip["sharp_equal"] < clip["sharp_found"]:
            off = clip["sharp_found"] - clip["sharp_equal"]
            lines.append(f"{name}: {off:,} of {clip['sharp_checked']:,} sharp images equal no frame"
                         " and are matched to the nearest one")  # fmt: skip
    return lines
