"""Blurs of a photograph: a camera path is drawn, its slices averaged, its kernels written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trajectory_builder.build.writer import Pixels, Record, at_depth
from trajectory_builder.disk.batch import Batch
from trajectory_builder.errors import ImageError, printable
from trajectory_builder.images import pictures
from trajectory_builder.images.white import refuse_few_levels
from trajectory_builder.pixels import camera, hand_motion

if TYPE_CHECKING:
    from trajectory_builder.build.shard import Shard
    from trajectory_builder.plan.order import FootageOrder
    from trajectory_builder.plan.table import PlanRow


@dataclass(frozen=True)
class StillShot:
    """A photograph's sharp image, its blurs by n, the camera's poses, and the file's digest.

    `kernel_size` is the side of the kernels that contain the path.
    """

    sharp: Pixels
    blurs: dict[int, Pixels]
    poses: hand_motion.Poses
    kernel_size: int
    frames: dict[str, str]


@dataclass(frozen=True)
class LostStill:
    """Why a photograph gives no pair, and its file's digest if it could be read."""

    reason: str
    what: str
    cure: str
    frames: dict[str, str] = field(default_factory=dict)


def shoot(shard: Shard, order: FootageOrder, rows: Sequence[PlanRow]) -> StillShot | LostStill:
    """Draw a camera path and expose the photograph along it."""
    part, name = order.parts[0], rows[0]["trajectory_id"]
    try:
        path = Path(shard.roots[part.root], part.name)
        picture = pictures.read(path, white=order.white)
        if order.bits == 8:
            refuse_few_levels(picture.ends_at, printable(path))
    except ImageError as error:
        return LostStill(error.reason, error.what, error.cure)
    frames = {part.name: picture.sha256}
    photo = at_depth(_reduced(picture.pixels, order.max_side), order.bits)
    sizes = [row["n_frames"] for row in rows]
    # One path for all n: shorter blurs are the mean of its middle slices.
    settings = hand_motion.HandMotion(slices=max(sizes), blur_px=order.blur_px)
    margin = settings.margin
    height, width = photo.shape[0] - 2 * margin, photo.shape[1] - 2 * margin
    if min(height, width) < settings.kernel_size:
        small = f"the photograph is only {photo.shape[1]} x {photo.shape[0]} pixels large"
        return LostStill("photo-too-small", small, "give a larger one", frames)
    random = camera.generator(order.seed, name, "path")
    poses = hand_motion.camera_path(settings, height, width, random)
    if order.camera:
        slices = [np.rint(hand_motion.render_slice(photo, pose, margin)) for pose in poses]
        drawn = camera.draw(camera.parse(order.camera), name, order.seed)
        exposed = [one.astype(photo.dtype) for one in slices]
        blurs = dict(camera.expose(exposed, sizes, drawn, name, order.seed))
    else:
        blurs = hand_motion.blurs(photo, poses, sizes, margin)
    sharp = np.ascontiguousarray(photo[margin : margin + height, margin : margin + width])
    return StillShot(sharp, blurs, poses, settings.kernel_size, frames)


def _reduced(pixels: Pixels, max_side: int) -> Pixels:
    longest = max(pixels.shape[:2])
    if not max_side or longest <= max_side:
        return pixels
    size = [max(round(side * max_side / longest), 1) for side in (pixels.shape[1], pixels.shape[0])]
    # INTER_AREA averages the pixels that become one, so fine patterns do not alias.
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def write_kernels(shard: Shard, rows: Sequence[PlanRow], shot: StillShot, batch: Batch) -> Record:
    """Write the true kernels of a camera path; the manifest columns that name the file."""
    height, width = shot.sharp.shape[:2]
    sizes = [row["n_frames"] for row in rows]
    payload = hand_motion.kernel_file(shot.poses, sizes, height, width, shot.kernel_size)
    name = f"kernels/{rows[0]['trajectory_id']}.npz"
    batch.add(Path(shard.out, rows[0]["split"], name), payload)
    return {
        "kernel_path": name,
        "kernel_sha256": hashlib.sha256(payload).hexdigest(),
        "kernel_bytes": len(payload),
    }


def motion(shot: StillShot, n_frames: int) -> Record:
    """`motion_px` and `step_px` of the middle `n_frames` slices, from the camera's path."""
    height, width = shot.sharp.shape[:2]
    # (9, 1) and (1, 9): a grid of places, as rows and columns.
    places = np.linspace(0, height - 1, 9)[:, None], np.linspace(0, width - 1, 9)[None, :]
    middle, reach = len(shot.poses) // 2, n_frames // 2
    poses = shot.poses[middle - reach : middle + reach + 1]
    # (n, 2, 9, 9): where each slice samples each place.
    offsets = np.array([
        np.broadcast_arrays(*hand_motion.offsets(pose, *places, height, width)) for pose in poses
    ])  # fmt: skip
    steps = np.hypot(*np.diff(offsets, axis=0).swapaxes(0, 1))  # (n - 1, 9, 9) pixels
    return {
        "motion_px": float(np.median(steps, axis=(1, 2)).sum()),
        "step_px": float(np.percentile(steps, 95, axis=(1, 2)).max()),
    }
