"""Generate a blur data set from a user's footage. All that `trajbuild generate` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trajectory_builder.build.run import BuildOptions, BuildReport, build_plan
from trajectory_builder.plan.footage import plan_footage
from trajectory_builder.plan.footage_request import FootageRequest
from trajectory_builder.plan.table import Plan


def generate_footage(
    request: FootageRequest,
    out: Path,
    options: BuildOptions | None = None,
    *,
    on_plan: Callable[[Plan], None] | None = None,
) -> BuildReport:
    """Make a blur data set of videos, folders of frames or photographs; run it again to resume.

    Args:
        request: the footage, and what to make of it.
        out: the output folder.
        options: workers, strictness.
        on_plan: called with the plan before the first pair is made.

    Raises:
        UsageError, DataError, VideoError, ImageError: footage or settings that cannot be used.
        OutputError: `out` is not ours, locked by another builder, or of another config (exit 5).
        BuildError: too little space, or a problem under `strict`.
    """
    plan = plan_footage(request)
    if on_plan is not None:
        on_plan(plan)
    return build_plan(plan, out, options)
