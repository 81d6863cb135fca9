"""Work in threads ahead of its consumer: files are read and written while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, depth: int, threads: int = 2
) -> Iterator[Result]:
    """Apply `function` in threads and yield the results in order, `depth` items ahead.

    `items` is advanced in the consumer's thread, so it may itself run a model.

    Args:
        function: must not share state between calls.
        items: read only as far ahead as `depth`, so memory stays bounded.
        depth: calls that are running or finished and not yet consumed.
        threads: calls that run at once.
    """
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(items)
        ahead = deque(pool.submit(function, item) for item in islice(rest, depth))
        try:
            while ahead:
                first = ahead.popleft()
                ahead.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield first.result()
        finally:
            # After Ctrl-C, calls that have not started never do.
            pool.shutdown(cancel_futures=True)
