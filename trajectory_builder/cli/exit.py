"""End a command's process with its exit code as soon as the registered handlers have run.

While Python finalizes, a library's thread that still needs the interpreter ends the process with
SIGABRT ("terminate called without an active exception"; apache/arrow#34314), and so does one that
writes to stderr (python/cpython#129536). All work is done by then, but a script sees a failure.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def prepare() -> Callable[[int], NoReturn]:
    """Prepare the end of this process; call it first, before a library registers an exit handler.

    Returns:
        a function that ends the process: `sys.exit` with a code, then all handlers registered
        after this call, then the end without finalization. If it is never called, the process
        ends as Python does.
    """
    codes: list[int] = []
    atexit.register(_end_at_once, codes)  # the first handler registered is the last one called

    def leave(code: int) -> NoReturn:
        codes.append(code)
        sys.exit(code)

    return leave


def _end_at_once(codes: list[int]) -> None:
    if not codes:
        return
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # not stderr: a thread that is writing there may hold its lock
    except BrokenPipeError:
        pass  # the reader went away, which is no error
    except (OSError, ValueError):
        return  # Python's own end reports what could not be written
    os._exit(codes[0])
