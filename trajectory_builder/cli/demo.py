"""`trajbuild demo`: every step on the sample."""

from __future__ import annotations

from pathlib import Path

import click

from trajectory_builder.cli import options
from trajectory_builder.cli.app import say


@click.command(name="demo", short_help="Sample, expand, verify, report; under a minute.")
@click.option("--out", type=options.FOLDER, default=Path("demo"), show_default=True,
              help="Folder for everything.")  # fmt: skip
@options.jobs
def command(out: Path, jobs: int) -> int:
    """Run every step on a small sample: write GOPRO_Large and
    GOPRO_Large_all in miniature, expand them, verify every file, make a report.

    Run it again: what is finished is kept.

    \b
    Example:
      trajbuild demo --out demo
    """
    from trajectory_builder import report, sample, verify
    from trajectory_builder.build import run
    from trajectory_builder.build.expand import default_out
    from trajectory_builder.plan import gopro, recipe

    say("1/4 sample: photographs moved before a 240 fps camera", err=True)
    sample.write_sample(out)
    say("2/4 expand: windows averaged round each sharp frame", err=True)
    planned = gopro.plan_gopro(out / "GOPRO_Large", recipe.load_recipe(recipe.DEFAULT))
    target = default_out(out / "GOPRO_Large")
    built = run.build_plan(planned, target, run.BuildOptions(jobs=jobs))
    options.print_report(built)
    say("3/4 verify: every file hashed and decoded", err=True)
    checked = verify.verify_folder(target, "full", jobs=jobs)
    say(f"{checked.files:,} files verified, {len(checked.findings):,} findings")
    say("4/4 report: one page, offline", err=True)
    page = report.write_report(target, out / "report.html")
    say("", f"open   {page.resolve()}")
    sample_id = planned.table["sample_id"][-1].as_py()
    say(f"ask    trajbuild explain {target} {sample_id}")
    say("then   trajbuild expand GOPRO_Large  (the real one)")
    return int(checked.exit_code or built.exit_code)
