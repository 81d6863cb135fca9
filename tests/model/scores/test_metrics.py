"""PSNR and SSIM against independent witnesses: plain Python, scikit-image, scipy on volumes."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fidediff_model.scores.metrics import SSIM_VARIANTS, as_uint8, psnr, ssim, trajectory_gap


@pytest.fixture(scope="module")
def pair():
    random = np.random.default_rng(0)
    sharp = gaussian_filter(random.random((33, 41, 3)), (2, 2, 0)) * 255
    restored = sharp + random.normal(0, 6, sharp.shape)
    return [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (restored, sharp)]


def test_psnr_of_one_grey_level_everywhere_is_48_decibels():
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + np.uint8(1)) == pytest.approx(20 * math.log10(255))


def test_psnr_does_not_wrap_bytes_round():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0


def test_psnr_agrees_with_scikit_image(pair):
    restored, sharp = pair
    assert psnr(restored, sharp) == pytest.approx(
        peak_signal_noise_ratio(sharp, restored, data_range=255), abs=1e-6
    )


def test_psnr_of_equal_images_is_infinite(pair):
    assert psnr(pair[1], pair[1]) == math.inf


def _ssim_pixel(a, b, weights, correction=1.0):
    """Wang's formula for one window, summed in plain Python."""
    total = {"a": 0.0, "b": 0.0, "aa": 0.0, "bb": 0.0, "ab": 0.0}
    for x, y, w in zip(
        a.ravel().tolist(), b.ravel().tolist(), weights.ravel().tolist(), strict=True
    ):
        for name, value in (("a", x), ("b", y), ("aa", x * x), ("bb", y * y), ("ab", x * y)):
            total[name] += w * value
    var_a = correction * (total["aa"] - total["a"] ** 2)
    var_b = correction * (total["bb"] - total["b"] ** 2)
    cov = correction * (total["ab"] - total["a"] * total["b"])
    c1, c2 = 2.55**2, 7.65**2
    return ((2 * total["a"] * total["b"] + c1) * (2 * cov + c2)) / (
        (total["a"] ** 2 + total["b"] ** 2 + c1) * (var_a + var_b + c2)
    )


def _mean_over_windows(pair, weights, correction=1.0):
    restored, sharp = (image.astype(float)[:20, :18] for image in pair)
    side = weights.shape[0]
    windows = [
        (slice(y, y + side), slice(x, x + side), c)
        for y in range(20 - side + 1)
        for x in range(18 - side + 1)
        for c in range(3)
    ]
    return np.mean([_ssim_pixel(restored[w], sharp[w], weights, correction) for w in windows])


def test_gaussian_ssim_equals_a_loop_over_windows(pair):
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    small = [image[:20, :18] for image in pair]
    assert ssim(*small) == pytest.approx(_mean_over_windows(pair, weights), abs=1e-9)


def test_uniform_ssim_equals_a_loop_over_windows(pair):
    weights = np.full((7, 7), 1 / 49)
    small = [image[:20, :18] for image in pair]
    expected = _mean_over_windows(pair, weights, correction=49 / 48)
    assert ssim(*small, variant="uniform") == pytest.approx(expected, abs=1e-9)


def test_gaussian_ssim_agrees_with_scikit_image(pair):
    restored, sharp = pair
    expected = structural_similarity(
        sharp, restored, channel_axis=2, data_range=255,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(restored, sharp) == pytest.approx(expected, abs=1e-6)


def test_matlab_ssim_equals_a_gaussian_over_the_volume(pair):
    a, b = (image.astype(float) for image in pair)

    def smooth(volume):
        # scipy smooths the channel axis too; "nearest" is MATLAB's "replicate", radius 5.
        return gaussian_filter(volume, 1.5, mode="nearest", radius=5)

    mean_a, mean_b = smooth(a), smooth(b)
    c1, c2 = 2.55**2, 7.65**2
    top = (2 * mean_a * mean_b + c1) * (2 * (smooth(a * b) - mean_a * mean_b) + c2)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    expected = (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()
    assert ssim(*pair, variant="matlab") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("variant", SSIM_VARIANTS)
def test_ssim_of_equal_images_is_one(pair, variant):
    assert ssim(pair[1], pair[1], variant=variant) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("variant", SSIM_VARIANTS)
def test_ssim_is_symmetric(pair, variant):
    assert ssim(*pair, variant=variant) == pytest.approx(ssim(*reversed(pair), variant=variant))


def test_unknown_ssim_variant_is_refused(pair):
    with pytest.raises(ValueError, match="gaussian, uniform, matlab"):
        ssim(*pair, variant="luma")


def test_float_images_are_refused(pair):
    with pytest.raises(ValueError, match="uint8"):
        psnr(pair[0] / 255, pair[1])


def test_images_of_different_sizes_are_refused(pair):
    with pytest.raises(ValueError, match="differ in size"):
        psnr(pair[0], pair[1][:-1])


def test_ssim_of_images_smaller_than_the_window_is_refused():
    tiny = np.zeros((10, 30, 3), np.uint8)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(tiny, tiny)


def test_every_byte_survives_the_way_through_the_model_range():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = torch.from_numpy(grey).permute(2, 0, 1).float() / 127.5 - 1
    assert np.array_equal(as_uint8(tensor), grey)


def test_values_outside_the_range_are_clipped():
    image = torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1)
    assert as_uint8(image).ravel().tolist() == [0, 128, 255]


def test_image_with_a_value_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        as_uint8(torch.full((3, 2, 2), math.nan))


def test_gap_of_equal_restorations_is_zero():
    assert trajectory_gap(torch.rand(1, 3, 4, 4).expand(3, 3, 4, 4)) == 0


def test_gap_is_the_mean_over_all_pairs():
    levels = torch.tensor([0.0, 1.0, 4.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert trajectory_gap(levels) == pytest.approx((1 + 4 + 3) / 3)


def test_gap_of_bytes_does_not_wrap_round():
    levels = torch.tensor([3, 250], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert trajectory_gap(levels) == 247


def test_gap_of_one_restoration_is_refused():
    with pytest.raises(ValueError, match="two restorations"):
        trajectory_gap(torch.rand(1, 3, 4, 4))
