"""Blurs of a photograph: a camera path is drawn, its slices averaged, its kernels written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trajectory_builder.build.writer import Pixels, Result, Work, at_depth, drawn_camera, write_pair
from trajectory_builder.disk.batch import Batch
from trajectory_builder.errors import ImageError
from trajectory_builder.images import pictures
from trajectory_builder.pixels import camera
from trajectory_builder.sources import stills
from trajectory_builder.trajectory import Problem


@dataclass(frozen=True)
class StillShot:
    """A photograph's sharp image, its blurs by n, and the camera's poses."""

    sharp: Pixels
    blurs: dict[int, Pixels]
    poses: stills.Poses


def shoot(work: Work, rows: list[dict[str, Any]], result: Result) -> StillShot | None:
    """Draw a camera path and expose the photograph along it; None and problems if it is bad."""
    part, name = work.order["parts"][0], rows[0]["trajectory_id"]
    try:
        found = pictures.read(Path(work.roots[part["root"]], part["name"]))
    except ImageError as error:
        result.problems += [_lost(row, error.reason, error.what, error.cure) for row in rows]
        return None
    result.frames[part["name"]] = found.sha256
    photo = at_depth(_reduced(found.pixels, work.order["max_side"]), work.order["bits"])
    sizes = [row["n_frames"] for row in rows]
    settings = stills.StillSettings(slices=max(sizes))
    margin = settings.margin
    height, width = photo.shape[0] - 2 * margin, photo.shape[1] - 2 * margin
    if min(height, width) < stills.KERNEL_SIZE:
        small = f"the photograph is only {photo.shape[1]} x {photo.shape[0]} pixels large"
        result.problems += [
            _lost(row, "photo-too-small", small, "give a larger one") for row in rows
        ]
        return None
    random = camera.generator(work.order["seed"], name, "path")
    poses = stills.camera_path(settings, height, width, random)
    if work.order["camera"]:
        slices = [np.rint(stills.render_slice(photo, pose, margin)) for pose in poses]
        drawn = camera.draw(camera.parse(work.order["camera"]), name, work.order["seed"])
        frames = [one.astype(photo.dtype) for one in slices]
        blurs = dict(camera.expose(frames, sizes, drawn, name, work.order["seed"]))
    else:
        blurs = stills.blurs(photo, poses, sizes, margin)
    sharp = np.ascontiguousarray(photo[margin : margin + height, margin : margin + width])
    return StillShot(sharp, blurs, poses)


def _lost(row: dict[str, Any], reason: str, what: str, cure: str) -> Problem:
    what = f"{row['sample_id']} is left out: {what}"
    return Problem(reason, what, cure, row["split"], row["clip_id"], row["sample_id"])


def _reduced(pixels: Pixels, max_side: int) -> Pixels:
    longest = max(pixels.shape[:2])
    if not max_side or longest <= max_side:
        return pixels
    size = [max(round(side * max_side / longest), 1) for side in (pixels.shape[1], pixels.shape[0])]
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def make(work: Work, rows: list[dict[str, Any]], batch: Batch, result: Result) -> None:
    """Write the pairs of one camera path, and its true kernels."""
    shot = shoot(work, rows, result)
    if shot is None:
        return
    height, width = shot.sharp.shape[:2]
    sizes = [row["n_frames"] for row in rows]
    payload = stills.kernel_file(shot.poses, sizes, height, width)
    kernel_path = f"kernels/{rows[0]['trajectory_id']}.npz"
    batch.add(work.out / rows[0]["split"] / kernel_path, payload)
    corners = np.array([0.0, height - 1.0])[:, None], np.array([0.0, width - 1.0])[None, :]
    for row in rows:
        ends = [
            shot.poses[len(shot.poses) // 2 + side * (row["n_frames"] // 2)] for side in (-1, 1)
        ]
        (y0, x0), (y1, x1) = (stills.offsets(pose, *corners, height, width) for pose in ends)
        extra = {
            "motion_px": float(np.median(np.hypot(y1 - y0, x1 - x0))),
            "kernel_path": kernel_path,
            "kernel_sha256": hashlib.sha256(payload).hexdigest(),
            "kernel_bytes": len(payload),
        } | drawn_camera(work, row["trajectory_id"])
        write_pair(work, batch, row, shot.blurs[row["n_frames"]], shot.sharp, extra, result)
