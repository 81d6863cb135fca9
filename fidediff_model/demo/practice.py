"""A practice base: a small VAE and UNet trained on your own sharp images, in place of SD 2.1.

FideDiff starts from a pre-trained latent diffusion model, and there is none of the tiny preset's
size. Over random weights every restored image is noise; so this makes one for the demo and for
trials on a CPU: the VAE learns to reproduce sharp and blurry crops, then the UNet learns to denoise
latents of sharp crops. It is saved as a diffusers folder, which `--base-model` takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fidediff_model.config import BaseConfig
from fidediff_model.demo import linear_codec
from fidediff_model.model import diffusion
from fidediff_model.weights.base_folder import write_base
from fidediff_model.weights.sd21 import BaseWeights, random_base
from trajectory_builder import manifest
from trajectory_builder.images.pictures import read_rgb8

CROP = 64
STRIDE = 4
Say = Callable[[str], None]


def _images(data: Path) -> tuple[Tensor, Tensor]:
    """Sharp images and the longest blurs of the training split, (N, 3, H, W) in [-1, 1]."""
    source = manifest.read(data)
    longest: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(source.rows()):
        if row["split"] == "train":
            n_frames = row["n_frames"] or 0
            best = longest.get(row["trajectory_id"], (-1, 0))
            longest[row["trajectory_id"]] = max(best, (n_frames, number))
    rows = [number for _, number in longest.values()]
    names = ("sharp_file_name", "blur_file_name")
    sharp, blur = (np.stack([read_rgb8(source.file(r, name)) for r in rows]) for name in names)
    return _to_range(sharp), _to_range(blur)


def _to_range(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def make(
    data: Path,
    folder: Path,
    config: BaseConfig,
    *,
    vae_steps: int,
    unet_steps: int,
    say: Say,
    batch: int = 4,
    device: str = "cpu",
) -> None:
    """Train VAE and UNet on the training split of `data` and save them; a finished one is kept.

    Args:
        data: folder of a data set whose images have one size, at least 64 pixels per side.
        folder: gets `unet/`, `vae/`, `scheduler/`; the last is written last and marks completion.
        config: structure of the base.
        vae_steps: each of `batch` crops of 64 pixels.
        unet_steps: each of twice as many crops of latents.
        say: called with a line of progress now and then.
        batch: crops per step.
        device: to train on.
    """
    if (folder / "scheduler" / "scheduler_config.json").is_file():
        return
    weights = random_base(config, seed=0)
    weights.vae.to(device)
    weights.unet.to(device)
    sharp, blur = (images.to(device) for images in _images(data))
    train_vae(weights.vae, torch.cat([sharp, blur]), steps=vae_steps, batch=batch, say=say)
    train_unet(weights, sharp, steps=unet_steps, batch=2 * batch, say=say)
    write_base(folder, weights.unet, weights.vae)


def train_vae(vae: Any, images: Tensor, *, steps: int, batch: int, say: Say) -> None:
    """Minimise the squared error of crops, enlarged and reduced as the codec does."""
    rate = _start(vae)
    vae.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate, weight_decay=0.0)
    random = np.random.default_rng(0)
    seen = 0.0
    for step, x in enumerate(_crops(images, CROP, batch, steps, random)):
        _set_rate(optimizer, rate, step, steps)
        large = F.interpolate(x, scale_factor=2.0, mode="bicubic")
        decoded = vae.decode(vae.encode(large).latent_dist.mode()).sample
        reduced = F.interpolate(decoded, scale_factor=0.5, mode="bicubic", antialias=True)
        loss = F.mse_loss(reduced, x)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        seen += loss.item() / 4  # [-1, 1] to [0, 1]
        if step % 50 == 49:
            say(f"vae {step + 1}/{steps}: {-10 * math.log10(seen / 50):.2f} dB on training crops")
            seen = 0.0
    vae.requires_grad_(False).eval()
    with torch.no_grad():
        latents = vae.encode(F.interpolate(images[::4], scale_factor=2.0, mode="bicubic"))
        vae.register_to_config(scaling_factor=1 / float(latents.latent_dist.mode().std()))


def train_unet(weights: BaseWeights, sharp: Tensor, *, steps: int, batch: int, say: Say) -> None:
    """Train the UNet with the usual denoising loss on latents, t from 0 to 999."""
    unet, vae = weights.unet, weights.vae
    unet.requires_grad_(True).train()
    with torch.no_grad():
        large = F.interpolate(sharp, scale_factor=2.0, mode="bicubic")
        parts = [vae.encode(part).latent_dist.mode() for part in torch.split(large, 8)]
        latents = torch.cat(parts) * vae.config.scaling_factor
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    random = np.random.default_rng(1)
    generator = torch.Generator().manual_seed(1)
    given_prompt = weights.prompt.to(sharp.device)
    seen = 0.0
    for step, z in enumerate(_crops(latents, CROP // STRIDE, batch, steps, random)):
        _set_rate(optimizer, 1e-3, step, steps)
        t = torch.randint(0, 1000, (z.shape[0],), generator=generator).float().to(z.device)
        noise = torch.randn(z.shape, generator=generator).to(z.device)
        signal, strength = (r.view(-1, 1, 1, 1) for r in diffusion.roots(t))
        prompt = given_prompt.expand(z.shape[0], -1, -1)
        eps = unet(signal * z + strength * noise, t, encoder_hidden_states=prompt).sample
        loss = F.mse_loss(eps, noise)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        seen += loss.item()
        if step % 25 == 24:
            say(f"unet {step + 1}/{steps}: eps error {seen / 25:.3f} of 1")
            seen = 0.0
    unet.requires_grad_(False).eval()


def _start(vae: Any) -> float:
    """Set the first weights; returns the learning rate that suits them.

    Residual branches start at zero, which trains in fewer steps, and the rest as a linear codec
    where the structure allows: that is good at once, and a high rate would undo it.
    """
    for name, parameter in vae.named_parameters():
        if ".conv2." in name or ".to_out.0." in name:
            nn.init.zeros_(parameter)
    if not linear_codec.fits(vae.config.norm_num_groups, vae.config.block_out_channels):
        return 2e-3
    linear_codec.begin(vae)
    return 5e-4


def _set_rate(optimizer: torch.optim.Optimizer, top: float, step: int, steps: int) -> None:
    rate = top * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * math.cos(math.pi * step / steps / 2))
    optimizer.param_groups[0]["lr"] = rate


def _crops(
    images: Tensor, side: int, batch: int, steps: int, random: np.random.Generator
) -> Iterator[Tensor]:
    height, width = images.shape[-2:]
    for _ in range(steps):
        chosen: NDArray[np.int64] = random.integers(len(images), size=batch)
        tops = random.integers(height - side + 1, size=batch)
        lefts = random.integers(width - side + 1, size=batch)
        yield torch.stack(
            [
                images[i, :, y : y + side, x : x + side]
                for i, y, x in zip(chosen, tops, lefts, strict=True)
            ]
        )
