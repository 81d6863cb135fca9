"""One step on an image of any size in bounded memory: what is cut into tiles, and what is not.

Only the UNet and its control see tiles. They overlap, start on the UNet's own grid of 8 latent
cells, share one timestep, and are blended by linear ramps on latents. The VAE runs whole or in
strips (`strips`), which give the same image, and the kernels are read in bands whose margins cover
the whole reach of the kernel estimator. So a tile never changes brightness or kernels at its rim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fidediff_model.errors import ModelError
from fidediff_model.model.codec import COMFORT, pad_to_multiple
from fidediff_model.model.fidediff import FideDiff
from fidediff_model.model.kernels import KernelEstimator, pool_kernels
from fidediff_model.model.restored import Restored, check_image, timesteps

WHOLE_CELLS = 65_536
"""Latent cells that go through the UNet at once (ours): 1280 x 720 at stride 4 has 57,600."""
TILE_CELLS = 192
"""Side of a tile in latent cells where an image is larger than that (ours)."""
OVERLAP = 128
"""Pixels by which neighbouring tiles overlap (ours)."""
SMALLEST_TILE = 128
"""Pixels a side; smaller tiles see too little of a motion of 19 pixels and more."""
STRIP_ROWS = 128
_BAND_PIXELS = 1 << 21


@dataclass(frozen=True)
class TilePlan:
    """How an image is cut.

    Attributes:
        tile: side of a UNet tile in image pixels; None takes the image whole.
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
    cells = -(-size[0] // stride) * -(-size[1] // stride)
    if tile is None and cells > WHOLE_CELLS:
        tile = TILE_CELLS * stride
        overlap = min(overlap, tile // 2)
    plan = TilePlan(tile or None, overlap)
    free = free_bytes(model.base.prompt.device)
    if free is not None and _vae_bytes(model, cells * batch) > 0.6 * free:
        plan = replace(plan, strip_rows=STRIP_ROWS, store="cpu")
    return plan


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
    """Memory that is free on a device, or None where nothing tells."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _vae_bytes(model: FideDiff, cells: int) -> int:
    """About the live bytes at the decoder's peak: three maps of its second width at full size."""
    widths = model.codec.vae.config.block_out_channels
    size = model.codec.vae.dtype.itemsize
    positions = 4 ** (len(widths) - 1)  # of the finest map, for each latent cell
    return int(3 * widths[:2][-1] * size * cells * positions)


def restore_tensor(
    model: FideDiff, blur: Tensor, t: float | Tensor | None = None, *, plan: TilePlan | None = None
) -> Restored:
    """What `model(blur, t, keep_kernels=False)` gives, in tiles where the plan says so.

    Args:
        model: in eval mode.
        blur: (B, 3, H, W) in [-1, 1], on the model's device.
        t: in [0, 999], a number or (B,); None estimates one an image from the whole image.
        plan: how to cut; None takes the image whole, with the very bits of `model(...)`.

    Returns:
        Image, t_hat and z0_hat; no kernels.
    """
    check_image(blur)
    plan = plan or TilePlan()
    codec = model.codec
    padded = pad_to_multiple(blur, codec.multiple)
    k_in, t_hat = read_kernels(model, padded, t)
    z_t = codec.encode(padded, strip_rows=plan.strip_rows, store=plan.store)
    z0_hat = _step(model, z_t, t_hat, k_in, padded, plan)
    size = (blur.shape[-2], blur.shape[-1])
    image = codec.decode(z0_hat, size, strip_rows=plan.strip_rows, store=plan.store)
    return Restored(image, t_hat, None, z0_hat)


def read_kernels(
    model: FideDiff, padded: Tensor, t: float | Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """Kernels pooled to latent cells where the control needs them, else None; and t_hat (B,).

    Raises:
        ModelError: M or T is needed and missing.
    """
    control, stride = model.control, model.codec.latent_stride
    wanted = control is not None and control.needs_kernels
    if t is not None and not wanted:
        return None, timesteps(t, padded)
    estimator, regressor = model.kernel_estimator, model.timestep_regressor
    if estimator is None or (t is None and regressor is None):
        missing = "kernel_estimator" if estimator is None else "timestep_regressor"
        raise no_part(missing, model.parts)
    pool = stride if t is not None or regressor is None else regressor.pool
    with _autocast(model, padded):
        cells = pooled_in_bands(estimator, padded, pool)
        if t is None and regressor is not None:
            t_hat = regressor(cells, pooled=True)
        else:
            t_hat = timesteps(t if t is not None else 0.0, padded)
        k_in = pool_kernels(cells, stride // pool) if wanted else None
    return k_in, t_hat


def no_part(part: str, parts: Sequence[str]) -> ModelError:
    """The error of a model that cannot tell the timestep.

    Args:
        part: what is missing.
        parts: what it has besides the base.
    """
    return ModelError(
        f"this model has no {part}, which estimates the timestep",
        where=f"it holds the base and {', '.join(parts) or 'nothing else'}",
        cure="give --timestep T, such as 200 for a blur of 11 frames, or train that stage",
    )


def _autocast(model: FideDiff, x: Tensor) -> torch.autocast:
    """M and T keep float32 weights; beside a half-precision base they run under autocast."""
    dtype = model.base.dtype
    half = dtype != torch.float32
    return torch.autocast(x.device.type, dtype=dtype if half else None, enabled=half)


def reach(estimator: KernelEstimator) -> int:
    """Pixels from which a pixel's kernel can be influenced, rounded up to 64."""
    levels = len(estimator.down)
    blocks = len(estimator.middle)
    radius: int = 1 + sum((4 * blocks + 2) * 2**level for level in range(levels))
    radius += (2 * blocks + 1) * 2**levels
    return -(-radius // 64) * 64


def pooled_in_bands(
    estimator: KernelEstimator, padded: Tensor, pool: int, *, band_pixels: int = _BAND_PIXELS
) -> Tensor:
    """`estimator.pooled(padded, pool)`, the network itself run on bands of rows; exact.

    Args:
        estimator: M.
        padded: (B, 3, H, W), sides multiples of 32.
        pool: side of a cell, a power of two up to 32.
        band_pixels: pixels of a band without its margins.

    Returns:
        (B, K, H / pool, W / pool) float32.
    """
    height, width = padded.shape[-2:]
    rows = max(64, band_pixels // (width * padded.shape[0]) // 64 * 64)
    if rows >= height:
        return estimator.pooled(padded, pool)
    margin = reach(estimator)
    bands = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - margin), min(height, bottom + margin)
        cells = estimator.pooled(padded[:, :, first:last], pool)
        bands.append(cells[:, :, (top - first) // pool : (bottom - first) // pool])
    return torch.cat(bands, dim=2)


def _step(
    model: FideDiff,
    z_t: Tensor,
    t_hat: Tensor,
    k_in: Tensor | None,
    padded: Tensor,
    plan: TilePlan,
) -> Tensor:
    """z0_hat (B, 4, h, w), tile by tile."""
    stride = model.codec.latent_stride
    height, width = z_t.shape[-2:]
    side = _cells(plan.tile, stride) if plan.tile else max(height, width)
    if side >= max(height, width):
        return model.step(z_t, t_hat, k_in=k_in, blur=padded)
    overlap = _cells(plan.overlap, stride) if plan.overlap else 0
    total = torch.zeros_like(z_t, dtype=torch.float32)
    weights = torch.zeros(height, width, device=z_t.device)
    for top, bottom in spans(height, side, overlap):
        rows = _ramp(top, bottom, height, overlap, z_t.device)
        for left, right in spans(width, side, overlap):
            weight = rows[:, None] * _ramp(left, right, width, overlap, z_t.device)[None]
            z0_hat = model.step(
                z_t[..., top:bottom, left:right],
                t_hat,
                k_in=None if k_in is None else k_in[..., top:bottom, left:right],
                blur=padded[..., top * stride : bottom * stride, left * stride : right * stride],
            )
            total[..., top:bottom, left:right] += z0_hat * weight
            weights[top:bottom, left:right] += weight
    return total / weights


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
    starts = list(range(0, length - side, side - overlap))
    # The last tile moves back inside, so that no tile is a sliver.
    return [(start, start + side) for start in [*starts, length - side]]


def _ramp(first: int, last: int, length: int, overlap: int, device: torch.device) -> Tensor:
    """Weights of a tile along one axis: linear over the overlap, 1 at the image's border."""
    ramp = torch.ones(last - first, device=device)
    if overlap:
        rise = torch.arange(1, overlap + 1, device=device) / (overlap + 1)
        if first > 0:
            ramp[:overlap] = rise
        if last < length:
            ramp[-overlap:] = rise.flip(0)
    return ramp
