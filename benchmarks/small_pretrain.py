"""Pre-training of the model `small`: codec and UNet, on blurs of generated scenes alone.

The codec is linear: principal components of 4 x 4 cells of scenes. The UNet starts as the
identity and learns z_t -> z_0 in one step, all its weights, for every n at once; L1 in pixels.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import small_data
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from fidediff_model.model import diffusion, presets
from fidediff_model.training import checkpoint
from fidediff_model.weights.base_folder import write_base
from fidediff_model.weights.packed_codec import write_codec
from fidediff_model.weights.sd21 import random_base, seeded
from trajectory_builder.sources.dead_leaves import draw_scene

PATCH = 4
LATENTS = 32
SCALE = 0.6
"""Of the latents: the mean colour of a cell then has a deviation of about 1.8."""
TOP_RATE = 1.5e-3
EMA = 0.995
BATCH = 8
SAVE_EVERY = 50
AVERAGE_EVERY = 5
"""Several processes take this many steps alone, then average their weights (local SGD): cheaper on
a busy machine than a gradient exchange at each step."""
SCENES_OF_CODEC = 96


def codec_basis() -> Tensor:
    """The first LATENTS principal components of cells of scenes, (48, LATENTS), orthonormal.

    All latents have one scale. Whitened latents were tried: an error of the rare details then
    counts little in pixels, and the UNet's last layer hardly moved in 900 steps.
    """
    scenes = [draw_scene(seed) for seed in range(SCENES_OF_CODEC)]
    x = F.pixel_unshuffle(small_data.to_tensor(scenes), PATCH).permute(1, 0, 2, 3).flatten(1)
    vectors = torch.linalg.eigh((x @ x.T / x.shape[1]).double()).eigenvectors
    basis = vectors.flip(1)[:, :LATENTS]  # eigenvalues ascend
    basis = basis * basis.sum(0).sign()  # eigenvectors have no sign of their own
    return basis.float()


class Pretraining(nn.Module):
    """The one step from a blurry image to its sharp estimate, over the linear codec."""

    def __init__(self, unet: Any, prompt: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("prompt", prompt, persistent=False)
        self.register_buffer("into", (basis * SCALE).T[:, :, None, None].clone())
        self.register_buffer("back", (basis / SCALE)[:, :, None, None].clone())

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, LATENTS, H / 4, W / 4)."""
        return F.conv2d(F.pixel_unshuffle(image, PATCH), self.into)  # type: ignore[arg-type]

    def decode(self, z: Tensor) -> Tensor:
        """The way back."""
        return F.pixel_shuffle(F.conv2d(z, self.back), PATCH)  # type: ignore[arg-type]

    def forward(self, blur: Tensor, t: Tensor) -> Tensor:
        """Restore (B, 3, H, W) at timesteps (B,)."""
        z_t = self.encode(blur)
        prompt = self.prompt.expand(len(z_t), -1, -1)  # type: ignore[operator]
        # float32: in bfloat16 the detail of a cell drowns in the rounding of its mean colour.
        update = self.unet(z_t, t, encoder_hidden_states=prompt, return_dict=False)[0]
        eps_hat = diffusion.eps_from(z_t, z_t, t) + update
        return self.decode(diffusion.z0_hat(z_t, eps_hat, t))


def start(unet: Any, prompt: Tensor) -> Pretraining:
    """A model that gives its input back, as far as the codec can."""
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return Pretraining(unet, prompt, codec_basis())


def rate(step: int, steps: int) -> float:
    """Warm-up, a plateau over the first half, half a cosine down to 2 % of the top."""
    gone = max(0.0, (step / steps - 0.5) * 2)
    return TOP_RATE * min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * gone))


def pretrain(model: Pretraining, run_dir: Path, steps: int, *, device: str, say: Any) -> None:
    """Train to `steps`; resumes from the newest checkpoint of `run_dir`.

    Under torchrun each process takes its share of the batch.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    trained = dict(model.unet.named_parameters())
    ema = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=TOP_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    kept = checkpoint.Resumable({"trained": trained, "ema": ema}, {"adamw": optimizer})
    first, begun, losses = 0, time.time(), []
    if newest := checkpoint.newest(run_dir):
        first = checkpoint.load(newest, kept, rank=0).step
        say(f"resumes from {newest.name}")
    batches = small_data.batches(first, steps, BATCH // world, seed=rank)
    for step, batch in enumerate(batches, start=first):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        restored = model(batch.blur.to(device), batch.t.to(device))
        loss = F.l1_loss(restored, batch.sharp.to(device))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        decay = min(EMA, (step + 1) / (step + 10))
        done = step + 1
        if world > 1 and done % AVERAGE_EVERY == 0:
            average(list(trained.values()), world)
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.values()), list(trained.values()), 1 - decay)
        losses.append((loss.item(), F.l1_loss(batch.blur, batch.sharp).item()))
        if rank == 0 and (done % SAVE_EVERY == 0 or done == steps):
            states = [checkpoint.generator_states()]
            written = checkpoint.write(run_dir, checkpoint.Progress(done), kept, states)
            checkpoint.publish(written, done, keep=2)
            share = float(np.divide(*np.mean(losses, axis=0)))
            row = {"step": done, "seconds": round(time.time() - begun),
                   "loss_of_blurs": round(share, 4)}  # fmt: skip
            with (run_dir / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            say(str(row))
            losses = []


def average(parameters: list[nn.Parameter], world: int) -> None:
    """Replace each parameter by its mean over the processes."""
    with torch.no_grad():
        flat = torch.cat([p.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= world
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.copy_(part.view_as(p))


def new_unet() -> tuple[Any, Tensor]:
    """The UNet of the preset, and the prompt that a base of no text encoder starts with."""
    base = presets.preset("small").base
    with seeded(0):
        prompt = torch.randn(1, base.prompt_tokens, base.prompt_width) * 0.02
    return random_base(base, seed=0).unet, prompt


def save_base(model: Pretraining, run_dir: Path, folder: Path) -> None:
    """Write the averaged weights and the codec as a diffusers folder for --base-model."""
    newest = checkpoint.newest(run_dir)
    if newest is None:
        raise SystemExit(f"{run_dir} has no checkpoint: pretrain first")
    weights = random_base(presets.preset("small").base, seed=0)
    weights.unet.load_state_dict(load_file(newest / "ema.safetensors"))
    write_codec(weights.vae, model.back[:, :, 0, 0].cpu() * SCALE, SCALE)  # type: ignore[index]
    write_base(folder, weights.unet, weights.vae)
