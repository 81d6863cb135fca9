"""How far a long job is: one moving line on a terminal, else a line each half minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

LINE_SECONDS = 30.0
"""Ours: how often a log file gets a line."""
LOOK_SECONDS = 1.0
"""Ours: how often it is looked how far the parts are that have not ended."""


class Progress:
    """A count of things done, with rate and remaining time, on stderr."""

    def __init__(self, total: int, unit: str, *, done: int = 0, shown: bool = True) -> None:
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        if shown and done and done < total:
            tqdm.write(f"{done:,} of {total:,} {unit} already whole", file=sys.stderr)
        self._problems = 0
        self._ended = done
        self._total = total
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
            leave=terminal,
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
        """Tell that `count` more are done, and how many of them met problems."""
        with self._lock:
            self._problems += problems
            self._ended += count
            if self._problems:
                self._bar.set_postfix_str(f"{self._problems:,} problems", refresh=False)
            self._show(self._ended)

    def under_way(self, count: int) -> None:
        """Tell that `count` are done in parts that `advance` will tell of once they have ended."""
        with self._lock:
            self._show(min(self._ended + count, self._total))

    def _show(self, count: int) -> None:
        # Never backwards: a part that has just ended is under way no more and not yet told.
        self._bar.update(max(0, count - int(self._bar.n)))

    @contextmanager
    def following(self, count: Callable[[], int]) -> Iterator[None]:
        """Ask `count` once a second, in a thread, how many are done in parts under way.

        Less often where asking is slow, as on a network mount: a twentieth of the time at most.
        """
        if self._bar.disable:
            yield
            return
        over = threading.Event()

        def follow() -> None:
            took = 0.0
            while not over.wait(max(LOOK_SECONDS, 20 * took)):
                started = time.monotonic()
                self.under_way(count())
                took = time.monotonic() - started

        thread = threading.Thread(target=follow, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(LOOK_SECONDS)  # no longer: a network mount may hang
