"""Exact colours of video frames, both ways: the file's own matrix, range and chroma positions.

FFmpeg's default converter is more than one code value too dark on average, and off by up to thirty
at edges, which would go into every average. libswscale is exact with the flags set here when it
decodes, and as fast as any other exact way. It is not when it encodes (half a code value off in
full range, two in 10 bits), so planes are computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajectory_builder.errors import VideoError, printable
from trajectory_builder.images.video import hdr

Pixels = npt.NDArray[np.uint8]

LUMA_WEIGHTS = {
    # (K_R, K_B) of Y = K_R R + (1 - K_R - K_B) G + K_B B
    "bt601": (0.299, 0.114),  # ITU-R BT.601-7, 2.5.1
    "bt709": (0.2126, 0.0722),  # ITU-R BT.709-6, 3.2
    "fcc": (0.30, 0.11),  # US 47 CFR 73.682 (a)(20), as ITU-T H.273 table 4 has it
    "smpte240m": (0.212, 0.087),  # SMPTE 240M
    "bt2020": (0.2627, 0.0593),  # ITU-R BT.2020-2, table 4
}
# Matrix coefficients of ITU-T H.273, table 4; 2 is unspecified.
_OF_TAG = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
_UNSPECIFIED, _FULL_RANGE = 2, 2
_NOT_READ = {
    0: "RGB tagged on Y'CbCr planes", 3: "a reserved value", 8: "YCgCo",
    10: "BT.2020 with constant luminance", 11: "SMPTE ST 2085", 12: "derived from the primaries",
    13: "derived from the primaries, constant luminance", 14: "ICtCp", 15: "IPT-C2",
    16: "YCgCo-Re", 17: "YCgCo-Ro",
}  # fmt: skip
_HDR = {16: hdr.PQ, 18: hdr.HLG}  # transfer characteristics of H.273, table 3
HD_HEIGHT = 720
# Colour tags of a frame or a stream, and the number that means "unspecified" (ITU-T H.273).
_TAGS = {"colorspace": 2, "color_range": 0, "color_trc": 2, "color_primaries": 2}


@dataclass(frozen=True, slots=True)
class Colour:
    """How a video stores colour.

    Attributes:
        matrix: a key of `LUMA_WEIGHTS`, or `rgb` where nothing is to be converted.
        full_range: 8-bit luma from 0 to 255 instead of 16 to 235.
        hdr: the name of its HDR transfer, or "" for ordinary video.
        tagged: whether the file names its matrix; otherwise it was chosen by height.
    """

    matrix: str
    full_range: bool
    hdr: str
    tagged: bool


def colour_of(
    matrix: int, color_range: int, transfer: int, pix_fmt: str, height: int, *, where: str = ""
) -> Colour:
    """Read a stream's colour tags (the numbers of ITU-T H.273).

    Where the matrix is unspecified, BT.709 is assumed from a height of 720 on, else BT.601, as
    players do. Formats named yuvj are full range whatever the tag says.

    Args:
        matrix: matrix coefficients.
        color_range: 1 limited, 2 full, 0 unspecified, which counts as limited.
        transfer: transfer characteristics.
        pix_fmt: FFmpeg's name of the pixel format.
        height: of the stored frames.
        where: the file, for the error.

    Raises:
        VideoError: a matrix that cannot be converted.
    """
    transfer_name = _HDR.get(transfer, "")
    if pix_fmt.startswith(("rgb", "bgr", "gbr", "pal8", "argb", "abgr", "0rgb", "0bgr", "x2")):
        return Colour("rgb", True, transfer_name, True)
    grey = pix_fmt.startswith(("gray", "ya", "mono"))
    tagged = matrix in _OF_TAG
    if not (tagged or grey or matrix == _UNSPECIFIED):
        raise VideoError(
            f"the video's colour matrix is not read: {_NOT_READ.get(matrix, 'unknown')}",
            reason="video-colour-matrix",
            where=f"{where or 'the stream'}: matrix coefficients {matrix}, {pix_fmt}",
            cure="convert it first: ffmpeg -i IN -vf scale=out_color_matrix=bt709"
            " -colorspace bt709 -crf 10 OUT.mp4",
        )
    name = _OF_TAG.get(matrix, "bt709" if height >= HD_HEIGHT else "bt601")
    full = color_range == _FULL_RANGE or pix_fmt.startswith("yuvj")
    return Colour(name, full, transfer_name, tagged)


def stream_tags(stream: Any) -> dict[str, int]:
    """Matrix, range, transfer and primaries of a stream, the numbers of ITU-T H.273."""
    return {name: int(getattr(stream.codec_context, name) or 0) for name in _TAGS}


def frame_tags(frame: Any, of_stream: dict[str, int]) -> dict[str, int]:
    """The same tags of a frame; the stream's where the frame leaves one unspecified."""
    tags = {name: int(getattr(frame, name) or 0) for name in _TAGS}
    return {n: of_stream[n] if tag == _TAGS[n] else tag for n, tag in tags.items()}


