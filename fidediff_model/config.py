"""What a model is made of: plain frozen objects, the presets `tiny` and `sd21`, and their JSON.

Only `model.build` and the command line see these objects; the parts themselves take flat values.
Where each value comes from stands in `SOURCES`: **paper** (arXiv 2510.01641 or its public reviews),
**prior** (an earlier one-step model, arXiv 2503.06537, or the SD 2.1-base weights), or **ours**.
"""

from __future__ import annotations

import json
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trajectory_builder.errors import UsageError, shorten

ControlVariant = Literal["none", "vanilla", "addition", "align", "filter"]
PromptStart = Literal["empty", "normal"]
LORA_TARGETS = (
    "to_q,to_k,to_v,to_out.0,proj_in,proj_out,ff.net.0.proj,ff.net.2,"
    "conv1,conv2,conv,conv_shortcut,conv_in,conv_out,time_emb_proj"
)


@dataclass(frozen=True)
class BaseConfig:
    """The pre-trained latent diffusion model: a UNet and an f8 VAE of Stable Diffusion's structure.

    `unet_heads` is the number of attention heads of each level (diffusers calls it
    `attention_head_dim`). Widths keep the ratio 1:2:4:4: others drop or add layers.
    """

    unet_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    unet_heads: tuple[int, ...] = (5, 10, 20, 20)
    unet_groups: int = 32
    prompt_width: int = 1024
    prompt_tokens: int = 77
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_groups: int = 32


@dataclass(frozen=True)
class LoraConfig:
    """The low-rank update of the UNet; `targets` are endings of layer names, joined by commas."""

    rank: int = 16
    alpha: int = 16
    targets: str = LORA_TARGETS


@dataclass(frozen=True)
class PromptConfig:
    """The text embedding (1, tokens, width): learnt or fixed, and where it starts.

    `empty` is the text encoder's output for the empty prompt; `normal` is seeded noise of
    deviation 0.02, the only choice for a random base, which has no text encoder.
    """

    learn: bool = True
    start: PromptStart = "empty"


@dataclass(frozen=True)
class CodecConfig:
    """Between images and latents: `latent_stride` (4 or 8) image pixels for one latent cell."""

    latent_stride: int = 4


@dataclass(frozen=True)
class KernelConfig:
    """The kernel estimator M: `kernel_size` m, and the widths of its levels."""

    kernel_size: int = 19
    channels: tuple[int, ...] = (32, 64, 128, 256)


@dataclass(frozen=True)
class TimestepConfig:
    """The timestep regressor T: the widths of its levels."""

    channels: tuple[int, ...] = (64, 128, 256)


