"""What decides a training run: its settings, and config.yaml, in which a run folder keeps them.

Settings are one flat typed table, each with its help and its source: **paper** is stated in arXiv
2510.01641, **prior** comes from an earlier one-step model, arXiv 2503.06537, all else is **ours**.
The command line makes its options from this table.

    RUN/config.yaml   written before the first step
    RUN/log.jsonl  RUN/speed.jsonl  RUN/tensorboard/  RUN/panels/
    RUN/checkpoints/step-000000/   the newest few
    RUN/model/        the best by validation, or the last; what the next stage starts from
    RUN/model-last/   the last
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from fidediff_model import config as model_config
from fidediff_model.config import ModelConfig, need
from trajectory_builder.disk import atomic
from trajectory_builder.disk.ownership import differences, other_config_error
from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.disk.strict_yaml import parse_yaml
from trajectory_builder.errors import ExitCode, UsageError

Stage = Literal["base", "kernel", "control"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Source = Literal["paper", "prior", "ours"]
Precision = Literal["auto", "bf16", "fp32", "fp16"]
_IMAGES: tuple[Stage, ...] = ("base", "control")
CONFIG = "config.yaml"
MAX_BYTES = 1 << 20
"""Larger files of settings are not read."""
VERSION = 1
_HEAD = """\
# What this run was started with. To continue it: fidediff train {stage} --run-dir THIS --resume
# `fidediff train {stage} --help` marks the values that are from the paper or from prior work.
"""


def _setting(
    default: Any,
    meaning: str,
    source: Source = "ours",
    *,
    stages: tuple[Stage, ...] = STAGES,
    safe: bool = False,
) -> Any:
    """A field with its help; `safe` ones may change when a run is resumed."""
    metadata = {"help": meaning, "source": source, "stages": stages, "safe": safe}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainSettings:
    """All settings of a stage. Those that a stage does not use keep their defaults."""

    # Data: see `data.DrawRules`.
    crop: int = _setting(256, "Side of the square crops, in image pixels.", "prior")
    batch: int = _setting(4, "Trajectories per batch, on each process.", safe=True)
    points: int = _setting(2, "Blurs of each trajectory in a batch.")
    identity: float = _setting(0.05, "Probability that a point is the sharp image, t = 0.")
    points_of: Literal["all", "native"] = _setting(
        "all", "Draw from all blurs of a trajectory, or its native one.", "paper"
    )
    timestep_of: Literal["given", "fixed"] = _setting(
        "given", "t of a blur: the manifest's, or always the same.", "paper"
    )
    fixed_timestep: float = _setting(200.0, "t of every blur with --timestep-of fixed.")
    augment: bool = _setting(True, "Flip and turn crops.")
    workers: int = _setting(4, "Loader processes; any number gives the same run.", safe=True)
    seed: int = _setting(0, "Seed of the draws and of new weights.")
    # Optimisation.
    steps: int = _setting(100_000, "Training steps.", "prior", safe=True)
    learning_rate: float = _setting(5e-5, "Learning rate of the trained weights.", "prior")
    new_rate_factor: float = _setting(
        2.0, "Factor on --learning-rate for T, filter and zero convolutions.", stages=("control",)
    )
    optimizer: Literal["adamw", "adamw8bit"] = _setting(
        "adamw", "adamw8bit needs bitsandbytes and a GPU.", "prior"
    )
    weight_decay: float = _setting(0.01, "Weight decay of AdamW.")
    schedule: Literal["constant", "cosine", "linear"] = _setting(
        "constant", "Learning rate after the warm-up."
    )
    warmup_steps: int = _setting(500, "Steps over which the learning rate rises.")
    accumulate: int = _setting(1, "Batches accumulated per step.", safe=True)
    clip: float = _setting(1.0, "Largest gradient norm; larger gradients are scaled down.")
    ema: float = _setting(0.999, "Decay of the weights' moving average; 0 switches it off.")
    precision: Literal["auto", "bf16", "fp32", "fp16"] = _setting(
        "auto", "auto: bf16 on a GPU that has it, else fp32."
    )
    checkpointing: Literal["none", "vae", "all"] = _setting(
        "none", "Activations computed again in the backward pass, to save memory.", safe=True
    )
    # Losses.
    l1_weight: float = _setting(1.0, "Weight of L1.", "paper", stages=_IMAGES)
    l1_in: Literal["pixels", "latents"] = _setting(
        "pixels", "L1 of images, or of z0_hat.", "paper", stages=_IMAGES
    )
    perceptual: Literal["none", "lpips", "ea-lpips", "dists"] = _setting(
        "ea-lpips", "Perceptual distance; all but none need --vgg16.", "paper", stages=_IMAGES
    )
    perceptual_weight: float = _setting(
        2.0, "Weight of the perceptual distance (lambda1).", stages=_IMAGES
    )
    vgg16: str = _setting("", "VGG16 file; see `fidediff doctor`.", stages=_IMAGES, safe=True)
    gan_weight: float = _setting(
        0.5, "Weight of the GAN loss, lambda2; 0 trains without D.", stages=_IMAGES
    )
    gan_loss: Literal["hinge", "softplus"] = _setting("hinge", "Kind of L_G.", stages=_IMAGES)
    gan_start: int = _setting(0, "First step with D.", stages=_IMAGES)
    gan_noise: Literal["none", "random"] = _setting(
        "none", "Noise on the latents that D sees: none, or that of a random t.", stages=_IMAGES
    )
    discriminator_rate: float = _setting(5e-5, "Learning rate of D.", "prior", stages=_IMAGES)
    time_weight: float = _setting(1.0, "Weight of L_time.", stages=("control",))
    kernel_weight: float = _setting(
        0.0, "Weight of M's reblur loss; 0 leaves M frozen.", stages=("control",)
    )
    control_timestep: Literal["given", "estimated"] = _setting(
        "given", "t that the UNet gets while the control trains.", stages=("control",)
    )
    # What is seen and kept.
    max_train_minutes: float = _setting(0.0, "Minutes to train at most; 0: no limit.", safe=True)
    log_every: int = _setting(20, "Steps between lines of log.jsonl.")
    save_every: int = _setting(1000, "Steps between checkpoints.", safe=True)
    keep: int = _setting(3, "Newest checkpoints to keep.", safe=True)
    validate_every: int = _setting(2000, "Steps between validations; 0 never.")
    validation_split: str = _setting("auto", "Split held out; auto: validation where it exists.")
    validation_trajectories: int = _setting(16, "Trajectories of that split that are scored.")
    validation_points: int = _setting(3, "Blurs of each trajectory, for the trajectory gap.")
    keep_best_by: Literal["auto", "last", "psnr", "lpips"] = _setting(
        "auto", "Which model is kept; auto: lpips if the loss has it.", stages=_IMAGES
    )
    tensorboard: bool = _setting(True, "Write tensorboard/ too.", safe=True)

    def __post_init__(self) -> None:
        _check(self)


def _check(s: TrainSettings) -> None:
    for name in ("crop", "batch", "points", "steps", "accumulate", "log_every", "save_every"):
        need(getattr(s, name) >= 1, name, "1 or more")
    for name in ("keep", "validation_trajectories", "validation_points"):
        need(getattr(s, name) >= 1, name, "1 or more")
    for name in ("workers", "warmup_steps", "validate_every", "gan_start", "seed", "gan_weight"):
        need(getattr(s, name) >= 0, name, "0 or more")
    for name in ("l1_weight", "perceptual_weight", "time_weight", "kernel_weight"):
        need(getattr(s, name) >= 0, name, "0 or more")
    for name in ("learning_rate", "discriminator_rate", "new_rate_factor", "clip"):
        need(getattr(s, name) > 0, name, "above 0")
    need(0 <= s.ema < 1, "ema", "from 0 to below 1")
    need(0 <= s.identity <= 1, "identity", "from 0 to 1")
    need(0 <= s.fixed_timestep <= 999, "fixed_timestep", "in [0, 999]")
    if s.keep_best_by == "lpips" and s.perceptual not in ("lpips", "ea-lpips"):
        raise UsageError(
            "the best by lpips cannot be kept without that distance",
            where=f"keep_best_by lpips, perceptual {s.perceptual}",
            cure="give --perceptual lpips or ea-lpips, or --keep-best-by psnr",
        )
    if s.precision == "fp16":
        raise UsageError(
            "training in fp16 is not offered",
            where="precision: two optimizers would share one loss scale, and each clipping of"
            " gradients would unscale both",
            cure="give bf16 or fp32",
        )


DEFAULTS: dict[Stage, TrainSettings] = {
    "base": TrainSettings(),
    # Our choice: M is a plain network trained from scratch.
    "kernel": TrainSettings(learning_rate=1e-4),
    # A checkpoint of this stage is 5.8 GB at full size, of the others at most 0.5.
    "control": TrainSettings(save_every=5000),
}
"""The settings of a stage over the preset `sd21` when nothing is given."""

PRESET_DEFAULTS: dict[str, dict[str, Any]] = {
    "tiny": {
        "steps": 2000, "learning_rate": 1e-3, "warmup_steps": 50, "ema": 0.99,
        "log_every": 10, "save_every": 200, "validate_every": 200,
    },
    "small": {
        "steps": 5000, "learning_rate": 1e-4, "warmup_steps": 100,
        "save_every": 500, "validate_every": 500,
    },
}  # fmt: skip
"""What differs over the presets that a CPU can train, in all stages (our choice)."""


def defaults(stage: Stage, preset: str) -> TrainSettings:
    """The settings of a stage over a model of a preset when nothing is given."""
    return replace(DEFAULTS[stage], **PRESET_DEFAULTS.get(preset, {}))


FITTED = ("warmup_steps", "log_every")
"""What `fitted` shortens."""


def fitted(settings: TrainSettings, given: Collection[str]) -> TrainSettings:
    """The settings with a warm-up and a log that suit a short run.

    At most a tenth of the steps is warm-up, and at least ten lines are logged (our choice).

    Args:
        settings: of a new run.
        given: names of settings that were asked for, which stay.
    """
    most = max(1, settings.steps // 10)
    shorter = {name: min(getattr(settings, name), most) for name in FITTED if name not in given}
    return replace(settings, **shorter)


def of_stage(stage: Stage) -> list[Field[Any]]:
    """The fields that a stage uses, in the order of the table."""
    return [f for f in fields(TrainSettings) if stage in f.metadata["stages"]]


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        stage: base, kernel or control.
        data: folder of the data set.
        data_digest: of its manifest's content.
        base_model: folder or hub id of the base weights, or `random:SEED`.
        start: model folder of the stage before; empty for base.
        start_digest: of that folder's files.
        settings: how it is trained.
        model: what is built.
    """

    stage: Stage
    data: str
    data_digest: str
    base_model: str
    start: str
    start_digest: str
    settings: TrainSettings
    model: ModelConfig


