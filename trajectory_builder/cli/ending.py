"""How the process of a command ends: with its exit code, whatever its libraries' threads do.

While Python takes itself apart, a thread of a library that still asks for it ends the whole process
with SIGABRT ("terminate called without an active exception"; apache/arrow#34314), and so does one
that still writes to stderr (python/cpython#129536). All work is done then, but a script sees a
failure. So what is registered for the end still runs, and then the process ends at once.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def prepare() -> Callable[[int], NoReturn]:
    """Make ready to end this process; call it first, before what registers an end of its own.

    Returns:
        what ends it: `sys.exit` with a code, then all that was registered after this call, then
        the end at once. Where it is never called, the process ends as Python does.
    """
    codes: list[int] = []
    atexit.register(_end_at_once, codes)  # the first one registered is the last one called

    def leave(code: int) -> NoReturn:
        codes.append(code)
        sys.exit(code)

    return leave


def _end_at_once(codes: list[int]) -> None:
    if not codes:
        return
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # stderr is not asked: a thread that writes there may hold it
    except BrokenPipeError:
        pass  # the reader went away: no error of ours
    except (OSError, ValueError):
        return  # Python's own end tells of what could not be written
    os._exit(codes[0])
