import copy
import shutil
from functools import cache

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fidediff_model.errors import WeightsError
from fidediff_model.model import presets
from fidediff_model.model.base import LORA_FILE, LoraUNet
from fidediff_model.weights import sd21
from trajectory_builder.errors import UsageError

TINY = presets.preset("tiny")
TARGETS = tuple(TINY.lora.targets.split(","))


@cache
def built(alpha: int, rank: int, targets: tuple, learn_prompt: bool, seed: int) -> LoraUNet:
    weights = sd21.random_base(TINY.base, seed=1)
    settings = {"rank": rank, "alpha": alpha, "targets": targets, "learn_prompt": learn_prompt}
    return LoraUNet(weights.unet, weights.prompt, **settings, seed=seed).eval()


def make(*, alpha=4, rank=4, targets=TARGETS, learn_prompt=True, seed=0) -> LoraUNet:
    """A base of one's own; a copy, since building 280 updates takes a second."""
    return copy.deepcopy(built(alpha, rank, targets, learn_prompt, seed))


def trained(**settings) -> LoraUNet:
    """A base whose update is not zero."""
    base = make(**settings)
    generator = torch.Generator().manual_seed(4)
    for parameter in [*base.lora_parameters(), base.prompt]:
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return base


def run(base: LoraUNet) -> torch.Tensor:
    z = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return base(z, torch.tensor([120.0, 200.5]))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def test_fresh_base_equals_the_clean_unet():
    clean = sd21.random_base(TINY.base, seed=1)
    z = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = clean.unet(
            z, torch.tensor([120.0, 200.5]), encoder_hidden_states=clean.prompt.expand(2, -1, -1)
        ).sample
    torch.testing.assert_close(run(make()), want, rtol=1e-5, atol=1e-6)


def test_only_lora_and_prompt_are_trainable():
    names = {n for n, p in make().named_parameters() if p.requires_grad}
    assert "prompt" in names
    assert all("lora_" in n for n in names - {"prompt"})


def test_fixed_prompt_is_not_trainable():
    assert not make(learn_prompt=False).prompt.requires_grad


def test_every_target_layer_of_stable_diffusion_gets_an_update():
    wrapped = {n.split(".lora_")[0] for n, _ in make().named_parameters() if "lora_" in n}
    assert len(wrapped) == 280  # 128 attention + 64 projections + 88 convolutions and time layers


def test_rank_decides_the_size_of_the_update():
    sizes = [sum(p.numel() for p in make(rank=r).lora_parameters()) for r in (2, 4)]
    assert sizes[1] == 2 * sizes[0]


def test_target_that_no_layer_has_is_refused_by_name():
    with pytest.raises(UsageError, match="no layer of the UNet is named to_x"):
        make(targets=("to_q", "to_x"))


def test_unet_that_carries_lora_is_refused():
    weights = sd21.random_base(TINY.base)
    LoraUNet(weights.unet, weights.prompt, rank=2, alpha=2, targets=("to_q",))
    with pytest.raises(WeightsError, match="already carries LoRA"):
        LoraUNet(weights.unet, weights.prompt, rank=2, alpha=2, targets=("to_q",))


def test_gradient_reaches_lora_and_prompt_with_checkpointing():
    base = make()
    base.unet.enable_gradient_checkpointing()
    base.train()
    base(torch.randn(1, 4, 8, 8), torch.tensor([200.0])).square().mean().backward()
    assert base.prompt.grad.abs().sum() > 0
    second_halves = [p for n, p in base.named_parameters() if "lora_B" in n]
    assert sum(p.grad.abs().sum() > 0 for p in second_halves) > 0.9 * len(second_halves)


def test_saved_base_comes_back_with_the_same_bits(tmp_path):
    base = trained(alpha=8)
    base.save(tmp_path)
    other = make(alpha=8, seed=9)
    other.load(tmp_path)
    assert torch.equal(run(other), run(base))


def test_stock_unet_loads_the_update_with_its_alpha(tmp_path):
    base = trained(alpha=16)  # alpha is not the rank, so a loader which forgets it is wrong
    base.save(tmp_path)
    stock = sd21.random_base(TINY.base, seed=1).unet
    stock.load_lora_adapter(tmp_path, prefix="unet", weight_name=LORA_FILE)
    z = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        got = stock(
            z, torch.tensor([120.0, 200.5]), encoder_hidden_states=base.prompt.expand(2, -1, -1)
        ).sample
    torch.testing.assert_close(got, run(base), rtol=1e-5, atol=1e-6)


def test_stock_pipeline_loads_the_folder(tmp_path):
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    base = trained(alpha=16)
    base.save(tmp_path)
    clean = sd21.random_base(TINY.base, seed=1)
    pipeline = StableDiffusionPipeline(
        vae=clean.vae,
        unet=clean.unet,
        scheduler=DDPMScheduler(steps_offset=1, clip_sample=False),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    z = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        got = pipeline.unet(
            z, torch.tensor([120.0, 200.5]), encoder_hidden_states=base.prompt.expand(2, -1, -1)
        ).sample
    torch.testing.assert_close(got, run(base), rtol=1e-5, atol=1e-6)


def test_saved_update_is_in_float32_even_over_a_bfloat16_base(tmp_path):
    base = trained()
    base.unet.to(torch.bfloat16)
    base.widen_trained()
    base.save(tmp_path)
    with safe_open(tmp_path / LORA_FILE, "pt") as file:
        assert {file.get_tensor(k).dtype for k in file.keys()} == {torch.float32}  # noqa: SIM118


def test_fusing_changes_outputs_by_less_than_a_ten_thousandth():
    base = trained()
    before = run(base)
    base.fuse()
    assert relative(run(base), before) < 1e-4


def test_fusing_leaves_the_686_tensors_of_the_clean_unet():
    base = trained()
    base.fuse()
    clean = sd21.random_base(TINY.base).unet.state_dict()
    assert base.unet.state_dict().keys() == clean.keys()


def test_fused_base_refuses_to_be_saved(tmp_path):
    base = trained()
    base.fuse()
    with pytest.raises(WeightsError) as caught:
        base.save(tmp_path)
    assert "save before fusing" in caught.value.cure
    assert not list(tmp_path.iterdir())


def test_update_of_another_rank_is_refused(tmp_path):
    make(rank=2).save(tmp_path)
    with pytest.raises(WeightsError, match="of other settings"):
        make(rank=4).load(tmp_path)


def test_lora_file_that_lacks_a_tensor_is_refused(tmp_path):
    make().save(tmp_path)
    tensors = load_file(tmp_path / LORA_FILE)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, tmp_path / LORA_FILE)
    with pytest.raises(WeightsError, match="1 tensors differ"):
        make().load(tmp_path)


def test_missing_lora_file_is_named(tmp_path):
    make().save(tmp_path)
    (tmp_path / LORA_FILE).unlink()
    with pytest.raises(WeightsError, match=LORA_FILE):
        make().load(tmp_path)


def test_pickle_in_place_of_the_update_is_not_opened(tmp_path):
    make().save(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.bin")
    shutil.move(tmp_path / "x.bin", tmp_path / LORA_FILE)
    with pytest.raises(WeightsError, match="damaged"):
        make().load(tmp_path)


def test_bfloat16_base_keeps_an_update_in_float32():
    weights = sd21.random_base(TINY.base)
    base = LoraUNet(weights.unet.bfloat16(), weights.prompt, rank=2, alpha=2, targets=("to_q",))
    assert base.dtype == torch.bfloat16
    assert {p.dtype for p in base.lora_parameters()} == {torch.float32}
    assert run(base).dtype == torch.bfloat16
