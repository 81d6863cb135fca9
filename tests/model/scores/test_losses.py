"""The losses: EA-LPIPS as its two terms, edges on flat areas, weights, reblur and time."""

import math

import numpy as np
import pytest
import torch
from skimage.filters import sobel_h, sobel_v

from fidediff_model.scores.losses import (
    PERCEPTUALS,
    ReconstructionLoss,
    edge_aware_lpips,
    reblur_loss,
    sobel_magnitude,
    timestep_loss,
)
from fidediff_model.scores.perceptual import DISTS, LPIPS
from fidediff_model.weights.vgg import random_vgg16


@pytest.fixture(scope="module")
def vgg():
    return random_vgg16(seed=2)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 3, 24, 20, generator=generator) * 2 - 1 for _ in range(2)]


def test_edge_aware_lpips_is_the_image_term_plus_the_edge_term(vgg, images):
    lpips = LPIPS(vgg)
    edges = [sobel_magnitude(image) for image in images]
    torch.testing.assert_close(
        edge_aware_lpips(lpips, *images), lpips(*images) + lpips(*edges), rtol=0, atol=0
    )


def test_edge_aware_lpips_of_equal_images_is_zero(vgg, images):
    assert edge_aware_lpips(LPIPS(vgg), images[0], images[0]).tolist() == [0, 0]


def test_gradient_is_finite_on_flat_areas(vgg):
    restored = torch.zeros(1, 3, 16, 16, requires_grad=True)
    edge_aware_lpips(LPIPS(vgg), restored, torch.full((1, 3, 16, 16), 0.5)).sum().backward()
    assert restored.grad.isfinite().all()


def test_sobel_magnitude_agrees_with_scikit_image():
    plane = np.random.default_rng(0).random((12, 15))
    # scikit-image divides 1-2-1 by 4 too, and takes differences over two pixels of [0, 1].
    expected = np.hypot(sobel_h(plane), sobel_v(plane))[1:-1, 1:-1]
    image = torch.from_numpy(plane).float().view(1, 1, 12, 15) * 2 - 1
    found = (sobel_magnitude(image) + 1) / 2
    np.testing.assert_allclose(found[0, 0, 1:-1, 1:-1], expected, atol=2e-3)


def test_sobel_magnitude_of_a_step_from_black_to_white_is_one():
    image = torch.full((1, 3, 8, 8), -1.0)
    image[..., 4:] = 1
    np.testing.assert_allclose(sobel_magnitude(image)[0, :, :, 3:5], 1, atol=1e-5)


def test_sobel_magnitude_of_a_flat_image_is_black():
    assert sobel_magnitude(torch.full((1, 3, 8, 8), 0.3)).max() < -0.99


@pytest.mark.parametrize("perceptual", PERCEPTUALS)
def test_loss_of_equal_images_is_zero(perceptual, vgg, images):
    assert ReconstructionLoss(vgg, perceptual=perceptual)(images[0], images[0]).total == 0


@pytest.mark.parametrize("perceptual", PERCEPTUALS)
def test_gradient_flows_from_the_loss(perceptual, vgg, images):
    restored = images[0].clone().requires_grad_()
    ReconstructionLoss(vgg, perceptual=perceptual)(restored, images[1]).total.backward()
    assert restored.grad.abs().mean() > 0


def test_total_is_the_weighted_sum_of_its_terms(vgg, images):
    loss = ReconstructionLoss(vgg, perceptual="lpips", l1_weight=3, perceptual_weight=0.5)
    terms = loss(*images)
    assert terms.total.item() == pytest.approx(
        3 * terms.l1.item() + 0.5 * terms.perceptual.item(), rel=1e-6
    )


def test_loss_of_pixels_alone_is_the_mean_absolute_difference(images):
    expected = np.abs(images[0].double().numpy() - images[1].double().numpy()).mean()
    loss = ReconstructionLoss(None, perceptual="none")
    assert loss(*images).total.item() == pytest.approx(expected, rel=1e-6)


def test_dists_setting_uses_dists(vgg, images):
    terms = ReconstructionLoss(vgg, perceptual="dists")(*images)
    assert terms.perceptual.item() == pytest.approx(DISTS(vgg)(*images).mean().item())


def test_perceptual_loss_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match="VGG16"):
        ReconstructionLoss(None, perceptual="lpips")


def test_unknown_perceptual_loss_is_refused(vgg):
    with pytest.raises(ValueError, match="ea-lpips"):
        ReconstructionLoss(vgg, perceptual="vgg")


def test_loss_has_nothing_to_train(vgg):
    assert not any(p.requires_grad for p in ReconstructionLoss(vgg).parameters())


def test_reblur_loss_of_the_true_kernels_is_zero(images):
    kernels = torch.zeros(2, 9, 24, 20)
    kernels[:, 3] = 1  # the pixel to the left
    blur = torch.cat([images[0][..., :1], images[0][..., :-1]], dim=3)
    assert reblur_loss(kernels, images[0], blur) == 0


def test_timestep_loss_is_the_mean_error_over_a_thousand():
    loss = timestep_loss(torch.tensor([100.0, 260.0]), torch.tensor([120, 200]))
    assert math.isclose(loss.item(), (20 + 60) / 2 / 1000, rel_tol=1e-6)
