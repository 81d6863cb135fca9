"""Between images and latents: an f8 VAE at a latent stride of 4 or 8, or a VAE of that stride.

At `latent_stride` 4 the image is enlarged twice before the VAE and the decoded image is reduced
again (as the public reviews of arXiv 2510.01641 describe; bicubic and the antialiased way back are
ours). Encoding takes the posterior's mean: the same image gives the same latent.

Precision: float32 and bfloat16 are safe. The decoder of Stable Diffusion can overflow in float16,
so a float16 decode without gradients is looked at, and on inf or nan the VAE becomes float32 for
good and decodes again. Latents and images are float32 at this door whatever the VAE's type.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fidediff_model.model import strips
from fidediff_model.weights.sd21 import cast
from trajectory_builder.errors import UsageError

COMFORT = 8
"""Latents are padded to multiples of this, since the UNet halves them three times."""
log = logging.getLogger(__name__)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend an image (B, C, H, W) below and to the right, so that both sides divide by `multiple`.

    Mirrors the image without repeating its border; where the image is smaller than what is
    missing, repeats the border instead.
    """
    height, width = image.shape[-2:]
    # -n % m is what n lacks to the next multiple of m.
    below, right = -height % multiple, -width % multiple
    if not below and not right:
        return image
    # torch reflects by less than the image's own side; a 1 x 1 image can only be repeated.
    mode = "reflect" if below < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, below), mode=mode)


class Codec(nn.Module):
    """Image (B, 3, H, W) in [-1, 1] to latent (B, c, H/d, W/d) and back.

    Args:
        vae: diffusers' `AutoencoderKL`; frozen here, gradients pass through it. One that reads
            more than three channels sees cells of pixels, packed.
        latent_stride: d, 4 or 8 image pixels for one latent cell.

    Raises:
        UsageError: another stride, or a VAE that is neither f8 nor of this stride.
    """

    def __init__(self, vae: Any, latent_stride: int = 4) -> None:
        super().__init__()
        if latent_stride not in (4, 8):
            raise UsageError(
                f"latent_stride cannot be {latent_stride}",
                where="latent_stride",
                cure="give 4 or 8",
            )
        self.patch = math.isqrt(vae.config.in_channels // 3)
        vae_stride = self.patch * 2 ** (len(vae.config.block_out_channels) - 1)
        if vae_stride not in (8, latent_stride):
            raise UsageError("the VAE is not f8", where="vae/config.json", cure="use SD 2.1-base's")
        # Frozen as in the paper; the gradient of the image loss still passes through it to z0_hat.
        self.vae = vae.requires_grad_(False).eval()
        self.latent_stride = latent_stride
        self.enlargement = vae_stride // latent_stride

    @property
    def multiple(self) -> int:
        """Image sides are padded to multiples of this: 32 at stride 4, 64 at stride 8."""
        return COMFORT * self.latent_stride

    @property
    def scaling(self) -> float:
        """Factor on latents which brings them to unit variance (0.18215 for Stable Diffusion)."""
        return float(self.vae.config.scaling_factor)

    def enlarge(self, image: Tensor) -> Tensor:
        """The image at the size that the VAE works at: (B, 3, 8H/d, 8W/d) if f8, float32."""
        if self.enlargement == 1:
            return image.float()
        return F.interpolate(image.float(), scale_factor=float(self.enlargement), mode="bicubic")

    def encode(self, image: Tensor, *, strip_rows: int | None = None, store: str = "") -> Tensor:
        """The latent of an image of any size, padded first to `multiple`.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            strip_rows: compute this many rows of each map at a time (see `strips`): the same
                latent with less memory, without gradients. None computes maps at once.
            store: device of complete maps when in strips; default the VAE's own.

        Returns:
            (B, c, ceil(H/d), ceil(W/d)) rounded up to multiples of 8, float32; no noise is drawn.
        """
        x = self.enlarge(pad_to_multiple(image, self.multiple)).to(self.vae.dtype)
        x = F.pixel_unshuffle(x, self.patch)
        # The posterior's mean, not a sample: z_t of an image is always the same.
        if strip_rows is None:
            mean: Tensor = self.vae.encode(x).latent_dist.mode()
        else:
            with torch.no_grad():
                mean = strips.encode(self.vae, x, self._strips(strip_rows, store))
        return mean.float() * self.scaling

    def decode(
        self, z: Tensor, size: tuple[int, int], *, strip_rows: int | None = None, store: str = ""
    ) -> Tensor:
        """The image of a latent, cropped to `size`; gradients pass to z unless in strips.

        Args:
            z: (B, c, h, w), any float type.
            size: height and width of the image, at most (h d, w d).
            strip_rows: as for `encode`.
            store: as for `encode`.

        Returns:
            (B, 3, *size) float32, near [-1, 1] but not clamped.
        """
        image = self._decode_once(z, strip_rows, store)
        # isfinite().all() waits for the device, so only the type that can overflow pays for it.
        half = self.vae.dtype == torch.float16
        if half and not torch.is_grad_enabled() and not bool(image.isfinite().all()):
            log.warning("the VAE overflowed in float16; it decodes in float32 from now on")
            cast(self.vae, torch.float32)
            image = self._decode_once(z, strip_rows, store)
        return image[..., : size[0], : size[1]]

    def _decode_once(self, z: Tensor, strip_rows: int | None, store: str) -> Tensor:
        # Divided in float32: half precision would round z0_hat, which is large at high t.
        unscaled = (z.float() / self.scaling).to(self.vae.dtype)
        if strip_rows is None:
            image: Tensor = self.vae.decode(unscaled).sample.float()
        else:
            with torch.no_grad():
                image = strips.decode(self.vae, unscaled, self._strips(strip_rows, store))
            image = image.to(z.device).float()
        image = F.pixel_shuffle(image, self.patch)
        if self.enlargement == 1:
            return image
        # Antialiased, or every second pixel of the enlarged image would be dropped.
        return F.interpolate(
            image, scale_factor=1 / self.enlargement, mode="bicubic", antialias=True
        )

    def _strips(self, rows: int, store: str) -> strips.Strips:
        if rows < 1:
            raise UsageError("strip_rows is below 1", where="strip_rows", cure="give 1 or more")
        device = self.vae.device
        return strips.Strips(rows, device, torch.device(store) if store else device)
