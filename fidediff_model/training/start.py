"""What stands before a run's first step: settings, checks, config.yaml, data, processes.

Everything that can be refused is refused here, before weights are loaded and time is spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fidediff_model import config as model_config
from fidediff_model.config import ModelConfig
from fidediff_model.data.trajectories import DrawRules, TrajectoryDataset
from fidediff_model.errors import ModelError
from fidediff_model.model import folder
from fidediff_model.scores.losses import ReconstructionLoss
from fidediff_model.training import checkpoint, processes, run_folder
from fidediff_model.training.run_folder import RunConfig
from fidediff_model.training.settings import Stage, TrainSettings, to_dict
from fidediff_model.weights.base_folder import check_folder, find_folder
from fidediff_model.weights.sd21 import RANDOM, BaseWeights, load_base
from fidediff_model.weights.vgg import VGG16, open_vgg16
from trajectory_builder import manifest
from trajectory_builder.errors import ExitCode, UsageError


@dataclass(frozen=True)
class Request:
    """What a user asks of a stage; what is None is taken from the run that is resumed.

    Attributes:
        run_dir: the run folder, new or to be gone on with.
        data: folder of the data set, or a manifest.
        base_model: base weights: folder, hub id or `random:SEED`.
        start: run folder or model folder of the stage before.
        settings_file: YAML file of settings.
        settings: settings that were given one by one.
        model: values of the model's config that were given, by dotted name.
        preset: of the model, for the stage base.
        resume: go on with the run; safe settings may differ.
    """

    run_dir: Path
    data: Path | None = None
    base_model: str | None = None
    start: Path | None = None
    settings_file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    resume: bool = False


@dataclass
class Run:
    """A run about to begin.

    Attributes:
        config: as config.yaml holds it.
        run_dir: the run folder.
        accelerator: accelerate's, for this process.
        train: what is learnt from.
        validation: what is scored; None without a held-out split.
        checkpoint: what is resumed; None at the beginning.
        loss: on images; None in the stage kernel.
        lock: of the run folder, held by the first process while it trains.
    """

    config: RunConfig
    run_dir: Path
    accelerator: Any
    train: TrajectoryDataset
    validation: TrajectoryDataset | None
    checkpoint: Path | None = None
    loss: ReconstructionLoss | None = None
    lock: Any = None

    @property
    def settings(self) -> TrainSettings:
        """How it is trained."""
        return self.config.settings

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return bool(self.accelerator.is_main_process)

    def close(self) -> None:
        """Let others train in the folder; the death of the process does so too."""
        if self.lock is not None:
            self.lock.release()


def open_run(stage: Stage, request: Request) -> Run:
    """Check what is asked, join the other processes, write config.yaml.

    Raises:
        UserError: of one of its kinds, for whatever cannot be trained.
    """
    stored = (run_folder.read(request.run_dir) or {}) if request.resume else {}
    if stored and stored["stage"] != stage:
        raise UsageError(
            f"{request.run_dir} is a run of the stage {stored['stage']}",
            where=str(request.run_dir / run_folder.CONFIG),
            cure=f"run `fidediff train {stored['stage']} --resume`, or choose another --run-dir",
            exit_code=ExitCode.OTHER_CONFIG,
        )
    settings = run_folder.given_settings(
        stage, stored.get("settings"), request.settings_file, request.settings
    )
    settings = replace(settings, precision=processes.resolve_precision(settings.precision))
    data = _needed_path(request.data or stored.get("data"), "data")
    found = manifest.read(data)
    start = _start(stage, request, stored)
    base_model = _base_model(stage, request, stored, start)
    model = _model_config(request, stored, start)
    if Path(base_model).is_dir():
        check_folder(Path(base_model), model.base)
    loss = _open_loss(settings) if stage != "kernel" else None
    train, validation = datasets(found, settings)
    config = RunConfig(
        stage=stage,
        data=str(data),
        data_digest=run_folder.data_digest(found.table),
        base_model=base_model,
        start=str(start or ""),
        start_digest=run_folder.digest_of(start) if start else "",
        model=model,
        settings=settings,
    )
    run_folder.refuse_other(request.run_dir, config, resume=request.resume)
    if base_model.partition(":")[0] != RANDOM:  # from a hub only now that nothing else is wrong
        check_folder(find_folder(base_model), model.base)
    accelerator = processes.start(settings.precision)
    run = Run(config, request.run_dir, accelerator, train, validation, loss=loss)
    if run.is_main:
        run_folder.write(request.run_dir, config)
    accelerator.wait_for_everyone()
    run.checkpoint = checkpoint.newest(request.run_dir)
    return run


def datasets(
    found: manifest.Manifest, settings: TrainSettings
) -> tuple[TrajectoryDataset, TrajectoryDataset | None]:
    """What is learnt from, and what is held out.

    Raises:
        DataError: nothing to draw from, or images smaller than the crop.
        UsageError: a split that is not there, or a batch larger than the set.
    """
    rules = DrawRules(
        crop=settings.crop,
        points=settings.points if settings.consistency else 1,
        identity=settings.identity if settings.consistency else 0.0,
        consistency=settings.consistency,
        fixed_timestep=settings.fixed_timestep,
        augment=settings.augment,
        seed=settings.seed,
    )
    train = TrajectoryDataset(found, rules, split="train")
    if settings.batch > len(train):
        raise UsageError(
            f"a batch of {settings.batch} trajectories is more than the {len(train)} of the set",
            where="batch",
            cure=f"give --batch {len(train)} or less, or more data",
        )
    splits = set(found.table.column("split").unique().to_pylist())
    wanted = settings.validation_split
    if wanted == "auto":
        wanted = "validation" if "validation" in splits else ""
    if not wanted or not settings.validate_every:
        return train, None
    if wanted not in splits or wanted == "train":
        raise UsageError(
            f"{wanted} cannot be held out: the data set has {', '.join(sorted(splits))}",
            where="validation_split",
            cure="hold clips out with `trajbuild split`, or give --validation-split test",
        )
    held_out = replace(
        rules,
        points=settings.validation_points if settings.consistency else 1,
        identity=0.0,
        augment=False,
    )
    return train, TrajectoryDataset(found, held_out, split=wanted)


def _open_loss(settings: TrainSettings) -> ReconstructionLoss:
    """L1 and the perceptual distance; its backbone is read before anything else starts."""
    vgg: VGG16 | None = None
    if settings.perceptual != "none":
        vgg = open_vgg16(settings.vgg16 or None, needed_by=settings.perceptual.upper())
    return ReconstructionLoss(
        vgg,
        perceptual=settings.perceptual,
        l1_weight=settings.l1_weight,
        perceptual_weight=settings.perceptual_weight,
    )


def open_base(run: Run) -> BaseWeights:
    """The base weights of a run, those that its start was trained over.

    Raises:
        ModelError: they cannot be used.
        ModelError: they are not those of the stage before.
    """
    config = run.config
    first = config.model.prompt.start if config.stage == "base" else "normal"
    weights = load_base(
        config.base_model,
        config.model.base,
        dtype=processes.frozen_dtype(run.settings.precision),
        prompt_start=first,
    )
    if config.start:
        wanted = folder.read_config(Path(config.start))["base_fingerprint"]
        if weights.fingerprint != wanted:
            raise ModelError(
                "the stage before was trained over other base weights",
                where=f"{config.base_model}, {config.start}",
                cure="give --base-model the weights that its config.json names",
            )
    return weights


def seed_process(run: Run) -> None:
    """Seed this process's global generators, which layers of other libraries may draw from.

    Training itself draws nothing from them: see `data`.
    """
    import random

    import numpy as np

    seed = run.settings.seed * 1000 + int(run.accelerator.process_index)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the global one is what they draw from
    torch.manual_seed(seed)


def _needed_path(value: Path | str | None, name: str) -> Path:
    if value is None:
        raise UsageError(
            f"no {name} was given",
            where=f"--{name}",
            cure="give the folder that trajbuild wrote, or --resume to go on with a run",
        )
    return Path(value)


def _start(stage: Stage, request: Request, stored: Mapping[str, Any]) -> Path | None:
    if stage == "base":
        if request.start is not None:
            raise UsageError(
                "the stage base starts from base weights",
                where="--from",
                cure="leave out --from, or train the stage kernel",
            )
        return None
    given = request.start or (Path(stored["start"]) if stored.get("start") else None)
    return run_folder.model_before(given, stage).resolve()


def _base_model(
    stage: Stage, request: Request, stored: Mapping[str, Any], start: Path | None
) -> str:
    if request.base_model is not None:
        return request.base_model
    if stored.get("base_model"):
        return str(stored["base_model"])
    if start is not None:
        return str(folder.read_config(start)["base_model"])
    raise UsageError(
        f"the stage {stage} needs base weights",
        where="--base-model",
        cure="give a folder of SD 2.1-base in diffusers' layout, or random:0 to try the program",
    )


def _model_config(request: Request, stored: Mapping[str, Any], start: Path | None) -> ModelConfig:
    if stored.get("model"):
        values = stored["model"]
    elif start is not None:
        values = folder.read_config(start)["config"]
    else:
        values = model_config.to_dict(model_config.preset(request.preset or "sd21"))
    values = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for dotted, value in request.model.items():
        group, _, name = dotted.partition(".")
        values[group][name] = value
    return model_config.from_dict(values)


def card_settings(run: Run) -> dict[str, Any]:
    """What a model card says of how it was trained."""
    return {"base_model": run.config.base_model, **to_dict(run.settings)}
