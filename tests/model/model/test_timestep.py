"""The timestep regressor: one number in range for each image, whatever its size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fidediff_model.model.kernels import pool_kernels
from fidediff_model.model.timestep import TimestepRegressor
from fidediff_model.scores.losses import timestep_loss


@pytest.fixture(scope="module")
def regressor():
    torch.manual_seed(0)
    return TimestepRegressor(kernel_size=5, channels=(8, 16))


def _kernels(batch, height, width, sharpness=1.0):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(batch, 25, height, width, generator=generator) * sharpness).softmax(1)


@given(height=st.integers(1, 30), width=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_any_size_gives_one_timestep_an_image(regressor, height, width):
    assert regressor(_kernels(3, height, width)).shape == (3,)


def test_timesteps_stay_in_the_schedule_for_extreme_weights():
    torch.manual_seed(0)
    wild = TimestepRegressor(kernel_size=5, channels=(8,))
    with torch.no_grad():
        for parameter in wild.parameters():
            parameter.mul_(1e3)
    t_hat = wild(_kernels(4, 8, 8, sharpness=50))
    assert t_hat.min() >= 0
    assert t_hat.max() <= 999


def test_untrained_regressor_answers_about_200(regressor):
    assert (regressor(_kernels(2, 16, 16)) - 200).abs().max() < 40


def test_timestep_is_float32_under_autocast(regressor):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert regressor(_kernels(1, 16, 16)).dtype == torch.float32


def test_timestep_is_float32_from_a_bfloat16_model():
    torch.manual_seed(0)
    low = TimestepRegressor(kernel_size=5, channels=(8,)).bfloat16()
    assert low(_kernels(1, 16, 16).bfloat16()).dtype == torch.float32


def test_pooled_kernels_give_the_same_timestep(regressor):
    kernels = _kernels(2, 19, 22)
    pooled = pool_kernels(kernels, regressor.pool)
    torch.testing.assert_close(regressor(pooled, pooled=True), regressor(kernels))


def test_timestep_of_an_image_does_not_depend_on_its_batch(regressor):
    kernels = _kernels(3, 12, 12)
    torch.testing.assert_close(regressor(kernels)[1:2], regressor(kernels[1:2]))


def test_regressor_learns_to_tell_wide_kernels_from_narrow_ones():
    torch.manual_seed(0)
    small = TimestepRegressor(kernel_size=5, channels=(8, 8))
    narrow, wide = torch.zeros(1, 25, 8, 8), torch.full((1, 25, 8, 8), 1 / 25)
    narrow[:, 12] = 1
    kernels, t = torch.cat([narrow, wide]), torch.tensor([40.0, 240.0])
    optimizer = torch.optim.Adam(small.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        timestep_loss(small(kernels), t).backward()
        optimizer.step()
    assert (small(kernels) - t).abs().max() < 10


def test_kernels_of_another_size_are_refused(regressor):
    with pytest.raises(ValueError, match="25"):
        regressor(torch.rand(1, 9, 8, 8))


def test_regressor_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="channels"):
        TimestepRegressor(channels=())
