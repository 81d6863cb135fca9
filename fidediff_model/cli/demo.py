"""`fidediff demo`: the complete chain in minutes."""

from __future__ import annotations

import time
from pathlib import Path

import click

from trajectory_builder.cli.app import say


@click.command(name="demo", short_help="The complete chain, in minutes on a CPU.")
@click.option("--out", type=click.Path(path_type=Path, readable=False),
              default=Path("fidediff-demo"), show_default=True,
              help="Folder for everything.")  # fmt: skip
@click.option("--scale", type=click.FloatRange(0.01), default=1.0, show_default=True,
              help="Factor on all numbers of training steps.")  # fmt: skip
def command(out: Path, scale: float) -> None:
    """Run the complete chain: make a sample, train the three stages of a tiny
    model for a minute each, restore blurs of an unseen scene, draw a picture.

    Run it again to resume.

    \b
    Example:
      fidediff demo --out fidediff-demo
    """
    from fidediff_model.demo import run
    from fidediff_model.model.engine import choose_threads
    from fidediff_model.model.presets import preset

    choose_threads(preset("tiny").base.unet_channels[0])
    begun = time.monotonic()
    report = run.run(out, say=lambda line: say(line, err=True), scale=scale)
    minutes = (time.monotonic() - begun) / 60
    say("", f"blurry {report.psnr_blur:.2f} dB, restored {report.psnr_restored:.2f} dB"
               f" against the sharp images, after {minutes:.1f} minutes")  # fmt: skip
    say(
        "This model is a toy: a thousandth of FideDiff's size, a few minutes of training, a base"
        "\nmodel made on the spot. On a scene that it never saw, its restorations have less detail"
        "\nthan the blurs: it shows the chain, not the quality. docs/training.md is about the"
        "\nreal one."
    )
    say("", f"open   {report.picture.resolve()}")
    say(f"curves tensorboard --logdir {out}")
    say("then   fidediff train base --data OUT --run-dir RUN --base-model SD21")
    say(f"       (each stage's settings are in its config.yaml, such as {out}/base/config.yaml)")
