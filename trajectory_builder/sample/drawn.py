"""Drawn scenes as files, for `trajbuild generate --scenes`: photographs that nobody took."""

from __future__ import annotations

from pathlib import Path

from trajectory_builder.disk.atomic import reporting_disk_errors, write_atomic
from trajectory_builder.errors import OutputError, shorten
from trajectory_builder.images.png import encode_png
from trajectory_builder.pixels.hand_motion import BLUR_PX, HandMotion
from trajectory_builder.sources.dead_leaves import draw_scene

LEAST_SIDE = 64
"""Of a scene: the longest blur takes 20 pixels of it, and a crop must remain."""


def write_scenes(
    folder: Path,
    count: int,
    *,
    side: int = 256,
    seed: int = 0,
    blur_px: tuple[float, float] = BLUR_PX,
) -> list[Path]:
    """Draw `count` square scenes into a folder of their own; those that exist are kept.

    Args:
        folder: new, empty, or of scenes.
        count: 1 or more.
        side: of the blurs in pixels, `LEAST_SIDE` or more; scenes are larger by what slices see
            beyond them.
        blur_px: sides of the longest kernels that the scenes are for.
        seed: scene number k is drawn from the seed and k alone.

    Raises:
        OutputError: the folder contains other files, or the disk refuses.
    """
    paths = [folder / f"scene-{seed:04d}-{number:06d}.png" for number in range(count)]
    existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if other := existing - {path.name for path in paths}:
        raise OutputError(
            "the folder for the scenes contains other files",
            where=f"{folder}: {shorten(sorted(other))}",
            cure="give --src a new folder, or the --scenes and --seed of the scenes in it",
        )
    drawn = side + 2 * HandMotion(slices=3, blur_px=blur_px).margin
    with reporting_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(paths):
            if path.name not in existing:
                pixels = draw_scene(seed * 1_000_000 + number, drawn, drawn)
                write_atomic(path, encode_png(pixels))
    return paths
