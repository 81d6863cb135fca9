"""Colours that an AVIF or HEIC names by numbers instead of a profile (ITU-T H.273).

Decoders apply matrix and range. Primaries and transfer are left to the viewer, so what is written
from such pixels would be taken for sRGB.
"""

from __future__ import annotations

import struct

from trajectory_builder.errors import ImageError

_BOX = b"colrnclx"  # ISO/IEC 14496-12, 12.1.5: primaries, transfer, matrix, range
_UNSPECIFIED = 2
_SRGB_PRIMARIES = (1, _UNSPECIFIED)
_PRIMARIES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}


def notes_on_colours(payload: bytes, icc: bytes | None, name: str) -> tuple[str, ...]:
    """What is lost of the colours that the file names by numbers.

    Args:
        payload: the file's bytes.
        icc: its profile, which counts before the numbers and is kept.
        name: how errors call the file.

    Raises:
        ImageError: its transfer is that of HDR.
    """
    at = payload.find(_BOX)  # the first one is the main image's
    if icc or not 0 <= at <= len(payload) - len(_BOX) - 4:
        return ()
    primaries, transfer = struct.unpack_from(">HH", payload, at + len(_BOX))
    if transfer in _HDR:
        raise ImageError(
            f"the image is HDR: {_HDR[transfer]}",
            reason="frame-hdr",
            where=name,
            cure="export it as an ordinary picture (SDR, sRGB), or photograph with HDR off",
        )
    if primaries in _SRGB_PRIMARIES:
        return ()
    known = _PRIMARIES.get(primaries, f"number {primaries} of ITU-T H.273")
    return (f"the colour primaries are lost: {known}, and sRGB is assumed",)
