"""LPIPS and DISTS: worked by hand, and held against torchmetrics with the same seeded backbone.

The backbone is random by the explicit switch, so only the arithmetic is proven here.
"""

import runpy
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fidediff_model.scores.perceptual import DISTS, LPIPS, dists_distance, lpips_distance
from fidediff_model.weights import heads
from fidediff_model.weights.alexnet import random_alexnet
from fidediff_model.weights.vgg import VGG16, random_vgg16


@pytest.fixture(scope="module")
def vgg():
    return random_vgg16(seed=7)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    sharp = torch.rand(2, 3, 37, 50, generator=generator) * 2 - 1
    noise = torch.randn(2, 3, 37, 50, generator=generator)
    return (sharp + 0.2 * noise).clamp(-1, 1), sharp


def _torchvision_features(vgg):
    """VGG16's `features` as torchvision lays them out, with the weights of `vgg`."""
    layers = []
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        conv = vgg.features[str(len(layers))]
        assert conv.out_channels == width
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers)


def test_lpips_worked_by_hand():
    # Unit vectors (.6, .8) and (.8, .6): both squared differences are .04; 1 x .04 + 2 x .04.
    a, b = torch.tensor([3.0, 4]).view(1, 2, 1, 1), torch.tensor([4.0, 3]).view(1, 2, 1, 1)
    heads = [torch.tensor([1.0, 2]).view(1, 2, 1, 1)]
    assert lpips_distance([a], [b], heads).item() == pytest.approx(0.12, abs=1e-6)


def test_lpips_takes_the_mean_over_pixels_of_each_layer():
    a = torch.tensor([[1.0, 1], [0, 0]]).view(1, 2, 1, 2)
    b = torch.tensor([[1.0, 0], [0, 1]]).view(1, 2, 1, 2)
    heads = [torch.ones(1, 2, 1, 1)]
    # Equal at the first pixel, orthogonal at the second: (0 + 2) / 2, for each of two layers.
    assert lpips_distance([a, a], [b, b], heads * 2).item() == pytest.approx(2.0, abs=1e-6)


def test_dists_worked_by_hand():
    # Means 1 and 2, variances 1 and 4, covariance 2: texture 4 / 5 and structure 4 / 5.
    a, b = torch.tensor([0.0, 2]).view(1, 1, 1, 2), torch.tensor([0.0, 4]).view(1, 1, 1, 2)
    one, three = torch.tensor([1.0]), torch.tensor([3.0])
    assert dists_distance([a], [b], one, three).item() == pytest.approx(0.2, abs=1e-5)


def test_dists_weighs_structure_by_its_share():
    # Equal means and variances, covariance -1: texture 1, structure -1; 3 of 4 parts structure.
    a, b = torch.tensor([0.0, 2]).view(1, 1, 1, 2), torch.tensor([2.0, 0]).view(1, 1, 1, 2)
    one, three = torch.tensor([1.0]), torch.tensor([3.0])
    assert dists_distance([a], [b], one, three).item() == pytest.approx(2 * 3 / 4, abs=1e-5)


def test_lpips_agrees_with_torchmetrics(vgg, images, monkeypatch):
    from torchmetrics.functional.image import lpips as other

    monkeypatch.setattr(
        other, "_get_tv_model_features", lambda *_, **__: _torchvision_features(vgg)
    )
    expected = other._LPIPS(net="vgg")(*images).flatten()
    torch.testing.assert_close(LPIPS(vgg)(*images), expected, rtol=1e-4, atol=1e-6)


