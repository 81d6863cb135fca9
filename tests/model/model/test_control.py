import math

import pytest
import torch
import torch.nn.functional as F

from fidediff_model.errors import WeightsError
from fidediff_model.model import presets
from fidediff_model.model.base import LoraUNet
from fidediff_model.model.control import (
    KernelAddition,
    KernelControl,
    KernelFilter,
    MotionAlign,
    sample_along,
)
from fidediff_model.weights import sd21

TINY = presets.preset("tiny").base
VARIANTS = ["vanilla", "addition", "align", "filter"]
TAPS = 25


def kernels(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, TAPS, height, width, generator=generator).softmax(dim=1)


def inputs(height: int = 8, width: int = 16, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "z_t": torch.randn(batch, 4, height, width, generator=generator),
        "t": torch.tensor([120.0, 200.5])[:batch],
        "k_in": kernels(batch, height, width),
        "image": torch.rand(batch, 3, 8 * height, 8 * width, generator=generator) * 2 - 1,
    }


def make(variant: str, unet=None) -> tuple[KernelControl, sd21.BaseWeights]:
    weights = sd21.random_base(TINY, seed=1)
    settings = {"taps": TAPS, "channels": 8, "condition_channels": (4, 4, 8, 8)}
    control = KernelControl.from_clean_unet(unet or weights.unet, variant, **settings)
    return control.eval(), weights


def residuals(control, weights, **changes):
    values = inputs() | changes
    with torch.no_grad():
        return control(
            values["z_t"], values["t"], weights.prompt, k_in=values["k_in"], image=values["image"]
        )


