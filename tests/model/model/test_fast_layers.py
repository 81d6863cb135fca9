import logging

import pytest
import torch
import torch._dynamo
from small_model import folder_of, loaded, scene, tensor
from torch import nn

from fidediff_model.model import fast_layers, presets, strips
from fidediff_model.model.fast_layers import (
    ChannelsLastGroupNorm,
    attention_by_rows,
    channel_moments,
    compile_regions,
    to_channels_last,
)
from fidediff_model.model.fidediff import PARTS, FideDiff, build
from fidediff_model.weights.sd21 import random_base


def fresh():
    """A copy of the model that a test may change."""
    return FideDiff.load(folder_of())


def last(x):
    return x.contiguous(memory_format=torch.channels_last)


def norms(groups=4, channels=16, seed=0):
    """A stock group norm of random scale and shift, and ours with the same parameters."""
    generator = torch.Generator().manual_seed(seed)
    stock = nn.GroupNorm(groups, channels, eps=1e-6)
    nn.init.normal_(stock.weight, generator=generator)
    nn.init.normal_(stock.bias, generator=generator)
    return stock, ChannelsLastGroupNorm.of(stock)


@pytest.mark.parametrize("shape", [(1, 16, 9, 13), (3, 16, 8, 5), (2, 16, 1, 2)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
@torch.no_grad()
def test_group_norm_gives_the_stock_function(shape, offset):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + offset
    x[:, :4] *= 5  # channels of one group may differ
    stock, ours = norms()
    want = stock.double()(x.double())
    got = ours.float()(last(x))
    # x itself holds 24 bits: at an offset of 300 its own rounding is 1e-5 of its deviation.
    torch.testing.assert_close(got.double(), want, atol=1e-5 * (1 + offset / 10), rtol=0)


@torch.no_grad()
def test_group_norm_keeps_type_and_format():
    stock, ours = norms()
    x = last(torch.randn(2, 16, 6, 7, dtype=torch.bfloat16))
    got = ours.bfloat16()(x)
    assert got.dtype == torch.bfloat16
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        got.float(), stock.bfloat16().float()(x.float()), atol=0.02, rtol=0.01
    )


@torch.no_grad()
def test_group_norm_of_a_constant_map_is_its_shift():
    stock, ours = norms()
    got = ours(last(torch.full((1, 16, 4, 4), 7.0)))
    torch.testing.assert_close(got, stock.bias[None, :, None, None].expand(1, 16, 4, 4))


def test_group_norm_lets_gradients_pass_as_before():
    stock, ours = norms()
    x = last(torch.randn(1, 16, 5, 5)).requires_grad_()
    assert torch.equal(ours(x), stock(x))
    ours(x).sum().backward()
    assert x.grad is not None


@torch.no_grad()
def test_moments_do_not_cancel():
    x = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0)) + 1000
    mean, variance = channel_moments(last(x))
    want, of = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    torch.testing.assert_close(variance.double(), want, atol=0, rtol=1e-4)
    torch.testing.assert_close(mean.double(), of, atol=0, rtol=1e-7)


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_attention_by_rows_is_attention(monkeypatch, rows, sharpness):
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 50, 32, generator=generator) for _ in range(3))
    q = q * sharpness
    monkeypatch.setattr(fast_layers, "SCORE_BYTES", rows * 2 * 50)
    got = attention_by_rows(q.bfloat16(), k.bfloat16(), v.bfloat16())
    rounded = (x.bfloat16().double() for x in (q, k, v))
    want = nn.functional.scaled_dot_product_attention(*rounded)
    assert (got.double() - want).norm() / want.norm() < 2e-3


@torch.no_grad()
def test_a_whole_model_with_fast_layers_gives_the_same_image():
    blur = tensor(scene(50, 83))
    want = loaded()(blur, keep_kernels=False)
    model = fresh().prepare_for_inference(channels_last=True)
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.GroupNorm)]
    got = model(blur, keep_kernels=False)
    assert set(kinds) == {ChannelsLastGroupNorm}
    assert (got.image - want.image).norm() / want.image.norm() < 1e-4
    torch.testing.assert_close(got.t_hat, want.t_hat, atol=0.01, rtol=0)


