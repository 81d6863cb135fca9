"""What a model is made of: frozen dataclasses, the source of each value, and their JSON.

Only `model.build` and the command line see these objects; the parts themselves take flat values.
`SOURCES` says where each value comes from: **paper** (arXiv 2510.01641 or its public reviews),
**prior** (an earlier one-step model, arXiv 2503.06537, or the SD 2.1-base weights), or **ours**.
`read` and `changed` serve every config dataclass, those of training too.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from trajectory_builder.errors import UsageError, shorten

ControlVariant = Literal["none", "vanilla", "addition", "align", "filter"]
PromptStart = Literal["empty", "normal"]
C = TypeVar("C")  # a config dataclass
LORA_TARGETS = (
    "to_q,to_k,to_v,to_out.0,proj_in,proj_out,ff.net.0.proj,ff.net.2,"
    "conv1,conv2,conv,conv_shortcut,conv_in,conv_out,time_emb_proj"
)


@dataclass(frozen=True)
class BaseConfig:
    """The pre-trained latent diffusion model: a UNet and an f8 VAE of Stable Diffusion's structure.

    Widths keep the ratio 1:2:4:4: others drop or add layers.

    Attributes:
        unet_channels: widths of the UNet's levels.
        unet_heads: attention heads of each level (diffusers calls it `attention_head_dim`).
        unet_groups: groups of its group norms.
        prompt_width: numbers per token of the text embedding.
        prompt_tokens: tokens of the text embedding.
        vae_channels: widths of the VAE's levels; each level after the first halves the size.
        vae_groups: groups of its group norms.
        latent_channels: c, numbers per latent cell.
        unet_attention: the levels with attention, 0 the finest.
        vae_patch: side in pixels of the cells that the VAE reads as channels; its stride is
            vae_patch x 2^(levels - 1).
        starts_as_identity: eps_hat is the UNet's output plus the eps that leaves z_t as it is,
            so that a UNet whose output is 0 returns its input. For UNets trained from scratch.
    """

    unet_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    unet_heads: tuple[int, ...] = (5, 10, 20, 20)
    unet_groups: int = 32
    prompt_width: int = 1024
    prompt_tokens: int = 77
    vae_channels: tuple[int, ...] = (128, 256, 512, 512)
    vae_groups: int = 32
    latent_channels: int = 4
    unet_attention: tuple[int, ...] = (0, 1, 2)
    vae_patch: int = 1
    starts_as_identity: bool = False

    @property
    def vae_stride(self) -> int:
        """Pixels that the VAE takes for one latent cell, 8 in Stable Diffusion."""
        return int(self.vae_patch * 2 ** (len(self.vae_channels) - 1))


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
    """How the blur kernels steer the UNet.

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
    """Everything that decides a model's structure. A model folder's `config.json` contains it."""

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
    "base.unet_heads": ("paper", "SD 2.1; published UNet config, 64 channels per head"),
    "base.unet_groups": ("paper", "SD 2.1; published UNet config"),
    "base.prompt_width": ("paper", "SD 2.1; width of its text encoder"),
    "base.prompt_tokens": ("paper", "SD 2.1; length of its text encoder's input"),
    "base.vae_channels": ("paper", "SD 2.1; published VAE config, 83.7 M parameters"),
    "base.vae_groups": ("paper", "SD 2.1; published VAE config"),
    "base.latent_channels": ("paper", "SD 2.1; published VAE config"),
    "base.unet_attention": ("paper", "SD 2.1; published UNet config"),
    "base.vae_patch": ("paper", "SD 2.1; its VAE reads pixels"),
    "base.starts_as_identity": ("paper", "SD 2.1; its UNet predicts eps itself"),
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

ADDED_LATER = {"latent_channels", "unet_attention", "vae_patch", "starts_as_identity"}
"""Fields that older model folders lack; they mean the defaults."""


