"""Decoded video frames to RGB: the file's own matrix and range, rounded to nearest.

FFmpeg's fast converter is off by one code value on average and by up to three on single colours,
which would go into every average; its exact mode takes 7 ms a 720p frame. The common 8-bit planar
formats are converted here by OpenCV in half of that; all others go through the exact mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

LUMA_WEIGHTS = {
    # (K_R, K_B) of Y = K_R R + (1 - K_R - K_B) G + K_B B
    "bt601": (0.299, 0.114),  # ITU-R BT.601-7, 2.5.1
    "bt709": (0.2126, 0.0722),  # ITU-R BT.709-6, 3.2
    "smpte240m": (0.212, 0.087),  # SMPTE 240M
    "bt2020": (0.2627, 0.0593),  # ITU-R BT.2020-2, table 4
}
_OF_TAG = {1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
_RGB_TAG, _YCGCO_TAG = 0, 8
_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}
HD_HEIGHT = 720
_STRIP = 32
_PLANAR = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}


@dataclass(frozen=True, slots=True)
class Colour:
    """How a video stores colour.

    Attributes:
        matrix: a key of `LUMA_WEIGHTS`, or `rgb` where nothing is to be converted.
        full_range: luma from 0 to 255 instead of 16 to 235.
        hdr: the name of its HDR transfer, or "" for ordinary video.
        told: whether the file says its matrix; else it was chosen by height.
    """

    matrix: str
    full_range: bool
    hdr: str
    told: bool


def colour_of(matrix: int, color_range: int, transfer: int, pix_fmt: str, height: int) -> Colour:
    """Read a stream's colour tags (the numbers of ITU-T H.273).

    Where the matrix is not told, BT.709 is taken from a height of 720 on, else BT.601, as players
    do. Formats named yuvj are full range whatever the tag says.
    """
    rgb = pix_fmt.startswith(("rgb", "bgr", "gbr", "pal8", "argb", "abgr", "0rgb", "0bgr"))
    told = matrix in _OF_TAG
    name = _OF_TAG.get(matrix, "bt709" if height >= HD_HEIGHT else "bt601")
    full = color_range == 2 or pix_fmt.startswith("yuvj")
    return Colour("rgb" if rgb else name, full or rgb, _HDR.get(transfer, ""), told or rgb)


@cache
def rgb_matrix(matrix: str, full_range: bool) -> npt.NDArray[np.float64]:
    """The (3, 4) matrix from 8-bit (Y, Cb, Cr, 1) to 8-bit (R, G, B), as standards have it."""
    k_r, k_b = LUMA_WEIGHTS[matrix]
    k_g = 1 - k_r - k_b
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    mix = np.array(
        [
            [1, 0, 2 * (1 - k_r)],
            [1, -2 * (1 - k_b) * k_b / k_g, -2 * (1 - k_r) * k_r / k_g],
            [1, 2 * (1 - k_b), 0],
        ]
    ) * [luma, chroma, chroma]
    offset = mix @ [0 if full_range else 16, 128, 128]
    return np.concatenate([mix, -offset[:, None]], axis=1)


class RgbConverter:
    """Converts the frames of one stream; holds libswscale's tables between frames.

    Args:
        colour: of the stream.
    """

    def __init__(self, colour: Colour) -> None:
        self.colour = colour
        self._reformatter: Any = None

    def __call__(self, frame: Any, *, bits: int = 8) -> npt.NDArray[Any]:
        """RGB of an `av.VideoFrame` as (H, W, 3), uint8 or, for 16 bits, uint16; not rotated.

        Alpha is dropped: footage has none that means anything.
        """
        if bits == 8 and frame.format.name in _PLANAR and self.colour.matrix != "rgb":
            return self._by_matrix(frame)
        return self._exact(frame, "rgb24" if bits == 8 else "rgb48le")

    def _by_matrix(self, frame: Any) -> Pixels:
        import cv2

        luma, blue, red = (_plane(plane) for plane in frame.planes[:3])
        size = (luma.shape[1], luma.shape[0])
        if blue.shape != luma.shape:
            chroma = [cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in (blue, red)]
        else:
            chroma = [blue, red]
        matrix = rgb_matrix(self.colour.matrix, self.colour.full_range)
        rgb = np.empty((*luma.shape, 3), np.uint8)
        for top in range(0, len(luma), _STRIP):
            # In strips that stay in the processor's cache: half the time of whole frames.
            rows = np.s_[top : top + _STRIP]
            cv2.transform(cv2.merge([luma[rows], *(p[rows] for p in chroma)]), matrix, rgb[rows])
        return rgb

    def _exact(self, frame: Any, target: str) -> npt.NDArray[Any]:
        from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

        if self._reformatter is None:
            self._reformatter = VideoReformatter()
        spaces = {
            "bt601": Colorspace.ITU601,
            "bt709": Colorspace.ITU709,
            "smpte240m": Colorspace.SMPTE240M,
            "bt2020": Colorspace.BT2020,
        }
        space = spaces.get(self.colour.matrix, Colorspace.ITU709)
        flags = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
        converted = self._reformatter.reformat(
            frame,
            format=target,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ColorRange.JPEG if self.colour.full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=flags,
            threads=1,
        )
        array: npt.NDArray[Any] = converted.to_ndarray()
        return np.ascontiguousarray(array[..., :3])


def _plane(plane: Any) -> Pixels:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
