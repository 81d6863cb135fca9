"""One step on an image of any size in bounded memory: what is cut into tiles, and what is not.

Only the UNet and its control see tiles. They overlap, start on the UNet's own grid of 8 latent
cells, share one timestep, and are blended by linear ramps on latents. The VAE runs at once or in
strips (`strips`), which give the same image, and M and T read all of the image (`step`), so a tile
never changes brightness or kernels at its rim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fidediff_model.errors import ModelError
from fidediff_model.model.codec import COMFORT
from fidediff_model.model.step import Reading

if TYPE_CHECKING:
    from fidediff_model.model.fidediff import FideDiff

WHOLE_CELLS = 65_536
"""Latent cells that go through the UNet at once (ours): 1280 x 720 at stride 4 has 57,600."""
TILE_CELLS = 192
"""Side of a tile in latent cells where an image is larger than that (ours)."""
OVERLAP = 128
"""Pixels by which neighbouring tiles overlap (ours)."""
SMALLEST_TILE = 128
"""Pixels a side; smaller tiles see too little of a motion of 19 pixels and more."""
BUDGET_SHARE = 0.6
"""Share of the free memory that is planned with; the rest is for what is not counted (ours)."""
UNET_MAPS = 40
"""Maps of the UNet's first width that live at its peak: 27 to 28 as measured on `small`, and room
for the attention that `small` lacks at the first level."""
STRIP_ROWS = 128
"""Rows of a VAE map at a time, where it does not fit at once (our choice)."""

Report = Callable[[int, int], None]
"""Called with the pieces done and the pieces in all; what it raises ends the restoration."""


@dataclass(frozen=True)
class TilePlan:
    """How an image is cut.

    Attributes:
        tile: side of a UNet tile in image pixels; None takes the complete image.
        overlap: pixels that neighbouring tiles share; less than half a tile.
        strip_rows: rows of VAE maps at a time; None takes them whole.
        store: device of whole VAE maps when in strips; "" is the model's own.
    """

    tile: int | None = None
    overlap: int = OVERLAP
    strip_rows: int | None = None
    store: str = ""

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < SMALLEST_TILE:
            raise ModelError(
                f"a tile of {self.tile} pixels is too small",
                where="--tile",
                cure=f"give {SMALLEST_TILE} or more, or 0 for the whole image",
            )
        if self.tile is not None and not 0 <= 2 * self.overlap <= self.tile:
            raise ModelError(
                f"an overlap of {self.overlap} pixels does not fit a tile of {self.tile}",
                where="--overlap",
                cure="give at most half of --tile",
            )

    @property
    def note(self) -> str:
        """What is reported of a plan that was needed for lack of memory."""
        tile = f"tiles of {self.tile} pixels" if self.tile else "the UNet whole"
        return f"out of memory: again with the VAE in strips of {self.strip_rows} rows, {tile}"


WHOLE = TilePlan()
"""Nothing is cut."""


def plan_for(
    model: FideDiff, size: tuple[int, int], *, tile: int | None, overlap: int, batch: int = 1
) -> TilePlan:
    """How to cut an image so that it fits the device's free memory.

    Args:
        model: on its device.
        size: height and width in pixels.
        tile: pixels, 0 for whole images, None for a choice by size.
        overlap: pixels; lowered to half a tile where the tile is chosen here.
        batch: images at once.
    """
    stride = model.codec.latent_stride
    cells = -(-size[0] // stride) * -(-size[1] // stride)  # rounded up, rows x columns
    free = free_bytes(model.base.prompt.device)
    # Memory that is planned with, of what is free as this is called; None where it is unknown.
    budget = None if free is None else int(BUDGET_SHARE * free)
    if tile is None:
        tile = tile_within(model, cells, budget, batch)
        overlap = min(overlap, tile // 2) if tile else overlap
    plan = TilePlan(tile or None, overlap)
    # Strips give the same image, so they are used before memory is tight.
    if budget is not None and _vae_bytes(model, cells * batch) > budget:
        plan = replace(plan, strip_rows=STRIP_ROWS, store="cpu")
    return plan


def tile_within(model: FideDiff, cells: int, budget: int | None, batch: int) -> int:
    """Side of the tiles of an image of so many cells, in pixels; 0 takes it whole.

    Large images are tiled for speed, smaller ones where the UNet's maps exceed the budget.
    """
    stride = model.codec.latent_stride
    if cells <= WHOLE_CELLS and (budget is None or unet_bytes(model, cells * batch) <= budget):
        return 0
    side = TILE_CELLS
    while (
        budget is not None
        and side * stride > 2 * SMALLEST_TILE
        and unet_bytes(model, side * side * batch) > budget
    ):
        side //= 2
    return side * stride


def smaller(plan: TilePlan, size: tuple[int, int]) -> TilePlan | None:
    """The next plan that needs less memory, or None: first exact strips, then smaller tiles."""
    if plan.strip_rows is None:
        return replace(plan, strip_rows=STRIP_ROWS, store="cpu")
    side = plan.tile or max(size)
    if side <= 2 * SMALLEST_TILE and plan.strip_rows <= 16:
        return None
    tile = max(2 * SMALLEST_TILE, side // 2)
    rows = max(16, plan.strip_rows // 2)
    return TilePlan(tile, min(plan.overlap, tile // 4), rows, "cpu")


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, or None where it is unknown."""
    if device.type == "cuda":
        # torch keeps freed blocks for itself; the driver counts them as used.
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    # A container or a batch job may have less than the machine.
    limits = [left for group in _control_groups() if (left := left_in(group)) is not None]
    return min([free, *limits])