def check(config: ModelConfig) -> None:
    """Refuse values that no model can be built from.

    Raises:
        UsageError: naming the setting and the values it may have.
    """
    base, kernel, control = config.base, config.kernel, config.control
    need(config.codec.latent_stride in (4, 8), "codec.latent_stride", "4 or 8")
    need(kernel.kernel_size % 2 == 1, "kernel.kernel_size", "an odd number")
    need(
        control.variant in get_args(ControlVariant),
        "control.variant",
        str(get_args(ControlVariant)),
    )
    need(config.prompt.start in get_args(PromptStart), "prompt.start", str(get_args(PromptStart)))
    need(bool(config.lora.targets.strip(", ")), "lora.targets", "endings of layer names")
    need(len(base.unet_channels) == len(base.unet_heads) == 4, "base.unet_channels", "4 levels")
    check_bounds(config)
    wanted = 8 if base.vae_patch == 1 else config.codec.latent_stride
    need(base.vae_stride == wanted, "base.vae_channels", "4 levels, so that the VAE is f8")
    need(set(base.unet_attention) <= {0, 1, 2, 3}, "base.unet_attention", "levels from 0 to 3")
    for name, widths, groups in (
        ("base.unet_channels", base.unet_channels, base.unet_groups),
        ("base.vae_channels", base.vae_channels, base.vae_groups),
    ):
        need(groups > 0 and all(w % groups == 0 for w in widths), name, f"multiples of {groups}")
    heads = zip(base.unet_channels, base.unet_heads, strict=True)
    need(all(w % h == 0 for w, h in heads), "base.unet_heads", "divisors of base.unet_channels")
    ratios = tuple(w / base.unet_channels[0] for w in base.unet_channels)
    need(ratios == (1, 2, 4, 4), "base.unet_channels", "in the ratio 1:2:4:4 of SD 2.1")


BOUNDS: dict[str, tuple[int, int]] = {
    "base.unet_channels": (1, 2560),
    "base.unet_heads": (1, 256),
    "base.unet_groups": (1, 256),
    "base.prompt_width": (1, 4096),
    "base.prompt_tokens": (2, 1024),
    "base.vae_channels": (1, 2048),
    "base.vae_groups": (1, 256),
    "base.latent_channels": (1, 256),
    "base.vae_patch": (1, 8),
    "lora.rank": (1, 1024),
    "lora.alpha": (1, 100_000),
    "kernel.kernel_size": (3, 99),
    "kernel.channels": (1, 1024),
    "timestep.channels": (1, 1024),
    "control.channels": (1, 1024),
    "control.points": (1, 1024),
    "control.condition_channels": (1, 1024),
    "discriminator.head_channels": (1, 4096),
}
"""Least and largest numbers, several times those of SD 2.1 and of our presets: a config that asks
for a million channels would fill the memory before a weight is read."""
MOST_LEVELS = 8


def check_bounds(config: ModelConfig) -> None:
    """Refuse numbers outside `BOUNDS`. Raises `UsageError` as `check` does."""
    for dotted, (least, most) in BOUNDS.items():
        group, _, name = dotted.partition(".")
        value = getattr(getattr(config, group), name)
        numbers = value if isinstance(value, tuple) else (value,)
        fits = all(least <= number <= most for number in numbers)
        wanted = f"from {least} to {most:,}" + ("" if numbers is not value else ", 1 to 8 of them")
        need(fits and 1 <= len(numbers) <= MOST_LEVELS, dotted, wanted)


def need(allows: bool, name: str, allowed: str) -> None:
    """Raise `UsageError` unless a setting's value is allowed."""
    if not allows:
        raise UsageError(f"{name} cannot have that value", where=name, cure=f"give {allowed}")


def settings_of(config: ModelConfig, part: str) -> dict[str, Any]:
    """Constructor arguments of a part: `kernel_estimator`, `timestep_regressor` or `control`."""
    if part == "kernel_estimator":
        return asdict(config.kernel)
    if part == "timestep_regressor":
        return {"kernel_size": config.kernel.kernel_size, **asdict(config.timestep)}
    return asdict(config.control)


def to_dict(config: Any) -> dict[str, object]:
    """A config dataclass as plain nested values, tuples as lists."""
    plain: dict[str, object] = json.loads(json.dumps(asdict(config)))
    return plain


