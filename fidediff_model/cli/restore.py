"""`fidediff restore`: blurry images, folders and videos in, sharp ones out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fidediff_model.cli.model_options import model_options, read_timestep
from trajectory_builder.cli.app import pack, say
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import LISTED_AT_MOST, printable

if TYPE_CHECKING:
    from fidediff_model.restore.request import RestoreRequest
    from fidediff_model.restore.run import RestoreReport


@click.command("restore")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", required=True, type=click.Path(path_type=Path, readable=False),
              help="Output folder; a file such as sharp.png for one INPUT; or -.")  # fmt: skip
@click.option("--timestep", default="auto", callback=read_timestep,
              help="auto, or 0 to 999: (frames averaged - 1) x 20.  [default: auto]")  # fmt: skip
@click.option("--strength", type=float, default=1.0, show_default=True,
              help="Share of the restoration in the output; 0 gives the input.")  # fmt: skip
@model_options()
@click.option("--white", type=click.IntRange(255, 65535), metavar="VALUE",
              help="White in 16-bit images: 4095 for 12 bits.  [default: 65535]")  # fmt: skip
@click.option("--compare", "--side-by-side", "side_by_side", is_flag=True,
              help="Also write input and output as NAME_side_by_side.png.")  # fmt: skip
@click.option("--show-kernels", is_flag=True, help="Also write a picture of the blur kernels.")
@click.option("--skip-existing", is_flag=True, help="Skip outputs that exist.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@pack("request", "fidediff_model.restore.request:RestoreRequest")
def command(request: RestoreRequest, as_json: bool) -> int:
    """Restore blurry images and videos.

    INPUT is a file, a folder (its structure is kept), a glob pattern, or - for
    one image from standard input to standard output (with --out -). Images are
    PNG, JPEG, TIFF, WebP, AVIF or HEIC with 8 or 16 bits; the output has the
    same name, size, format, alpha, profile and EXIF. Videos keep their sound.
    OUT gets restored.jsonl: the timestep found for each file, what could not be
    kept, and the files that failed.

    Run the same command again to resume. Inputs are never overwritten; an
    output of another command is refused without --overwrite, and so is any
    file that --out names and that exists.

    \b
    Examples:
      fidediff restore blurry.jpg --model RUN/model --out sharp.jpg --compare
      fidediff restore photos/ --model RUN/model --out sharp/
      fidediff restore 'clips/*.mp4' --model RUN/model --out sharp/ --batch 4
      fidediff restore - --model RUN/model --out - < blurry.png > sharp.png
    """
    from fidediff_model.restore import run

    if request.inputs == ("-",) or str(request.out) == "-":
        return _one_image(request)
    plan = run.make_plan(request)
    report = run.RestoreReport()
    if plan.jobs:
        ready = plan.load()
        # Created after the model is loaded, so that its rate is that of the images alone.
        with Progress(len(plan.jobs), "files") as bar:
            report = run.restore_files(
                plan, ready, report=lambda kind, n: bar.advance(n) if kind == "image" else None
            )
    return _print(report, plan.skipped, request, as_json=as_json)


def _one_image(request: RestoreRequest) -> int:
    if request.inputs != ("-",) or str(request.out) != "-":
        raise click.UsageError("one image goes from - to -: fidediff restore - --out -")
    from fidediff_model.restore.run import restore_bytes

    restored, t_hat = restore_bytes(request, sys.stdin.buffer.read())
    sys.stdout.buffer.write(restored)
    say(f"timestep {t_hat:.1f}", err=True)
    return 0


def _print(report: RestoreReport, skipped: int, request: RestoreRequest, *, as_json: bool) -> int:
    """Print the result and the failures with their reasons; returns the exit code."""
    from fidediff_model.restore.records import RECORD_FILE
    from trajectory_builder.images.formats import counted_by_ending, kind_not_read

    failures = [
        {"file": printable(file), "what": error.what, "cure": error.cure}
        for file, error in report.failures
    ]
    for failure in failures[:LISTED_AT_MOST]:
        say(f"failed: {failure['file']}: {failure['what']}", err=True)
        if failure["cure"]:
            say(f"  cure:  {failure['cure']}", err=True)
    if len(failures) > LISTED_AT_MOST:
        record = printable(request.out / RECORD_FILE)
        say(f"failed: and {len(failures) - LISTED_AT_MOST:,} more, all named in {record}", err=True)
    unread = counted_by_ending(file.name for file, _ in report.failures if kind_not_read(file.name))
    for note in (*report.notes, *([unread] if unread else [])):
        say(f"note: {note}", err=True)
    rate = report.restored / report.seconds if report.seconds else 0.0
    if as_json:
        counts = {"restored": report.restored, "frames": report.frames, "skipped": skipped}
        rest = {"seconds": round(report.seconds, 3), "notes": list(report.notes)}
        out = printable(request.out)
        say(json.dumps({"out": out, **counts, "failures": failures, **rest}))
    else:
        if not request.is_one_file:
            say(str(request.out / RECORD_FILE))
        elif not failures:
            say(str(request.out))
        say(
            f"{report.restored:,} restored, {skipped:,} done before, {len(failures):,} failed,"
            f" {report.seconds:.1f} s, {rate:.2f} files/s",
            err=True,
        )
    sys.stdout.flush()
    if not failures:
        return 0
    return 4 if report.restored or skipped else 1
