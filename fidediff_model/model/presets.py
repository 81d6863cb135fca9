"""The named, complete model configurations: `sd21`, `tiny` and `small`."""

from __future__ import annotations

from fidediff_model.config import (
    BaseConfig,
    ControlConfig,
    DiscriminatorConfig,
    KernelConfig,
    LoraConfig,
    ModelConfig,
    PromptConfig,
    TimestepConfig,
)
from trajectory_builder.errors import UsageError

PRESETS: dict[str, ModelConfig] = {
    "sd21": ModelConfig(),
    # The same classes and the same 686 UNet tensors at 1/40 of the width; every value ours.
    "tiny": ModelConfig(
        preset="tiny",
        base=BaseConfig(
            unet_channels=(8, 16, 32, 32),
            unet_heads=(1, 2, 4, 4),
            unet_groups=4,
            prompt_width=8,
            vae_channels=(8, 16, 16, 16),
            vae_groups=1,  # so that a practice base can begin as a linear codec
        ),
        lora=LoraConfig(rank=4, alpha=4),
        prompt=PromptConfig(start="normal"),
        kernel=KernelConfig(channels=(8, 16, 16)),
        timestep=TimestepConfig(channels=(8, 16)),
        control=ControlConfig(channels=8, condition_channels=(4, 4, 8, 8)),
        discriminator=DiscriminatorConfig(head_channels=8),
    ),
    # Trained from nothing on generated scenes and shipped; every value ours. The VAE begins as a
    # linear codec of 32 numbers for 48 (4 x 4 pixels): SD's 4 numbers need SD's large VAE.
    "small": ModelConfig(
        preset="small",
        base=BaseConfig(
            unet_channels=(32, 64, 128, 128),
            unet_heads=(1, 2, 4, 4),
            unet_groups=8,
            prompt_width=8,
            prompt_tokens=4,
            vae_channels=(66,),  # a pair of channels for each latent, and one of constants
            vae_groups=1,
            latent_channels=32,
            unet_attention=(2,),  # at the finer levels attention takes 3/4 of a CPU's time
            vae_patch=4,
            starts_as_identity=True,
        ),
        lora=LoraConfig(rank=8, alpha=8),
        prompt=PromptConfig(start="normal"),
        kernel=KernelConfig(channels=(16, 32, 64)),
        timestep=TimestepConfig(channels=(32, 64)),
        control=ControlConfig(channels=32, condition_channels=(4, 8, 16)),
        discriminator=DiscriminatorConfig(head_channels=32),
    ),
}


def preset(name: str) -> ModelConfig:
    """Return the preset called `name`.

    Raises:
        UsageError: no preset has that name.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name}", cure=f"choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
