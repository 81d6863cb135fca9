"""The `fidediff` command: parse, call one public function, print its result.

Each command is a module of this folder.
"""

from __future__ import annotations

import logging
import os

import click

from trajectory_builder.cli.app import CONTEXT, LazyGroup, Program, run

# command name -> one line of help, so that the list of commands imports none of them.
COMMANDS: dict[str, str] = {
    "demo": "The shipped model on new blurs, then trained on; a picture; minutes.",
    "train": "Train a stage: base, kernel or control.",
    "restore": "Blurry images, folders or videos in, sharp ones out.",
    "evaluate": "Restore a set, score it, print it beside the paper.",
    "scan": "Scores at timesteps chosen by hand.",
    "benchmark": "Seconds per image, part by part.",
    "app": "A page in the browser to try a photo.",
    "push": "Push a model folder to the Hugging Face Hub.",
    "doctor": "Versions, devices, precisions, and the files that training needs.",
}

EXIT_CODES_HELP = """\b
Exit codes: 0 done; 1 failed; 2 wrong use; 4 done in part; 5 the run folder
belongs to another config; 130 interrupted and 143 terminated (both
resumable)."""


class _FideDiff(LazyGroup):
    package = __name__
    table = COMMANDS


@click.group(
    cls=_FideDiff,
    context_settings=CONTEXT,
    epilog=EXIT_CODES_HELP,
)
@click.version_option(package_name="fidediff", prog_name="fidediff")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def fidediff(debug: bool) -> None:
    """FideDiff: blurry images in, sharp ones out, in one diffusion step.

    \b
    First try:   fidediff demo
    Main jobs:   fidediff train base --data OUT --run-dir RUN
                 fidediff restore BLURRY --model RUN/model --out SHARP
    """


PROGRAM = Program(
    "fidediff", fidediff, not_resumable=frozenset({"app", "benchmark", "doctor"}), extra="model"
)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with one of `ExitCode`."""
    # OpenMP's threads spin while they wait for one another: on a busy machine they take the cores
    # from those that they wait for. Read when torch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    run(PROGRAM, args)
