"""The linear codec inside a VAE of Stable Diffusion's layers."""

import pytest
import torch

from fidediff_model.model import presets
from fidediff_model.model.codec import Codec
from fidediff_model.weights import sd21
from fidediff_model.weights.packed_codec import write_codec

BASE = presets.preset("small").base


def basis(columns: int = BASE.latent_channels) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(48, columns, generator=generator))[0]


@pytest.fixture(scope="module")
def codec():
    vae = sd21.random_base(BASE).vae
    write_codec(vae, basis(), 0.6)
    return Codec(vae, 4)


@pytest.mark.parametrize("kind", ["noise", "white", "black"])
def test_latents_are_the_coordinates_of_the_cells(codec, kind):
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    image = {"noise": image, "white": image * 0 + 1, "black": image * 0 - 1}[kind]
    cells = torch.nn.functional.pixel_unshuffle(image, 4)
    wanted = torch.einsum("ck,bchw->bkhw", basis(), cells) * 0.6
    torch.testing.assert_close(codec.encode(image), wanted, atol=2e-3, rtol=2e-3)


def test_decoding_projects_onto_the_basis(codec):
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    cells = torch.nn.functional.pixel_unshuffle(image, 4)
    projected = torch.einsum("ck,dk,bdhw->bchw", basis(), basis(), cells)
    wanted = torch.nn.functional.pixel_shuffle(projected, 4)
    decoded = codec.decode(codec.encode(image), (64, 64))
    torch.testing.assert_close(decoded, wanted, atol=4e-3, rtol=4e-3)


def test_half_precision_files_lose_nothing_that_is_seen(codec):
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    before = codec.decode(codec.encode(image), (64, 64))
    for parameter in codec.vae.parameters():
        parameter.data = parameter.data.half().float()
    after = codec.decode(codec.encode(image), (64, 64))
    assert float((after - before).abs().max()) < 0.01
