"""The `trajbuild` command: parse, call one public function, print its result.

Each command lives in a module of this folder and is imported only when it is called, so that
`trajbuild --help` costs no more than click.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from trajectory_builder.cli import ending
from trajectory_builder.errors import ExitCode, TrajbuildError
from trajectory_builder.version import __version__

# command name -> one line of help, so that the list of commands imports none of them.
COMMANDS: dict[str, str] = {
    "demo": "Make the sample, expand, verify and report on it; under a minute.",
    "sample": "Write a small GOPRO_Large and GOPRO_Large_all.",
    "plan": "Count and list what expand would make; opens no image.",
    "expand": "Expand GoPro into trajectories: the main job.",
    "generate": "Make a blur data set of your own videos, frames or photographs.",
    "index": "Write a manifest for HIDE, RealBlur, REDS, RSBlur, BSD or plain pairs.",
    "verify": "Does the folder hold what its manifest says?",
    "explain": "Which frames, rule, timestep and files make a pair.",
    "stats": "Count pairs by split, clip, n and more.",
    "select": "Take a part of a data set.",
    "split": "Divide a data set by clip or trajectory.",
    "merge": "Join data sets.",
    "diff": "Name what differs between two data sets.",
    "report": "One offline HTML page to look at a data set.",
    "export": "Write what trainers read: hf, webdataset, lmdb, folders.",
    "recipes": "List or print the built-in recipes.",
    "doctor": "Versions, codecs, speed, space, and what a source lacks.",
}


EXIT_CODES_HELP = """\b
Exit codes: 0 done; 1 failed; 2 wrong use; 3 verify found problems;
4 done in part (see problems.parquet); 5 the output folder belongs to
another config; 130 interrupted and 143 terminated (both resumable)."""


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

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that went away (`trajbuild stats | head`) is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Here and not in `main`: click would make exit code 1 of it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return int(ExitCode.DONE)

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
@click.version_option(__version__, "--version", prog_name="trajbuild")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def trajbuild(debug: bool) -> None:
    """Build blur trajectories: frames go in, pairs and a Parquet manifest come out.

    \b
    First try:   trajbuild demo
    Main job:    trajbuild expand --src GOPRO_Large
    """


class _NoPandas:
    """An importer that knows no pandas.

    pyarrow imports pandas, where it is installed, at its first array, to tell whether it was given
    a Series: 0.3 s of every command. No command here uses pandas.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas; leave all else to the importers that follow."""
        if name == "pandas":
            raise ModuleNotFoundError("trajbuild does without pandas", name=name)


def _terminate(signum: int, frame: FrameType | None) -> None:
    # Raising, instead of dying on the spot, lets joblib end its workers: without it loky leaves
    # them behind, and they go on writing (measured; see docs/decisions). Once is enough: a second
    # signal must not cut the ending short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(int(ExitCode.TERMINATED))


def _forbidden(error: PermissionError) -> TrajbuildError:
    name = os.fspath(error.filename or "")
    return TrajbuildError(
        f"no permission: {error.strerror or error}",
        where=name if isinstance(name, str) else os.fsdecode(name),
        cure="give yourself the right to it (chmod, chown) and run the same command again",
    )


def _unexpected(error: Exception, debug: bool) -> TrajbuildError:
    """What to say of an exception that nothing else has made an error of the user's."""
    full = isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT)
    if debug or not full:
        sys.excepthook(*sys.exc_info())
    if isinstance(error, OSError) and full:
        return TrajbuildError(
            f"cannot write: {error.strerror}",
            where=os.fsdecode(error.filename) if error.filename else "what the output is sent to",
            cure="make space there and run the same command again",
        )
    import traceback

    where = traceback.extract_tb(error.__traceback__)[-1]
    return TrajbuildError(
        f"trajbuild met a fault of its own: {type(error).__name__}: {error}",
        where=f"{where.filename}, line {where.lineno}",
        cure="report it with the lines above and the command; what is finished on disk stays",
    )


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with one of `ExitCode`."""
    argv = sys.argv[1:] if args is None else args
    leave: Callable[[int], NoReturn] = sys.exit
    if args is None:  # this process is ours alone
        leave = ending.prepare()
        sys.meta_path.insert(0, _NoPandas())
    debug = "--debug" in argv
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = trajbuild.main(args=argv, prog_name="trajbuild", standalone_mode=False)
        code = result if isinstance(result, int) else ExitCode.DONE
    except (TrajbuildError, PermissionError) as met:
        if debug:
            sys.excepthook(*sys.exc_info())
        error = _forbidden(met) if isinstance(met, PermissionError) else met
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = ExitCode(error.exit_code) if error.exit_code in set(ExitCode) else ExitCode.FAILED
    except click.ClickException as error:
        error.show()
        code = ExitCode.WRONG_USE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to resume", err=True)
        code = ExitCode.INTERRUPTED
    except SystemExit as error:
        if error.code != ExitCode.TERMINATED:
            raise
        click.echo("terminated; run the same command again to resume", err=True)
        code = ExitCode.TERMINATED
    except Exception as error:
        click.echo(f"error: {_unexpected(error, debug)}", err=True)
        code = ExitCode.FAILED
    # The work is done; a Ctrl-C while the interpreter ends would only add a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave(int(code))