def _control_groups() -> list[Path]:
    """This process' control group and those above it (cgroup v2)."""
    try:
        name = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("::/")[2]
    except (OSError, ValueError):
        return []
    root = Path("/sys/fs/cgroup")
    group = root / name
    return [group, *(above for above in group.parents if above.is_relative_to(root))]


def left_in(group: Path) -> int | None:
    """What a control group may still take, or None where it has no limit."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # The kernel drops unused pages of files before it kills.
        return max(0, limit - used + int(stat["inactive_file"]))
    except (OSError, KeyError, ValueError):  # "max" is no number
        return None


def unet_bytes(model: FideDiff, cells: int) -> int:
    """About the live bytes at the UNet's peak, for so many latent cells at once."""
    unet, control = model.base.unet, model.control
    maps = UNET_MAPS * unet.config.block_out_channels[0]
    if control is not None and control.needs_kernels:
        # k_in, its scaled copy, and that beside the latent's features
        maps += 3 * model.config.kernel.kernel_size**2
    return int(maps * unet.dtype.itemsize * cells)


def _vae_bytes(model: FideDiff, cells: int) -> int:
    """About the live bytes at the decoder's peak: three maps of its second width at full size."""
    widths = model.codec.vae.config.block_out_channels
    size = model.codec.vae.dtype.itemsize
    positions = 4 ** (len(widths) - 1)  # of the finest map, for each latent cell
    return int(3 * widths[:2][-1] * size * cells * positions)


def counter(
    model: FideDiff, padded: Tensor, plan: TilePlan, report: Report | None
) -> Callable[[], None]:
    """What to call after each piece of work on an image: M and T, E, every tile, D."""
    stride = model.codec.latent_stride
    height, width = (side // stride for side in padded.shape[-2:])
    side, overlap = _side_and_overlap(plan, (height, width), stride)
    tiles = len(spans(height, side, overlap)) * len(spans(width, side, overlap))
    done = count(1)

    def advance() -> None:
        if report is not None:
            report(next(done), tiles + 3)

    return advance


def step_in_tiles(
    model: FideDiff,
    z_t: Tensor,
    reading: Reading,
    padded: Tensor,
    plan: TilePlan,
    on_tile: Callable[[], None] = lambda: None,
) -> Tensor:
    """z0_hat (B, 4, h, w) float32: the step of the whole latent, tile by tile.

    Args:
        model: its `step` runs on each tile.
        z_t: latent of the padded blur (B, 4, h, w).
        reading: t and pooled kernels of the whole image.
        padded: the padded blur (B, 3, h d, w d).
        plan: side and overlap of the tiles.
        on_tile: called after each tile.
    """
    stride, k_in = model.codec.latent_stride, reading.k_in
    height, width = z_t.shape[-2:]
    side, overlap = _side_and_overlap(plan, (height, width), stride)
    if side >= max(height, width):
        z0_hat = model.step(z_t, reading.t, k_in=k_in, blur=padded)
        on_tile()
        return z0_hat
    # O(p) = sum_i w_i(p) z0_hat_i(p) / sum_i w_i(p) over the tiles i that contain the cell p
    total = torch.zeros_like(z_t, dtype=torch.float32)
    weights = torch.zeros(height, width, device=z_t.device)
    for top, bottom in spans(height, side, overlap):
        rows = _ramp(top, bottom, height, overlap, z_t.device)
        for left, right in spans(width, side, overlap):
            columns = _ramp(left, right, width, overlap, z_t.device)
            weight = rows[:, None] * columns[None]  # (h_tile, w_tile)
            z0_hat = model.step(
                z_t[..., top:bottom, left:right],
                reading.t,
                k_in=None if k_in is None else k_in[..., top:bottom, left:right],
                blur=padded[..., top * stride : bottom * stride, left * stride : right * stride],
            )
            total[..., top:bottom, left:right] += z0_hat * weight
            weights[top:bottom, left:right] += weight
            on_tile()
    return total / weights


def _side_and_overlap(plan: TilePlan, cells: tuple[int, int], stride: int) -> tuple[int, int]:
    """Side and overlap of the tiles in latent cells; an image in one piece is one tile."""
    side = _cells(plan.tile, stride) if plan.tile else max(cells)
    return side, _cells(plan.overlap, stride) if plan.overlap else 0


def _cells(pixels: int, stride: int) -> int:
    """Pixels as latent cells, rounded up to the UNet's grid of 8."""
    return -(-pixels // (stride * COMFORT)) * COMFORT


def spans(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """Tiles along one axis: first cell and the cell after the last, all on the grid of 8.

    Args:
        length: cells in all, a multiple of 8.
        side: cells of a tile, a multiple of 8.
        overlap: cells that neighbours share at least, a multiple of 8 below `side`.
    """
    if side >= length:
        return [(0, length)]
    # side - overlap apart, the last start being length - side
    starts = list(range(0, length - side, side - overlap))
    # The last tile moves back inside, so that no tile is a sliver.
    return [(start, start + side) for start in [*starts, length - side]]


def _ramp(first: int, last: int, length: int, overlap: int, device: torch.device) -> Tensor:
    """Weights of a tile along one axis: linear over the overlap, 1 at the image's border."""
    ramp = torch.ones(last - first, device=device)
    if overlap:
        # 1/(o+1) ... o/(o+1): with the neighbour's falling ramp each place sums to 1.
        rise = torch.arange(1, overlap + 1, device=device) / (overlap + 1)
        if first > 0:
            ramp[:overlap] = rise
        if last < length:
            ramp[-overlap:] = rise.flip(0)
    return ramp
