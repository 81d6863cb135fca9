"""Options and printing that several commands share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trajectory_builder.cli import paths
from trajectory_builder.cli.app import counted, pack, say
from trajectory_builder.trajectory import LEFT_OUT

if TYPE_CHECKING:
    from trajectory_builder.build.run import BuildOptions, BuildReport
    from trajectory_builder.curate.derive import DerivedReport
    from trajectory_builder.plan.table import Plan
    from trajectory_builder.trajectory import Problem

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = paths.PATH


def chain(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several click decorators as one, in the order in which help shows them."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


gopro: Callable[[F], F] = chain(
    paths.one("SRC"),
    click.option("--frames", type=FOLDER, help="GOPRO_Large_all. [default: beside or in SRC]"),
    click.option("--recipe", default="fidediff-7877", show_default=True, metavar="NAME|FILE",
                 help="Which windows become pairs; see `trajbuild recipes`."),
    click.option("--average", type=click.Choice(["srgb", "gamma2.2"]),
                 help="Domain of the averages. [default: the recipe's]"),
    click.option("--expand-test", is_flag=True,
                 help="Give the test split the recipe's windows too."),
)  # fmt: skip


def _or_all_cores(ctx: click.Context, parameter: click.Parameter, value: int | None) -> int:
    from trajectory_builder.build.workers import default_jobs

    return value or default_jobs()


jobs: Callable[[F], F] = click.option(
    "--jobs", type=click.IntRange(1), callback=_or_all_cores, help="Workers. [default: all cores]"
)
_WORKERS: tuple[Callable[[F], F], ...] = (
    jobs,
    click.option("--backend", type=click.Choice(["loky", "threading", "dask", "ray"]),
                 default="loky", show_default=True, help="What runs the shards."),
    click.option("--dask-scheduler", metavar="ADDRESS",
                 help="A running Dask scheduler; needs --backend dask."),
    click.option("--ray-address", metavar="ADDRESS",
                 help="A running Ray head; needs --backend ray."),
    click.option("--strict", is_flag=True, help="Stop at the first problem."),
    click.option("--wait", type=click.FloatRange(0), default=0.0, show_default=True,
                 metavar="SECONDS", help="How long to wait for another builder in OUT."),
    click.option("--progress/--no-progress", default=True, help="Show progress on stderr."),
)  # fmt: skip
_BUILD_OPTIONS = pack("build", "trajectory_builder.cli.options:build_options")

workers: Callable[[F], F] = chain(*_WORKERS, _BUILD_OPTIONS)
build: Callable[[F], F] = chain(
    *_WORKERS,
    click.option("--files", type=click.Choice(["copy", "hardlink", "symlink", "reference"]),
                 default="copy", show_default=True, help="How the official files come into OUT."
                 " Symbolic links (symlink or reference) are read with --allow-links only."),
    # The option's first name.
    click.option("--link", type=click.Choice(["copy", "hardlink", "symlink"]), hidden=True),
    _BUILD_OPTIONS,
)  # fmt: skip

as_json: Callable[[F], F] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)


SYMLINKS = ("symlink", "reference")
"""Both mean symbolic links out of the new set."""
files_of_set: Callable[[F], F] = click.option(
    "--files",
    type=click.Choice(["hardlink", "copy", "symlink", "reference", "none"]),
    default="hardlink",
    show_default=True,
    help="How images come into OUT. A set of symbolic links (symlink or reference) is read with"
    " --allow-links only. With none, only the manifest is written.",
)
allow_links: Callable[[F], F] = click.option(
    "--allow-links",
    is_flag=True,
    help="Follow symbolic links out of the source; for sets of your own.",
)
seed: Callable[[F], F] = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of all random choices."
)


def build_options(  # noqa: PLR0913  # one parameter per option
    jobs: int,
    backend: str,
    dask_scheduler: str | None,
    ray_address: str | None,
    strict: bool,
    wait: float,
    progress: bool,
    files: str = "copy",
    link: str | None = None,
) -> BuildOptions:
    """The build's options from those of the command line.

    Raises:
        click.UsageError: a cluster's address without its backend.
    """
    from trajectory_builder.build.run import BuildOptions

    for needed, option, address in (
        ("dask", "--dask-scheduler", dask_scheduler),
        ("ray", "--ray-address", ray_address),
    ):
        if address and backend != needed:
            raise click.UsageError(f"{option} needs --backend {needed}")
    chosen = link or files
    return BuildOptions(
        jobs=jobs,
        backend=backend,
        address=dask_scheduler or ray_address,
        link="symlink" if chosen in SYMLINKS else chosen,
        strict=strict,
        wait_seconds=wait,
        progress=progress,
        command=click.get_current_context().find_root().obj or (),
    )


def named(problem: Problem) -> str:
    """A problem's sentence, followed by its file unless the sentence names it."""
    known = not problem.file or PurePath(problem.file).name in problem.what
    return problem.what if known else f"{problem.what} ({problem.file})"


def print_problem_count(count: int, out: Path) -> None:
    """Print on stderr how many problems there are and where they are listed."""
    say(f"{counted(count, 'problem')}: see {shlex.quote(str(out))}/problems.parquet", err=True)


def print_notes(plan: Plan) -> None:
    """Print on stderr what is unusual or missing in the source, before the work starts."""
    for note in plan.notes:
        say(f"note: {note}", err=True)
    problems = [problem for problem in plan.problems if problem.reason not in LEFT_OUT]
    for problem in problems[:5]:
        say(f"problem: {named(problem)}", err=True)
    if len(problems) > 5:
        say(f"problem: and {len(problems) - 5:,} more", err=True)


