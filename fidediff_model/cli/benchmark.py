"""`fidediff benchmark`: seconds per image, part by part."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fidediff_model.cli.model_options import FOLDER
from trajectory_builder.cli.app import pack, say
from trajectory_builder.disk.progress import Progress

if TYPE_CHECKING:
    from fidediff_model.evaluate.benchmark import BenchmarkRequest


def read_size(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as (height, width)."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.BadParameter(f"give WIDTHxHEIGHT such as 1280x720, not {value!r}")
    return int(height), int(width)


@click.command("benchmark")
@click.option("--preset", type=click.Choice(["tiny", "sd21"]), default="sd21", show_default=True,
              help="Model configuration.")  # fmt: skip
@click.option("--base-model", default="random:0", show_default="random weights",
              help="Folder or hub id of base weights.")  # fmt: skip
@click.option("--random-base", is_flag=True, help="Use random base weights, which is the default.")
@click.option("--size", default="1280x720", show_default=True, callback=read_size,
              metavar="WIDTHxHEIGHT", help="Size of the image.")  # fmt: skip
@click.option("--latent-stride", type=click.Choice([4, 8]), help="Measure only this one.")
@click.option("--control", type=click.Choice(["none", "filter"]),
              help="Measure only this one.")  # fmt: skip
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(["fp32", "bf16", "fp16"]),
              help="Measure only these.  [default: bf16, fp32 on CUDA; else fp32]")  # fmt: skip
@click.option("--compile/--no-compile", default=False, help="Also measure the compiled model.")
@click.option("--device", help="cuda, cuda:1, mps or cpu.  [default: the best available]")
@click.option("--repeats", type=click.IntRange(min=1), default=20, show_default=True,
              help="Timed runs per variant.")  # fmt: skip
@click.option("--warm-up", type=click.IntRange(min=0), default=3, show_default=True,
              help="Untimed runs before them.")  # fmt: skip
@click.option("--out", type=FOLDER, help="Also write OUT.json and OUT.md.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@pack("request", "fidediff_model.evaluate.benchmark:BenchmarkRequest")
def command(request: BenchmarkRequest, random_base: bool, out: Path | None, as_json: bool) -> None:
    """Measure seconds per image, part by part.

    One row per latent stride, control and type (and compiled): p50 and p95 after
    a warm-up, the median of each part and peak memory, beside the paper's
    seconds. Speed does not depend on the weights, so random ones do.

    \b
    Examples:
      fidediff benchmark --preset tiny --size 640x360
      fidediff benchmark --preset sd21 --random-base --compile --device cuda
    """
    from fidediff_model.evaluate.benchmark import run, to_markdown, write

    if random_base and not request.base_model.startswith("random:"):
        raise click.UsageError("--random-base and --base-model exclude one another")
    with Progress(len(request.variants()), "variants") as bar:
        result = run(request, bar.advance)
    if out:
        write(result, out)
    say(*([json.dumps(asdict(result))] if as_json else to_markdown(result).splitlines()))
