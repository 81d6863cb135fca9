"""Options and printing that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trajectory_builder.cli import paths
from trajectory_builder.cli.app import say
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

workers: Callable[[F], F] = chain(
    click.option("--jobs", type=click.IntRange(1), help="Workers. [default: all cores]"),
    click.option("--backend", type=click.Choice(["loky", "threading", "dask", "ray"]),
                 default="loky", show_default=True, help="Where shards run."),
    click.option("--dask-scheduler", metavar="ADDRESS",
                 help="A running Dask scheduler; needs --backend dask."),
    click.option("--ray-address", metavar="ADDRESS",
                 help="A running Ray head; needs --backend ray."),
    click.option("--strict", is_flag=True, help="Stop at the first problem."),
    click.option("--wait", type=click.FloatRange(0), default=0.0, show_default=True,
                 metavar="SECONDS", help="Wait so long for another builder in OUT."),
    click.option("--progress/--no-progress", default=True, help="Progress on stderr."),
)  # fmt: skip

build: Callable[[F], F] = chain(
    workers,
    click.option("--files", type=click.Choice(["copy", "hardlink", "symlink", "reference"]),
                 default="copy", show_default=True, help="How the official files come into OUT."
                 " Symbolic links (symlink or reference) are read with --allow-links only."),
    # The option's first name.
    click.option("--link", type=click.Choice(["copy", "hardlink", "symlink"]), hidden=True),
)  # fmt: skip

as_json: Callable[[F], F] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)


SYMLINKS = ("symlink", "reference")
"""Two words for one thing: symbolic links out of the new set."""
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


def plan_of(src: Path, given: dict[str, Any]) -> Plan:
    """The plan that the options of `gopro` ask for."""
    from dataclasses import replace

    from trajectory_builder.plan import gopro, recipe

    chosen = recipe.load_recipe(given["recipe"])
    if given["average"]:
        chosen = replace(chosen, average=given["average"])
    return gopro.plan_gopro(src, chosen, frames=given["frames"], expand_test=given["expand_test"])


def build_options(given: dict[str, Any]) -> BuildOptions:
    """The build's options from those of `build`."""
    from trajectory_builder.build.run import BuildOptions
    from trajectory_builder.build.workers import default_jobs

    return BuildOptions(
        jobs=given["jobs"] or default_jobs(),
        backend=given["backend"],
        address=address_of(given),
        link=_link_of(given),
        strict=given["strict"],
        wait_seconds=given["wait"],
        progress=given["progress"],
    )


def _link_of(given: dict[str, Any]) -> str:
    """How the official files are taken over, as the build names it."""
    files: str = given.get("link") or given.get("files") or "copy"
    return "symlink" if files in SYMLINKS else files


def address_of(given: dict[str, Any]) -> str | None:
    """The cluster's address, which must be of the chosen backend."""
    for backend, option in (("dask", "dask_scheduler"), ("ray", "ray_address")):
        if given[option] and given["backend"] != backend:
            raise click.UsageError(f"--{option.replace('_', '-')} needs --backend {backend}")
    address: str | None = given["dask_scheduler"] or given["ray_address"]
    return address


def named(problem: Problem) -> str:
    """What a problem says, with its file where the sentence does not name it."""
    known = not problem.file or PurePath(problem.file).name in problem.what
    return problem.what if known else f"{problem.what} ({problem.file})"


def tell_problem_count(count: int, out: Path) -> None:
    """Say on stderr how many problems there are and where they are listed."""
    problems = "1 problem" if count == 1 else f"{count:,} problems"
    say(f"{problems}: see {out}/problems.parquet", err=True)


def print_notes(plan: Plan) -> None:
    """Print on stderr what is odd or missing in the source, before the work starts."""
    for note in plan.notes:
        say(f"note: {note}", err=True)
    problems = [problem for problem in plan.problems if problem.reason not in LEFT_OUT]
    for problem in problems[:5]:
        say(f"problem: {named(problem)}", err=True)
    if len(problems) > 5:
        say(f"problem: and {len(problems) - 5:,} more", err=True)


def print_plan(plan: Plan, out: Path | None, *, as_json: bool) -> None:
    """Print counts, skipped windows, notes and problems; with `out`, bytes needed and free too."""
    data = plan_data(plan, out)
    if as_json:
        say(json.dumps(data))
        return
    for split, counts in data["counts"].items():
        say(
            f"{split}: {counts['pairs']:,} pairs on {counts['trajectories']:,} trajectories,"
            f" {counts['averaged']:,} to average"
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
    if out is not None:
        need, free = _size(data["bytes_needed"]), _size(data["bytes_free"])
        say(f"needs about {need} in {out}, {free} are free")


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

        folder = next(one for one in (out, *out.resolve().parents) if one.is_dir())
        data |= {
            "out": str(out),
            "bytes_needed": run.needed_bytes(plan, out),
            "bytes_free": shutil.disk_usage(folder).free,
        }
    return data


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def print_report(report: BuildReport) -> None:
    """Say what a build made, where, in how long, and what to do next."""
    out = report.out
    pairs = ", ".join(f"{count:,} {split}" for split, count in report.pairs.items()) or "no"
    for note in report.notes:
        say(f"note: {note}", err=True)
    if report.made == 0 and not report.problems:
        say(f"{out} is whole: {pairs} pairs; nothing to do")
    else:
        say(f"{out}: {pairs} pairs, {report.made:,} made in {report.seconds:.1f} s")
    if not any(report.pairs.values()):
        _tell_reasons(out, {p.reason for p in _problems(out)})
    elif report.left_out:
        windows = "1 window" if report.left_out == 1 else f"{report.left_out:,} windows"
        say(
            f"{windows} left out on purpose: {_left_out(out)}; see {out}/problems.parquet", err=True
        )
    if report.problems:
        tell_problem_count(report.problems, out)
        _tell_reasons(out, {p.reason for p in _problems(out)} - LEFT_OUT)
    say(f"next: trajbuild verify {out}", err=True)


def _problems(out: Path) -> list[Problem]:
    from trajectory_builder.build import record

    return record.read_problems(out)


def _left_out(out: Path) -> str:
    """The reasons to leave windows out on purpose, the commonest first, with their counts."""
    from collections import Counter

    counts = Counter(p.reason for p in _problems(out) if p.reason in LEFT_OUT)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def _tell_reasons(out: Path, reasons: set[str]) -> None:
    """Reasons in problems.parquet, the commonest first, each with an example and its cure."""
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
    pairs = ", ".join(f"{count:,} {split}" for split, count in report.pairs.items())
    say(f"{report.out}: {pairs} pairs, {report.files:,} files")
    print_dropped(report.dropped)
    links = " --allow-links" if linked else ""
    say(f"next: trajbuild verify {report.out}{links}", err=True)


def print_dropped(dropped: dict[str, int]) -> None:
    """Print on stderr which criterion left out how many rows."""
    for reason, count in dropped.items():
        if count:
            say(f"left out by {reason}: {count:,} pairs", err=True)
