"""Errors that a user can act on: what happened, where, and the cure. Shared by both packages.

The classes tell apart what callers handle differently; the command line turns each into its exit
code and prints the three parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar

LISTED_AT_MOST = 5


_LONGEST = 4000


class ExitCode(IntEnum):
    """How a command ended. Scripts may rely on these numbers."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    PROBLEMS_FOUND = 3
    DONE_IN_PART = 4
    OTHER_CONFIG = 5
    INTERRUPTED = 130
    TERMINATED = 143


class UserError(Exception):
    """A failure that the user can act on; the base of all errors of both packages.

    Args:
        what: one line, enough to act on alone; lower case, no full stop.
        where: the file, folder, row or key that it concerns.
        cure: the command, flag or step that fixes it.
        exit_code: what the command line ends with; the class's own when None.
        reason: a fixed word for problems.parquet, such as `frame-truncated`.
    """

    default_exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        cure: str = "",
        exit_code: ExitCode | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cure = cure
        self.exit_code = self.default_exit_code if exit_code is None else exit_code
        self.reason = reason

    def __str__(self) -> str:
        # File names are untrusted and may contain sequences that a terminal obeys.
        lines = [_line(self.what)]
        if self.where:
            lines.append(f"  where: {_line(self.where)}")
        if self.cure:
            lines.append(f"  cure:  {_line(self.cure)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (joblib, Dask, Ray, data loaders); the default pickling of
        # exceptions would keep `what` alone.
        parts = (self.what, self.where, self.cure, self.exit_code, self.reason)
        return (_rebuild, (type(self), *parts))


class UsageError(UserError):
    """An option, setting, recipe or argument that cannot be used as given."""

    default_exit_code = ExitCode.WRONG_USE


class DataError(UserError):
    """Footage or a data set that cannot be used as asked."""


class ManifestError(DataError):
    """A manifest that cannot be read or must not be trusted."""


class ImageError(UserError):
    """An image file that cannot be used; `reason` says why in a fixed word."""


class VideoError(UserError):
    """A video file that cannot be used; `reason` says why in a fixed word."""


class OutputError(UserError):
    """An output folder or file that cannot or must not be written."""


class BuildError(UserError):
    """A build or its workers stopped; what is finished stays on disk."""


def _rebuild(
    kind: type[UserError], what: str, where: str, cure: str, exit_code: ExitCode, reason: str
) -> UserError:
    return kind(what, where=where, cure=cure, exit_code=exit_code, reason=reason)


def _line(text: str) -> str:
    """A part of an error as a line; an untrusted value in it may be megabytes long."""
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def shorten(names: Sequence[str], *, at_most: int = LISTED_AT_MOST) -> str:
    """Join names for a message: the first few, then how many more there are."""
    text = ", ".join(names[:at_most])
    rest = len(names) - at_most
    return f"{text} and {rest:,} more" if rest > 0 else text


def printable(name: object) -> str:
    """A name that is safe to print: control characters, bidi marks, lone surrogates escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name)
    )
