"""Progress of a long job: one moving line on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

LINE_SECONDS = 30.0
"""Our choice: seconds between two lines in a log file."""


class Progress:
    """A count of things done, with rate and remaining time, on stderr."""

    def __init__(self, total: int, unit: str, *, done: int = 0, shown: bool = True) -> None:
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        if shown and done and done < total:
            tqdm.write(f"{done:,} of {total:,} {unit} already complete", file=sys.stderr)
        self._problems = 0
        self._lock = threading.Lock()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=f" {unit}",
            disable=not shown or done >= total,
            file=sys.stderr,
            dynamic_ncols=terminal,
            ascii=None if terminal else True,
            mininterval=0.2 if terminal else LINE_SECONDS,
            maxinterval=1.0 if terminal else LINE_SECONDS,
            # Short jobs stay silent; a long one shows itself within a second on a terminal.
            delay=0.8 if terminal else LINE_SECONDS,
            leave=True,  # ends its line, or a log would show the result beside it
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, count: int, *, problems: int = 0) -> None:
        """Count `count` more as done, `problems` of them with problems."""
        with self._lock:
            self._problems += problems
            if self._problems:
                self._bar.set_postfix_str(f"{self._problems:,} problems", refresh=False)
            self._bar.update(count)
