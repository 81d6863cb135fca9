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
        found = [check.offset for check in self.checks if check.offset is not None]
        return found[0] if len(set(found)) == 1 and 2 * len(found) >= len(self.checks) else None

    @property
    def is_found(self) -> bool:
        """Whether any sharp image is among the frames; if none is, pixels prove nothing."""
        return any(check.offset is not None for check in self.checks)

    @property
    def is_settled(self) -> bool:
        """Whether every image checked is where the plan expects it, or none can be compared."""
        return not self.is_found or not self.distrusted()

    def distrusted(self) -> dict[str, str]:
        """Trajectories whose frames are not trusted, and why."""
        equal = sum(check.blur == "equal" for check in self.checks)
        found: dict[str, str] = {}
        for check in self.checks if self.is_found else ():
            if check.offset is None:
                found[check.trajectory_id] = f"its sharp image is none of {2 * REACH + 1} frames"
            elif check.offset:
                found[check.trajectory_id] = f"its sharp image is {check.offset:+d} frames away"
            elif check.blur == "differs" and equal:
                found[check.trajectory_id] = "its official blur is not the mean of its window"
        return found

    def as_data(self) -> dict[str, Any]:
        """Plain values for build.json."""
        blurs = [check.blur for check in self.checks]
        return {
            "split": self.split,
            "clip": self.clip,
            "sharp_checked": len(self.checks),
            "sharp_found": sum(check.offset is not None for check in self.checks),
            "offsets": sorted({c.offset for c in self.checks if c.offset is not None}),
            "blurs_equal": blurs.count("equal"),
            "blurs_absent": blurs.count("absent"),
            "blurs_differing": blurs.count("differs"),
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
    report = record.read_alignment(folder) or (record.read_build(out) or {}).get("alignment")
    if not report or report.get("plan_sha256") != digest:
        return None
    if CHECKS.index(report["level"]) < CHECKS.index(level):
        return None
    known: dict[str, Any] = report
    return None if any(clip["distrusted"] for clip in report["clips"]) else known


def _report(
    plan: Plan, level: str, jobs: int, plan_again: Callable[[Corrections], Plan], progress: bool
) -> dict[str, Any]:
    checks = check(plan, level, jobs=jobs, progress=progress)
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
        level: `quick` looks at three pairs of a clip, and at all of a clip where those do not
            agree with the plan; `full` looks at all.
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
    """An official clip of a plan: its pairs' rows, and the name of each frame that is at hand."""

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
        clip.checks.sort(key=lambda one: one.trajectory_id)
    return found


def _tasks(clip: _Clip, full: bool, roots: dict[str, str]) -> Iterator[Task]:
    rows = clip.rows
    if full:
        for begin in range(0, len(rows), PAIRS_PER_TASK):
            part = rows[begin : begin + PAIRS_PER_TASK]
            names = {row["sample_id"] for row in part}
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
    """The report in words: a line a split, and one for each clip that is not as expected."""
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
                         f" (offsets {clip['offsets']}); their windows are left out")  # fmt: skip
        elif clip["sharp_checked"] and not clip["sharp_found"]:
            lines.append(f"{name}: no sharp image equals a frame, so pixels prove nothing;"
                         " the name is trusted")  # fmt: skip
    return lines
