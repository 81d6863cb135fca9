import math

import pytest
import torch

from fidediff_model.model import diffusion

# t, abar, sqrt(abar), sqrt(1 - abar) of Stable Diffusion's schedule, from the formula in float64.
TABLE = [
    (0, 0.999150, 0.99957, 0.02916),
    (20, 0.981314, 0.99061, 0.13670),
    (40, 0.961886, 0.98076, 0.19523),
    (60, 0.940874, 0.96999, 0.24316),
    (80, 0.918306, 0.95828, 0.28582),
    (100, 0.894223, 0.94563, 0.32523),
    (120, 0.868684, 0.93203, 0.36238),
    (140, 0.841762, 0.91748, 0.39779),
    (160, 0.813550, 0.90197, 0.43180),
    (180, 0.784153, 0.88552, 0.46459),
    (200, 0.753692, 0.86815, 0.49629),
    (220, 0.722301, 0.84988, 0.52697),
    (240, 0.690125, 0.83074, 0.55666),
    (260, 0.657323, 0.81075, 0.58539),
    (280, 0.624057, 0.78997, 0.61314),
    (999, 0.004660, 0.06826, 0.99767),
]


def latents(seed: int = 0, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, batch, 4, 6, 5)
    pair = torch.randn(shape, generator=generator)
    return pair[0], pair[1]


@pytest.mark.parametrize(("t", "abar", "signal", "noise"), TABLE)
def test_alpha_bar_has_the_published_values(t, abar, signal, noise):
    at = torch.tensor([float(t)])
    assert diffusion.alpha_bar(at).item() == pytest.approx(abar, abs=1e-6)
    assert diffusion.roots(at)[0].item() == pytest.approx(signal, abs=1e-5)
    assert diffusion.roots(at)[1].item() == pytest.approx(noise, abs=1e-5)


def test_alpha_bar_equals_the_scheduler_of_diffusers_at_every_whole_timestep():
    from diffusers import DDPMScheduler

    stock = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    ours = diffusion.alpha_bar(torch.arange(1000))
    torch.testing.assert_close(ours, stock.alphas_cumprod, rtol=2e-5, atol=1e-7)


def test_log_snr_between_two_timesteps_lies_on_the_line_between_them():
    low, middle, high = diffusion.log_snr(torch.tensor([281.0, 281.25, 282.0])).tolist()
    assert middle == pytest.approx(0.75 * low + 0.25 * high, abs=1e-6)


def test_alpha_bar_falls_strictly_with_float_t():
    t = torch.linspace(0, 999, 5000)
    assert (diffusion.alpha_bar(t).diff() < 0).all()


def test_timestep_outside_the_schedule_is_clamped():
    out = diffusion.alpha_bar(torch.tensor([-5.0, 0.0, 999.0, 2000.0]))
    assert out[0] == out[1]
    assert out[2] == out[3]


def test_z0_hat_follows_the_formula_in_plain_python():
    z, eps = latents()
    got = diffusion.z0_hat(z, eps, torch.tensor([0.0, 200.0, 999.0]))
    table = diffusion.alpha_bar_table().tolist()
    for i, t in enumerate((0, 200, 999)):
        want = (
            z[i, 2, 3, 4].item() - math.sqrt(1 - table[t]) * eps[i, 2, 3, 4].item()
        ) / math.sqrt(table[t])
        assert got[i, 2, 3, 4].item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, 119.7, 200.0, 640.25, 999.0])
def test_eps_survives_the_way_to_z0_hat_and_back(t):
    z, eps = latents()
    at = torch.full((3,), t)
    back = diffusion.eps_from(z, diffusion.z0_hat(z, eps, at), at)
    # At t = 0 eps is scaled by 0.029, so one rounding of z comes back 34 times as large.
    torch.testing.assert_close(back, eps, rtol=1e-5, atol=2e-5)


def test_eps_survives_the_round_trip_to_the_last_digits_in_double():
    z, eps = (x.double() for x in latents())
    at = torch.tensor([0.0, 33.3, 999.0])
    back = diffusion.eps_from(z, diffusion.z0_hat(z, eps, at), at)
    torch.testing.assert_close(back, eps, rtol=1e-12, atol=1e-12)


def test_each_image_of_a_batch_keeps_its_own_timestep():
    z, eps = latents()
    t = torch.tensor([20.0, 200.5, 999.0])
    together = diffusion.z0_hat(z, eps, t)
    alone = torch.cat(
        [diffusion.z0_hat(z[i : i + 1], eps[i : i + 1], t[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


def test_z0_hat_of_half_precision_latents_is_float32():
    z, eps = (x.bfloat16() for x in latents())
    assert diffusion.z0_hat(z, eps, torch.full((3,), 200.0)).dtype == torch.float32


def test_t_zero_is_near_the_identity_yet_not_it():
    z, eps = latents()
    out = diffusion.z0_hat(z, eps, torch.zeros(3))
    torch.testing.assert_close(out, 1.000425 * z - 0.029167 * eps, rtol=1e-4, atol=1e-5)
    assert not torch.equal(out, z)


def test_gradient_reaches_a_float_timestep():
    t = torch.tensor([119.5], requires_grad=True)
    diffusion.alpha_bar(t).sum().backward()
    slope = (diffusion.alpha_bar_table()[120] - diffusion.alpha_bar_table()[119]).item()
    assert t.grad is not None
    assert t.grad.item() == pytest.approx(slope, rel=1e-2)


def test_table_made_in_inference_mode_can_be_trained_through_later():
    diffusion._log_snr_table.cache_clear()
    with torch.inference_mode():
        diffusion.alpha_bar(torch.tensor([10.0]))
    t = torch.tensor([10.5], requires_grad=True)
    diffusion.alpha_bar(t).sum().backward()
    assert t.grad is not None
