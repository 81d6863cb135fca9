"""The `fidediff` command: parse, call one public function, print its result.

Each command lives in a module of this folder and is imported only when it is called: torch alone
takes a second, and `fidediff --help` must not.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from importlib import import_module
from types import FrameType

import click

from fidediff_model.errors import ExitCode, FideDiffError

# command name -> one line of help, so that the list of commands imports none of them.
COMMANDS: dict[str, str] = {
    "demo": "Sample, three short trainings, a before/after picture; minutes.",
    "train": "Train a stage: base, kernel or control.",
    "restore": "Blurry images, folders or videos in, sharp ones out.",
    "evaluate": "Restore a set, score it, print it beside the paper.",
    "scan": "Scores over timesteps given by hand.",
    "benchmark": "Seconds an image, part by part.",
    "doctor": "Versions, devices, precisions, and the files that training needs.",
}

WITHOUT_RESUME = ("benchmark", "doctor")

EXIT_CODES_HELP = """\b
Exit codes: 0 done; 1 failed; 2 wrong use; 4 done in part; 5 the run folder
belongs to another config; 130 interrupted and 143 terminated (both
resumable)."""


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"{__name__}.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of a mistyped name the error tells the nearest from the table."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their lines from the table, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
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


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with one of `ExitCode`."""
    argv = sys.argv[1:] if args is None else args
    debug = "--debug" in argv
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = fidediff.main(args=argv, prog_name="fidediff", standalone_mode=False)
        code = result if isinstance(result, int) else ExitCode.DONE
    except click.exceptions.Exit as error:
        code = ExitCode(error.exit_code) if error.exit_code in set(ExitCode) else ExitCode.FAILED
    except click.ClickException as error:
        error.show()
        code = ExitCode.WRONG_USE
    except (KeyboardInterrupt, click.Abort):
        called = next((word for word in argv if word in COMMANDS), "")
        more = "" if called in WITHOUT_RESUME else "; run the same command again to resume"
        click.echo(f"interrupted{more}", err=True)
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`fidediff scan | head`): not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _tell(error)
    sys.exit(int(code))


def _tell(error: Exception) -> int:
    """Print a user's error and return its code; anything else is a bug and goes on as it is."""
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error):
        error = _not_installed(error)
    if isinstance(error, PermissionError):
        error = _forbidden(error)
    if isinstance(error, FideDiffError):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    from trajectory_builder.manifest import ManifestError

    if not isinstance(error, ManifestError):
        raise error
    click.echo(f"error: {error}", err=True)
    return int(error.exit_code)


def _forbidden(error: PermissionError) -> FideDiffError:
    return FideDiffError(
        f"no permission: {error.strerror or error}",
        where=str(error.filename or ""),
        cure="give yourself the right to it (chmod, chown) and run the same command again",
    )


def _is_ours(error: ModuleNotFoundError) -> bool:
    return (error.name or "").partition(".")[0] == __name__.partition(".")[0]


def _not_installed(error: ModuleNotFoundError) -> FideDiffError:
    """What to say when torch or its like is missing: the data half installs without them."""
    return FideDiffError(
        f"{error.name} is not installed",
        where="it comes with the model half, which this environment lacks",
        cure='pip install "fidediff[model]"',
        exit_code=ExitCode.WRONG_USE,
    )


def _terminate(signum: int, frame: FrameType | None) -> None:
    # Raising, instead of dying on the spot, lets temporary files go and loader workers end.
    raise SystemExit(int(ExitCode.TERMINATED))
