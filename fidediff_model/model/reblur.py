"""A sharp image blurred again with one kernel per pixel, forward and backward, in little memory.

y_c(p) = sum_i k_i(p) x_c(p + o_i), where i runs row by row over the m x m offsets o_i round the
pixel p and x is continued by its border (M(I_blur) * I_sharp in FideDiff, arXiv 2510.01641). With
`unfold` this copies the image K = m x m times; under autograd a plain loop is slower still, since
each tap's backward fills a whole zero gradient of k. Here the gradients are written by hand:

    dL/dk_i(p)   = sum_c g_c(p) x_c(p + o_i)        no other pixel enters
    dL/dx_c(q)   = sum_i k_i(q - o_i) g_c(q - o_i)  then the border's copies are added back to it

Only x and k are kept for the backward pass. Everything is summed in float32 (float64 if asked for),
also under autocast: 361 small terms in bfloat16 lose two digits.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

_log = logging.getLogger(__name__)


def reblur(sharp: Tensor, kernels: Tensor, *, fused: bool | None = None) -> Tensor:
    """Each pixel's weighted mean of its neighbours: the sharp image under per-pixel kernels.

    This is correlation: tap i of the kernel at p weighs the pixel at p + o_i. The border is
    replicated.

    Args:
        sharp: image (B, C, H, W), any range, any floating dtype.
        kernels: weights (B, K, H, W), K = m x m with m odd, taps row by row from the top left;
            a kernel that sums to 1 keeps the image's range.
        fused: compute the forward pass and the kernels' gradient as one compiled GPU kernel each,
            which reads k once where the loop over taps writes its sums K times; None does so
            on a CUDA device where Triton is installed. The first call at a new size compiles.

    Returns:
        (B, C, H, W) in float32, or in float64 if either input is.

    Raises:
        ValueError: the shapes do not fit, or K is not the square of an odd number.
    """
    _check_shapes(sharp, kernels)
    if fused is None:
        fused = sharp.is_cuda and importlib.util.find_spec("triton") is not None
    # Inside an autocast region the sums would be taken in half precision.
    with torch.autocast(device_type=sharp.device.type, enabled=False):
        blurred: Tensor = _Reblur.apply(sharp, kernels, fused)  # type: ignore[no-untyped-call]
    return blurred


def kernel_size_of(taps: int) -> int:
    """The odd m with m x m = `taps`.

    Raises:
        ValueError: there is none.
    """
    size = math.isqrt(taps)
    if size * size != taps or size % 2 == 0:
        raise ValueError(f"{taps} taps are not m x m with m odd, as 361 = 19 x 19 is")
    return size


def _check_shapes(sharp: Tensor, kernels: Tensor) -> None:
    if sharp.ndim != 4 or kernels.ndim != 4:
        raise ValueError(
            f"image and kernels must have four axes, not {tuple(sharp.shape)}"
            f" and {tuple(kernels.shape)}"
        )
    kernel_size_of(kernels.shape[1])
    if sharp.shape[0] != kernels.shape[0] or sharp.shape[2:] != kernels.shape[2:]:
        raise ValueError(
            f"kernels {tuple(kernels.shape)} are not one per pixel of {tuple(sharp.shape)}"
        )


class _Reblur(torch.autograd.Function):
    """The formula and its two gradients, each tap by tap into memory allocated once."""

    @staticmethod
    def forward(ctx: FunctionCtx, sharp: Tensor, kernels: Tensor, fused: bool) -> Tensor:
        """(B, C, H, W) of sharp (B, C, H, W) and kernels (B, K, H, W); see `reblur`."""
        ctx.save_for_backward(sharp, kernels)
        ctx.fused = fused  # type: ignore[attr-defined]
        dtype = _sum_dtype(sharp, kernels)
        padded = _pad(sharp.to(dtype), kernel_size_of(kernels.shape[1]))
        if fused:
            return _compiled(reblur_by_windows)(padded, kernels)
        return reblur_by_taps(padded, kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients to sharp and kernels, each only where it is needed."""
        sharp, kernels = ctx.saved_tensors  # type: ignore[attr-defined]
        need_sharp, need_kernels, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad_sharp = grad_kernels = None
        with torch.autocast(device_type=sharp.device.type, enabled=False):
            if need_kernels:
                padded = _pad(sharp.to(grad.dtype), kernel_size_of(kernels.shape[1]))
                if ctx.fused:  # type: ignore[attr-defined]
                    grad_kernels = _compiled(kernels_gradient_by_windows)(padded, grad, kernels)
                else:
                    grad_kernels = kernels_gradient_by_taps(padded, grad, kernels)
            if need_sharp:
                grad_sharp = _sharp_gradient(grad, kernels).to(sharp.dtype)
        return grad_sharp, grad_kernels, None


