"""The kernel estimator at odd sizes, its pooled form, and the picture of kernels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fidediff_model.model import kernels as kernels_module
from fidediff_model.model.kernels import KernelEstimator, kernel_mosaic, pool_kernels


@pytest.fixture(scope="module")
def estimator():
    torch.manual_seed(0)
    return KernelEstimator(kernel_size=5, channels=(8, 12, 16), blocks=1)


def _blur(batch, height, width):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


@given(height=st.integers(1, 21), width=st.integers(1, 21))
@settings(max_examples=15, deadline=None)
def test_any_size_gives_one_kernel_a_pixel(estimator, height, width):
    assert estimator(_blur(1, height, width)).shape == (1, 25, height, width)


def test_weights_of_a_kernel_sum_to_one(estimator):
    sums = estimator(_blur(2, 11, 13) * 3).sum(1)
    torch.testing.assert_close(sums, torch.ones(2, 11, 13))


def test_weights_of_a_kernel_are_not_negative(estimator):
    assert estimator(_blur(2, 11, 13)).min() >= 0


def test_weights_are_float32_of_sum_one_under_autocast(estimator):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = estimator(_blur(1, 9, 9))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 9, 9))


def test_kernels_do_not_depend_on_the_rest_of_the_batch(estimator):
    batch = _blur(3, 10, 10)
    torch.testing.assert_close(estimator(batch)[1:2], estimator(batch[1:2]))


def test_every_parameter_gets_a_gradient(estimator):
    estimator.zero_grad()
    estimator(_blur(1, 12, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in estimator.parameters())


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_pooled_kernels_equal_pooling_the_full_ones(estimator, stride, monkeypatch):
    # A small band, so that several are needed.
    monkeypatch.setattr(kernels_module, "BAND_BYTES", 4 * 2 * 25 * 21 * 8)
    blur = _blur(2, 27, 21)
    torch.testing.assert_close(
        estimator.pooled(blur, stride), pool_kernels(estimator(blur), stride)
    )


def test_cell_cut_by_the_border_is_the_mean_of_its_pixels():
    kernels = torch.rand(1, 9, 5, 3)
    expected = kernels[:, :, 4:5, :].mean(dim=(2, 3))
    torch.testing.assert_close(pool_kernels(kernels, 4)[:, :, 1, 0], expected)


def test_default_estimator_has_361_taps_at_each_pixel():
    with torch.device("meta"):
        kernels = KernelEstimator()(torch.empty(1, 3, 720, 1280))
    assert kernels.shape == (1, 361, 720, 1280)


def test_estimator_learns_to_reblur_a_shifted_image():
    from fidediff_model.scores.losses import reblur_loss

    torch.manual_seed(0)
    small = KernelEstimator(kernel_size=3, channels=(8, 8), blocks=1)
    sharp = _blur(1, 16, 16)
    blur = sharp.roll(1, dims=3)
    optimizer = torch.optim.Adam(small.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = reblur_loss(small(blur), sharp, blur)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("size", [0, 2, 18])
def test_even_kernel_size_is_refused(size):
    with pytest.raises(ValueError, match="odd"):
        KernelEstimator(kernel_size=size)


def test_estimator_without_levels_is_refused():
    with pytest.raises(ValueError, match="channels"):
        KernelEstimator(channels=())


def _one_tap(row, column, size=3, height=4, width=6):
    kernels = torch.zeros(size * size, height, width)
    kernels[row * size + column] = 0.25
    return kernels


def test_mosaic_mirrors_a_kernel_into_its_motion_path():
    picture = kernel_mosaic(_one_tap(0, 1), columns=1, zoom=1)
    # One line, then three rows of three weights: the tap above the centre is drawn below it.
    assert picture[1:4, 1:4].tolist() == [[0, 0, 0], [0, 0, 0], [0, 255, 0]]


def test_mosaic_scales_each_kernel_to_white():
    kernels = torch.rand(9, 4, 4) * torch.linspace(0.01, 1, 4)
    picture = kernel_mosaic(kernels, columns=4, zoom=1)
    tiles = picture[:-1, :-1].reshape(4, 4, 4, 4)[:, 1:, :, 1:]
    assert tiles.max(axis=(1, 3)).tolist() == [[255] * 4] * 4


def test_mosaic_has_the_stated_size():
    picture = kernel_mosaic(torch.rand(25, 90, 160), columns=8, rows=4, zoom=2)
    assert (picture.shape, picture.dtype) == ((4 * 11 + 1, 8 * 11 + 1), np.uint8)


def test_mosaic_keeps_the_proportions_of_the_image():
    picture = kernel_mosaic(torch.rand(9, 72, 128), columns=16, zoom=1)
    assert picture.shape == (9 * 4 + 1, 16 * 4 + 1)


def test_mosaic_draws_no_more_kernels_than_there_are_pixels():
    assert kernel_mosaic(torch.rand(9, 2, 3), columns=16, zoom=1).shape == (2 * 4 + 1, 3 * 4 + 1)


def test_mosaic_of_several_images_is_refused():
    with pytest.raises(ValueError, match="one image"):
        kernel_mosaic(torch.rand(2, 9, 4, 4))