@contextmanager
def reporting_disk_errors(run_dir: Path) -> Iterator[None]:
    """Turn a disk's refusal of a log, a panel or a model into an error with its cure.

    Raises:
        OutputError: the disk is full, read-only or broken; checkpoints stay as they were.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors reports a full disk as an error of its own kind.
        if isinstance(error, OSError) and error.errno not in atomic.REFUSALS:
            raise
        cure = "make room and run the same command again; it resumes from the newest checkpoint"
        raise atomic.not_written("the run folder", error, run_dir, cure) from error


def write_config(run_dir: Path, config: RunConfig) -> None:
    """Write config.yaml.

    Raises:
        OutputError: the disk refuses.
    """
    values = {"fidediff_run": VERSION, **model_config.to_dict(config)}
    text = _HEAD.format(stage=config.stage) + yaml.safe_dump(values, sort_keys=False)
    with reporting_disk_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        atomic.write_atomic(run_dir / CONFIG, text.encode())


def read_config(run_dir: Path) -> RunConfig | None:
    """The config.yaml of a run folder; None where there is no such file.

    Raises:
        UsageError: the file is not a run's, or was edited into something else.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        return None
    values = read_yaml(path)
    if values.pop("fidediff_run", None) != VERSION:
        raise UsageError(
            "config.yaml is not that of a run of this release",
            where=str(path),
            cure="choose another --run-dir",
            exit_code=ExitCode.OTHER_CONFIG,
        )
    return model_config.read(RunConfig, values, where=str(path))


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML file that contains a table.

    Raises:
        UsageError: it cannot be read or contains something else.
    """
    try:
        values = parse_yaml(read_regular_text(path, at_most=MAX_BYTES))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path.name} cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            cure="give a YAML file of name: value lines",
        ) from error
    if not isinstance(values, dict):
        raise UsageError(
            f"{path.name} contains no table of settings",
            where=str(path),
            cure="give a YAML file of name: value lines",
        )
    return values


def refuse_other(run_dir: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse to train in a folder that belongs to another config.

    Without `resume` every setting must be the same. With it the safe ones may differ, and a data
    set may have moved as long as its manifest has the same rows.

    Raises:
        UsageError: the folder contains something else, or there is nothing to resume.
        OutputError: naming what differs, old value and new.
    """
    stored = read_config(run_dir)
    if stored is None:
        _refuse_foreign(run_dir, resume=resume)
        return
    differing = differences(model_config.to_dict(stored), model_config.to_dict(config))
    if stored.data_digest == config.data_digest:
        differing.pop("data", None)
    safe = {name for name in differing if _may_change(name, config)}
    unsafe = {n: v for n, v in differing.items() if not (resume and n in safe)}
    if unsafe:
        cure = "choose another --run-dir, or give the settings of that run"
        # Both would follow from another number of steps; a resumed run keeps its own.
        follows = {f"settings.{n}" for n in FITTED} if "settings.steps" in unsafe else set()
        if unsafe.keys() <= safe | follows:
            cure = "add --resume to continue with these changes"
        contents = "a run"
        raise other_config_error(run_dir, unsafe, file=CONFIG, contents=contents, cure=cure)


def _refuse_foreign(run_dir: Path, *, resume: bool) -> None:
    # A kill while config.yaml was written leaves only its temporary name.
    names = [p.name for p in run_dir.iterdir()] if run_dir.is_dir() else []
    if any(not name.startswith(atomic.TEMPORARY) for name in names):
        raise UsageError(
            "the run folder contains something else",
            where=str(run_dir),
            cure="choose a new or empty --run-dir",
            exit_code=ExitCode.OTHER_CONFIG,
        )
    if resume:
        raise UsageError(
            "there is no run to resume",
            where=str(run_dir / CONFIG),
            cure="leave out --resume to start one",
        )


def _may_change(name: str, config: RunConfig) -> bool:
    """Whether resuming with another value of this setting leaves the result alone."""
    group, _, setting = name.partition(".")
    # Another last step bends a schedule that leads to it.
    if group != "settings" or (setting == "steps" and config.settings.schedule != "constant"):
        return False
    return any(f.name == setting and f.metadata["safe"] for f in fields(TrainSettings))
