"""`trajbuild doctor`: what this machine and a source lack."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli import paths
from trajectory_builder.cli.app import say

MARKS = {"good": "ok    ", "note": "note  ", "blocks": "BLOCKS"}


@click.command("doctor")
@paths.one("SRC", optional=True)
@click.option("--frames", type=paths.PATH, help="GOPRO_Large_all, as for expand.")
@click.option("--out", type=paths.PATH, help="Where a build would go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(source: Path | None, frames: Path | None, out: Path | None, as_json: bool) -> int:
    """Report what this machine and a source have and lack, each with its cure.
    SRC is GOPRO_Large, as for expand.

    Versions, codecs and their measured speed, optional parts, free space
    against what the build needs, and what the source lacks. Writes nothing.
    Exits with 1 if something would make a build fail, else with 0.

    \b
    Example:
      trajbuild doctor GOPRO_Large
    """
    from trajectory_builder.doctor import blocking, examine

    findings = examine(source, frames=frames, out=out)
    blocks = blocking(findings)
    if as_json:
        listed = [vars(finding) for finding in findings]
        say(json.dumps({"schema_version": 1, "ok": not blocks, "findings": listed}))
        return 1 if blocks else 0
    for finding in findings:
        say(f"{MARKS[finding.state]} {finding.name + ':':10} {finding.text}")
        if finding.cure:
            say(f"       {'cure:':10} {finding.cure}")
    fails = f"{len(blocks)} of {len(findings)} would make a build fail"
    say(fails if blocks else "nothing prevents a build")
    return 1 if blocks else 0
