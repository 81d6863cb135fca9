"""Decoded video frames to RGB: the file's own matrix, range and chroma places, rounded to nearest.

FFmpeg's default converter is more than one code value too dark on average, and off by up to thirty
at edges, which would go into every average. libswscale is exact with the flags set here; into
planes it is as fast as any other exact way (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.images.video import hdr

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
_HDR = {16: hdr.PQ, 18: hdr.HLG}
HD_HEIGHT = 720


@dataclass(frozen=True, slots=True)
class Colour:
    """How a video stores colour.

    Attributes:
        matrix: a key of `LUMA_WEIGHTS`, or `rgb` where nothing is to be converted.
        full_range: luma from 0 to 255 instead of 16 to 235.
        hdr: the name of its HDR transfer, or "" for ordinary video.
        tagged: whether the file names its matrix; otherwise it was chosen by height.
    """

    matrix: str
    full_range: bool
    hdr: str
    tagged: bool


def colour_of(matrix: int, color_range: int, transfer: int, pix_fmt: str, height: int) -> Colour:
    """Read a stream's colour tags (the numbers of ITU-T H.273).

    Where the matrix is not told, BT.709 is taken from a height of 720 on, else BT.601, as players
    do. Formats named yuvj are full range whatever the tag says.
    """
    rgb = pix_fmt.startswith(("rgb", "bgr", "gbr", "pal8", "argb", "abgr", "0rgb", "0bgr"))
    tagged = matrix in _OF_TAG
    name = _OF_TAG.get(matrix, "bt709" if height >= HD_HEIGHT else "bt601")
    full = color_range == 2 or pix_fmt.startswith("yuvj")
    return Colour("rgb" if rgb else name, full or rgb, _HDR.get(transfer, ""), tagged or rgb)


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

        Each value is within 0.52 code values of the exact one (tried against float64), at the
        place that the frame says its chroma samples have. Alpha is dropped: footage has none that
        means anything. HDR of 8 bits is converted by `hdr.to_sdr`; of 16 bits it is as stored.
        """
        if self.colour.hdr and bits == 8:
            return hdr.to_sdr(self(frame, bits=16), self.colour.hdr)
        if self.colour.matrix == "rgb":
            found = self._reformatted(frame, "rgb24" if bits == 8 else "rgb48le").to_ndarray()
            return np.ascontiguousarray(found[..., :3])
        import cv2

        if frame.format.name == "gray" and bits == 8:
            # libswscale takes grey for full range whatever it is told.
            grey = _plane(frame, 0)
            if not self.colour.full_range:
                grey = widened(grey)
            return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
        planar = self._reformatted(frame, "gbrp" if bits == 8 else "gbrp16le")
        green, blue, red = (_plane(planar, index, bits) for index in range(3))
        rgb = np.asarray(cv2.merge([red, green, blue]))
        return rgb if bits == 8 else _white_at_the_top(rgb)

    def _reformatted(self, frame: Any, target: str) -> Any:
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
        # AREA is bilinear where chroma is enlarged, and faster than BILINEAR.
        flags = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
        return self._reformatter.reformat(
            frame,
            format=target,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ColorRange.JPEG if self.colour.full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=flags,
            threads=1,
        )


def luma_of(frame: Any) -> Pixels | None:
    """The stored luma of an `av.VideoFrame`, (H, W) uint8, not copied; None where it has none.

    That is so for RGB, packed formats and more than 8 bits.
    """
    form = frame.format
    eight = (form.components[0].bits == 8 and form.is_planar) or form.name == "gray"
    return None if form.is_rgb or not eight else _plane(frame, 0)


def widened(luma: Pixels) -> Pixels:
    """Luma of limited range, 16 to 235, as 0 to 255, rounded to nearest; any shape, uint8."""
    import cv2

    return np.asarray(cv2.addWeighted(luma, 255 / 219, luma, 0, -16 * 255 / 219), np.uint8)


def _white_at_the_top(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """libswscale's 16-bit values, where white is 255 x 256, with white at 65535."""
    full = np.minimum((rgb.astype(np.uint32) * 257 + 128) >> 8, 65535)
    return np.asarray(full, dtype=np.uint16)


def _plane(frame: Any, index: int, bits: int = 8) -> npt.NDArray[Any]:
    """A plane of a frame, (h, w), not copied."""
    plane, dtype = frame.planes[index], np.dtype(np.uint8 if bits == 8 else np.uint16)
    rows = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return rows[:, : plane.width]