def to_json(config: ModelConfig) -> str:
    """The config as indented JSON that a person can read and edit."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_dict(values: object, *, where: str = "config") -> ModelConfig:
    """The config that `to_dict` returned. Raises `UsageError` as `read` does."""
    return read(ModelConfig, values, where=where)


def read(kind: type[C], values: object, *, where: str) -> C:
    """A config dataclass of `kind` from plain nested values.

    Every field must be there, except those of `ADDED_LATER`.

    Raises:
        UsageError: not a table, a key that is unknown or missing, a value of another kind.
    """
    if not isinstance(values, dict):
        raise UsageError("not a table of settings", where=where, cure="give name: value pairs")
    hints = get_type_hints(kind)
    absent = set(hints) - set(values) - ADDED_LATER
    for what, wrong in (("unknown", set(values) - set(hints)), ("missing", absent)):
        if wrong:
            raise UsageError(
                f"{what} settings: {shorten(sorted(wrong))}",
                where=where,
                cure="use the release that wrote it, or fix the names",
            )
    present = [name for name in hints if name in values]
    return kind(**{name: _typed(hints[name], values[name], f"{where}.{name}") for name in present})


def changed(config: C, values: Mapping[str, object], *, where: str) -> C:
    """A copy of a config dataclass with some values replaced; dotted names reach nested ones.

    Args:
        config: gives all other values.
        values: such as {"kernel.kernel_size": 11}; lists mean tuples.
        where: the file or command line that they come from, for errors.

    Raises:
        UsageError: an unknown name, for which the nearest is suggested, or a value of another kind
            or range.
    """
    known = leaves(config)
    for name in values:
        if name not in known:
            raise unknown_setting(name, known, where)
    return _with(config, {n: _typed(known[n], v, f"{where}: {n}") for n, v in values.items()})


def _with(config: C, values: Mapping[str, Any]) -> C:
    """A copy of a config with values replaced by dotted name, checked once all are in place."""
    top: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for dotted, value in values.items():
        name, _, rest = dotted.partition(".")
        if rest:
            groups.setdefault(name, {})[rest] = value
        else:
            top[name] = value
    nested = {name: _with(getattr(config, name), inner) for name, inner in groups.items()}
    copy: C = replace(cast(Any, config), **top, **nested)
    return copy


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all values of a config dataclass -> their types."""
    kinds: dict[str, Any] = {}
    for name, hint in get_type_hints(type(config)).items():
        inner = getattr(config, name)
        nested = leaves(inner, f"{prefix}{name}.") if is_dataclass(inner) else {prefix + name: hint}
        kinds |= nested
    return kinds


def unknown_setting(name: str, known: Iterable[str], where: str) -> UsageError:
    """The error for a name that is none of `known`, with the nearest of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return UsageError(
        f"unknown setting: {name}",
        where=where,
        cure=f"give {near[0]}" if near else f"give one of {', '.join(sorted(known))}",
    )


def _typed(kind: Any, value: object, where: str) -> Any:
    """`value` as `kind` wants it: a number may be an integer, a list means a tuple."""
    if is_dataclass(kind) and isinstance(kind, type):
        return read(kind, value, where=where)
    if get_origin(kind) is Literal:
        fits, wanted = value in get_args(kind), " or ".join(map(str, get_args(kind)))
    elif get_origin(kind) is tuple:
        fits, wanted = _is_integers(value), "a list of integers, such as [8, 16]"
        value = tuple(value) if isinstance(value, list | tuple) else value
    elif kind is float:
        value = _number(value)
        fits, wanted = type(value) is float, "a number"
    else:
        fits = type(value) is kind
        wanted = {int: "an integer", bool: "true or false", str: "text"}.get(kind, str(kind))
    if not fits:
        name = where.rpartition(": ")[2]
        raise UsageError(f"{name} cannot be {value!r}", where=where, cure=f"give {wanted}")
    return value


def _number(value: object) -> object:
    """A number as float, anything else as it is."""
    # bool is a kind of int to Python; YAML 1.1 reads 1e-4, without a point, as text.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(value)
    return value


def _is_integers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(v) is int for v in value)
