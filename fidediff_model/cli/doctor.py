"""`fidediff doctor`: what this machine offers, and the VGG16 file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trajectory_builder.cli.app import say

FILE = click.Path(path_type=Path, readable=False)


@click.command(name="doctor", short_help="Versions, devices, precisions, and needed files.")
@click.option("--vgg16", type=FILE, help="VGG16 file to check.")
@click.option("--convert", type=FILE, metavar="FILE.safetensors",
              help="Write the used part of --vgg16 (59 MB) to this new file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def command(vgg16: Path | None, convert: Path | None, as_json: bool) -> int:
    """Report versions, devices, precisions, memory, and the VGG16 file that
    LPIPS, EA-LPIPS and DISTS need.

    Exits with 1 if something that training needs is missing or broken.

    \b
    Example:
      fidediff doctor --vgg16 vgg16-397923af.pth --convert vgg16.safetensors
    """
    from fidediff_model import doctor

    if convert is not None:
        if vgg16 is None:
            raise click.UsageError("--convert needs --vgg16")
        from fidediff_model.weights import vgg

        vgg16 = vgg.convert(vgg16, convert)
    findings = doctor.look(vgg16)
    report = doctor.as_dict(findings)
    if as_json:
        say(json.dumps(report))
        return int(report["wrong"] > 0)
    for finding in findings:
        say(f"{finding.name:14} {finding.value}")
        if finding.cure:
            say(f"{'':14}   cure: {finding.cure}")
    return int(report["wrong"] > 0)