@torch.no_grad()
def test_diffusers_finds_all_that_it_gives_to_the_attention(caplog):
    model = fresh().prepare_for_inference(channels_last=True)
    logger = logging.getLogger("diffusers.models.attention_processor")
    logger.addHandler(caplog.handler)  # diffusers lets nothing through to the root
    try:
        model(tensor(scene(32, 32)), 200.0, keep_kernels=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.text == ""


@torch.no_grad()
def test_the_vae_in_half_precision_stays_near_its_float32_self():
    codec = fresh().codec
    x = tensor(scene(64, 64))
    want = codec.decode(codec.encode(x), (64, 64))
    codec.vae.to(torch.bfloat16).to(memory_format=torch.channels_last)
    stock = codec.decode(codec.encode(x), (64, 64))
    to_channels_last(codec.vae)
    got = codec.decode(codec.encode(x), (64, 64))
    error, stock_error = (got - want).norm(), (stock - want).norm()
    assert not torch.equal(got, stock)  # the layers did run
    assert error < 1.5 * stock_error


@torch.no_grad()
def test_the_vae_in_strips_is_that_with_fast_layers():
    codec = fresh().codec
    to_channels_last(codec.vae)
    x = last(codec.enlarge(tensor(scene(64, 64))))
    cut = strips.encode(codec.vae, x, strips.Strips(16, x.device, x.device))
    whole = codec.vae.encode(x).latent_dist.mode()
    torch.testing.assert_close(cut, whole, atol=1e-4, rtol=1e-4)


def test_putting_fast_layers_twice_changes_nothing():
    vae = fresh().codec.vae
    names = list(vae.state_dict())
    to_channels_last(vae)
    before = list(vae.modules())
    to_channels_last(vae)
    assert list(vae.modules()) == before
    assert list(vae.state_dict()) == names


@pytest.mark.slow
def test_every_block_of_sd21_is_compiled():
    # torch's own limit of 8 graphs leaves the rest uncompiled with no more than a log line.
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # they count what other tests compiled, too
    settings = presets.preset("sd21")
    with torch.device("meta"), torch.inference_mode():
        model = build(settings, random_base(settings.base), parts=PARTS).eval()
        model.base.unet.disable_adapters()
        compile_regions(model.base.unet, model.codec.vae, model.control, backend="eager")
        blur = torch.empty(1, 3, 720, 1280)
        z = model.codec.encode(blur)
        k_in = torch.empty(1, 361, *z.shape[2:])
        residuals = model.control(z, torch.empty(1), model.base.prompt, k_in=k_in, image=None)
        model.codec.decode(model.base(z, torch.empty(1), residuals), (720, 1280))
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] > 30
    assert not counters["unimplemented"]
    torch._dynamo.reset()


@torch.no_grad()
def test_a_compiled_model_gives_the_same_image():
    torch._dynamo.reset()
    blur = tensor(scene(32, 64))
    model = fresh().prepare_for_inference(channels_last=True)
    want = model(blur, keep_kernels=False).image
    compile_regions(model.base.unet, model.codec.vae, model.control, backend="eager")
    torch.testing.assert_close(model(blur, keep_kernels=False).image, want, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 128, 97, 131), (2, 320, 46, 80)])
@torch.no_grad()
def test_group_norm_on_a_gpu_gives_the_stock_function(shape, dtype):
    stock, ours = norms(32, shape[1])
    x = last((torch.randn(shape) * 3 + 5).to(dtype))
    want = stock.to(dtype).double()(x.double())
    got = ours.to("cuda", dtype)(x.cuda())
    assert got.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(got.cpu().double(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_a_model_on_a_gpu_gives_the_cpus_image():
    blur = tensor(scene(50, 83))
    want = loaded()(blur, keep_kernels=False)
    model = fresh().prepare_for_inference(channels_last=True, device=torch.device("cuda"))
    got = model(blur.cuda(), keep_kernels=False)
    # TF32 in cuDNN's convolutions: 10 bits of mantissa.
    assert (got.image.cpu() - want.image).norm() / want.image.norm() < 1e-2
