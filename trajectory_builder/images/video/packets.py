"""Times and keyframes of a video by its packets, without decoding a picture."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajectory_builder.errors import VideoError, printable
from trajectory_builder.images.video.containers import pyav


@dataclass
class Packets:
    """Times of packets in file order, eight bytes each: an hour of slow motion has a million."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    timed: bool = True  # every packet has a time
    broken: bool = False  # reading broke off
    restarts_after: int = 0  # frames before the times begin anew; 0 where they do not
    latest: int = -(1 << 63)  # time of the latest frame so far
    sha256: str = ""

    def add(self, pts: int | None, is_key: bool) -> None:
        """Add a packet, the next one in the file."""
        if pts is not None:
            # No frame before a keyframe is shown after it, until another recording begins.
            if is_key and pts < self.latest and not self.restarts_after:
                self.restarts_after = len(self.pts)
            self.latest = max(pts, self.latest)
        self.timed = self.timed and pts is not None
        self.pts.append(pts or 0)
        if is_key:
            self.keys.append(pts or 0)


def read_packets(container: Any, stream: Any) -> Packets:
    """The packets of one stream of an open container, and the digest of their content."""
    av = pyav()
    found, digest = Packets(), hashlib.sha256()
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                digest.update(packet)
                found.add(packet.pts, packet.is_keyframe)
    except av.error.FFmpegError:
        found.broken = True
    found.sha256 = digest.hexdigest()
    return found


def times_restart(frames: int, path: Path) -> VideoError:
    """The error for recordings joined end to end, whose frames no time distinguishes."""
    return VideoError(
        f"the video's times begin anew after {frames:,} frames: recordings were joined",
        reason="video-times-restart",
        where=printable(str(path)),
        cure="give the recordings as they were before, or write the times anew:"
        " ffmpeg -i IN -c copy OUT.ts",
    )
