"""What goes wrong, told in three parts: what happened, where, and the cure.

Every error of this package that a user can act on is a `TrajbuildError`. The modules that raise
them define their own kinds; only the command line turns one into an exit code.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

LISTED_AT_MOST = 5


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


class TrajbuildError(Exception):
    """A failure that the user can act on.

    Args:
        what: one line, enough to act on alone; lower case, no full stop.
        where: the file, folder, row or key that it concerns.
        cure: the command, flag or step that mends it.
        exit_code: what the command line ends with.
    """

    def __init__(
        self, what: str, *, where: str = "", cure: str = "", exit_code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cure = cure
        self.exit_code = exit_code

    def __str__(self) -> str:
        # Names of files come from strangers and may hold what a terminal would obey.
        lines = [printable(self.what)]
        if self.where:
            lines.append(f"  where: {printable(self.where)}")
        if self.cure:
            lines.append(f"  cure:  {printable(self.cure)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (joblib, Dask, Ray); the default would lose where and cure.
        return (_rebuild, (type(self), self.what, self.where, self.cure, self.exit_code))


def _rebuild(
    kind: type[TrajbuildError], what: str, where: str, cure: str, exit_code: ExitCode
) -> TrajbuildError:
    error = kind.__new__(kind)
    TrajbuildError.__init__(error, what, where=where, cure=cure, exit_code=exit_code)
    return error


def shorten(names: Sequence[str], *, at_most: int = LISTED_AT_MOST) -> str:
    """Join names for a message: the first few, then how many more there are."""
    text = ", ".join(names[:at_most])
    rest = len(names) - at_most
    return f"{text} and {rest:,} more" if rest > 0 else text


def printable(name: str) -> str:
    """A name as it may stand on a terminal: control characters and lone surrogates escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
