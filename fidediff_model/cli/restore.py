"""`fidediff restore`: blurry images, folders and videos in, sharp ones out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fidediff_model.cli.model_options import (
    model_options,
    progress_bar,
    read_timestep,
    settings_of,
)
from trajectory_builder.cli.app import say
from trajectory_builder.errors import LISTED_AT_MOST, printable

if TYPE_CHECKING:
    from fidediff_model.restore.run import RunReport


@click.command("restore")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, readable=False),
    help="Output folder, or -.",
)
@click.option(
    "--timestep",
    default="auto",
    callback=read_timestep,
    help="auto, or a number from 0 to 999: (frames averaged - 1) x 20.  [default: auto]",
)
@click.option(
    "--strength", type=float, default=1.0, show_default=True, help="0: the input, 1: all of it."
)
@model_options()
@click.option("--side-by-side", is_flag=True, help="Also write input and output in one picture.")
@click.option("--show-kernels", is_flag=True, help="Also write a picture of the blur kernels.")
@click.option("--skip-existing", is_flag=True, help="Leave whatever exists alone.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(inputs: tuple[str, ...], out: Path, **values: Any) -> int:
    """Restore blurry images and videos.

    INPUT is a file, a folder (its structure is kept), a glob pattern, or - for
    one image from standard input to standard output (with --out -). Images are
    PNG, JPEG, TIFF or WebP with 8 or 16 bits; the output has the same name,
    size, format, alpha, profile and EXIF. Videos keep their sound. OUT gets
    restored.jsonl with the timestep found for each file.

    Run the same command again to resume. Inputs are never overwritten; an
    output that is not of this command is refused without --overwrite.

    \b
    Examples:
      fidediff restore photos/ --model RUN/model --out sharp/
      fidediff restore 'clips/*.mp4' --model RUN/model --out sharp/ --batch 4
      fidediff restore - --model RUN/model --out - < blurry.png > sharp.png
    """
    if values["skip_existing"] and values["overwrite"]:
        raise click.UsageError("--skip-existing and --overwrite exclude one another")
    if inputs == ("-",) or str(out) == "-":
        return _one_image(inputs, out, values)
    from fidediff_model.restore import command

    plan = command.make_plan(inputs, out, settings_of(values), values)
    if plan.jobs:
        ready = plan.load()
        # Made when the model is there: the bar's rate and the last line's are of the same work.
        with progress_bar(len(plan.jobs), "image") as bar:
            report = plan.run(ready, lambda kind, n: bar.update(n) if kind == "image" else None)
    else:
        report = command.nothing_done()
    return _tell(report, plan.skipped, out, as_json=values["as_json"])


def _one_image(inputs: tuple[str, ...], out: Path, values: dict[str, Any]) -> int:
    if inputs != ("-",) or str(out) != "-":
        raise click.UsageError("one image goes from - to -: fidediff restore - --out -")
    from fidediff_model.restore import command

    content = sys.stdin.buffer.read()
    restored, t_hat = command.restore_bytes(content, settings_of(values), values)
    sys.stdout.buffer.write(restored)
    say(f"timestep {t_hat:.1f}", err=True)
    return 0


def _tell(report: RunReport, skipped: int, out: Path, *, as_json: bool) -> int:
    """Print what was done, and what failed and why; the exit code."""
    from fidediff_model.restore.jobs import RECORD_FILE

    failures = [
        {"file": printable(file), "what": error.what, "cure": error.cure}
        for file, error in report.failures
    ]
    for failure in failures[:LISTED_AT_MOST]:
        say(f"failed: {failure['file']}: {failure['what']}", err=True)
        if failure["cure"]:
            say(f"  cure:  {failure['cure']}", err=True)
    if len(failures) > LISTED_AT_MOST:
        say(f"failed: {len(failures) - LISTED_AT_MOST:,} more", err=True)
    for note in sorted(report.notes):
        say(f"note: {note}", err=True)
    rate = report.restored / report.seconds if report.seconds else 0.0
    if as_json:
        counts = {"restored": report.restored, "frames": report.frames, "skipped": skipped}
        rest = {"seconds": round(report.seconds, 3), "notes": sorted(report.notes)}
        say(json.dumps({"out": printable(out), **counts, "failures": failures, **rest}))
    else:
        say(str(out / RECORD_FILE))
        say(
            f"{report.restored:,} restored, {skipped:,} done before, {len(failures):,} failed,"
            f" {report.seconds:.1f} s, {rate:.2f} files/s",
            err=True,
        )
    sys.stdout.flush()
    if not failures:
        return 0
    return 4 if report.restored or skipped else 1
