"""`trajbuild sample`: write the embedded sample."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli.app import say


@click.command(name="sample")
@click.option("--out", required=True, type=click.Path(path_type=Path, readable=False),
              help="Folder for the sample: new, empty, or an earlier sample.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(out: Path, as_json: bool) -> None:
    """Write a small GOPRO_Large and GOPRO_Large_all made from photographs.

    OUT/GOPRO_Large then contains 26 official pairs in 8 sequences (blur,
    blur_gamma, sharp), OUT/GOPRO_Large_all their 260 frames, named, numbered,
    shifted and averaged as in the real set, and OUT/holiday.mp4 a slow-motion
    video of one sequence (with fidediff[video]). Nothing is downloaded.

    \b
    Example:
      trajbuild sample --out sample
      trajbuild expand sample/GOPRO_Large

    Run the same command again to resume, or to repair the sample.
    """
    from trajectory_builder.sample import write_sample

    report = write_sample(out, show_progress=True)
    if as_json:
        say(json.dumps(report.as_json()))
        return
    say(f"{report.pairs} pairs and {report.frames} frames in {report.clips} sequences")
    say(f"{report.files} files, {report.size_bytes / 1e6:.1f} MB; {report.written} written")
    if report.video:
        say(f"a video of one sequence: {report.video}")
    else:
        say('no video: pip install "fidediff[video]" and run the same command again')
    say(f"next: trajbuild expand --src {report.src}")
