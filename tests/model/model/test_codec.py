import pytest
import torch

from fidediff_model.model import presets
from fidediff_model.model.codec import Codec, pad_to_multiple
from fidediff_model.weights import sd21
from trajectory_builder.errors import UsageError

TINY = presets.preset("tiny").base


@pytest.fixture(scope="module")
def vae():
    return sd21.random_base(TINY, seed=3).vae


def image(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width, generator=generator) * 2 - 1


def seam_energy(difference: torch.Tensor, at: int) -> float:
    """Mean step of a difference image across rows that are multiples of `at`, over all others."""
    steps = difference.diff(dim=2).abs().mean(dim=(0, 1, 3))  # (H - 1,)
    seams = torch.arange(1, steps.numel() + 1) % at == 0
    return (steps[seams].mean() / steps[~seams].mean().clamp_min(1e-12)).item()


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (1, 1), (7, 200), (130, 33)])
def test_any_image_size_comes_back_the_same_size(vae, stride, size):
    codec = Codec(vae, stride)
    with torch.no_grad():
        z = codec.encode(image(*size))
        out = codec.decode(z, size)
    assert out.shape == (1, 3, *size)
    assert out.dtype == torch.float32


@pytest.mark.parametrize(("stride", "side"), [(4, 24), (8, 16)])
def test_latent_has_one_cell_for_stride_pixels_of_the_padded_image(vae, stride, side):
    with torch.no_grad():
        z = Codec(vae, stride).encode(image(70, 70))
    assert z.shape == (1, 4, side, side)  # 70 is padded to 96 at stride 4, to 128 at stride 8


def test_encoding_twice_gives_the_same_bits(vae):
    codec = Codec(vae, 4)
    with torch.no_grad():
        assert torch.equal(codec.encode(image(40, 40)), codec.encode(image(40, 40)))


def test_latent_is_the_scaled_mean_of_the_stock_posterior(vae):
    x = image(64, 64)
    with torch.no_grad():
        ours, stock = Codec(vae, 8).encode(x), vae.encode(x).latent_dist.mean
    torch.testing.assert_close(ours, stock * 0.18215)


def test_padding_leaves_the_image_itself_alone():
    x = image(50, 33)
    padded = pad_to_multiple(x, 32)
    assert padded.shape[-2:] == (64, 64)
    assert torch.equal(padded[..., :50, :33], x)


def test_image_that_fits_is_not_copied():
    x = image(64, 32)
    assert pad_to_multiple(x, 32) is x


@pytest.mark.parametrize("rows", [1, 5, 16])
@pytest.mark.parametrize("stride", [4, 8])
def test_decoding_in_strips_equals_decoding_whole(vae, stride, rows):
    codec = Codec(vae, stride)
    z = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    size = (16 * stride - 3, 24 * stride - 1)
    with torch.no_grad():
        whole = codec.decode(z, size)
    torch.testing.assert_close(codec.decode(z, size, strip_rows=rows), whole, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 7, 32])
def test_encoding_in_strips_equals_encoding_whole(vae, rows):
    codec = Codec(vae, 8)
    with torch.no_grad():
        whole = codec.encode(image(130, 65, batch=2))
    torch.testing.assert_close(
        codec.encode(image(130, 65, batch=2), strip_rows=rows), whole, rtol=1e-4, atol=2e-5
    )


def test_strips_leave_no_seam_where_blended_tiles_do(vae):
    """Seam energy of 1 means that rows at a cut differ no more than rows elsewhere."""
    codec = Codec(vae, 8)
    z = torch.randn(1, 4, 48, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = codec.decode(z, (384, 128))
        ours = codec.decode(z, (384, 128), strip_rows=8)
        tiles = torch.cat([codec.decode(part, (64, 128)) for part in z.split(8, dim=2)], dim=2)
    assert (ours - whole).abs().max() < 2e-5 * whole.abs().max()
    assert (tiles - whole).abs().max() > 1e-2 * whole.abs().max()
    assert seam_energy(tiles - whole, 64) > 2
    assert seam_energy(ours, 64) == pytest.approx(seam_energy(whole, 64), rel=1e-3)


def test_gradient_passes_the_frozen_decoder(vae):
    z = torch.randn(1, 4, 8, 8, requires_grad=True)
    Codec(vae, 8).decode(z, (64, 64)).square().mean().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in vae.parameters())


def test_float16_decode_that_overflows_is_repeated_in_float32():
    vae = sd21.random_base(TINY, seed=4).vae
    z = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e5)
        want = Codec(vae, 8).decode(z, (64, 64))
        codec = Codec(vae.half(), 8)
        got = codec.decode(z, (64, 64))
    assert got.isfinite().all()
    assert codec.vae.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05 * want.abs().max().item())


def test_bfloat16_codec_gives_float32_latents():
    vae = sd21.random_base(TINY).vae.bfloat16()
    with torch.no_grad():
        assert Codec(vae, 4).encode(image(32, 32)).dtype == torch.float32


def test_other_stride_is_refused_with_the_strides_there_are(vae):
    with pytest.raises(UsageError) as caught:
        Codec(vae, 16)
    assert caught.value.cure == "give 4 or 8"


def test_strip_of_no_rows_is_refused(vae):
    with pytest.raises(UsageError, match="strip_rows"):
        Codec(vae, 8).encode(image(64, 64), strip_rows=0)


def test_a_packed_vae_works_at_its_own_stride_on_cells_of_pixels():
    vae = sd21.random_base(presets.preset("small").base).vae
    codec = Codec(vae, 4)
    image = torch.rand(1, 3, 40, 52) * 2 - 1
    z = codec.encode(image)
    assert codec.enlargement == 1
    assert z.shape == (1, 32, 16, 16)  # padded to multiples of 32 pixels
    assert codec.decode(z, (40, 52)).shape == image.shape
    assert torch.equal(codec.encode(image), codec.encode(image))


def test_a_packed_vae_in_strips_gives_the_same():
    codec = Codec(sd21.random_base(presets.preset("small").base).vae, 4)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        z, in_strips = codec.encode(image), codec.encode(image, strip_rows=3)
        torch.testing.assert_close(in_strips, z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            codec.decode(z, (64, 64), strip_rows=3), codec.decode(z, (64, 64)), atol=1e-5, rtol=1e-5
        )