def test_dists_agrees_with_torchmetrics(vgg, images, monkeypatch):
    from torchmetrics.functional.image import dists as other

    network = types.SimpleNamespace(features=_torchvision_features(vgg))
    weights = types.SimpleNamespace(DEFAULT=None)
    monkeypatch.setattr(other, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(other, "vgg16", lambda weights: network, raising=False)
    monkeypatch.setattr(other, "VGG16_Weights", weights, raising=False)
    unit = [(image + 1) / 2 for image in images]
    expected = other.DISTSNetwork()(*unit)
    torch.testing.assert_close(DISTS(vgg)(*images), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_distance_of_equal_images_is_zero(kind, vgg, images):
    assert kind(vgg)(images[1], images[1]).tolist() == [0, 0]


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_distance_is_symmetric(kind, vgg, images):
    distance = kind(vgg)
    torch.testing.assert_close(distance(*images), distance(*reversed(images)))


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_distance_grows_with_the_disturbance(kind, vgg, images):
    restored, sharp = images
    distance = kind(vgg)
    half = distance((restored + sharp) / 2, sharp)
    assert (half < distance(restored, sharp)).all()


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_gradient_reaches_the_restored_image(kind, vgg, images):
    restored = images[0].clone().requires_grad_()
    kind(vgg)(restored, images[1]).sum().backward()
    assert restored.grad.isfinite().all()
    assert restored.grad.abs().mean() > 0


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_backbone_gets_no_gradient(kind, vgg, images):
    restored = images[0].clone().requires_grad_()
    kind(vgg)(restored, images[1]).sum().backward()
    assert all(p.grad is None for p in vgg.parameters())


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_gradient_is_finite_on_black_images(kind, vgg):
    restored = torch.full((1, 3, 16, 16), -1.0, requires_grad=True)
    kind(vgg)(restored, torch.full((1, 3, 16, 16), -1.0)).sum().backward()
    assert restored.grad.isfinite().all()


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_images_outside_the_range_are_accepted(kind, vgg, images):
    assert kind(vgg)(images[0] * 3, images[1]).isfinite().all()


@pytest.mark.parametrize("kind", [LPIPS, DISTS])
def test_images_of_15_pixels_are_refused(kind, vgg):
    with pytest.raises(ValueError, match="at least 16 pixels"):
        kind(vgg)(torch.zeros(1, 3, 15, 20), torch.zeros(1, 3, 15, 20))


def test_distances_are_not_part_of_a_saved_model(vgg):
    names = LPIPS(vgg).state_dict()
    assert all(name.startswith("backbone.features.") for name in names)


def test_backbone_has_the_parameter_count_of_vgg16_features(vgg):
    assert sum(p.numel() for p in vgg.parameters()) == 14_714_688


def test_backbone_maps_halve_from_block_to_block(vgg):
    maps = vgg(torch.zeros(1, 3, 37, 50))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 37, 50), (128, 18, 25), (256, 9, 12), (512, 4, 6), (512, 2, 3),
    ]  # fmt: skip


def test_l2_pooling_keeps_the_root_mean_square_of_a_flat_area():
    pooled = VGG16(source="none")._l2_pool(torch.full((1, 2, 9, 9), 3.0))
    torch.testing.assert_close(pooled[0, :, 1:-1, 1:-1], torch.full((2, 3, 3), 3.0))


def test_packaged_heads_are_those_of_torchmetrics():
    script = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/perceptual_heads.py"))
    shipped, converted = load_file(heads.FILE), script["convert"]()
    assert shipped.keys() == converted.keys()
    assert all(torch.equal(shipped[name], converted[name]) for name in shipped)


@pytest.fixture(scope="module")
def alexnet():
    return random_alexnet(seed=7)


def _torchvision_alexnet(net):
    """AlexNet's `features` as torchvision lays them out, with the weights of `net`."""
    convolutions = net.features
    layers = [
        convolutions["0"], nn.ReLU(), nn.MaxPool2d(3, 2), convolutions["3"], nn.ReLU(),
        nn.MaxPool2d(3, 2), convolutions["6"], nn.ReLU(), convolutions["8"], nn.ReLU(),
        convolutions["10"], nn.ReLU(), nn.MaxPool2d(3, 2),
    ]  # fmt: skip
    return nn.Sequential(*layers)


def test_lpips_on_alexnet_agrees_with_torchmetrics(alexnet, images, monkeypatch):
    from torchmetrics.functional.image import lpips as other

    monkeypatch.setattr(
        other, "_get_tv_model_features", lambda *_, **__: _torchvision_alexnet(alexnet)
    )
    expected = other._LPIPS(net="alex")(*images).flatten()
    torch.testing.assert_close(LPIPS(alexnet)(*images), expected, rtol=1e-4, atol=1e-6)


def test_the_two_networks_give_different_distances(vgg, alexnet, images):
    assert (LPIPS(vgg)(*images) - LPIPS(alexnet)(*images)).abs().min() > 1e-4


def test_images_of_30_pixels_are_refused_on_alexnet(alexnet):
    LPIPS(alexnet)(torch.zeros(1, 3, 31, 31), torch.zeros(1, 3, 31, 31))
    with pytest.raises(ValueError, match="at least 31 pixels"):
        LPIPS(alexnet)(torch.zeros(1, 3, 30, 40), torch.zeros(1, 3, 30, 40))


def test_alexnet_has_the_parameter_count_of_its_features(alexnet):
    assert sum(p.numel() for p in alexnet.parameters()) == 2_469_696
