"""What a video file says of itself besides its pixels, and what a copy of it lost."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from trajectory_builder.images.video.colour import frame_tags, stream_tags
from trajectory_builder.images.video.containers import main_stream, open_container
from trajectory_builder.images.video.orientation import orientation_of, swaps_sides

_MATRICES = {0: "RGB", 1: "BT.709", 2: "unspecified", 4: "FCC", 5: "BT.601", 6: "BT.601",
             7: "SMPTE 240M", 9: "BT.2020"}  # fmt: skip
_CHROMA = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}


_SHOWN_BY = (
    "mastering_display_metadata", "content_light_level", "dynamic_hdr_plus", "dynamic_hdr_vivid",
    "dovi_rpu_buffer", "dovi_metadata", "spherical", "stereo3d", "icc_profile", "a53_cc",
)  # fmt: skip


@dataclass(frozen=True)
class Properties:
    """The properties of a video that a viewer or an editor would miss, as texts.

    The names of the attributes are those of the report; "" where a file lacks something.
    """

    pixel_aspect_ratio: str
    interlacing: str
    chroma_format: str
    bit_depth: str
    alpha_channel: str
    colour_matrix: str
    colour_range: str
    transfer_characteristics: str
    colour_primaries: str
    timecode: str
    picture_metadata: str
    subtitle_tracks: str
    other_tracks: str
    chapters: str


def read_properties(path: Path) -> Properties:
    """Read a video's properties; one frame is decoded.

    Raises:
        VideoError: it cannot be opened or has no video stream.
    """
    with open_container(path) as container:
        stream = main_stream(container, path)
        frame = next(container.decode(stream))
        tags = frame_tags(frame, stream_tags(stream))
        components = frame.format.components
        rgb = frame.format.is_rgb
        return Properties(
            pixel_aspect_ratio=_ratio(pixel_aspect_ratio(stream, frame)),
            interlacing="interlaced" if frame.interlaced_frame else "progressive",
            chroma_format="RGB" if rgb else chroma_format(frame),
            bit_depth=f"{components[0].bits} bits",
            alpha_channel="alpha" if has_alpha(stream, frame) else "no alpha",
            colour_matrix=_MATRICES.get(tags["colorspace"], str(tags["colorspace"])),
            colour_range="full" if rgb or tags["color_range"] == 2 else "limited",
            transfer_characteristics=_number(tags["color_trc"]),
            colour_primaries=_number(tags["color_primaries"]),
            timecode=timecode_of(container) or "none",
            picture_metadata=_picture_metadata(frame),
            subtitle_tracks=str(len(container.streams.subtitles)),
            other_tracks=_other_tracks(container, stream),
            chapters=str(len(container.chapters())),
        )


def losses(before: Properties, after: Properties) -> list[str]:
    """What changed from one file to another, a sentence each."""
    return [
        f"{field.name.replace('_', ' ')}: {old} became {new}"
        for field in fields(Properties)
        if (old := getattr(before, field.name)) != (new := getattr(after, field.name))
    ]


def pixel_aspect_ratio(stream: Any, frame: Any) -> Fraction:
    """Width over height of a pixel of the upright picture; 1 where the file has none."""
    ratio = Fraction(stream.sample_aspect_ratio or 1)
    if ratio <= 0:
        return Fraction(1)
    return 1 / ratio if swaps_sides(orientation_of(frame)) else ratio


def has_alpha(stream: Any, frame: Any) -> bool:
    """Whether a video has alpha, also where FFmpeg's decoder leaves it out (VP8 and VP9)."""
    in_frame = any(part.is_alpha for part in frame.format.components)
    return in_frame or stream.metadata.get("alpha_mode") == "1"


def chroma_format(frame: Any) -> str:
    """Such as 4:2:0, of a decoded frame; `gray` where it has no chroma."""
    components = frame.format.components
    if len(components) < 3:
        return "gray"
    # Sizes are rounded up, so a frame of odd size has ratios just below 2.
    across = -(-frame.width // components[1].width)
    down = -(-frame.height // components[1].height)
    return _CHROMA.get((across, down), f"1/{across} x 1/{down}")


def timecode_of(container: Any) -> str:
    """The time code of the first frame, from wherever the container stores it; "" without one."""
    tables = [container.metadata, *(stream.metadata for stream in container.streams)]
    return next((table["timecode"] for table in tables if table.get("timecode")), "")


def _picture_metadata(frame: Any) -> str:
    """Kinds of data beside a frame's pixels that change how it is shown, such as HDR levels."""
    kinds = {data.type.name.lower() for data in frame.side_data}
    return ", ".join(sorted(kind for kind in kinds if kind in _SHOWN_BY)) or "none"


def _other_tracks(container: Any, film: Any) -> str:
    """Types of all tracks but the film, its sound, subtitles and time code (which stand above)."""
    others = [
        "cover or further picture" if stream.type == "video" else stream.type or "unknown"
        for stream in container.streams
        if stream.index != film.index and stream.type not in ("audio", "subtitle")
        and not stream.metadata.get("timecode")
    ]  # fmt: skip
    return ", ".join(f"{others.count(kind)} {kind}" for kind in sorted({*others})) or "none"


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}:{value.denominator}"


def _number(tag: int) -> str:
    return "unspecified" if tag == 2 else f"{tag} of ITU-T H.273"
