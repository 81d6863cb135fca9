"""Everything before a run's first step: settings, checks, config.yaml, data, processes.

All that can be refused is refused here, before weights are loaded and time is spent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fidediff_model import config as model_config
from fidediff_model.config import ModelConfig
from fidediff_model.data.trajectories import TrajectoryDataset
from fidediff_model.errors import ModelError
from fidediff_model.model import folder, presets
from fidediff_model.model.base_name import located
from fidediff_model.model.engine import choose_threads
from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.model.step import PARTS, Part
from fidediff_model.scores.losses import ReconstructionLoss
from fidediff_model.training import checkpoint, processes
from fidediff_model.training import settings as train_settings
from fidediff_model.training.datasets import open_datasets
from fidediff_model.training.request import Request, with_config_file
from fidediff_model.training.settings import CONFIG, RunConfig, Stage, TrainSettings
from fidediff_model.weights import shipped
from fidediff_model.weights.base_folder import check_folder, find_folder
from fidediff_model.weights.sd21 import RANDOM, BaseWeights, load_base
from fidediff_model.weights.vgg import VGG16, open_vgg16
from trajectory_builder import manifest
from trajectory_builder.disk.ownership import differences
from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import ExitCode, UsageError, shorten

if TYPE_CHECKING:
    from filelock import FileLock

LOCK = ".tmp-lock"
COMMAND_LINE = "command line"
OWN_VALUES: dict[Stage, tuple[str, ...]] = {
    "base": ("",),
    "kernel": ("kernel.",),
    "control": ("timestep.", "control.", "discriminator."),
}
"""Beginnings of the names in the model's config that each stage decides."""


@dataclass
class Run:
    """A run about to begin.

    Attributes:
        config: what config.yaml contains.
        run_dir: the run folder.
        accelerator: accelerate's, for this process.
        train: the trajectories to learn from.
        validation: the trajectories to score; None without a held-out split.
        checkpoint: where to resume; None at the beginning.
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
    lock: FileLock | None = None

    @property
    def settings(self) -> TrainSettings:
        """How it is trained."""
        return self.config.settings

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return bool(self.accelerator.is_main_process)

    def close(self) -> None:
        """Release the folder; the death of the process releases it too."""
        if self.lock is not None:
            self.lock.release()


def open_run(stage: Stage, request: Request) -> Run:
    """Check the request, join the other processes, write config.yaml.

    Raises:
        UserError: a subclass of it, if the run cannot be trained.
    """
    stored = train_settings.read_config(request.run_dir) if request.resume else None
    if stored is not None and stored.stage != stage:
        raise UsageError(
            f"{request.run_dir} is a run of the stage {stored.stage}",
            where=str(request.run_dir / CONFIG),
            cure=f"run `fidediff train {stored.stage} --resume`, or choose another --run-dir",
            exit_code=ExitCode.OTHER_CONFIG,
        )
    request = with_config_file(stage, request)
    config, source = _resolve(stage, request, stored)
    loss = _open_loss(config.settings) if stage != "kernel" else None
    train, validation = open_datasets(source, config.settings)
    train_settings.refuse_other(request.run_dir, config, resume=request.resume)
    # Base weights come from a hub only now that nothing else is wrong.
    if config.base_model.partition(":")[0] != RANDOM:
        # What the model of the stage before names is untrusted.
        fetch = request.base_model is not None or stored is not None
        check_folder(find_folder(config.base_model, fetch=fetch), config.model.base)
    if not torch.cuda.is_available():
        choose_threads(config.model.base.unet_channels[0])
    accelerator = processes.start(config.settings.precision)
    run = Run(config, request.run_dir, accelerator, train, validation, loss=loss)
    if run.is_main:
        train_settings.write_config(request.run_dir, config)
    accelerator.wait_for_everyone()
    run.checkpoint = checkpoint.newest(request.run_dir)
    return run


def _resolve(
    stage: Stage, request: Request, stored: RunConfig | None
) -> tuple[RunConfig, manifest.Manifest]:
    """The config of a run, from the request, the resumed run and the defaults; and its data."""
    data = request.data or (Path(stored.data) if stored is not None else None)
    if data is None:
        raise UsageError(
            "no data set was given",
            where="--data",
            cure="give the folder that trajbuild wrote, or --resume to continue a run",
        )
    source = manifest.read(data)
    start = _start(stage, request, stored)
    base_model = _base_model(stage, request, stored, start)
    model = _model_config(stage, request, stored, start)
    settings = _settings(stage, request, stored, model)
    if Path(base_model).is_dir():
        check_folder(Path(base_model), model.base)
    config = RunConfig(
        stage=stage,
        data=str(data),
        data_digest=manifest.content_sha256(source.table)[:16],
        base_model=base_model,
        start=str(start or ""),
        start_digest=_digest_of(start) if start else "",
        settings=settings,
        model=model,
    )
    return config, source


def _settings(
    stage: Stage, request: Request, stored: RunConfig | None, model: ModelConfig
) -> TrainSettings:
    """The settings of a run: what is asked for, then the resumed run's, then the defaults."""
    settings = stored.settings if stored is not None else None
    settings = settings or train_settings.defaults(stage, model.preset)
    settings = model_config.changed(settings, request.settings, where=COMMAND_LINE)
    if stored is None:
        settings = train_settings.fitted(settings, request.settings)
    return replace(settings, precision=processes.resolve_precision(settings.precision))