def _sum_dtype(sharp: Tensor, kernels: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (sharp.dtype, kernels.dtype) else torch.float32


def _pad(image: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H + m - 1, W + m - 1), the border continued."""
    return functional.pad(image, (size // 2,) * 4, mode="replicate")


def _shifted(padded: Tensor, size: int) -> Iterator[Tensor]:
    """For each tap in order, the view x(p + o_i) of the padded image: (B, C, H, W)."""
    height, width = padded.shape[2] - size + 1, padded.shape[3] - size + 1
    for dy in range(size):
        for dx in range(size):
            yield padded[:, :, dy : dy + height, dx : dx + width]


def reblur_by_taps(padded: Tensor, kernels: Tensor) -> Tensor:
    """The forward sum, one tap after the other into one image.

    Args:
        padded: the image with its border continued, (B, C, H + m - 1, W + m - 1), float32 or 64.
        kernels: (B, K, H, W), any dtype; converted slice by slice, never as a whole.
    """
    shape = (*padded.shape[:2], *kernels.shape[2:])
    blurred = padded.new_zeros(shape)
    for tap, window in enumerate(_shifted(padded, kernel_size_of(kernels.shape[1]))):
        # (B, C, H, W) x (B, 1, H, W)
        blurred.addcmul_(window, kernels[:, tap : tap + 1].to(padded.dtype))
    return blurred


def kernels_gradient_by_taps(padded: Tensor, grad: Tensor, kernels: Tensor) -> Tensor:
    """The gradient of the kernels, (B, K, H, W) in their dtype, slice by slice.

    Args:
        padded: as for `reblur_by_taps`.
        grad: gradient of the reblurred image, (B, C, H, W).
        kernels: only their shape and dtype are used.
    """
    gradient = torch.empty_like(kernels, memory_format=torch.contiguous_format)
    for tap, window in enumerate(_shifted(padded, kernel_size_of(kernels.shape[1]))):
        # Channel by channel in place: no (B, C, H, W) product is ever made.
        slot = gradient[:, tap]
        total = slot if slot.dtype == grad.dtype else torch.empty_like(grad[:, 0])
        torch.mul(grad[:, 0], window[:, 0], out=total)
        for channel in range(1, grad.shape[1]):
            total.addcmul_(grad[:, channel], window[:, channel])
        if total is not slot:
            slot.copy_(total)
    return gradient


def _sharp_gradient(grad: Tensor, kernels: Tensor) -> Tensor:
    """The gradient of the sharp image, (B, C, H, W) in the sums' dtype."""
    size = kernel_size_of(kernels.shape[1])
    batch, channels, height, width = grad.shape
    padded = grad.new_zeros((batch, channels, height + size - 1, width + size - 1))
    for tap, window in enumerate(_shifted(padded, size)):
        window.addcmul_(grad, kernels[:, tap : tap + 1].to(grad.dtype))
    return _fold_border(padded, size // 2)


def _fold_border(padded: Tensor, rim: int) -> Tensor:
    """The adjoint of replicate padding: each rim pixel is added to the border pixel it copied."""
    if rim == 0:
        return padded
    rows = padded[:, :, rim:-rim].clone()
    rows[:, :, 0] += padded[:, :, :rim].sum(2)
    rows[:, :, -1] += padded[:, :, -rim:].sum(2)
    inner = rows[:, :, :, rim:-rim].clone()
    inner[:, :, :, 0] += rows[:, :, :, :rim].sum(3)
    inner[:, :, :, -1] += rows[:, :, :, -rim:].sum(3)
    return inner


def reblur_by_windows(padded: Tensor, kernels: Tensor) -> Tensor:
    """The forward sum as one expression over all taps, to be compiled.

    Compiled, the views become index arithmetic and nothing of size C x K is stored; run as it
    stands it would store exactly that. Arguments as for `reblur_by_taps`.
    """
    size = kernel_size_of(kernels.shape[1])
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # (B, C, H, W, m, m)
    windows = windows.permute(0, 1, 4, 5, 2, 3)  # (B, C, m, m, H, W)
    weights = kernels.to(
        padded.dtype
    ).reshape(  # (B, 1, m, m, H, W)
        kernels.shape[0], 1, size, size, *kernels.shape[2:]
    )
    return (windows * weights).sum(dim=(2, 3))


def kernels_gradient_by_windows(padded: Tensor, grad: Tensor, kernels: Tensor) -> Tensor:
    """The gradient of the kernels as one expression, to be compiled; as `..._by_taps`."""
    size = kernel_size_of(kernels.shape[1])
    windows = padded.unfold(2, size, 1).unfold(3, size, 1).permute(0, 1, 4, 5, 2, 3)
    total = (windows * grad[:, :, None, None]).sum(dim=1)  # (B, m, m, H, W)
    return total.flatten(1, 2).to(kernels.dtype)


@cache
def _compiled(expression: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`expression` compiled at first use; where the compiler fails, the loop over taps."""
    fused: Callable[..., Tensor] = torch.compile(expression, fullgraph=True)
    by_taps: Callable[..., Tensor] = reblur_by_taps
    if expression is kernels_gradient_by_windows:
        by_taps = kernels_gradient_by_taps
    broken = False

    def run(*tensors: Tensor) -> Tensor:
        """The compiled expression of `tensors`, or the loop once compiling has failed."""
        nonlocal broken
        if not broken:
            try:
                return fused(*tensors)
            except torch._dynamo.exc.TorchDynamoException as error:
                # A machine without a working compiler still trains, only slower.
                broken = True
                _log.warning("reblur runs tap by tap: %s", str(error).splitlines()[0])
        return by_taps(*tensors)

    return run
