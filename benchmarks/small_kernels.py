"""M and T of the model `small`, on blurs of scenes whose kernels are known.

M learns the true kernels by cross-entropy and, as in FideDiff, to reblur the sharp image, both at
every fourth pixel; then T learns the timestep from M's kernels of some thousand blurs, which are
kept, since M is what takes time. FideDiff has no true kernels; where they are known, they speed M
up.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import small_data
import torch
import torch.nn.functional as F
from small_pretrain import rate
from torch import Tensor

from fidediff_model.model.kernels import KernelEstimator
from fidediff_model.model.timestep import TimestepRegressor
from fidediff_model.scores.losses import timestep_loss
from fidediff_model.training import checkpoint
from trajectory_builder.pixels import hand_motion

STRIDE = 4
REBLUR_WEIGHT = 20.0
"""Of the mean absolute error of the reblurred pixels beside the cross-entropy."""
N_FRAMES = (3, 5, 7, 9, 11, 13, 15)
BATCH = 4
EMA = 0.99


@dataclass(frozen=True)
class Batch:
    """Blur and sharp (B, 3, H, W), true kernels (B, K, H / 4, W / 4) and t (B,).

    The kernels are of the pixels `sampled` takes: from row `top` and column `left` on.
    """

    blur: Tensor
    sharp: Tensor
    kernels: Tensor
    t: Tensor
    top: int
    left: int

    def sampled(self, x: Tensor) -> Tensor:
        """Every fourth pixel of (B, C, H, W)."""
        return x[:, :, self.top :: STRIDE, self.left :: STRIDE]


def batch(scenes: small_data.Scenes, step: int) -> Batch:
    """What a step sees."""
    random = np.random.default_rng((1, step))
    side = small_data.CROP
    # Another fourth pixel each time: M's pixel shuffles have weights of their own for each phase.
    top, left = (int(start) for start in random.integers(0, STRIDE, 2))
    y, x = np.meshgrid(*(np.arange(o, side, STRIDE) for o in (top, left)), indexing="ij")
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    blurs, sharps, kernels, t = [], [], [], []
    for _ in range(BATCH):
        scene = scenes.at(step, int(random.integers(small_data.SCENES)))
        window = small_data.detailed_crop(scene, random)
        poses = small_data.camera_path(side, random)
        n = int(random.choice(N_FRAMES))
        blur, sharp = small_data.exposed(window, poses, (n,))
        blurs.append(blur[n])
        sharps.append(sharp)
        true = hand_motion.kernels_at(poses, n, points, side, side)
        kernels.append(true.reshape(*y.shape, -1).transpose(2, 0, 1).astype(np.float32))
        t.append(20.0 * (n - 1))
    return Batch(
        small_data.to_tensor(blurs),
        small_data.to_tensor(sharps),
        torch.from_numpy(np.stack(kernels)),
        torch.tensor(t),
        top,
        left,
    )


def reblur_error(seen: Batch, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute error of `reblur` at every fourth pixel, and of the sharp image itself."""
    size = math.isqrt(kernels.shape[1])
    radius = size // 2
    around = F.pad(seen.sharp, [radius] * 4, mode="replicate")
    around = around[:, :, seen.top :, seen.left :]
    taps = F.unfold(around, size, stride=STRIDE).unflatten(1, (3, -1))  # (B, 3, K, h w)
    again = (taps * kernels.flatten(2)[:, None]).sum(2).unflatten(2, kernels.shape[-2:])
    blur, sharp = seen.sampled(seen.blur), seen.sampled(seen.sharp)
    # Beyond the picture no kernel can look.
    inner = np.s_[..., 3:-2, 3:-2]
    return (again - blur)[inner].abs().mean(), (sharp - blur)[inner].abs().mean()


