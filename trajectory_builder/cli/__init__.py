"""The `trajbuild` command: parse, call one public function, print its result.

Each command is a module of this folder.
"""

from __future__ import annotations

import click

from trajectory_builder.cli.app import CONTEXT, LazyGroup, Program, run
from trajectory_builder.version import __version__

# command name -> one line of help, so that the list of commands imports none of them.
COMMANDS: dict[str, str] = {
    "demo": "Make the sample, expand, verify and report on it; under a minute.",
    "sample": "Write a small GOPRO_Large and GOPRO_Large_all.",
    "plan": "Count and list what expand would make; opens no image.",
    "expand": "Expand GoPro into trajectories: the main job.",
    "generate": "Make a blur data set of your own videos, frames or photographs.",
    "index": "Write a manifest for HIDE, RealBlur, REDS, RSBlur, BSD or plain pairs.",
    "verify": "Compare a data set with its manifest.",
    "explain": "Which frames, rule, timestep and files make a pair.",
    "stats": "Count pairs by split, clip, n and more.",
    "select": "Take a part of a data set.",
    "split": "Divide a data set by clip or trajectory.",
    "merge": "Join data sets.",
    "diff": "Name what differs between two data sets.",
    "report": "One offline HTML page to look at a data set.",
    "export": "Write what trainers read: hf, webdataset, lmdb, folders.",
    "push": "Push an export as hf to the Hugging Face Hub.",
    "recipes": "List or print the built-in recipes.",
    "doctor": "Versions, codecs, speed, space, and what a source lacks.",
}


EXIT_CODES_HELP = """\b
Exit codes: 0 done; 1 failed; 2 wrong use; 3 verify found problems or
diff found differences; 4 done in part (see problems.parquet); 5 the output
folder belongs to another config; 130 interrupted and 143 terminated
(both resumable)."""


class _Trajbuild(LazyGroup):
    package = __name__
    table = COMMANDS


@click.group(
    cls=_Trajbuild,
    context_settings=CONTEXT,
    epilog=EXIT_CODES_HELP,
)
@click.version_option(__version__, "--version", prog_name="trajbuild")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def trajbuild(debug: bool) -> None:
    """Build blur trajectories: frames go in, pairs and a Parquet manifest come out.

    \b
    First try:   trajbuild demo
    Main job:    trajbuild expand GOPRO_Large
    """


PROGRAM = Program("trajbuild", trajbuild)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with one of `ExitCode`."""
    run(PROGRAM, args)
