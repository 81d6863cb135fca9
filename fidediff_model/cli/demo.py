"""`fidediff demo`: what the shipped model does, and what training it on brings."""

from __future__ import annotations

import time
from pathlib import Path

import click

from trajectory_builder.cli.app import say


@click.command(name="demo", short_help="The shipped model on new blurs, then trained on.")
@click.option("--out", type=click.Path(path_type=Path, readable=False),
              default=Path("fidediff-demo"), show_default=True,
              help="Folder for everything.")  # fmt: skip
@click.option("--scale", type=click.FloatRange(0.01), default=1.0, show_default=True,
              help="Factor on the number of training steps.")  # fmt: skip
def command(out: Path, scale: float) -> None:
    """Make a sample, train the shipped model on its blurs for two minutes,
    restore blurs of other clips before and after, draw a picture.

    Run it again to resume.

    \b
    Example:
      fidediff demo --out fidediff-demo
    """
    from fidediff_model.demo import run
    from fidediff_model.model.engine import choose_threads
    from fidediff_model.model.presets import preset

    choose_threads(preset("small").base.unet_channels[0])
    begun = time.monotonic()
    report = run.run(out, say=lambda line: say(line, err=True), scale=scale)
    minutes = (time.monotonic() - begun) / 60
    say("", "PSNR of the test clips' centre crops while it learned:")
    for step, score in report.curve:
        say(f"  step {step:4d}  {score:.2f} dB")
    say("", f"blurry {report.psnr_blurry:.2f} dB, by small {report.psnr_small:.2f} dB, trained on"
            f" {report.psnr_trained:.2f} dB against the sharp images, after {minutes:.1f} minutes",
    )  # fmt: skip
    say("small has a hundredth of the parameters of FideDiff on Stable Diffusion 2.1;"
        " docs/training.md is about the real one.")  # fmt: skip
    say("", f"open   {report.picture.resolve()}")
    say(f"curves tensorboard --logdir {out}")
    say(f"then   fidediff restore PHOTO --model {report.model} --out SHARP")
    say(f"       (the settings are in {out}/trained/config.yaml)")
