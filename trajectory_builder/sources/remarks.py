"""Remarks on footage that can be used, but is not ideal or is changed on the way."""

from __future__ import annotations

from trajectory_builder.images.video import reading as video
from trajectory_builder.images.video import times
from trajectory_builder.sources import frames


def of_content(content: video.Video | frames.FrameFolder | None) -> list[str]:
    """What a user should know of a video or a folder of frames; empty for a photograph."""
    if isinstance(content, frames.FrameFolder) and content.lossy:
        return ["frames are in a lossy format, whose compression errors go into every blur"]
    if not isinstance(content, video.Video):
        return []
    remarks = []
    if content.alpha:
        remarks.append("the alpha channel is dropped")
    if content.interlaced:
        remarks.append("frames are interlaced, so each shows two moments; deinterlace first")
    if content.colour.hdr:
        remarks.append(f"{content.colour.hdr} is converted to ordinary video")
    if not content.colour.tagged:
        remarks.append(f"the file names no colour matrix; {content.colour.matrix} is assumed")
    if content.header_fps and abs(content.header_fps / content.fps - 1) > times.TOLERANCE:
        remarks.append(f"{content.fps:g} fps is used, the header says {content.header_fps:g}")
    return remarks