def print_plan(
    plan: Plan, out: Path | None, *, as_json: bool, drawing_seconds: float | None = None
) -> None:
    """Print counts, skipped windows, notes and problems; with `out`, bytes needed and free too.

    `drawing_seconds` is how long frames are drawn between those of footage; None without any.
    """
    data = plan_data(plan, out)
    if drawing_seconds is not None:
        data["drawing_seconds"] = round(drawing_seconds, 1)
    if as_json:
        say(json.dumps(data))
        return
    for split, counts in data["counts"].items():
        say(
            f"{split}: {counted(counts['pairs'], 'pair')} on"
            f" {counted(counts['trajectories'], 'trajectory')}, {counts['averaged']:,} to average"
        )
        say("  " + ", ".join(f"n = {n}: {c:,}" for n, c in counts["per_n"].items()))
    for name, words in (
        ("skipped", "windows of the recipe leave their clip and are skipped"),
        (
            "truncated",
            "official pairs begin before the first published frame; their blurs are kept as they"
            " are, but frames cannot confirm them",
        ),
    ):
        if data[name]:
            say(f"{len(data[name])} {words}:")
            say(*(f"  {line}" for line in data[name]))
    for note in plan.notes:
        say(f"note: {note}")
    for problem in plan.problems[:5]:
        say(f"problem: {named(problem)}", f"  cure:  {problem.cure}")
    if len(plan.problems) > 5:
        say(f"problem: and {len(plan.problems) - 5:,} more")
    _print_price(data)


def _print_price(data: dict[str, Any]) -> None:
    """How long and how large it will be, as far as `plan_data` says."""
    if "drawing_seconds" in data:
        say(f"drawing frames takes about {_duration(data['drawing_seconds'])} on this machine")
    if "out" in data:
        need, free = _size(data["bytes_needed"]), _size(data["bytes_free"])
        say(f"needs about {need} in {data['out']}, {free} are free")


def plan_data(plan: Plan, out: Path | None) -> dict[str, Any]:
    """A plan's summary as plain values."""
    from trajectory_builder.build import run

    data: dict[str, Any] = {
        "counts": plan.counts(),
        "config_sha256": plan.config_sha256,
        "recipe": plan.config["recipe"]["name"],
        "skipped": list(plan.skipped),
        "truncated": plan.truncated(),
        "problems": [problem.what for problem in plan.problems],
        "notes": list(plan.notes),
    }
    if out is not None:
        import shutil

        folder = next(path for path in (out, *out.resolve().parents) if path.is_dir())
        data |= {
            "out": str(out),
            "bytes_needed": run.needed_bytes(plan, out),
            "bytes_free": shutil.disk_usage(folder).free,
        }
    return data


def _duration(seconds: float) -> str:
    if seconds < 90:
        return counted(max(round(seconds), 1), "second")
    return counted(round(seconds / 60), "minute") if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def print_report(report: BuildReport) -> None:
    """Print what a build made, where, in how long, and what to do next."""
    out = report.out
    pairs = pairs_of(report.pairs)
    for note in report.notes:
        say(f"note: {note}", err=True)
    if report.made == 0 and not report.problems:
        say(f"{out} is complete: {pairs}; nothing to do")
    else:
        say(f"{out}: {pairs}, {report.made:,} made in {report.seconds:.1f} s")
    if not any(report.pairs.values()):
        _print_reasons(out, {p.reason for p in _problems(out)})
    elif report.left_out:
        windows = counted(report.left_out, "window")
        listed = f"{shlex.quote(str(out))}/problems.parquet"
        say(f"{windows} left out on purpose: {_left_out(out)}; see {listed}", err=True)
    if report.problems:
        print_problem_count(report.problems, out)
        _print_reasons(out, {p.reason for p in _problems(out)} - LEFT_OUT)
    say(f"next: trajbuild verify {shlex.quote(str(out))}", err=True)


def pairs_of(counts: dict[str, int]) -> str:
    """Pairs per split in words: `53 train, 6 test pairs`; `no pairs`."""
    listed = ", ".join(f"{count:,} {split}" for split, count in counts.items()) or "no"
    return f"{listed} pair" if list(counts.values()) == [1] else f"{listed} pairs"


def _problems(out: Path) -> list[Problem]:
    from trajectory_builder.build import record

    return record.read_problems(out)


def _left_out(out: Path) -> str:
    """The reasons to leave windows out on purpose, the commonest first, with their counts."""
    from collections import Counter

    counts = Counter(p.reason for p in _problems(out) if p.reason in LEFT_OUT)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def _print_reasons(out: Path, reasons: set[str]) -> None:
    """Print reasons of problems.parquet, the commonest first, with an example and its cure."""
    from collections import Counter

    from trajectory_builder.errors import LISTED_AT_MOST

    problems = [problem for problem in _problems(out) if problem.reason in reasons]
    counts = Counter(problem.reason for problem in problems)
    for reason, count in counts.most_common(LISTED_AT_MOST):
        first = next(problem for problem in problems if problem.reason == reason)
        say(f"  {count:,} {reason}, first: {named(first)}", err=True)
        if first.cure:
            say(f"    cure:  {first.cure}", err=True)


def print_derived(report: DerivedReport, *, as_json: bool, linked: bool) -> None:
    """Print what was written; the next command on stderr."""
    if as_json:
        say(json.dumps(report.as_data()))
        return
    say(f"{report.out}: {pairs_of(report.pairs)}, {counted(report.files, 'file')}")
    print_dropped(report.dropped)
    links = " --allow-links" if linked else ""
    say(f"next: trajbuild verify {shlex.quote(str(report.out))}{links}", err=True)


def print_dropped(dropped: dict[str, int]) -> None:
    """Print on stderr which criterion left out how many rows."""
    for reason, count in dropped.items():
        if count:
            say(f"left out by {reason}: {counted(count, 'pair')}", err=True)
