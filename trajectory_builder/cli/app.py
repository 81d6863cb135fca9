"""What both commands share: the lazy group, and how errors and signals become exit codes.

A `Program` names a command line; its commands live in modules of its own package and are imported
only when called, so that `--help` costs no more than click.
"""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EDQUOT, EMFILE, ENFILE, ENOSPC
from importlib import import_module
from inspect import signature
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from trajectory_builder.cli.exit import prepare
from trajectory_builder.errors import ExitCode, UserError, printable

Command = TypeVar("Command", bound=Callable[..., Any])
_NO_MEMORY = (
    "Cannot allocate memory", "can't allocate memory", "Insufficient memory", "out of memory",
    "failed to map segment", "can't start new thread",
)  # fmt: skip
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use.

    Attributes:
        package: where the modules of the commands are; each has a `command`.
        table: command name -> one line of help, so that listing the commands imports none.
    """

    package: str
    table: Mapping[str, str]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its `command`."""
        if cmd_name not in self.table:
            return None
        command: click.Command = import_module(f"{self.package}.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has gone (`trajbuild stats | head`) is not an error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Here and not in `run`: click would turn it into exit code 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return int(ExitCode.DONE)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for a mistyped name suggests the nearest."""
        name = args[0]
        if name not in self.table and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, self.table)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their lines from the table, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))


@dataclass(frozen=True)
class Program:
    """A command line.

    Attributes:
        name: what the user types.
        group: its commands.
        not_resumable: commands that start anew when interrupted.
        extra: the pip extra with what its commands import; "" where all is installed.
    """

    name: str
    group: LazyGroup
    not_resumable: frozenset[str] = frozenset()
    extra: str = ""


def pack(name: str, maker: str) -> Callable[[Command], Command]:
    """Pass a command one typed value instead of the options that it is made of.

    Options are packed from the outermost decorator inwards, so a value may be part of a later one.

    Args:
        name: the command's parameter.
        maker: `module:dataclass` or `module:function`, imported when the command runs; it gets the
            options that have its parameters' names.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(**options: Any) -> Any:
            module, _, attribute = maker.partition(":")
            make = getattr(import_module(module), attribute)
            taken = {key: options.pop(key) for key in signature(make).parameters if key in options}
            return function(**{name: make(**taken)}, **options)

        return command  # type: ignore[return-value]

    return decorate


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people, on stdout or stderr; the only way in which commands print.

    Names of files, clips and pairs are untrusted: their control characters, escape sequences, bidi
    marks and line breaks are printed as escapes, on a terminal or not.
    """
    click.echo("\n".join(printable(line) for line in lines), err=err)


def counted(count: int, noun: str) -> str:
    """A count with its noun: `1 pair`, `2,103 pairs`, `1 trajectory`."""
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun}"


def run(program: Program, args: list[str] | None = None) -> None:
    """Run a command line and exit with one of `ExitCode`.

    Args:
        program: which.
        args: its arguments; None takes those of this process.
    """
    argv = sys.argv[1:] if args is None else args
    leave: Callable[[int], NoReturn] = sys.exit
    if args is None:  # this process runs nothing else
        open_standard_streams()
        leave = prepare()
    signal.signal(signal.SIGTERM, _terminate)
    code = _exit_code(program, argv)
    # The work is done; a Ctrl-C while the interpreter ends would only add a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave(int(code))


def _exit_code(program: Program, argv: list[str]) -> int:
    debug = "--debug" in argv
    try:
        # Commands that can be resumed record their words, `argv`.
        result = program.group.main(
            args=argv, prog_name=program.name, standalone_mode=False, obj=tuple(argv)
        )
        return result if isinstance(result, int) else ExitCode.DONE
    except click.exceptions.Exit as error:
        return error.exit_code if error.exit_code in set(ExitCode) else ExitCode.FAILED
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(*shown.getvalue().rstrip("\n").split("\n"), err=True)
        return ExitCode.WRONG_USE
    except (KeyboardInterrupt, click.Abort):
        say(f"interrupted{_how_to_resume(program, argv)}", err=True)
        return ExitCode.INTERRUPTED
    except SystemExit as error:
        if error.code != ExitCode.TERMINATED:
            raise
        say(f"terminated{_how_to_resume(program, argv)}", err=True)
        return ExitCode.TERMINATED
    except Exception as error:
        return _report(error, program, debug=debug)