def _start(stage: Stage, request: Request, stored: RunConfig | None) -> Path | None:
    """The model folder that a stage starts from; None where the stage base starts anew.

    Raises:
        UsageError: it is not there, or lacks a part that the stage needs.
        ModelError: it is `small`, and its files are damaged.
    """
    before = "kernel" if stage == "control" else "base"
    cure = f"run `fidediff train {before}` first, and give its run folder with --from"
    start = request.start
    if start is None and stored is not None and stored.start:
        start = Path(stored.start)
    if start == Path(shipped.NAME) and not start.exists():
        start = shipped.model_folder()
    if start is None:
        if stage == "base":
            return None
        raise UsageError(
            f"the stage {stage} starts from the stage {before}", where="--from", cure=cure
        )
    inside = start / "model"
    place = inside if (inside / folder.CONFIG_FILE).is_file() else start
    if not (place / folder.CONFIG_FILE).is_file():
        raise UsageError(f"there is no model of the stage {before}", where=str(place), cure=cure)
    if stage == "control" and "kernel_estimator" not in folder.read_config(place)["parts"]:
        raise UsageError(
            "the model has no kernel_estimator: the stage kernel is missing",
            where=str(place),
            cure=cure,
        )
    return place.resolve()


def _base_model(
    stage: Stage, request: Request, stored: RunConfig | None, start: Path | None
) -> str:
    if request.base_model is not None:
        return request.base_model
    if stored is not None:
        return stored.base_model
    if start is not None:
        return located(str(folder.read_config(start)["base_model"]), start)
    raise UsageError(
        f"the stage {stage} needs base weights",
        where="--base-model",
        cure="give a folder of SD 2.1-base in diffusers' layout, or random:0 to try the program",
    )


def _model_config(
    stage: Stage, request: Request, stored: RunConfig | None, start: Path | None
) -> ModelConfig:
    """The model's config: of the resumed run, the stage before or a preset, with changes.

    Raises:
        UsageError: a value that was fixed by an earlier stage.
    """
    if stored is not None:
        model = stored.model
    elif start is not None:
        where = str(start / folder.CONFIG_FILE)
        model = model_config.from_dict(folder.read_config(start)["config"], where=where)
        if request.preset not in (None, model.preset):
            raise UsageError(
                f"the model is of the preset {model.preset}, not {request.preset}",
                where=where,
                cure="leave out --preset",
            )
    else:
        model = presets.preset(request.preset or "sd21")
    changed = model_config.changed(model, request.model, where=COMMAND_LINE)
    # A model that the stage base continues keeps its structure.
    own = () if stage == "base" and start is not None else OWN_VALUES[stage]
    fixed = [n for n in differences(model_config.to_dict(model), model_config.to_dict(changed))
             if not n.startswith(own)]  # fmt: skip
    if fixed:
        raise UsageError(
            f"the stage {stage} takes {shorten(fixed)} from the stage before",
            where=COMMAND_LINE,
            cure="train that stage with it, or leave it out",
        )
    return changed


def _digest_of(place: Path) -> str:
    """A digest of a model folder's weights and config."""
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        if path.suffix in (".safetensors", ".json"):
            digest.update(str(path.relative_to(place)).encode())
            with open_regular(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _open_loss(settings: TrainSettings) -> ReconstructionLoss:
    """L1 and the perceptual distance, whose backbone is read before anything else starts."""
    vgg: VGG16 | None = None
    if settings.perceptual != "none":
        vgg = open_vgg16(settings.vgg16 or None, needed_by=settings.perceptual.upper())
    return ReconstructionLoss(
        vgg,
        perceptual=settings.perceptual,
        l1_weight=settings.l1_weight if settings.l1_in == "pixels" else 0.0,
        perceptual_weight=settings.perceptual_weight,
    )


def open_base(run: Run) -> BaseWeights:
    """The base weights of a run, those that its start was trained over.

    Raises:
        ModelError: they cannot be used, or are not those of the stage before.
    """
    config = run.config
    weights = load_base(
        config.base_model,
        config.model.base,
        dtype=processes.frozen_dtype(run.settings.precision),
        # A model to start from brings its prompt.
        prompt_start="normal" if config.start else config.model.prompt.start,
    )
    if config.start:
        wanted = folder.read_config(Path(config.start))["base_fingerprint"]
        if weights.fingerprint != wanted:
            raise ModelError(
                "the model to start from was trained over other base weights",
                where=f"{config.base_model}, {config.start}",
                cure="give --base-model the weights that its config.json names",
            )
    return weights


def open_model(run: Run, weights: BaseWeights, *, add: Sequence[Part]) -> FideDiff:
    """The model that a stage starts from, with parts made afresh where it lacks them.

    Raises:
        ModelError: a stored part does not fit the config.
    """
    start = Path(run.config.start)
    stored = folder.read_config(start)["parts"]
    parts = [part for part in PARTS if part in stored or part in add]
    model = build(run.config.model, weights, parts=parts, seed=run.settings.seed)
    model.base.load(start / "base")
    for part in model.parts:
        # The stage control makes its control afresh: it may be of another variant.
        if part in stored and not (part == "control" and run.config.stage == "control"):
            folder.load_part(start / part, getattr(model, part))
    return model.eval()


def lock(run_dir: Path) -> FileLock:
    """Lock the run folder for this process; the lock ends with the process.

    Raises:
        UsageError: another process trains in it.
    """
    from filelock import FileLock, Timeout

    run_dir.mkdir(parents=True, exist_ok=True)
    held = FileLock(run_dir / LOCK, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise UsageError(
            "another process trains in this run folder",
            where=str(run_dir / LOCK),
            cure="wait until it ends, or choose another --run-dir",
            exit_code=ExitCode.OTHER_CONFIG,
        ) from error
    return held


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
