"""The base: a pre-trained UNet with a low-rank update and a learnable prompt embedding.

FideDiff (arXiv 2510.01641) keeps the weights of Stable Diffusion 2.1, adds LoRA to the UNet and
learns the text embedding. Which layers, rank and alpha are not published and so are settings.
Only LoRA and the prompt train, always in float32: at a rate of 5e-5 bfloat16 does not move.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fidediff_model.errors import WeightsError
from fidediff_model.model.folder import refuse_not_finite
from fidediff_model.weights.sd21 import cast, seeded
from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import UsageError, shorten

LORA_FILE = "pytorch_lora_weights.safetensors"
PROMPT_FILE = "prompt.safetensors"
Residuals = tuple[list[Tensor], Tensor]
"""What a ControlNet adds to the UNet: twelve maps for the skips, one for the middle."""


def refuse_lora(unet: Any, wanted_for: str) -> None:
    """Raise `WeightsError` unless the UNet is clean: a copy would silently carry the update."""
    if getattr(unet, "peft_config", None):
        raise WeightsError(
            f"the UNet already carries LoRA and cannot give its encoder to {wanted_for}",
            where="unet",
            cure="build it from a freshly loaded UNet, before LoraUNet",
        )


class LoraUNet(nn.Module):
    """eps_hat(z_t, t): diffusers' UNet with LoRA of its own and the prompt that it reads.

    Args:
        unet: a clean `UNet2DConditionModel`; LoRA is put into it in place and the rest is frozen.
        prompt: (1, tokens, width), where the text embedding starts.
        rank: of the update.
        alpha: the update is scaled by alpha / rank.
        targets: endings of the names of layers that get an update.
        learn_prompt: train the prompt (paper) or leave it as it is.
        seed: of LoRA's random half; the other half is zero, so the UNet starts unchanged.

    Raises:
        UsageError: an ending that no layer has.
        WeightsError: the UNet carries LoRA already.
    """

    def __init__(
        self,
        unet: Any,
        prompt: Tensor,
        *,
        rank: int,
        alpha: int,
        targets: tuple[str, ...],
        learn_prompt: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_lora(unet, "LoraUNet")
        _check_targets(unet, targets)
        peft: Any = import_module("peft")
        self.settings = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(targets)}
        # W stays; the layer becomes W + (alpha / r) B A, with B = 0 at the start.
        unet.requires_grad_(False)
        with seeded(seed):
            unet.add_adapter(peft.LoraConfig(**self.settings, init_lora_weights="gaussian"))
        self.unet = unet
        # The learnable embedding takes the text encoder's place; there is one for all images.
        self.prompt = nn.Parameter(prompt.detach().float().clone(), requires_grad=learn_prompt)
        self.fused = False
        self.widen_trained()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen weights."""
        # peft wraps a layer that it updates; the frozen weight is then its base layer's.
        conv = self.unet.conv_in
        weight: Tensor = getattr(conv, "base_layer", conv).weight
        return weight.dtype

    def widen_trained(self) -> None:
        """Bring LoRA and prompt back to float32, after a cast of the model."""
        # bfloat16 has 8 bits of mantissa: an AdamW step of 5e-5 would round to nothing.
        for name, parameter in self.unet.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        self.prompt.data = self.prompt.data.float()

    def lora_parameters(self) -> list[nn.Parameter]:
        """The tensors of the update, in a fixed order; empty once fused."""
        return [p for name, p in self.unet.named_parameters() if "lora_" in name]

    def forward(self, z_t: Tensor, t: Tensor, residuals: Residuals | None = None) -> Tensor:
        """eps_hat (B, 4, h, w), in the type of the frozen weights or of autocast.

        Args:
            z_t: latent of the blur (B, 4, h, w); enters as it is, no noise is added.
            t: (B,) float32 in [0, 999]; bfloat16 would round 281.3 to 282.
            residuals: what a ControlNet adds; None leaves the UNet alone.
        """
        dtype = self.dtype
        extra: dict[str, Any] = {}
        # A ControlNet's outputs are added to the encoder's skips and to the middle block.
        if residuals is not None:
            down, middle = residuals
            extra["down_block_additional_residuals"] = [r.to(dtype) for r in down]
            extra["mid_block_additional_residual"] = middle.to(dtype)
        prompt = self.prompt.to(dtype).expand(z_t.shape[0], -1, -1)  # (1, T, C) -> (B, T, C)
        eps_hat: Tensor = self.unet(
            z_t.to(dtype), t.float(), encoder_hidden_states=prompt, return_dict=False, **extra
        )[0]
        return eps_hat

    def fuse(self) -> None:
        """Add the update to the frozen weights in float32 and drop it; cannot be undone.

        Outputs change by float rounding only (below 1e-4 relative). The fused base is for
        inference: it has nothing to train and `save` refuses it.
        """
        if self.fused:
            return
        dtype = self.dtype
        # W + (alpha / r) B A in half precision would lose the small update beside the large W.
        cast(self.unet, torch.float32)
        self.unet.fuse_lora()
        self.unet.unload_lora()
        self.unet.requires_grad_(False)
        cast(self.unet, dtype)
        self.fused = True

    def save(self, folder: Path) -> None:
        """Write the update and the prompt into an existing folder.

        The update is in diffusers' own format with rank and alpha in its header, so that
        `StableDiffusionPipeline.load_lora_weights(folder)` and
        `unet.load_lora_adapter(folder, prefix="unet", weight_name=...)` take it as it is.

        Raises:
            WeightsError: the update was fused.
        """
        from safetensors.torch import save_file

        if self.fused:
            raise WeightsError(
                "the LoRA was fused and can no longer be saved",
                where=str(folder),
                cure="save before fusing, or load the model again",
            )
        peft: Any = import_module("peft")
        tensors = peft.get_peft_model_state_dict(self.unet)
        # diffusers before 0.40 fails on a header without the ranks that differ; none does.
        settings = self.settings | {"rank_pattern": {}}
        header = {f"unet.{key}": value for key, value in settings.items()}
        save_file(
            {f"unet.{k}": v.detach().cpu().contiguous() for k, v in tensors.items()},
            folder / LORA_FILE,
            metadata={"format": "pt", "lora_adapter_metadata": json.dumps(header, sort_keys=True)},
        )
        prompt = self.prompt.detach().cpu().contiguous()
        save_file({"prompt": prompt}, folder / PROMPT_FILE, metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into a base of the same settings; bit for bit.

        Raises:
            WeightsError: a file is missing or contains another update.
        """
        # Names and shapes first: peft drops what does not fit without an error.
        tensors = {k.removeprefix("unet."): v for k, v in _read(folder / LORA_FILE).items()}
        peft: Any = import_module("peft")
        own = {k: v.shape for k, v in peft.get_peft_model_state_dict(self.unet).items()}
        found = {k: v.shape for k, v in tensors.items()}
        if own != found:
            wrong = sorted(k for k in own.keys() | found.keys() if own.get(k) != found.get(k))
            raise WeightsError(
                f"the LoRA file is of other settings, {len(wrong):,} tensors differ: "
                f"{shorten(wrong, at_most=2)}",
                where=str(folder / LORA_FILE),
                cure="load it with the config.json that it was saved with",
            )
        refuse_not_finite(tensors, folder / LORA_FILE)
        peft.set_peft_model_state_dict(self.unet, tensors, adapter_name="default")
        prompt = _read(folder / PROMPT_FILE).get("prompt", torch.empty(0))
        if prompt.shape != self.prompt.shape:
            raise WeightsError(
                f"the prompt has shape {tuple(prompt.shape)}, not {tuple(self.prompt.shape)}",
                where=str(folder / PROMPT_FILE),
                cure="load it with the config.json that it was saved with",
            )
        refuse_not_finite({"prompt": prompt}, folder / PROMPT_FILE)
        self.prompt.data = prompt.float().to(self.prompt.device)


def _check_targets(unet: Any, targets: tuple[str, ...]) -> None:
    """peft takes a list of which only some endings match without a word; we do not."""
    names = [n for n, m in unet.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    idle = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in names)]
    if idle or not targets:
        raise UsageError(
            f"no layer of the UNet is named {shorten(idle) or '(nothing)'}",
            where="lora.targets",
            cure="give endings of layer names, such as to_q,to_v,conv1",
        )


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        open_regular(file).close()  # a pipe in its place would hang the loader
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{file.name} is missing or damaged", where=str(file), cure="copy the folder again"
        ) from error
