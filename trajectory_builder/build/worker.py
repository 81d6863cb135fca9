"""A process that works on images one after the other: how it treats its threads and its memory."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_FROM_HEAP = 32 * 2**20  # bytes: the most that glibc allows
_KEPT = 64 * 2**20


@cache
def set_up() -> None:
    """Make this process a worker: one OpenCV thread, and freed memory kept for the next image.

    OpenCV would start a thread a core in each worker. glibc gives the memory of each large array
    back to the system when it is freed, and the system clears it page by page for the next one
    (decision 27 has the figures). So arrays of up to 32 MiB come from the heap, and the heap
    shrinks only when 64 MiB at its end are free (ours).
    Elsewhere than on glibc the second half does nothing.
    """
    import cv2

    cv2.setNumThreads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
