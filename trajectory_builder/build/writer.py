"""What makers of footage shards share: the work order, the result, writing a pair."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trajectory_builder.disk.batch import Batch
from trajectory_builder.images import png
from trajectory_builder.pixels import camera
from trajectory_builder.trajectory import Problem

Pixels = npt.NDArray[Any]


@dataclass
class Result:
    """What a shard gave: records of pairs, problems, and digests of the files that were read."""

    records: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    frames: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A shard of footage.

    Attributes:
        out: the output folder.
        roots: folders and files that parts start from.
        rows: its plan rows.
        order: what else the plan says of it, see `generate`.
    """

    out: Path
    roots: dict[str, str]
    rows: tuple[dict[str, Any], ...]
    order: dict[str, Any]

    def trajectories(self) -> list[list[dict[str, Any]]]:
        """Its rows, those of one trajectory together, ascending in n."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault(row["trajectory_id"], []).append(row)
        return [sorted(group, key=lambda row: row["n_frames"]) for group in groups.values()]


def at_depth(pixels: Pixels, bits: int) -> Pixels:
    """Pixels in 8 or 16 bits a channel; 16 to 8 rounds to nearest, 8 stays 8."""
    if bits == 8 and pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return pixels


def drawn_camera(work: Work, trajectory_id: str) -> dict[str, Any]:
    """The manifest column of a trajectory's camera settings; nothing without them."""
    if not work.order["camera"]:
        return {}
    settings = camera.parse(work.order["camera"])
    drawn = camera.draw(settings, trajectory_id, work.order["seed"])
    return {"camera": json.dumps(drawn.as_data(), sort_keys=True)}


def write_pair(  # where it goes, and what a pair is
    work: Work,
    batch: Batch,
    row: dict[str, Any],
    blur: Pixels,
    sharp: Pixels,
    extra: dict[str, Any],
    result: Result,
) -> None:
    """Write a blur and, with its trajectory's first one, the sharp image; record the pair."""
    blur_payload, sharp_payload = encode(blur), _written_sharp(work, batch, row, sharp, result)
    batch.add(work.out / row["split"] / row["blur_file_name"], blur_payload)
    batch.count()
    result.records.append(
        {
            "sample_id": row["sample_id"],
            "width": blur.shape[1],
            "height": blur.shape[0],
            "sharp_sha256": sharp_payload[0],
            "sharp_bytes": sharp_payload[1],
            "blur_sha256": hashlib.sha256(blur_payload).hexdigest(),
            "blur_bytes": len(blur_payload),
            "blur_pixel_sha256": png.pixel_sha256(blur),
        }
        | extra
    )


def _written_sharp(
    work: Work, batch: Batch, row: dict[str, Any], sharp: Pixels, result: Result
) -> tuple[str, int]:
    """Write a trajectory's sharp image with its first pair; its digest and size after that."""
    last = result.records[-1] if result.records else None
    if last and last["sample_id"].rsplit("/", 1)[0] == row["trajectory_id"]:
        return last["sharp_sha256"], last["sharp_bytes"]
    payload = encode(sharp)
    batch.add(work.out / row["split"] / row["sharp_file_name"], payload)
    return hashlib.sha256(payload).hexdigest(), len(payload)


def encode(pixels: Pixels) -> bytes:
    """A PNG of 8 or 16 bits a channel."""
    if pixels.dtype == np.uint8:
        return png.encode_png(pixels)
    done, payload = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"OpenCV could not write a PNG of {pixels.shape} {pixels.dtype}")
    return payload.tobytes()
