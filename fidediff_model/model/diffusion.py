"""The arithmetic between a blur's latent, the UNet's output and the sharp latent.

FideDiff (arXiv 2510.01641) reads a blur as a point of a diffusion trajectory and keeps the usual
parametrisation of the pre-trained network, z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps, with the
latent of the blur itself standing where the noisy latent stood: it is neither scaled nor noised.

The schedule is Stable Diffusion's (scaled linear, betas 0.00085 to 0.012, 1000 steps). A timestep
is any float in [0, 999]. Between two whole timesteps log(abar / (1 - abar)), the log of the
signal-to-noise ratio, is interpolated linearly; it is nearly straight there, and both roots come
from it without cancellation. t outside [0, 999] is clamped, without a device sync.

t = 0 is not the identity: abar_0 = 0.99915, so z0_hat = 1.00043 z - 0.0292 eps_hat. A sharp image
passes through unchanged only as far as the network has learnt an eps_hat for it; that is what the
identity points of consistency training are for. We keep the network's own schedule rather than
bend it, since its weights were trained with it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

STEPS = 1000
BETA_START = 0.00085
BETA_END = 0.012
LAST_TIMESTEP = float(STEPS - 1)


def alpha_bar_table() -> Tensor:
    """abar at t = 0 ... 999, float64 (1000,): cumprod(1 - linspace(sqrt b0, sqrt b1, 1000)^2)."""
    roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, STEPS, dtype=torch.float64)
    return torch.cumprod(1 - roots**2, dim=0)


@cache
def _log_snr_table(device: torch.device) -> Tensor:
    # Made outside inference mode whoever asks first, or training could not use it later.
    with torch.inference_mode(False), torch.no_grad():
        table = alpha_bar_table()
        return torch.log(table / (1 - table)).to(device=device, dtype=torch.float32)


def log_snr(t: Tensor) -> Tensor:
    """log(abar_t / (1 - abar_t)) at float timesteps, float32, differentiable in t.

    Args:
        t: timesteps in [0, 999], any shape; clamped to that range.
    """
    table = _log_snr_table(t.device)
    t = t.float().clamp(0.0, LAST_TIMESTEP)
    # Clamped one below the end, so that t = 999 interpolates with weight 1 to the last entry.
    below = t.detach().floor().long().clamp(max=STEPS - 2)
    return torch.lerp(table[below], table[below + 1], t - below)


def alpha_bar(t: Tensor) -> Tensor:
    """abar at float timesteps, float32, the shape of t; equals the table at whole timesteps."""
    return torch.sigmoid(log_snr(t))


def roots(t: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t) and sqrt(1 - abar_t), float32, each the shape of t."""
    # sqrt(abar) = sqrt(sigmoid(l)), sqrt(1 - abar) = sqrt(sigmoid(-l)): 1 - abar is never taken.
    ratio = log_snr(t)
    return torch.sigmoid(ratio).sqrt(), torch.sigmoid(-ratio).sqrt()


def z0_hat(z_t: Tensor, eps_hat: Tensor, t: Tensor) -> Tensor:
    """The sharp latent: (z_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t).

    Args:
        z_t: latent of the blur (B, 4, H/d, W/d), any float type.
        eps_hat: output of the UNet, same shape; need not be Gaussian.
        t: timesteps (B,), float in [0, 999]; each image may have its own.

    Returns:
        (B, 4, H/d, W/d) in float32 whatever the input (float64 stays), since the gain of eps_hat
        reaches 14.6 at t = 999 and half precision would lose the latent in it.
    """
    signal, noise = _per_image(t, z_t)
    return (_wide(z_t) - noise * _wide(eps_hat)) / signal


def eps_from(z_t: Tensor, z_0: Tensor, t: Tensor) -> Tensor:
    """The eps which leads from z_t to z_0, the inverse of `z0_hat`; same shapes, float32."""
    signal, noise = _per_image(t, z_t)
    return (_wide(z_t) - signal * _wide(z_0)) / noise


def _per_image(t: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    signal, noise = roots(t)
    shape = (-1,) + (1,) * (latent.ndim - 1)  # (B,) -> (B, 1, 1, 1)
    return signal.view(shape), noise.view(shape)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