@dataclass(frozen=True)
class ControlConfig:
    """What steers the UNet by the blur kernels.

    `variant` is a row of the ablation; `channels` the width of the block before the ControlNet;
    `points` the samples that `align` takes; `condition_channels` the stock embedding of `vanilla`.
    """

    variant: ControlVariant = "filter"
    channels: int = 64
    points: int = 9
    condition_channels: tuple[int, ...] = (16, 32, 96, 256)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator's heads, and whether the encoder under them is trained with them."""

    head_channels: int = 256
    train_encoder: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides a model's structure. A model folder's `config.json` holds it."""

    preset: str = "sd21"
    base: BaseConfig = field(default_factory=BaseConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    kernel: KernelConfig = field(default_factory=KernelConfig)
    timestep: TimestepConfig = field(default_factory=TimestepConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        check(self)


SOURCES: dict[str, tuple[str, str]] = {
    "preset": ("ours", "name of the preset that the values started from"),
    "base.unet_channels": ("paper", "SD 2.1; published UNet config, 865.9 M parameters"),
    "base.unet_heads": ("paper", "SD 2.1; published UNet config, 64 channels a head"),
    "base.unet_groups": ("paper", "SD 2.1; published UNet config"),
    "base.prompt_width": ("paper", "SD 2.1; width of its text encoder"),
    "base.prompt_tokens": ("paper", "SD 2.1; length of its text encoder's input"),
    "base.vae_channels": ("paper", "SD 2.1; published VAE config, 83.7 M parameters"),
    "base.vae_groups": ("paper", "SD 2.1; published VAE config"),
    "lora.rank": ("prior", "arXiv 2503.06537; not published for FideDiff"),
    "lora.alpha": ("prior", "arXiv 2503.06537; not published for FideDiff"),
    "lora.targets": ("prior", "attention, convolution and projection layers, arXiv 2503.06537"),
    "prompt.learn": ("paper", "a learnable text embedding beats fixed ones"),
    "prompt.start": ("ours", "not published"),
    "codec.latent_stride": ("paper", "4 beats 8: PSNR 27.77 against 26.26 in its ablation"),
    "kernel.kernel_size": ("ours", "m is not published; 19 is usual for 720p kernels"),
    "kernel.channels": ("ours", "not published"),
    "timestep.channels": ("ours", "not published"),
    "control.variant": ("paper", "the filter is its best: 28.79 dB; the others are its ablation"),
    "control.channels": ("ours", "not published"),
    "control.points": ("ours", "of the variant align; not published"),
    "control.condition_channels": ("prior", "ControlNet's stock embedding"),
    "discriminator.head_channels": ("ours", "'a few conv blocks', sizes not published"),
    "discriminator.train_encoder": ("ours", "not published; a frozen encoder needs no optimizer"),
}
"""Where the values of `sd21` come from: dotted name -> (paper, prior or ours; a sentence)."""


def check(config: ModelConfig) -> None:
    """Refuse values that no model can be built from.

    Raises:
        UsageError: naming the setting and the values it may have.
    """
    base, kernel, control = config.base, config.kernel, config.control
    _need(config.codec.latent_stride in (4, 8), "codec.latent_stride", "4 or 8")
    _need(
        kernel.kernel_size % 2 == 1 and kernel.kernel_size >= 3, "kernel.kernel_size", "odd, >= 3"
    )
    _need(
        control.variant in get_args(ControlVariant),
        "control.variant",
        str(get_args(ControlVariant)),
    )
    _need(config.prompt.start in get_args(PromptStart), "prompt.start", str(get_args(PromptStart)))
    _need(config.lora.rank >= 1, "lora.rank", "1 or more")
    _need(bool(config.lora.targets.strip(", ")), "lora.targets", "endings of layer names")
    _need(len(base.unet_channels) == len(base.unet_heads) == 4, "base.unet_channels", "4 levels")
    _need(len(base.vae_channels) == 4, "base.vae_channels", "4 levels, so that the VAE is f8")
    for name, widths, groups in (
        ("base.unet_channels", base.unet_channels, base.unet_groups),
        ("base.vae_channels", base.vae_channels, base.vae_groups),
    ):
        _need(groups > 0 and all(w % groups == 0 for w in widths), name, f"multiples of {groups}")
    ratios = tuple(w / base.unet_channels[0] for w in base.unet_channels)
    _need(ratios == (1, 2, 4, 4), "base.unet_channels", "in the ratio 1:2:4:4 of SD 2.1")


def _need(holds: bool, name: str, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name} cannot have that value", where=name, cure=f"give {allowed}")


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
}


def preset(name: str) -> ModelConfig:
    """The preset of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name}", cure=f"choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def settings_of(config: ModelConfig, part: str) -> dict[str, Any]:
    """What a part (`kernel_estimator`, `timestep_regressor`, `control`) is built with."""
    if part == "kernel_estimator":
        return asdict(config.kernel)
    if part == "timestep_regressor":
        return {"kernel_size": config.kernel.kernel_size, **asdict(config.timestep)}
    return asdict(config.control)


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """The config as plain nested values, tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def to_json(config: ModelConfig) -> str:
    """The config as indented JSON that a person can read and edit."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_json(text: str, *, where: str = "config") -> ModelConfig:
    """Read what `to_json` wrote.

    Raises:
        UsageError: not JSON, a key that is unknown or missing, a value of another kind.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"not JSON: {error}", where=where, cure="mend the file") from error
    return from_dict(values, where=where)


def from_dict(values: Any, *, where: str = "config") -> ModelConfig:
    """Make a config of what `to_dict` gave. Raises `UsageError` as `from_json` does."""
    config: ModelConfig = _object(ModelConfig, values, where=where)
    return config


def _object(kind: type[Any], values: Any, *, where: str) -> Any:
    if not isinstance(values, dict):
        raise UsageError("not a table of settings", where=where, cure="give name: value pairs")
    names = {f.name for f in fields(kind)}
    for what, wrong in (("unknown", set(values) - names), ("missing", names - set(values))):
        if wrong:
            raise UsageError(
                f"{what} settings: {shorten(sorted(wrong))}",
                where=where,
                cure="use the release that wrote it, or mend the names",
            )
    hints = get_type_hints(kind)
    return kind(**{n: _value(hints[n], values[n], where=f"{where}.{n}") for n in sorted(names)})


def _value(kind: Any, value: Any, *, where: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, value, where=where)
    if get_origin(kind) is Literal:
        fits = value in get_args(kind)
    elif get_origin(kind) is tuple:
        fits = isinstance(value, list) and all(type(v) is int for v in value)
        value = tuple(value) if fits else value
    elif get_origin(kind) in (Union, types.UnionType):
        fits = type(value) in get_args(kind)
    else:
        fits = type(value) is kind
    if not fits:
        raise UsageError(f"{value!r} is not fit for {where}", where=where, cure=f"give {kind}")
    return value