def train(m: KernelEstimator, run_dir: Path, steps: int, say: Any) -> None:
    """Train M to `steps`; resumes from the newest checkpoint of `run_dir`."""
    cv2.setNumThreads(1)
    trained = dict(m.named_parameters())
    ema = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), betas=(0.9, 0.99), weight_decay=1e-4)
    kept = checkpoint.Resumable({"trained": trained, "ema": ema}, {"adamw": optimizer})
    newest = checkpoint.newest(run_dir)
    first = checkpoint.load(newest, kept, rank=0).step if newest else 0
    scenes, begun, seen = small_data.Scenes(), time.time(), []
    for step in range(first, steps):
        current = batch(scenes, step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        found = m._kernels(current.sampled(m._features(current.blur)))
        true = current.kernels
        # Of -sum k log(k_hat) only what exceeds the entropy of the true kernels can fall.
        divergence = (true * ((true + 1e-8) / (found + 1e-8)).log()).sum(1).mean()
        error, identity = reblur_error(current, found)
        optimizer.zero_grad()
        torch.autograd.backward(divergence + REBLUR_WEIGHT * error)
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(EMA, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(ema.values()), list(trained.values()), 1 - decay)
        seen.append([float(x.detach()) for x in (divergence, error, identity)])
        if (step + 1) % 50 == 0 or step + 1 == steps:
            states = [checkpoint.generator_states()]
            written = checkpoint.write(run_dir, checkpoint.Progress(step + 1), kept, states)
            checkpoint.publish(written, step + 1, keep=2)
            means = np.mean(seen, axis=0)
            row = {"step": step + 1, "seconds": round(time.time() - begun),
                   "divergence": round(float(means[0]), 3),
                   "reblur_of_identity": round(float(means[1] / means[2]), 3)}  # fmt: skip
            with (run_dir / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            say(str(row))
            seen = []


def train_regressor(
    m: KernelEstimator,
    t: TimestepRegressor,
    say: Any,
    *,
    blurs: int = 3000,
    steps: int = 4000,
    rate_of_t: float = 2e-3,
) -> None:
    """Train T on the true kernels of `blurs` blurs and on what M reads in them.

    The true ones alone at first, since T finds the median and stays there on kernels that say
    little; M's alone at last. A tenth is held out, and its error is said.
    """
    scenes, begun = small_data.Scenes(), time.time()
    first = 100_000  # other scenes than M's
    views: tuple[list[Tensor], list[Tensor]] = ([], [])
    times = []
    with torch.no_grad():
        for step in range(first, first + blurs // BATCH):
            current = batch(scenes, step)
            views[0].append(current.kernels.half())
            views[1].append(m.pooled(current.blur, t.pool).half())
            times.append(current.t)
    true, read = (torch.cat(view) for view in views)
    wanted = torch.cat(times)
    say(f"T: {len(wanted)} blurs read in {time.time() - begun:.0f} s")
    held, random = len(wanted) // 10, np.random.default_rng(2)
    optimizer = torch.optim.AdamW(t.parameters(), lr=rate_of_t, weight_decay=1e-2)
    for step in range(steps):
        gone = step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate_of_t * min(1.0, (step + 1) / 100, 2 * (1 - gone))
        share_of_true = 1.0 if gone < 0.25 else 0.5 if gone < 0.5 else 0.0
        view = true if random.random() < share_of_true else read
        chosen = random.integers(held, len(wanted), 16)
        loss = timestep_loss(t(_part(view[chosen].float(), random), pooled=True), wanted[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(t.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            with torch.no_grad():
                errors = [
                    (t(view[:held].float(), pooled=True) - wanted[:held]).abs().mean()
                    for view in (true, read)
                ]
            say(f"T, step {step + 1}: errors {errors[0]:.1f} on true kernels, {errors[1]:.1f} on"
                f" M's, of {held} held-out blurs")  # fmt: skip


def _part(kernels: Tensor, random: np.random.Generator) -> Tensor:
    """A part of the pictures (B, K, h, w), flipped and turned with its kernels.

    Parts keep T from learning its few hundred pictures by heart.
    """
    size, side = math.isqrt(kernels.shape[1]), kernels.shape[-1]
    part = int(random.integers(side // 2, side + 1))
    top, left = (int(random.integers(0, side - part + 1)) for _ in range(2))
    x = kernels[..., top : top + part, left : left + part].unflatten(1, (size, size))
    x = x.flip(1, 3) if random.random() < 0.5 else x
    x = x.flip(2, 4) if random.random() < 0.5 else x
    x = x.transpose(1, 2).transpose(3, 4) if random.random() < 0.5 else x
    return x.flatten(1, 2).contiguous()