def _how_to_resume(program: Program, argv: list[str]) -> str:
    called = next((word for word in argv if word in program.group.table), "")
    return "" if called in program.not_resumable else "; run the same command again to resume"


def _report(raised: Exception, program: Program, *, debug: bool) -> int:
    """Print an exception as an error with its cure, and return its exit code."""
    error = _as_user_error(raised, program)
    if debug or error is None:
        sys.excepthook(*sys.exc_info())
    # The parts of an error are printable already; the text has a line for each.
    click.echo(f"error: {error or _bug(raised, program)}", err=True)
    return error.exit_code if error else ExitCode.FAILED


def _as_user_error(raised: Exception, program: Program) -> UserError | None:
    """The exception as an error that the user can act on; None if it is a bug."""
    if isinstance(raised, UserError):
        return raised
    if isinstance(raised, PermissionError):
        return UserError(
            f"no permission: {raised.strerror or raised}",
            where=os.fsdecode(raised.filename or ""),
            cure="give yourself the right to it (chmod, chown) and run the same command again",
        )
    if isinstance(raised, OSError) and raised.errno in (ENOSPC, EDQUOT):
        return UserError(
            f"cannot write: {raised.strerror}",
            where=os.fsdecode(raised.filename) if raised.filename else "what the output is sent to",
            cure="make space there and run the same command again",
        )
    if isinstance(raised, OSError) and raised.errno in (EMFILE, ENFILE):
        return UserError(
            f"this process may open no more files: {raised.strerror}",
            where=os.fsdecode(raised.filename or "ulimit -n"),
            cure="raise the limit (ulimit -n 1024), or give fewer --jobs; finished work stays",
        )
    if is_out_of_memory(raised):
        return UserError(
            f"out of memory: {(str(raised) or type(raised).__name__).splitlines()[0]}",
            where="the limit of this process (ulimit -v, a batch system) or this machine",
            cure="give more memory, or fewer --jobs, a smaller --batch or --tile; finished work"
            " stays",
        )
    ours = ("trajectory_builder", "fidediff_model")
    missing = (raised.name or "") if isinstance(raised, ModuleNotFoundError) else ""
    if program.extra and missing and missing.partition(".")[0] not in ours:
        return UserError(
            f"{missing} is not installed",
            where="it comes with the model half, which this environment lacks",
            cure=f'pip install "fidediff[{program.extra}]"',
            exit_code=ExitCode.WRONG_USE,
        )
    return None


def is_out_of_memory(raised: BaseException) -> bool:
    """Whether an exception, of whichever library, says that no more memory is to be had."""
    if isinstance(raised, MemoryError):
        return True
    text = str(raised)
    return isinstance(raised, (OSError, RuntimeError, ImportError, SystemError)) and any(
        sign in text for sign in _NO_MEMORY
    )


def open_standard_streams() -> None:
    """Open what the caller closed of stdin, stdout and stderr onto nothing.

    Python has None for a closed stream, and the next file opened would get its number: what a
    library writes to number 2 would land in a data file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)  # workers need it too
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _bug(raised: Exception, program: Program) -> UserError:
    where = traceback.extract_tb(raised.__traceback__)[-1]
    return UserError(
        f"{program.name} has a bug: {type(raised).__name__}: {raised}",
        where=f"{where.filename}, line {where.lineno}",
        cure="report it with the lines above and the command; what is finished on disk stays",
    )


def _terminate(signum: int, frame: FrameType | None) -> None:
    # Raising, instead of dying at once, lets joblib end its workers (loky leaves them behind
    # otherwise, and they go on writing) and removes temporary files. A second signal is ignored:
    # it must not cut that short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(int(ExitCode.TERMINATED))
