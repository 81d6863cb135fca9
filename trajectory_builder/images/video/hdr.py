"""HDR video to ordinary 8-bit RGB: HLG or PQ in BT.2020 to BT.709, in display light.

Stored values become light by ITU-R BT.2100-2, tables 4 and 5; BT.2020 primaries become BT.709
primaries (ITU-R BT.2087-0); light above half of the reference white is rolled off; the result is
stored for a display of gamma 2.4 (ITU-R BT.1886). The roll-off is ours, since no standard defines
one: shadows and midtones keep their light exactly.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Light = npt.NDArray[np.float32]
Handling = Literal["refuse", "convert"]

HLG, PQ = "HLG (ARIB STD-B67)", "PQ (SMPTE ST 2084)"
REFERENCE_WHITE = 203.0
"""cd/m2 of a white sheet of paper (ITU-R BT.2408-7, 2.1); becomes 1."""
PEAK = 1000.0
"""cd/m2 of HLG's nominal display; this light becomes white."""
KNEE = 0.5
"""Our choice: light up to this share of the reference white is unchanged."""
DISPLAY_GAMMA = 2.4

_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)  # BT.2087-0, linear light
_LUMA = np.array([0.2627, 0.6780, 0.0593])  # BT.2100-2, table 5
_OUT_STEPS = 1 << 14


def hlg_scene_light(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scene light, 0 to 1, of an HLG signal, 0 to 1: the inverse OETF of BT.2100-2, table 5."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)


def pq_display_light(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Display light in cd/m2 of a PQ signal, 0 to 1: the EOTF of BT.2100-2, table 4."""
    m_1, m_2 = 2610 / 16384, 2523 / 4096 * 128
    c_1, c_2, c_3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = np.power(value, 1 / m_2)
    return np.asarray(1e4 * np.power(np.maximum(root - c_1, 0) / (c_2 - c_3 * root), 1 / m_1))


def to_sdr(pixels: npt.NDArray[np.uint16], transfer: str) -> npt.NDArray[np.uint8]:
    """Convert an HDR frame to ordinary RGB.

    Args:
        pixels: (H, W, 3) R'G'B' of BT.2020 as stored, full scale 65535.
        transfer: `HLG` or `PQ`.

    Returns:
        (H, W, 3) R'G'B' of BT.709 for a display of gamma 2.4.
    """
    import cv2

    light = np.asarray(_light_of_values(transfer).take(pixels), np.float32)
    if transfer == HLG:
        # The OOTF of an HLG display: BT.2100-2, table 5, gamma 1.2 at 1,000 cd/m2.
        scene = cv2.transform(light, _LUMA[None])
        light *= np.power(scene, np.float32(0.2))[..., None] * np.float32(PEAK / REFERENCE_WHITE)
    light = np.maximum(cv2.transform(light, _TO_709), 0)
    most = light.max(axis=2, keepdims=True)
    light *= rolled_off(most) / np.maximum(most, np.float32(1e-6))
    # Indexing by the root gives the table fine steps near black, where gamma is steep.
    index = np.rint(np.sqrt(np.clip(light, 0, 1)) * (_OUT_STEPS - 1)).astype(np.uint16)
    return np.asarray(_values_of_roots().take(index), np.uint8)


def rolled_off(light: Light) -> Light:
    """Light in units of the reference white, compressed so that the display's peak becomes 1.

    The identity up to `KNEE`; above it, in units of the remaining range, u (1 + u / w^2) / (1 + u)
    (Reinhard et al., SIGGRAPH 2002, eq. 4), which starts with slope 1 and reaches 1 at u = w.
    """
    left = np.float32(1 - KNEE)
    above = np.maximum(light - np.float32(KNEE), 0) / left
    peak = np.float32((PEAK / REFERENCE_WHITE - KNEE) / (1 - KNEE))
    squeezed = above * (1 + above / peak**2) / (1 + above)
    return np.asarray(np.minimum(np.minimum(light, KNEE) + left * squeezed, 1), np.float32)


@cache
def _light_of_values(transfer: str) -> npt.NDArray[np.float32]:
    """Light of the 65,536 stored values: of the scene for HLG, else in reference whites."""
    value = np.arange(1 << 16) / 65535
    if transfer == HLG:
        return hlg_scene_light(value).astype(np.float32)
    return (pq_display_light(value) / REFERENCE_WHITE).astype(np.float32)


@cache
def _values_of_roots() -> npt.NDArray[np.uint8]:
    roots = np.arange(_OUT_STEPS) / (_OUT_STEPS - 1)
    found: Any = np.rint(roots ** (2 / DISPLAY_GAMMA) * 255)
    return np.asarray(found, dtype=np.uint8)
