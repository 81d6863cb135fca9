"""A small VAE gives back colours before it is trained."""

from dataclasses import replace

import pytest
import torch
from skimage import data

from fidediff_model.demo import linear_codec, practice
from fidediff_model.model import presets
from fidediff_model.scores.metrics import as_uint8, psnr
from fidediff_model.weights.sd21 import random_base


@pytest.fixture(scope="module")
def vae():
    vae = random_base(presets.preset("tiny").base, seed=0).vae
    practice._start(vae)
    return vae.eval()


@torch.no_grad()
def there_and_back(vae, image):
    return vae.decode(vae.encode(image).latent_dist.mode()).sample


def test_images_of_one_colour_come_back_before_any_training(vae):
    colours = torch.rand(16, 3, 1, 1, generator=torch.manual_seed(3)) * 1.6 - 0.8
    image = colours.expand(-1, -1, 128, 128)
    error = there_and_back(vae, image) - image
    assert error.abs().max() < 0.06  # of the range's 2: the constants are large, not infinite


def test_a_photograph_comes_back_before_any_training(vae):
    photo = torch.from_numpy(data.cat()[:256, :256].copy()).permute(2, 0, 1)[None]
    image = photo / 127.5 - 1
    found = as_uint8(there_and_back(vae, image)[0].clamp(-1, 1))
    assert psnr(found, as_uint8(image[0])) > 22


def test_the_first_three_latents_are_brightness_and_two_differences(vae):
    image = torch.tensor([0.5, -0.1, 0.2]).view(1, 3, 1, 1).expand(-1, -1, 64, 64)
    latents = vae.encode(image).latent_dist.mode()[0, :3].mean(dim=(1, 2))
    assert latents.tolist() == pytest.approx([0.2, 0.6, -0.9], abs=0.03)


@pytest.mark.parametrize(
    ("groups", "channels", "expected"),
    [(1, (8, 16, 16, 16), True), (4, (8, 16, 16, 16), False), (1, (4, 16, 16, 16), False),
     (32, (128, 256, 512, 512), False)],
)  # fmt: skip
def test_one_norm_group_and_room_for_the_pairs_are_needed(groups, channels, expected):
    assert linear_codec.fits(groups, channels) is expected


def test_a_structure_that_cannot_begin_so_is_trained_from_random_weights():
    base = replace(presets.preset("tiny").base, vae_groups=4)
    vae = random_base(base, seed=0).vae
    before = vae.encoder.conv_in.weight.clone()
    practice._start(vae)
    assert torch.equal(vae.encoder.conv_in.weight, before)
