"""`trajbuild expand`: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trajectory_builder.cli import options

if TYPE_CHECKING:
    from trajectory_builder.build.finished import BuildReport
    from trajectory_builder.plan.gopro import Plan


@click.command(name="expand", short_help="Expand GoPro into trajectories.")
@options.source
@click.option("--out", type=options.FOLDER, help="Output folder. [default: SRC_trajectories]")
@options.build
@click.option("--check", type=click.Choice(["quick", "full", "off"]), default="quick",
              show_default=True,
              help="Hold a few or all official pairs against the frames.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan, the bytes needed and free; stop.")
@options.as_json
def command(
    src: Path, out: Path | None, check: str, dry_run: bool, as_json: bool, **given: Any
) -> int | None:
    """Expand GoPro: keep the official pairs, average further windows round
    each sharp frame, write a Parquet manifest.

    OUT then holds train/ and test/ with metadata.parquet, blur/ and sharp/,
    a card, build.json, and problems.parquet if anything could not be made.

    \b
    Example:
      trajbuild expand --src GOPRO_Large --frames GOPRO_Large_all --jobs 8
    Run the same command again to resume.
    """
    from trajectory_builder.build import finished

    target = out or finished.default_out(src)
    if dry_run:
        options.print_plan(options.plan_of(src, given), target, as_json=as_json)
        return None
    options.address_of(given)  # refuses one of another backend
    decisive = {key: given[key] for key in ("average", "expand_test", "link")}
    asked = finished.question_sha256(src, given["frames"], given["recipe"], decisive)
    found = finished.look(target, asked, check)
    if found is None:
        report = _expand(src, target, check, given)
        # Asked again: a source that grew meanwhile is not what was built.
        if asked == finished.question_sha256(src, given["frames"], given["recipe"], decisive):
            finished.remember(target, asked, check)
    else:
        report, notes = found
        options.tell_notes(notes, ())
    if as_json:
        click.echo(json.dumps(report.as_data()))
    else:
        options.print_report(report)
    return int(report.exit_code)


def _expand(src: Path, target: Path, check: str, given: dict[str, Any]) -> BuildReport:
    """Plan, hold pixels against names, build."""
    from trajectory_builder.build import alignment, backends, run

    chosen = options.build_options(given)

    def settle(plan: Plan) -> Plan:
        """The plan as the pixels have it; what they said is told on stderr."""
        settled = alignment.settle(
            plan, target, level=check, jobs=chosen.jobs,
            plan_again=lambda corrections: options.plan_of(src, given, corrections),
            progress=chosen.progress,
        )  # fmt: skip
        options.tell_notes(settled.notes, settled.problems)
        return settled

    try:
        return run.build_plan(options.plan_of(src, given), target, chosen, settle=settle)
    finally:
        backends.end_workers()  # those of the check, where the build was refused