def stir(module: torch.nn.Module) -> None:
    """Give every parameter a value, as training would."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fresh_control_adds_nothing_but_zeros(variant):
    down, middle = residuals(*make(variant))
    assert len(down) == 12
    assert all((r == 0).all() for r in [*down, middle])


@pytest.mark.parametrize("variant", VARIANTS)
def test_base_with_a_fresh_control_gives_the_bits_of_the_base(variant):
    control, weights = make(variant)
    base = LoraUNet(weights.unet, weights.prompt, rank=2, alpha=2, targets=("to_q", "conv1"))
    stir(torch.nn.ParameterList(base.lora_parameters()))
    values = inputs()
    with torch.no_grad():
        alone = base(values["z_t"], values["t"])
        steered = base(values["z_t"], values["t"], residuals(control, weights))
    assert torch.equal(alone, steered)


@pytest.mark.parametrize("variant", VARIANTS)
def test_trained_control_depends_on_its_condition(variant):
    control, weights = make(variant)
    stir(control)
    before = residuals(control, weights)[1]
    key = "image" if variant == "vanilla" else "k_in"
    changed = -inputs()["image"] if variant == "vanilla" else kernels(2, 8, 16, seed=7)
    assert not torch.allclose(before, residuals(control, weights, **{key: changed})[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_residuals_fit_the_unet_at_odd_latent_sizes(variant):
    control, weights = make(variant)
    values = inputs(9, 13)
    with torch.no_grad():
        extra = control(
            values["z_t"], values["t"], weights.prompt, k_in=values["k_in"], image=values["image"]
        )
        out = weights.unet(
            values["z_t"],
            values["t"],
            encoder_hidden_states=weights.prompt.expand(2, -1, -1),
            down_block_additional_residuals=extra[0],
            mid_block_additional_residual=extra[1],
        ).sample
    assert out.shape == (2, 4, 9, 13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_reaches_the_zero_convolutions_first(variant):
    control, weights = make(variant)
    values = inputs()
    down, middle = control(
        values["z_t"], values["t"], weights.prompt, k_in=values["k_in"], image=values["image"]
    )
    (sum(r.sum() for r in down) + middle.sum()).backward()
    zero = control.controlnet.controlnet_mid_block
    assert zero.weight.grad.abs().sum() > 0
    assert control.controlnet.conv_in.weight.grad.abs().sum() == 0


def test_control_is_a_copy_that_shares_no_storage_with_the_unet():
    control, weights = make("filter")
    stir(control)
    clean = sd21.random_base(TINY, seed=1).unet
    assert torch.equal(weights.unet.conv_in.weight, clean.conv_in.weight)


def test_control_starts_as_the_encoder_of_the_clean_unet():
    control, weights = make("filter")
    own = control.controlnet.down_blocks.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in weights.unet.down_blocks.state_dict().items())


def test_unet_with_lora_is_refused_as_a_start():
    weights = sd21.random_base(TINY)
    LoraUNet(weights.unet, weights.prompt, rank=2, alpha=2, targets=("to_q",))
    with pytest.raises(WeightsError, match="already carries LoRA"):
        make("filter", weights.unet)


def test_variant_that_reads_kernels_says_that_it_lacks_them():
    with pytest.raises(ValueError, match="needs k_in"):
        residuals(*make("filter"), k_in=None)


def test_filter_follows_the_published_equations_in_plain_functions():
    block = KernelFilter(TAPS, 8)
    stir(block)
    z_in1, k_in = inputs()["z_t"], kernels(2, 8, 16)
    z_in2 = F.conv2d(z_in1, block.features.weight, block.features.bias, padding=1)
    stacked = torch.cat([TAPS * k_in, z_in2], dim=1)
    w = 1 / (1 + torch.exp(-F.conv2d(stacked, block.weights.weight, block.weights.bias, padding=1)))
    o = w * z_in2
    z = torch.einsum("oc,bchw->bohw", block.zero.weight[:, :, 0, 0], o)
    want = z_in1 + z + block.zero.bias[:, None, None]
    torch.testing.assert_close(block(z_in1, k_in), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [KernelFilter, KernelAddition, MotionAlign])
def test_fresh_block_leaves_the_latent_as_it_is(kind):
    z = inputs()["z_t"]
    assert torch.equal(kind(TAPS, 8)(z, kernels(2, 8, 16)), z)


def bilinear(image: list[list[float]], y: float, x: float) -> float:
    """A loop's view of bilinear sampling with repeated borders."""
    height, width = len(image), len(image[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(math.floor(y), height - 2), min(math.floor(x), width - 2)
    a, b = y - top, x - left
    upper = image[top][left] * (1 - b) + image[top][left + 1] * b
    lower = image[top + 1][left] * (1 - b) + image[top + 1][left + 1] * b
    return upper * (1 - a) + lower * a


def test_deformable_sampling_equals_a_plain_loop():
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(1, 1, 5, 7, generator=generator)
    offsets = 2 * torch.randn(1, 3, 2, 5, 7, generator=generator)
    weights = torch.rand(1, 3, 5, 7, generator=generator)
    got = sample_along(features, offsets, weights)
    for y in range(5):
        for x in range(7):
            want = sum(
                weights[0, i, y, x].item()
                * bilinear(
                    features[0, 0].tolist(),
                    y + offsets[0, i, 1, y, x].item(),
                    x + offsets[0, i, 0, y, x].item(),
                )
                for i in range(3)
            )
            assert got[0, 0, y, x].item() == pytest.approx(want, abs=1e-4)


def test_deformable_sampling_with_whole_offsets_shifts_the_map():
    features = torch.arange(12.0).reshape(1, 1, 3, 4)
    offsets = torch.zeros(1, 1, 2, 3, 4)
    offsets[:, :, 0] = 1  # one cell to the right
    got = sample_along(features, offsets, torch.ones(1, 1, 3, 4))
    assert torch.equal(got[0, 0, :, :3], features[0, 0, :, 1:])


def test_offsets_of_the_alignment_can_be_learnt():
    block = MotionAlign(TAPS, 8)
    stir(block)
    block(inputs()["z_t"], kernels(2, 8, 16)).square().mean().backward()
    assert block.offsets.weight.grad.abs().sum() > 0