def colour_of_frame(frame: Any, of_stream: dict[str, int], path: Path) -> Colour:
    """How a frame stores colour; `of_stream` is from `stream_tags`.

    Raises:
        VideoError: in a matrix that is not read.
    """
    tags = frame_tags(frame, of_stream)
    return colour_of(
        tags["colorspace"],
        tags["color_range"],
        tags["color_trc"],
        frame.format.name,
        frame.height,
        where=printable(str(path)),
    )


def changes_colour(frame: Any, colour: Colour) -> bool:
    """Whether a frame names another matrix or range than that of its stream's first frame."""
    tags = frame_tags(frame, dict(_TAGS))  # its own tags alone
    matrix = _OF_TAG.get(tags["colorspace"], colour.matrix)
    is_given = tags["color_range"] != _TAGS["color_range"] and colour.matrix != "rgb"
    other_range = is_given and (tags["color_range"] == _FULL_RANGE) != colour.full_range
    return colour.matrix != "rgb" and (matrix != colour.matrix or other_range)


@cache
def rgb_matrix(matrix: str, full_range: bool) -> npt.NDArray[np.float64]:
    """The (3, 4) matrix from 8-bit (Y, Cb, Cr, 1) to 8-bit (R, G, B).

    The inverse of the definition Y = K_R R + K_G G + K_B B, Cb = (B - Y) / (2 - 2 K_B),
    Cr = (R - Y) / (2 - 2 K_R), for the codes of BT.709-6, 3.4 and 3.5, or of full range (H.273,
    equations 20 to 34).
    """
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


@cache
def code_matrix(matrix: str, full_range: bool, bits: int) -> npt.NDArray[np.float64]:
    """The (3, 4) matrix from (R, G, B, 1), 0 to 1, to (Y, Cb, Cr) codes of `bits` bits."""
    k_r, k_b = LUMA_WEIGHTS[matrix]
    luma = np.array([k_r, 1 - k_r - k_b, k_b])
    blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - k_b))
    red = (np.array([1, 0, 0]) - luma) / (2 * (1 - k_r))
    step = 1 << (bits - 8)
    top = (1 << bits) - 1
    scales = [top, top, top] if full_range else [219 * step, 224 * step, 224 * step]
    offsets = [0 if full_range else 16 * step, 128 * step, 128 * step]
    mix = np.stack([luma, blue, red]) * np.array(scales)[:, None]
    return np.concatenate([mix, np.array(offsets)[:, None]], axis=1)


