"""Writing the images of a shard through a `Batch`, and the manifest columns of what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from trajectory_builder.disk.batch import Batch
from trajectory_builder.images import png
from trajectory_builder.trajectory import Problem

if TYPE_CHECKING:  # a worker must not load tables
    from trajectory_builder.plan.table import PlanRow

Pixels = npt.NDArray[Any]  # (H, W, 3) RGB, uint8 or uint16
Record = dict[str, str | int | float | None]
"""A pair's manifest columns that need pixels, and its sample_id."""


@dataclass(frozen=True)
class Contents:
    """Contents of a shard: records of pairs, problems, and digests of the files that were read."""

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    frames: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageFile:
    """A written image; `pixel_sha256` is None where no manifest column takes it."""

    sha256: str
    size: int
    width: int
    height: int
    pixel_sha256: str | None = None


def trajectories(rows: Sequence[PlanRow]) -> list[list[PlanRow]]:
    """The rows of each trajectory together, ascending in n."""
    groups: dict[str, list[PlanRow]] = {}
    for row in rows:
        groups.setdefault(row["trajectory_id"], []).append(row)
    return [sorted(group, key=lambda row: row["n_frames"]) for group in groups.values()]


def write_image(batch: Batch, path: Path, pixels: Pixels, *, hash_pixels: bool = True) -> ImageFile:
    """Encode pixels as PNG of their depth; the file gets its name when `batch` ends."""
    payload = _encode(pixels)
    batch.add(path, payload)
    height, width = pixels.shape[:2]
    sha256 = hashlib.sha256(payload).hexdigest()
    pixel_sha256 = png.pixel_sha256(pixels) if hash_pixels else None
    return ImageFile(sha256, len(payload), width, height, pixel_sha256)


def copy_image(
    batch: Batch, path: Path, source: Path, *, size: tuple[int, int] | None, link: str
) -> ImageFile:
    """Copy or link a file of the user's after checking it.

    Raises:
        ImageError: it cannot be read, is no sound PNG, or has another size.
    """
    # Read once, so that the bytes checked are the bytes hashed.
    payload = png.read_bytes(source)
    header = png.check_png(payload, name=str(source), expect=size)
    batch.add_copy(path, source, payload, link=link)
    sha256 = hashlib.sha256(payload).hexdigest()
    return ImageFile(sha256, len(payload), header.width, header.height)


def pair_record(
    row: PlanRow,
    sharp: ImageFile,
    blur: ImageFile,
    extra: Mapping[str, str | int | float | None] | None = None,
) -> Record:
    """The record of a pair; `extra` are further manifest columns."""
    return {
        "sample_id": row["sample_id"],
        "width": sharp.width,
        "height": sharp.height,
        "sharp_sha256": sharp.sha256,
        "sharp_bytes": sharp.size,
        "blur_sha256": blur.sha256,
        "blur_bytes": blur.size,
        "blur_pixel_sha256": blur.pixel_sha256,
        **(extra or {}),
    }


def pair_problem(row: PlanRow, reason: str, what: str, cure: str, file: str = "") -> Problem:
    """The problem of a pair that is left out; `file` is the input that is bad."""
    return Problem(
        reason=reason,
        what=f"{row['sample_id']} is left out: {what}",
        cure=cure,
        split=row["split"],
        clip_id=row["clip_id"],
        sample_id=row["sample_id"],
        file=file,
    )


def at_depth(pixels: Pixels, bits: int) -> Pixels:
    """Pixels in 8 or 16 bits per channel; 16 to 8 rounds to nearest, 8 stays 8."""
    if bits == 8 and pixels.dtype == np.uint16:
        # 65535 / 255 = 257, and half of it rounds.
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels


def _encode(pixels: Pixels) -> bytes:
    if pixels.dtype == np.uint8:
        return png.encode_png(pixels)
    # `png.encode_png` is for 8 bits; OpenCV writes 16, and expects BGR.
    done, payload = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"OpenCV could not write a PNG of {pixels.shape} {pixels.dtype}")
    return payload.tobytes()
