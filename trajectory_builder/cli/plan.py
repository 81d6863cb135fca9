"""`trajbuild plan`: what a build would make, from names alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajectory_builder.cli import options
from trajectory_builder.cli.app import pack
from trajectory_builder.errors import OutputError

if TYPE_CHECKING:
    from trajectory_builder.build.expand import ExpandOptions


@click.command(name="plan", short_help="Count and list what expand would make.")
@options.gopro
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path, readable=False),
              help="Write the plan's rows to this Parquet file.")  # fmt: skip
@options.as_json
@pack("chosen", "trajectory_builder.build.expand:ExpandOptions")
def command(source: Path, out: Path | None, chosen: ExpandOptions, as_json: bool) -> None:
    """Count and list what `expand` would make of SRC, which is GOPRO_Large or
    GOPRO_Large_all; opens no image.

    \b
    Example:
      trajbuild plan GOPRO_Large --out plan.parquet
    """
    from trajectory_builder.build import record
    from trajectory_builder.disk import atomic

    plan = chosen.plan(source)
    if out is not None:
        try:
            atomic.write_atomic(out, record.plan_bytes(plan.described()))
        except OSError as error:
            raise OutputError(
                f"cannot write the plan: {error.strerror}",
                where=str(out),
                cure="give a file in a folder that exists and that you may write to",
            ) from error
    options.print_plan(plan, None, as_json=as_json)
