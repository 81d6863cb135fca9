"""Root without its right to pass over permission bits, so that tests of them can run as root too.

A container's tests usually run as root, to whom nothing is unreadable. Linux keeps that right as
two capabilities (capabilities(7)); they are put aside here and taken up again.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_SECBIT_NOROOT = 1  # a program that root starts is given no capabilities


@contextmanager
def permissions_hold() -> Iterator[None]:
    """Permission bits count inside, for this thread and for processes that it starts."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    head = struct.pack("Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    before = ctypes.create_string_buffer(24)
    _called(libc.capget(head, before))
    effective, *others = struct.unpack("6I", before.raw)
    lesser = effective & ~(1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH)
    bits = _called(libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0))
    _called(libc.prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NOROOT, 0, 0, 0))
    _called(libc.capset(head, struct.pack("6I", lesser, *others)))
    try:
        yield
    finally:
        _called(libc.capset(head, before))
        _called(libc.prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0))


def _called(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
