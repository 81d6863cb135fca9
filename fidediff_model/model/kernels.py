"""The kernel estimator M: one motion-blur kernel for each pixel of a blurry image.

In FideDiff (arXiv 2510.01641) M is a U-Net on the blurry image giving k_t, m x m weights a pixel.
The paper publishes neither m nor the layers; m = 19, the softmax over the taps and the residual
encoder-decoder in the manner of UFPNet are ours. `fidediff_model.model.reblur` applies the kernels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fidediff_model.model.reblur import kernel_size_of

KERNEL_SIZE = 19
"""m, the side of a kernel in pixels (ours)."""

CHANNELS = (32, 64, 128, 256)
"""Widths of the levels of M, finest first (ours)."""

BAND_BYTES = 128 << 20
"""How much of the full-size kernels `KernelEstimator.pooled` keeps at once."""

BAND_PIXELS = 1 << 21
"""Pixels on which `KernelEstimator.pooled` runs the network at once; 1280 x 720 fits twice."""


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions round a shortcut, (B, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.conv2(functional.gelu(self.conv1(functional.gelu(x))))
        return x + hidden


def _level(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(channels) for _ in range(blocks)))


class KernelEstimator(nn.Module):
    """M, a residual U-Net without normalisation: blurry image in, blur_kernel of each pixel out.

    No layer looks across a batch and none is normalised, so an image's kernels do not depend on
    its neighbours in the batch.

    Args:
        kernel_size: m, odd; the longest motion that a kernel can describe is m pixels.
        channels: width of each level, finest first; each level halves the size.
        blocks: residual blocks a level, in the encoder and again in the decoder.

    Raises:
        ValueError: `kernel_size` is even or below 1, or `channels` is empty.
    """

    def __init__(
        self,
        kernel_size: int = KERNEL_SIZE,
        channels: tuple[int, ...] = CHANNELS,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 1, not {kernel_size}")
        if not channels:
            raise ValueError("channels must name the width of one level at least")
        self.kernel_size = kernel_size
        self.stride = 2 ** (len(channels) - 1)
        pairs = list(itertools.pairwise(channels))
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(_level(width, blocks) for width in channels[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.middle = _level(channels[-1], blocks)
        # Pixel shuffle: a coarse cell predicts its own four fine ones.
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(b, 4 * a, 1), nn.PixelShuffle(2)) for a, b in pairs
        )
        self.decoder = nn.ModuleList(_level(width, blocks) for width in channels[:-1])
        # 1x1, so that rows of kernels can be computed apart (`pooled`).
        self.head = nn.Conv2d(channels[0], kernel_size**2, 1)

    def forward(self, blur: Tensor) -> Tensor:
        """Kernels of all pixels.

        Args:
            blur: (B, 3, H, W) in [-1, 1]; any H and W of at least 1.

        Returns:
            (B, K, H, W) float32, K = kernel_size ** 2, at least 0 and of sum 1 over K. At
            1280 x 720 and m = 19 these are 1.33 GB an image: `pooled` is for that.
        """
        return self._kernels(self._features(blur))

    def pooled(self, blur: Tensor, stride: int, *, band_pixels: int = BAND_PIXELS) -> Tensor:
        """The kernels' means over cells of stride x stride pixels, as `pool_kernels` gives them.

        The same numbers as `pool_kernels(self(blur), stride)` in bounded memory: the network
        runs on bands of rows whose margins cover its whole reach, and the full-size kernels
        exist only for some of those rows at a time.

        Args:
            blur: (B, 3, H, W) in [-1, 1].
            stride: side of a cell in pixels.
            band_pixels: about how many pixels a band has without its margins.

        Returns:
            (B, K, ceil(H / stride), ceil(W / stride)) float32.
        """
        height, width = blur.shape[-2:]
        # Bands begin on whole cells of the pooling and of the network's coarsest level.
        grid = math.lcm(stride, self.stride, 64)
        rows = max(1, band_pixels // (width * blur.shape[0] * grid)) * grid
        margin = -(-self.reach // grid) * grid
        if height <= rows + 2 * margin:
            return self._pooled_band(blur, stride)
        bands = []
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first, last = max(0, top - margin), min(height, bottom + margin)
            cells = self._pooled_band(blur[:, :, first:last], stride)
            bands.append(cells[:, :, (top - first) // stride : -(-(bottom - first) // stride)])
        return torch.cat(bands, dim=2)

    def _pooled_band(self, blur: Tensor, stride: int) -> Tensor:
        features = self._features(blur)
        bands = [
            pool_kernels(self._kernels(band), stride)
            for band in self._bands(features, rows_at_a_time=stride)
        ]
        return torch.cat(bands, dim=2)

    @property
    def reach(self) -> int:
        """Distance in pixels over which a pixel can influence another one's kernel."""
        levels, blocks = len(self.down), len(self.middle)
        # Two 3x3 convolutions per block reach 2 cells of their level; each level has `blocks`
        # of them on the way down, as many on the way up, and the 2x2 convolution between.
        radius: int = 1 + sum((4 * blocks + 2) * 2**level for level in range(levels))
        radius += (2 * blocks + 1) * 2**levels
        return radius

    def _features(self, blur: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels[0], H, W)."""
        height, width = blur.shape[2:]
        # Replicated, not reflected: a reflection needs an image larger than the padding.
        padding = (0, -width % self.stride, 0, -height % self.stride)
        x = self.first(functional.pad(blur, padding, mode="replicate"))
        skips = []
        for level, down in zip(self.encoder, self.down, strict=True):
            x = level(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for level, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            x = level(up(x) + skips.pop())
        features: Tensor = x[:, :, :height, :width]
        return features

    def _kernels(self, features: Tensor) -> Tensor:
        # In float32 also under autocast: in bfloat16 the 361 weights miss 1 by a per cent.
        logits: Tensor = self.head(functional.gelu(features))
        if logits.is_contiguous(memory_format=torch.channels_last):
            # Taps lie side by side; over axis 1 torch would copy all to the other format first.
            taps_last = logits.permute(0, 2, 3, 1).softmax(dim=3, dtype=torch.float32)
            return taps_last.permute(0, 3, 1, 2)
        return logits.softmax(dim=1, dtype=torch.float32)

    def _bands(self, features: Tensor, *, rows_at_a_time: int) -> Iterator[Tensor]:
        """Runs of rows, each a multiple of `rows_at_a_time` but the last, about `BAND_BYTES`."""
        batch, _, height, width = features.shape
        row_bytes = 4 * batch * self.kernel_size**2 * width
        cells = max(1, BAND_BYTES // (row_bytes * rows_at_a_time))
        rows = cells * rows_at_a_time
        for top in range(0, height, rows):
            yield features[:, :, top : top + rows]


def pool_kernels(kernels: Tensor, stride: int) -> Tensor:
    """Mean kernels of cells of stride x stride pixels, from the top left; each still sums to 1.

    Args:
        kernels: (B, K, H, W).
        stride: side of a cell in pixels; 1 gives the kernels back.

    Returns:
        (B, K, ceil(H / stride), ceil(W / stride)); a cell cut by the border is the mean of the
        pixels that it has.
    """
    if stride == 1:
        return kernels
    return functional.avg_pool2d(kernels, stride, ceil_mode=True, count_include_pad=False)


def kernel_mosaic(
    kernels: Tensor, *, columns: int = 16, rows: int | None = None, zoom: int = 3
) -> npt.NDArray[np.uint8]:
    """A picture of kernels on a regular grid over the image, each as the path of its motion.

    Each kernel is mirrored in both directions: reblurring is a correlation, so a scene point
    draws its kernel point-reflected. Each is scaled so that its greatest weight is white.

    Args:
        kernels: (K, H, W) of one image, or (1, K, H, W).
        columns: kernels a row; no more than W are drawn.
        rows: kernels a column; None keeps the image's proportions.
        zoom: side of the square that shows one weight, in pixels.

    Returns:
        Gray picture (rows x (m x zoom + 1) + 1, columns x (m x zoom + 1) + 1), uint8; the lines
        between kernels are mid-gray.

    Raises:
        ValueError: the kernels of more than one image, or K not m x m with m odd.
    """
    if kernels.ndim == 4 and kernels.shape[0] == 1:
        kernels = kernels[0]
    if kernels.ndim != 3:
        raise ValueError(f"kernels of one image are (K, H, W), not {tuple(kernels.shape)}")
    taps, height, width = kernels.shape
    size = kernel_size_of(taps)
    columns = min(columns, width)
    rows = min(rows or max(1, math.ceil(columns * height / width)), height)
    at_y, at_x = _centres(height, rows), _centres(width, columns)
    chosen = kernels.detach()[:, at_y][:, :, at_x].float().cpu().numpy()  # (K, rows, columns)
    tiles = chosen.reshape(size, size, rows, columns)[::-1, ::-1].transpose(2, 3, 0, 1)
    brightest = np.maximum(tiles.max(axis=(2, 3), keepdims=True), np.finfo(np.float32).tiny)
    gray = np.rint(tiles / brightest * 255).astype(np.uint8)  # (rows, columns, m, m)
    gray = gray.repeat(zoom, axis=2).repeat(zoom, axis=3)
    # One line of mid-gray above and left of each tile, and one after the last.
    lined = np.pad(gray, ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=128)
    side = size * zoom + 1
    flat = lined.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)
    return np.pad(flat, ((0, 1), (0, 1)), constant_values=128)


def _centres(length: int, count: int) -> list[int]:
    """Middles of `count` equal parts of `length` pixels."""
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