class RgbConverter:
    """Converts the frames of one stream to RGB; keeps libswscale's tables between frames.

    Args:
        colour: of the stream.
    """

    def __init__(self, colour: Colour) -> None:
        self.colour = colour
        self._reformatter: Any = None

    def __call__(self, frame: Any, *, bits: int = 8) -> npt.NDArray[Any]:
        """RGB of an `av.VideoFrame` as (H, W, 3), uint8 or, for 16 bits, uint16; not turned.

        Each value is within 0.52 code values of the exact one, with chroma samples where the frame
        says they are. Alpha is dropped. HDR at 8 bits is converted by `hdr.to_sdr`; at 16 bits it
        is as stored.
        """
        if self.colour.hdr and bits == 8:
            return hdr.to_sdr(self(frame, bits=16), self.colour.hdr)
        if self.colour.matrix == "rgb":
            return self._rgb(frame, bits)
        import cv2

        if frame.format.name.startswith("gray"):
            # libswscale takes grey for full range whatever its arguments say.
            return np.asarray(cv2.cvtColor(self._grey(frame, bits), cv2.COLOR_GRAY2RGB))
        stored_bits = frame.format.components[0].bits
        if bits == 8 and stored_bits > 8 and self.colour.full_range:
            return np.asarray((self(frame, bits=16) + 128.0) / 257, np.uint8)
        planar = self._reformatted(frame, "gbrp" if bits == 8 else "gbrp16le")
        green, blue, red = (plane_of(planar, index, bits) for index in range(3))
        rgb = np.asarray(cv2.merge([red, green, blue]))
        return rgb if bits == 8 else _white_at_the_top(rgb, stored_bits, self.colour.full_range)

    def _rgb(self, frame: Any, bits: int) -> npt.NDArray[Any]:
        pixels = self._reformatted(frame, "rgb24" if bits == 8 else "rgb48le").to_ndarray()
        return np.ascontiguousarray(pixels[..., :3])

    def _grey(self, frame: Any, bits: int) -> npt.NDArray[Any]:
        stored_bits = frame.format.components[0].bits
        grey = plane_of(frame, 0, stored_bits)
        if stored_bits == bits == 8:
            return grey if self.colour.full_range else widened(grey)
        step, top = 1 << (stored_bits - 8), (1 << stored_bits) - 1
        black, span = (0, top) if self.colour.full_range else (16 * step, 219 * step)
        full = (1 << bits) - 1
        values = np.rint((grey.astype(np.float64) - black) * (full / span))
        return np.asarray(np.clip(values, 0, full), np.uint8 if bits == 8 else np.uint16)

    def _reformatted(self, frame: Any, target: str) -> Any:
        from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

        if self._reformatter is None:
            self._reformatter = VideoReformatter()
        spaces = {
            "bt601": Colorspace.ITU601,
            "bt709": Colorspace.ITU709,
            "fcc": Colorspace.FCC,
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


def frame_of_rgb(
    rgb: npt.NDArray[Any], pix_fmt: str, colour: Colour, *, cosited: bool = True
) -> Any:
    """An `av.VideoFrame` of RGB pixels: the inverse of `RgbConverter`.

    Args:
        rgb: (H, W, 3), uint8 or uint16 of full scale.
        pix_fmt: yuv420p, yuv422p, yuv440p, yuv444p or gray, of 8 bits or with the ending 10le.
        colour: matrix and range to encode with.
        cosited: chroma samples are at even columns, where H.264's decoders place them (annex E,
            location type 0); otherwise half-way between two columns. Rows are always half-way.

    Returns:
        The frame; each code is the exact one, rounded to nearest and limited to its bits.
    """
    import av
    import cv2

    bits = 10 if pix_fmt.endswith("10le") else 8
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], pix_fmt)
    mix = code_matrix(colour.matrix, colour.full_range, bits)
    mix = mix / np.array([*[np.iinfo(rgb.dtype).max] * 3, 1])
    codes = np.asarray(cv2.transform(rgb.astype(np.float32), mix))
    for index, plane in enumerate(frame.planes):
        values = np.asarray(codes[..., index])
        if index:
            values = _subsampled(values, plane.width, plane.height, cosited)
        rounded = np.clip(np.rint(values), 0, (1 << bits) - 1)
        rows = np.zeros((plane.height, plane.line_size // (2 if bits > 8 else 1)),
                        np.uint8 if bits == 8 else np.uint16)  # fmt: skip
        rows[:, : plane.width] = rounded
        plane.update(rows.tobytes())
    return frame


def _subsampled(
    values: npt.NDArray[Any], width: int, height: int, cosited: bool
) -> npt.NDArray[Any]:
    """Chroma of every pixel, (H, W), as the samples that are stored, (height, width)."""
    if width < values.shape[1]:
        wide = np.pad(values, ((0, 0), (1, 2)), mode="edge")
        before, here, after = (wide[:, k : k + 2 * width : 2] for k in range(3))
        values = (before + 2 * here + after) / 4 if cosited else (here + after) / 2
    if height < values.shape[0]:
        high = np.pad(values, ((0, values.shape[0] % 2), (0, 0)), mode="edge")
        values = (high[0::2] + high[1::2]) / 2
    return values


def luma_of(frame: Any) -> Pixels | None:
    """The stored luma of an `av.VideoFrame`, (H, W) uint8, not copied; None where it has none.

    RGB, packed formats and more than 8 bits have none.
    """
    form = frame.format
    eight = (form.components[0].bits == 8 and form.is_planar) or form.name == "gray"
    return None if form.is_rgb or not eight else plane_of(frame, 0)


def widened(luma: Pixels) -> Pixels:
    """Luma of limited range, 16 to 235, as 0 to 255, rounded to nearest; any shape, uint8."""
    import cv2

    return np.asarray(cv2.addWeighted(luma, 255 / 219, luma, 0, -16 * 255 / 219), np.uint8)


def _white_at_the_top(
    rgb: npt.NDArray[Any], stored_bits: int, full_range: bool
) -> npt.NDArray[np.uint16]:
    """libswscale's 16-bit values, where white is 255 x 256, with white at 65535.

    It takes the white of full range for 255 x 2^(b - 8) too, where it is 2^b - 1.
    """
    white = 255 * 256.0
    if full_range:
        white *= ((1 << stored_bits) - 1) / (255 << (stored_bits - 8))
    return np.minimum(rgb * (65535 / white) + 0.5, 65535).astype(np.uint16)


def plane_of(frame: Any, index: int, bits: int = 8) -> npt.NDArray[Any]:
    """A plane of a frame, (h, w) uint8 or uint16, not copied."""
    plane, dtype = frame.planes[index], np.dtype(np.uint8 if bits == 8 else np.uint16)
    rows = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return rows[:, : plane.width]
