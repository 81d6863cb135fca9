"""reblur against a plain Python loop, finite differences and its compiled form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fidediff_model.model.reblur import (
    kernel_size_of,
    kernels_gradient_by_taps,
    kernels_gradient_by_windows,
    reblur,
    reblur_by_taps,
    reblur_by_windows,
)


def _random(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=dtype)


def _by_pixel_loop(sharp, kernels):
    """The formula as it stands, pixel by pixel, in float64."""
    x, k = sharp.double().numpy(), kernels.double().numpy()
    batch, channels, height, width = x.shape
    size = round(k.shape[1] ** 0.5)
    out = np.zeros_like(x)
    for b, c, y0, x0 in np.ndindex(batch, channels, height, width):
        for tap in range(size * size):
            y = min(max(y0 + tap // size - size // 2, 0), height - 1)
            col = min(max(x0 + tap % size - size // 2, 0), width - 1)
            out[b, c, y0, x0] += k[b, tap, y0, x0] * x[b, c, y, col]
    return out


def test_reblur_equals_the_formula_pixel_by_pixel():
    sharp = _random(2, 3, 7, 9) * 2 - 1
    kernels = _random(2, 25, 7, 9, seed=1).softmax(1)
    np.testing.assert_allclose(
        reblur(sharp, kernels).numpy(), _by_pixel_loop(sharp, kernels), atol=1e-5
    )


def test_reblur_of_19_taps_a_side_equals_unfold():
    sharp = _random(1, 3, 40, 33) * 2 - 1
    kernels = (_random(1, 361, 40, 33, seed=1) * 8).softmax(1)
    padded = torch.nn.functional.pad(sharp, (9, 9, 9, 9), mode="replicate")
    windows = torch.nn.functional.unfold(padded, 19).view(1, 3, 361, 40, 33)
    expected = (windows * kernels[:, None]).sum(2)
    torch.testing.assert_close(reblur(sharp, kernels), expected, atol=1e-5, rtol=0)


def test_gradients_of_image_and_kernels_match_finite_differences():
    sharp = _random(2, 2, 4, 5, dtype=torch.float64).requires_grad_()
    kernels = _random(2, 25, 4, 5, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(reblur, (sharp, kernels))


def test_gradients_match_where_the_kernel_is_larger_than_the_image():
    sharp = _random(1, 1, 2, 1, dtype=torch.float64).requires_grad_()
    kernels = _random(1, 49, 2, 1, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(reblur, (sharp, kernels))


def test_second_derivatives_are_refused():
    kernels = _random(1, 9, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(
        reblur(_random(1, 3, 4, 4), kernels).square().sum(), kernels, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@given(height=st.integers(1, 12), width=st.integers(1, 12), size=st.sampled_from([1, 3, 7]))
@settings(max_examples=20, deadline=None)
def test_centre_kernel_gives_the_image_back_at_any_size(height, width, size):
    sharp = _random(1, 3, height, width, seed=height)
    kernels = torch.zeros(1, size * size, height, width)
    kernels[:, size * size // 2] = 1
    assert torch.equal(reblur(sharp, kernels), sharp)


def test_tap_right_of_the_centre_takes_the_pixel_to_the_right():
    sharp = torch.arange(5.0).expand(1, 1, 5, 5)
    kernels = torch.zeros(1, 9, 5, 5)
    kernels[:, 5] = 1  # row 1, column 2 of 3 x 3
    assert reblur(sharp, kernels)[0, 0, 2].tolist() == [1, 2, 3, 4, 4]


def test_kernels_that_sum_to_one_keep_a_flat_image():
    kernels = _random(1, 361, 8, 8).softmax(1)
    torch.testing.assert_close(
        reblur(torch.full((1, 3, 8, 8), 0.7), kernels).mean(), torch.tensor(0.7)
    )


def test_autocast_does_not_lower_the_precision_of_the_sum():
    sharp, kernels = _random(1, 3, 8, 8), _random(1, 361, 8, 8).softmax(1)
    expected = reblur(sharp, kernels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reblur(sharp, kernels), expected)


def test_half_precision_inputs_are_summed_in_float32():
    sharp, kernels = _random(1, 3, 6, 6).bfloat16(), _random(1, 25, 6, 6).bfloat16()
    blurred = reblur(sharp, kernels)
    assert blurred.dtype == torch.float32
    torch.testing.assert_close(blurred, reblur(sharp.float(), kernels.float()))


def test_gradient_of_bfloat16_kernels_is_the_rounded_float32_gradient():
    sharp, kernels = _random(1, 3, 6, 6), _random(1, 25, 6, 6).bfloat16()
    low, full = kernels.clone().requires_grad_(), kernels.float().requires_grad_()
    reblur(sharp, low).square().sum().backward()
    reblur(sharp, full).square().sum().backward()
    assert torch.equal(low.grad, full.grad.bfloat16())


def test_frozen_inputs_get_no_gradient():
    sharp, kernels = _random(1, 3, 6, 6).requires_grad_(), _random(1, 9, 6, 6)
    reblur(sharp, kernels).sum().backward()
    assert kernels.grad is None


def test_expression_over_windows_equals_the_loop_over_taps():
    padded, kernels = _random(2, 3, 12, 15), _random(2, 25, 8, 11, seed=1)
    torch.testing.assert_close(
        reblur_by_windows(padded, kernels), reblur_by_taps(padded, kernels), atol=1e-6, rtol=1e-5
    )


def test_gradient_over_windows_equals_the_loop_over_taps():
    padded, kernels = _random(2, 3, 12, 15), _random(2, 25, 8, 11, seed=1)
    grad = _random(2, 3, 8, 11, seed=2)
    torch.testing.assert_close(
        kernels_gradient_by_windows(padded, grad, kernels),
        kernels_gradient_by_taps(padded, grad, kernels),
    )


@pytest.mark.slow
def test_compiled_path_equals_the_loop():
    sharp, kernels = _random(1, 3, 16, 16), _random(1, 25, 16, 16, seed=1)
    slopes = []
    for fused in (False, True):
        k = kernels.clone().requires_grad_()
        blurred = reblur(sharp, k, fused=fused)
        blurred.square().sum().backward()
        slopes.append((blurred.detach(), k.grad))
    torch.testing.assert_close(slopes[1], slopes[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_the_cpu():
    sharp, kernels = _random(2, 3, 64, 48), _random(2, 361, 64, 48).softmax(1)
    torch.testing.assert_close(
        reblur(sharp.cuda(), kernels.cuda()).cpu(), reblur(sharp, kernels), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("taps", [0, 4, 10, 360])
def test_taps_that_are_no_odd_square_are_refused(taps):
    with pytest.raises(ValueError, match="odd"):
        kernel_size_of(taps)


def test_kernels_of_another_size_than_the_image_are_refused():
    with pytest.raises(ValueError, match="one per pixel"):
        reblur(torch.zeros(1, 3, 8, 8), torch.zeros(1, 9, 4, 4))


def test_image_without_a_batch_axis_is_refused():
    with pytest.raises(ValueError, match="four axes"):
        reblur(torch.zeros(3, 8, 8), torch.zeros(1, 9, 8, 8))
