"""Expand GoPro: plan, compare pixels with names, build. All that `trajbuild expand` does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from trajectory_builder.build import alignment, run, workers
from trajectory_builder.build.ownership import refuse_other_config
from trajectory_builder.build.run import BuildOptions, BuildReport
from trajectory_builder.plan import recipe
from trajectory_builder.plan.gopro import Corrections, plan_gopro
from trajectory_builder.plan.recipe import Recipe
from trajectory_builder.plan.table import Plan


@dataclass(frozen=True)
class ExpandOptions:
    """How to expand GoPro.

    Attributes:
        recipe: which windows become pairs; a recipe, a built-in name or a file.
        average: domain of the averages; None takes the recipe's.
        frames: GOPRO_Large_all, where it is neither inside nor beside the source.
        expand_test: give the test split the recipe's windows too.
        check: one of `alignment.CHECKS`: how many official pairs are compared with the frames.
        build: workers, links, strictness.
    """

    recipe: Recipe | str = recipe.DEFAULT
    average: str | None = None
    frames: Path | None = None
    expand_test: bool = False
    check: str = "quick"
    build: BuildOptions = field(default_factory=BuildOptions)

    def chosen_recipe(self) -> Recipe:
        """The recipe, averaged in the domain asked for.

        Raises:
            UsageError: no such recipe, or one that cannot be used.
        """
        chosen = recipe.load_recipe(self.recipe) if isinstance(self.recipe, str) else self.recipe
        return replace(chosen, average=self.average or chosen.average)

    def plan(self, src: Path, corrections: Corrections | None = None) -> Plan:
        """Plan the expansion of a GoPro tree, from names alone; raises as `plan_gopro` does."""
        return plan_gopro(
            src, self.chosen_recipe(), frames=self.frames, expand_test=self.expand_test,
            corrections=corrections,
        )  # fmt: skip


def expand_gopro(
    src: Path,
    out: Path | None = None,
    options: ExpandOptions | None = None,
    *,
    on_plan: Callable[[Plan], None] | None = None,
) -> BuildReport:
    """Expand a GoPro tree into trajectories; run it again to resume.

    The official pairs are compared with the frames first. Where they disagree with what the names
    say, windows move to the frames that were found, or are left out as problems.

    Args:
        src: GOPRO_Large, GOPRO_Large_all or the folder that contains them.
        out: the output folder; `default_out(src)` when None.
        options: recipe, frames, check, workers.
        on_plan: called with the plan, as the pixels corrected it, before the first pair is made.

    Raises:
        UsageError: no GoPro tree, or a recipe that cannot be used.
        OutputError: `out` is not ours, locked by another builder, or of another config (exit 5).
        BuildError: too little space, or a problem under `strict`.
    """
    options = options or ExpandOptions()
    out = out or default_out(src)
    started = time.monotonic()
    # From names alone, so that what cannot be built is refused before any image is read.
    plan = options.plan(src)
    run.refuse(plan, out, options.build)
    try:
        # The check may take long, so the folder is locked and known to be of this config first.
        with run.locked(out, options.build) as folder:
            refuse_other_config(folder, plan, options.build.link, settled=False)
            plan = alignment.settle(
                plan, out, level=options.check, jobs=options.build.jobs,
                plan_again=lambda corrections: options.plan(src, corrections),
                progress=options.build.progress,
            )  # fmt: skip
            if on_plan is not None:
                on_plan(plan)
            # Again, since the pixels may have added problems.
            run.refuse_problems(plan, options.build)
            report = run.build_in(folder, plan, options.build)
    finally:
        workers.end_workers()  # those of the check, where the build was refused
    return replace(report, seconds=time.monotonic() - started)


def default_out(src: Path) -> Path:
    """Where `expand` writes by default: the source's name and `_trajectories`, beside it."""
    try:
        src = src.resolve()
    except (OSError, RuntimeError):  # links in a circle; the search for the trees reports it
        src = src.absolute()
    return src.with_name(src.name + "_trajectories")
