"""FideDiff, the parts put together: a blurry image in, its sharp estimate out, in one step.

    kernels = M(blur); t_hat = T(kernels); z_t = E(blur)
    eps_hat = UNet(z_t, t_hat, prompt; control(z_t, kernels))
    z0_hat = (z_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t); image = D(z0_hat)

A model may lack M, T and the control: after the base stage there is only the base, and the
timestep must be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fidediff_model.config import ModelConfig, from_dict, settings_of, to_dict
from fidediff_model.errors import ModelError
from fidediff_model.model import base_name, diffusion, engine, hub
from fidediff_model.model import folder as model_folder
from fidediff_model.model.base import LoraUNet
from fidediff_model.model.card import Card, to_markdown
from fidediff_model.model.codec import Codec, pad_to_multiple
from fidediff_model.model.control import KernelControl
from fidediff_model.model.fast_layers import to_channels_last
from fidediff_model.model.images import ValueRange
from fidediff_model.model.kernels import KernelEstimator
from fidediff_model.model.step import (
    PARTS,
    Part,
    Restored,
    Stage,
    check_image,
    no_part,
    read_kernels,
)
from fidediff_model.model.tiles import WHOLE, Report, TilePlan, counter, step_in_tiles
from fidediff_model.model.timestep import TimestepRegressor
from fidediff_model.weights.sd21 import BaseWeights, cast, load_base, seeded


class FideDiff(nn.Module):
    """The complete model. Make one with `build` or `FideDiff.load`.

    Args:
        config: what it is made of; saved with it.
        codec: E and D.
        base: the UNet with LoRA and prompt.
        base_model: name of the base weights, saved in their place.
        base_fingerprint: digest of the base weights, checked on loading.
        kernel_estimator: M, or None.
        timestep_regressor: T, or None.
        control: the kernel control, or None.
    """

    def __init__(
        self,
        config: ModelConfig,
        codec: Codec,
        base: LoraUNet,
        *,
        base_model: str,
        base_fingerprint: str,
        kernel_estimator: KernelEstimator | None = None,
        timestep_regressor: TimestepRegressor | None = None,
        control: KernelControl | None = None,
    ) -> None:  # eight arguments and self: one per part
        super().__init__()
        self.config = config
        self.codec = codec
        self.base = base
        self.base_model = base_model
        self.base_fingerprint = base_fingerprint
        self.kernel_estimator = kernel_estimator
        self.timestep_regressor = timestep_regressor
        self.control = control

    @property
    def parts(self) -> list[Part]:
        """The parts that are there, besides the base."""
        return [part for part in PARTS if getattr(self, part) is not None]

    def part(self, name: Part) -> Any:
        """A part by name.

        Raises:
            ModelError: the model lacks it.
        """
        module = getattr(self, name)
        if module is None:
            raise no_part(name, self.parts)
        return module

    def forward(
        self,
        blur: Tensor,
        timestep: float | Tensor | None = None,
        *,
        keep_kernels: bool = True,
        plan: TilePlan = WHOLE,
        report: Report | None = None,
    ) -> Restored:
        """Restore images of any one size.

        Args:
            blur: (B, 3, H, W) in [-1, 1]; H and W of at least 1.
            timestep: in [0, 999], a number or (B,); None lets M and T estimate one per image.
            keep_kernels: return the kernels at full size; without, they only ever exist for a
                band of rows (1.33 GB less at 1280 x 720).
            plan: how to cut the image to save memory. No gradient passes a VAE in strips.
            report: called after M and T, E, each tile and D; what it raises ends the work.

        Raises:
            ModelError: the blur or the timestep has another shape or range, or a part is missing.
        """
        check_image(blur)
        padded = pad_to_multiple(blur, self.codec.multiple)
        advance = counter(self, padded, plan, report)
        # M and T read the complete image, so all tiles share its t_hat.
        reading = read_kernels(self, padded, timestep, keep=keep_kernels)
        advance()
        # z_t = E(blur): the blur's latent as it is, neither scaled by sqrt(abar_t) nor noised.
        z_t = self.codec.encode(padded, strip_rows=plan.strip_rows, store=plan.store)
        advance()
        z0_hat = step_in_tiles(self, z_t, reading, padded, plan, advance)
        size = height, width = blur.shape[-2], blur.shape[-1]
        # image = D(z0_hat), without the padding
        image = self.codec.decode(z0_hat, size, strip_rows=plan.strip_rows, store=plan.store)
        advance()
        kernels = None if reading.kernels is None else reading.kernels[..., :height, :width]
        return Restored(image, reading.t, kernels, z0_hat)

    def step(
        self, z_t: Tensor, t: Tensor, *, k_in: Tensor | None = None, blur: Tensor | None = None
    ) -> Tensor:
        """z0_hat (B, 4, h, w) float32: the one step, on latents.

        Args:
            z_t: latent of the blur (B, 4, h, w).
            t: (B,) float32 in [0, 999].
            k_in: kernels pooled to cells (B, K, h, w), where the control needs them.
            blur: the padded image (B, 3, h d, w d), where the control is `vanilla`.
        """
        # eps_hat = UNet(z_t, t, prompt; residuals of the control)
        residuals = None
        if self.control is not None:
            image = None
            if not self.control.needs_kernels:
                if blur is None:
                    raise ValueError("the control variant vanilla needs blur")
                image = self.codec.enlarge(blur)
            residuals = self.control(z_t, t, self.base.prompt, k_in=k_in, image=image)
        eps_hat = self.base(z_t, t, residuals)
        if self.config.base.starts_as_identity:
            eps_hat = eps_hat.float() + diffusion.eps_from(z_t, z_t, t)
        return diffusion.z0_hat(z_t, eps_hat, t)

    def restore(
        self, image: Any, timestep: float | None = None, *, value_range: ValueRange = (0.0, 1.0)
    ) -> Any:
        """Restore a PIL image, an array, a tensor, a path or a list; the same kind comes back.

        Any size; alpha is kept; threads may share a model. For speed call `make_ready` once.

        Args:
            image: see `images.restore_image` for the kinds and shapes.
            timestep: how blurry the image is, t = (n - 1) x 20 for a mean of n frames at 240 fps,
                in [0, 999]; None lets the model estimate it, one t per image.
            value_range: black and white in arrays and tensors of floats.

        Raises:
            ModelError: another kind, shape, type or range of image, or a part is missing.
            ImageError: the file of a path cannot be read.
        """
        ready = engine.ReadyModel(self, engine.Settings(), self.base.prompt.device)
        return ready.restore(image, timestep, value_range=value_range)

    def timestep(self, blur: Tensor) -> Tensor:
        """t_hat (B,) of complete images (B, 3, H, W), without restoring them.

        Raises:
            ModelError: M or T is missing.
        """
        check_image(blur)
        return read_kernels(self, pad_to_multiple(blur, self.codec.multiple)).t

    def train_only(self, stage: Stage) -> list[nn.Parameter]:
        """Freeze all but what a stage trains, and return that in a fixed order.

        base: LoRA and prompt. kernel: M. control: the kernel control and T, the base frozen.

        Raises:
            ModelError: a part of that stage is missing (the control may be absent by setting).
        """
        self.requires_grad_(False)
        # The order of the parameters is that of the optimizer's state in a checkpoint.
        if stage == "base":
            trained = self.base.lora_parameters()
            trained += [self.base.prompt] if self.config.prompt.learn else []
        elif stage == "kernel":
            trained = list(self.part("kernel_estimator").parameters())
        else:
            trained = list(self.part("timestep_regressor").parameters())
            if self.config.control.variant != "none":
                trained += list(self.part("control").parameters())
        for parameter in trained:
            parameter.requires_grad_(True)
        return trained

    def prepare_for_inference(
        self,
        *,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        device: torch.device | None = None,
    ) -> FideDiff:
        """Fuse LoRA and the attention's projections, cast the large parts; then nothing trains.

        The order matters: fuse in float32, then cast, then change the memory format; compile after
        it. M and T keep float32 weights. Such a model cannot be saved.

        Args:
            dtype: of UNet, VAE and control; bfloat16 is safe, float16 see `codec`.
            channels_last: faster on CUDA, with layers of its own (`fast_layers`), slower on CPUs.
            device: where to; None stays.
        """
        self.base.to(device)
        self.base.fuse()
        self.base.unet.fuse_qkv_projections()  # makes new parameters, so freeze after it
        self.eval().requires_grad_(False)
        large = [self.base.unet, self.codec.vae, *([self.control] if self.control else [])]
        for module in large:
            cast(module, dtype)
        for module in filter(None, (*large, self.kernel_estimator)) if channels_last else ():
            to_channels_last(module)
        return self.to(device)

    def save(self, folder: str | Path, *, card: Card | None = None) -> None:
        """Write the model folder at once: `config.json`, a folder per part, a card.

        Safetensors and JSON only; the base weights are named, not copied. An existing model is
        replaced; a folder of anything else is left alone.

        Raises:
            ModelError: the folder contains something else.
            WeightsError: the LoRA was fused.
        """
        card = (card or Card()).without_places()
        base_model = base_name.portable(self.base_model, Path(folder))

        def write(place: Path) -> None:
            # The base first: a fused LoRA refuses, and then nothing else was written in vain.
            (place / "base").mkdir()
            self.base.save(place / "base")
            settings = {"lora": self.base.settings, "learn_prompt": self.config.prompt.learn}
            model_folder.write_json(place / "base" / model_folder.CONFIG_FILE, settings)
            for part in self.parts:
                own = settings_of(self.config, part)
                model_folder.save_part(place / part, self.part(part), own)
            parts = ["base", *self.parts]
            text = to_markdown(card, self.config, base_model=base_model, parts=parts)
            (place / "README.md").write_text(text, encoding="utf-8")
            values = {
                "format": model_folder.FORMAT,
                "version": model_folder.VERSION,
                "base_model": base_model,
                "base_fingerprint": self.base_fingerprint,
                "parts": self.parts,
                "card": card.to_dict(),
                "config": to_dict(self.config),
            }
            model_folder.write_json(place / model_folder.CONFIG_FILE, values)

        model_folder.write_folder(Path(folder), write)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        base_model: str | Path | BaseWeights | None = None,
        add: Sequence[Part] = (),
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> FideDiff:
        """Read a model folder over its base weights; outputs are the same bits as before saving.

        Args:
            folder: what `save` wrote, `small` (the model of the package), or a name on the hub:
                OWNER/NAME or OWNER/NAME@REVISION.
            base_model: folder or hub id of the base weights, or weights already loaded (clean);
                None takes what the model names, which is not fetched from the hub.
            add: parts to make afresh where the folder lacks them, for the next stage.
            dtype: of the frozen base.
            seed: of the added parts.

        Raises:
            ModelError: the folder or the base weights cannot be used, or do not belong together,
                or the hub lacks the folder.
        """
        folder = hub.find(folder)
        values = model_folder.read_config(folder)
        where = str(folder / model_folder.CONFIG_FILE)
        config = from_dict(values.get("config"), where=where)
        stored = [part for part in PARTS if part in values["parts"]]
        if len(stored) != len(values["parts"]):
            raise ModelError(
                f"the model has parts that this release does not know: {values['parts']}",
                where=f"{where}: parts",
                cure="install the release that wrote it",
            )
        if not isinstance(base_model, BaseWeights):
            # Only a name that the caller gives is fetched: the folder is untrusted.
            own = base_model is not None
            name = base_model or base_name.located(values["base_model"], folder)
            # The prompt comes from the folder, so no text encoder is needed here.
            base_model = load_base(name, config.base, dtype=dtype, prompt_start="normal", fetch=own)
        model_folder.refuse_other_base(values, base_model.name, base_model.fingerprint, where=where)
        model = build(config, base_model, parts=[*stored, *add], seed=seed)
        model.base.load(folder / "base")
        for part in stored:
            model_folder.load_part(folder / part, model.part(part))
        return model.eval()


def open_model(
    folder: str | Path, settings: engine.Settings, *, base_model: str | Path | None = None
) -> engine.ReadyModel:
    """Load a model folder and make it ready.

    Args:
        folder: what a training stage or `FideDiff.save` wrote, or its name on the hub.
        settings: how it will be used.
        base_model: folder or hub id of the base weights; None takes what the model names.

    Raises:
        ModelError: the folder is not a model, or lacks a part that the settings ask for.
        DeviceError: the device is absent.
    """
    device = engine.choose_device(settings.device)
    model = FideDiff.load(folder, base_model=base_model)
    if device.type == "cpu":
        engine.choose_threads(model.config.base.unet_channels[0])
    return engine.make_ready(model, settings, device=device)


def build(
    config: ModelConfig, weights: BaseWeights, *, parts: Sequence[Part] = (), seed: int = 0
) -> FideDiff:
    """A new model over base weights, which it takes over: LoRA goes into their UNet in place.

    Args:
        config: what to build.
        weights: clean base weights; make a discriminator of them before, not after.
        parts: what to build besides the base; `control` is left out where the config's variant
            is `none`.
        seed: of all new layers.

    Raises:
        UsageError: a LoRA target that no layer has.
        WeightsError: the weights were built upon already.
    """
    taps = config.kernel.kernel_size**2  # K = m x m
    control, estimator, regressor = None, None, None
    # The ControlNet copies the UNet's encoder, so it is made before LoRA goes into the UNet.
    if "control" in parts and config.control.variant != "none":
        own = settings_of(config, "control")
        control = KernelControl.from_clean_unet(weights.unet, **own, taps=taps, seed=seed)
    with seeded(seed):
        if "kernel_estimator" in parts:
            estimator = KernelEstimator(**settings_of(config, "kernel_estimator"))
        if "timestep_regressor" in parts:
            regressor = TimestepRegressor(**settings_of(config, "timestep_regressor"))
    base = LoraUNet(
        weights.unet,
        weights.prompt,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        targets=tuple(t.strip() for t in config.lora.targets.split(",") if t.strip()),
        learn_prompt=config.prompt.learn,
        seed=seed,
    )
    return FideDiff(
        config,
        Codec(weights.vae, config.codec.latent_stride),
        base,
        base_model=weights.name,
        base_fingerprint=weights.fingerprint,
        kernel_estimator=estimator,
        timestep_regressor=regressor,
        control=control,
    )
