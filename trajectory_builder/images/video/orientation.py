"""Display matrices: the eight ways in which stored frames are turned or mirrored to be upright.

An orientation is the number that EXIF gives it (CIPA DC-008, tag 274): 1 upright, 2 mirrored left
to right, 3 turned by 180 degrees, 4 mirrored top to bottom, 5 transposed, 6 shown after a quarter
turn clockwise, 7 transposed about the other diagonal, 8 after a quarter turn counter-clockwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

UPRIGHT = 1
# (rows and columns swapped, then columns reversed, then rows reversed) -> EXIF's number
_NUMBERS = {
    (False, False, False): 1,
    (False, True, False): 2,
    (False, True, True): 3,
    (False, False, True): 4,
    (True, False, False): 5,
    (True, True, False): 6,
    (True, True, True): 7,
    (True, False, True): 8,
}
_STEPS = {number: steps for steps, number in _NUMBERS.items()}


def orientation_of(frame: Any) -> int:
    """The orientation in the display matrix of a decoded `av.VideoFrame`; upright without one."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    return UPRIGHT if data is None else of_matrix(np.frombuffer(bytes(data), np.int32))


def of_matrix(matrix: npt.NDArray[np.int32]) -> int:
    """The orientation that is nearest to a display matrix (ISO/IEC 14496-12, 6.2.2).

    The nine values a, b, u, c, d, v, x, y, w send a stored pixel (p, q), rows counted downwards,
    to (a p + c q + x, b p + d q + y). Mirrored matrices have a negative determinant a d - b c,
    which an angle alone cannot express.
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if a * d == b * c:
        return UPRIGHT  # no picture could be shown by it: FFmpeg ignores such a matrix too
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _NUMBERS[False, a < 0, d < 0]
    return _NUMBERS[True, c < 0, b < 0]


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places."""
    return _STEPS[orientation][0]


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """A stored picture (H, W) or (H, W, C) as it is to be shown, contiguous."""
    swapped, columns_reversed, rows_reversed = _STEPS[orientation]
    if swapped:
        pixels = pixels.swapaxes(0, 1)
    if columns_reversed:
        pixels = pixels[:, ::-1]
    if rows_reversed:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
