"""What a training run is told: one flat typed table, each value with its help and its source.

**paper** is stated in arXiv 2510.01641; **prior** comes from an earlier one-step model, arXiv
2503.06537; all else is **ours**. The command line makes its options of this table.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fidediff_model.config import ControlVariant
from trajectory_builder.errors import UsageError, shorten

Stage = Literal["base", "kernel", "control"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Source = Literal["paper", "prior", "ours"]
Precision = Literal["auto", "bf16", "fp32", "fp16"]
_IMAGES: tuple[Stage, ...] = ("base", "control")


def _setting(
    default: Any,
    meaning: str,
    source: Source = "ours",
    *,
    stages: tuple[Stage, ...] = STAGES,
    safe: bool = False,
) -> Any:
    """A field with its help; `safe` ones may change when a run is resumed."""
    told = {"help": meaning, "source": source, "stages": stages, "safe": safe}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class TrainSettings:
    """All settings of a stage. Those that a stage does not use keep their defaults."""

    # Data: see `data.DrawRules`.
    crop: int = _setting(256, "Side of the square crops, in image pixels.", "prior")
    batch: int = _setting(4, "Trajectories a batch, on each process.", safe=True)
    points: int = _setting(2, "Blurs of each trajectory in a batch.")
    identity: float = _setting(0.05, "Probability that a point is the sharp image, t = 0.")
    consistency: bool = _setting(True, "Train all points of trajectories.", "paper")
    fixed_timestep: float = _setting(200.0, "t of every blur when consistency is off.")
    augment: bool = _setting(True, "Flip and turn crops.")
    workers: int = _setting(4, "Loader processes; any number gives the same run.", safe=True)
    seed: int = _setting(0, "Of the draws and of new weights.")
    # Optimisation.
    steps: int = _setting(100_000, "Training steps.", "prior", safe=True)
    learning_rate: float = _setting(5e-5, "Of the trained part.", "prior")
    optimizer: Literal["adamw", "adamw8bit"] = _setting(
        "adamw", "adamw8bit needs bitsandbytes and a GPU.", "prior"
    )
    weight_decay: float = _setting(0.01, "Of AdamW.")
    schedule: Literal["constant", "cosine", "linear"] = _setting(
        "constant", "Of the learning rate after the warm-up."
    )
    warmup_steps: int = _setting(500, "Steps over which the learning rate rises.")
    accumulate: int = _setting(1, "Batches added up for one step.", safe=True)
    clip: float = _setting(1.0, "Greatest norm of the gradient.")
    ema: float = _setting(0.999, "Decay of the weights' moving average; 0 switches it off.")
    precision: Literal["auto", "bf16", "fp32", "fp16"] = _setting(
        "auto", "auto: bf16 on a GPU that has it, else fp32."
    )
    gradient_checkpointing: bool = _setting(False, "Less memory, a third more time.", safe=True)
    # Losses.
    l1_weight: float = _setting(1.0, "Of L1 in pixels.", "paper", stages=_IMAGES)
    perceptual: Literal["none", "lpips", "ea-lpips", "dists"] = _setting(
        "ea-lpips", "Perceptual distance; all but none need --vgg16.", "paper", stages=_IMAGES
    )
    perceptual_weight: float = _setting(2.0, "lambda1.", stages=_IMAGES)
    vgg16: str = _setting("", "VGG16 file; see `fidediff doctor`.", stages=_IMAGES, safe=True)
    gan_weight: float = _setting(0.5, "lambda2; 0 trains without D.", stages=_IMAGES)
    gan_loss: Literal["hinge", "softplus"] = _setting("hinge", "Kind of L_G.", stages=_IMAGES)
    gan_start: int = _setting(0, "First step with D.", stages=_IMAGES)
    discriminator_rate: float = _setting(5e-5, "Learning rate of D.", "prior", stages=_IMAGES)
    time_weight: float = _setting(1.0, "Of L_time.", stages=("control",))
    control_timestep: Literal["given", "estimated"] = _setting(
        "given", "t that the UNet is told while the control trains.", stages=("control",)
    )
    # What is seen and kept.
    max_train_minutes: float = _setting(0.0, "Save and stop then; 0 never.", safe=True)
    log_every: int = _setting(20, "Steps between lines of log.jsonl.")
    save_every: int = _setting(1000, "Steps between checkpoints.", safe=True)
    keep: int = _setting(3, "Checkpoints kept.", safe=True)
    validate_every: int = _setting(2000, "Steps between validations; 0 never.")
    validation_split: str = _setting("auto", "Split held out; auto: validation where it exists.")
    validation_trajectories: int = _setting(16, "Trajectories of it that are scored.")
    validation_points: int = _setting(3, "Blurs of each, for the trajectory gap.")
    tensorboard: bool = _setting(True, "Write tensorboard/ too.", safe=True)

    def __post_init__(self) -> None:
        _check(self)


SPECIAL_DEFAULTS: dict[Stage, dict[str, Any]] = {
    "base": {},
    # M is a plain network trained from nothing.
    "kernel": {"learning_rate": 1e-4},
    "control": {},
}
"""Defaults of a stage that differ from the table, all ours."""


def _check(s: TrainSettings) -> None:
    for name in ("crop", "batch", "points", "steps", "accumulate", "log_every", "save_every"):
        _need(getattr(s, name) >= 1, name, "1 or more")
    for name in ("keep", "validation_trajectories", "validation_points"):
        _need(getattr(s, name) >= 1, name, "1 or more")
    for name in ("workers", "warmup_steps", "validate_every", "gan_start", "seed", "gan_weight"):
        _need(getattr(s, name) >= 0, name, "0 or more")
    _need(s.learning_rate > 0 and s.discriminator_rate > 0, "learning_rate", "above 0")
    _need(s.clip > 0, "clip", "above 0")
    _need(0 <= s.ema < 1, "ema", "from 0 to below 1")
    _need(0 <= s.identity <= 1, "identity", "from 0 to 1")
    _need(0 <= s.fixed_timestep <= 999, "fixed_timestep", "in [0, 999]")
    if s.precision == "fp16":
        raise UsageError(
            "training in fp16 is not offered",
            where="precision: two optimizers would share one loss scale, and each clipping of"
            " gradients would unscale both",
            cure="give bf16 or fp32",
        )


def _need(holds: bool, name: str, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name} cannot have that value", where=name, cure=f"give {allowed}")


def of_stage(stage: Stage) -> list[Field[Any]]:
    """The fields that a stage uses, in the order of the table."""
    return [f for f in fields(TrainSettings) if stage in f.metadata["stages"]]


def defaults(stage: Stage) -> TrainSettings:
    """The settings of a stage when nothing is given."""
    return replace(TrainSettings(), **SPECIAL_DEFAULTS[stage])


def merged(settings: TrainSettings, values: Mapping[str, Any], *, where: str) -> TrainSettings:
    """Settings with some values replaced.

    Raises:
        UsageError: a name that is no setting, or a value of another kind or range.
    """
    known = {f.name: f for f in fields(TrainSettings)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(
            f"unknown settings: {shorten(unknown)}",
            where=where,
            cure="see `fidediff train base --help` for the names, with _ for -",
        )
    hints = get_type_hints(TrainSettings)
    return replace(settings, **{k: _typed(k, v, hints[k], where) for k, v in values.items()})


def _typed(name: str, value: Any, kind: Any, where: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        raise TypeError("settings have one type each")
    if get_origin(kind) is Literal:
        fits = value in get_args(kind)
    elif kind is float:
        fits = type(value) in (int, float)
        value = float(value) if fits else value
    else:
        fits = type(value) is kind
    if not fits:
        wanted = " or ".join(map(str, get_args(kind))) or kind.__name__
        raise UsageError(f"{name} cannot be {value!r}", where=where, cure=f"give {wanted}")
    return value


def to_dict(settings: TrainSettings) -> dict[str, Any]:
    """As plain values, for YAML."""
    return asdict(settings)


def is_safe(name: str) -> bool:
    """Whether a setting may differ when a run is resumed."""
    found = {f.name: f for f in fields(TrainSettings)}.get(name)
    return found is not None and bool(found.metadata["safe"])


def default_of(setting: Field[Any], stage: Stage) -> Any:
    """A setting's default in a stage."""
    if setting.default is MISSING:
        raise TypeError(f"{setting.name} has no default")
    return SPECIAL_DEFAULTS[stage].get(setting.name, setting.default)


__all__ = [
    "STAGES",
    "ControlVariant",
    "Stage",
    "TrainSettings",
    "UsageError",
    "default_of",
    "defaults",
    "is_safe",
    "merged",
    "of_stage",
    "to_dict",
]
