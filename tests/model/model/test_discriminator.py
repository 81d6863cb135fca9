import math

import pytest
import torch

from fidediff_model.errors import WeightsError
from fidediff_model.model import presets
from fidediff_model.model.base import LoraUNet
from fidediff_model.model.discriminator import (
    Discriminator,
    discriminator_loss,
    frozen,
    generator_loss,
)
from fidediff_model.weights import sd21

TINY = presets.preset("tiny").base
T = torch.tensor([120.0, 200.0])


def make(**settings) -> tuple[Discriminator, LoraUNet]:
    weights = sd21.random_base(TINY, seed=1)
    judge = Discriminator(weights.unet, weights.prompt, head_channels=8, **settings)
    base = LoraUNet(weights.unet, weights.prompt, rank=2, alpha=2, targets=("to_q", "conv_out"))
    return judge, base


def latents(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(seed))


def test_logits_come_from_five_levels():
    judge, _ = make()
    shapes = [tuple(x.shape) for x in judge(latents(), T)]
    assert shapes == [(2, 1, 8, 4), (2, 1, 4, 2), (2, 1, 2, 1), (2, 1, 2, 1), (2, 1, 2, 1)]


def test_odd_latent_sizes_are_judged_as_well():
    judge, _ = make()
    assert len(judge(torch.randn(1, 4, 9, 13), T[:1])) == 5


def test_judgement_depends_on_the_timestep():
    judge, _ = make()
    early, late = judge(latents(), T), judge(latents(), T + 400)
    assert not torch.allclose(early[0], late[0])


def test_features_are_those_of_the_clean_encoder():
    judge, _ = make()
    clean = sd21.random_base(TINY, seed=1).unet
    own = judge.encoder["mid_block"].state_dict()
    assert all(torch.equal(v, own[k]) for k, v in clean.mid_block.state_dict().items())
    assert not any("lora" in name for name, _ in judge.named_parameters())


def test_unet_with_lora_is_refused_as_an_encoder():
    _, base = make()
    with pytest.raises(WeightsError, match="already carries LoRA"):
        Discriminator(base.unet, base.prompt.detach())


def test_step_of_the_model_leaves_no_gradient_in_the_discriminator():
    judge, base = make()
    eps = base(latents(), T)
    with frozen(judge):
        generator_loss(judge(eps, T), "hinge").backward()
    assert all(p.grad is None for p in judge.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in base.lora_parameters())


def test_step_of_the_model_leaves_no_gradient_in_its_frozen_weights():
    judge, base = make()
    with frozen(judge):
        generator_loss(judge(base(latents(), T), T), "softplus").backward()
    lora = {id(p) for p in base.lora_parameters()} | {id(base.prompt)}
    assert all(p.grad is None for p in base.parameters() if id(p) not in lora)


def test_step_of_the_discriminator_leaves_no_gradient_in_the_model():
    judge, base = make()
    fake = base(latents(), T).detach()
    discriminator_loss(judge(latents(1), T), judge(fake, T), "hinge").backward()
    assert all(p.grad is None for p in base.parameters())
    assert all(p.grad.abs().sum() > 0 for p in judge.head_parameters() if p.ndim > 1)


def test_frozen_encoder_gets_no_gradient_in_its_own_step():
    judge, _ = make()
    discriminator_loss(judge(latents(), T), judge(latents(1), T), "hinge").backward()
    assert all(p.grad is None for p in judge.encoder.parameters())


def test_encoder_can_be_trained_by_a_setting():
    judge, _ = make(train_encoder=True)
    discriminator_loss(judge(latents(), T), judge(latents(1), T), "softplus").backward()
    assert judge.encoder["conv_in"].weight.grad.abs().sum() > 0


def test_freezing_ends_with_its_block_even_after_an_error():
    judge, _ = make()
    before = [p.requires_grad for p in judge.parameters()]
    with pytest.raises(RuntimeError), frozen(judge):
        raise RuntimeError
    assert [p.requires_grad for p in judge.parameters()] == before


def maps(*values: float) -> list[torch.Tensor]:
    return [torch.full((1, 1, 2, 2), v) for v in values]


def test_hinge_by_hand():
    got = discriminator_loss(maps(0.5, 3.0), maps(-2.0, 0.25), "hinge")
    assert got.item() == pytest.approx(((0.5 + 0.0) + (0.0 + 1.25)) / 2)
    assert generator_loss(maps(0.5, -1.5), "hinge").item() == pytest.approx(0.5)


def test_softplus_by_hand():
    got = discriminator_loss(maps(1.0), maps(2.0), "softplus")
    assert got.item() == pytest.approx(math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2)))
    assert generator_loss(maps(2.0), "softplus").item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize("kind", ["hinge", "softplus"])
def test_some_steps_teach_the_discriminator_to_tell_two_kinds_apart(kind):
    judge, _ = make()
    real, fake = latents(1), 0.3 * latents(2)
    optimizer = torch.optim.AdamW(judge.head_parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        loss = discriminator_loss(judge(real, T), judge(fake, T), kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
