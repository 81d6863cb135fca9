"""A run folder's config.yaml: what is trained on what, from what; kept, compared, refused.

RUN/config.yaml   written before the first step
RUN/log.jsonl  RUN/speed.jsonl  RUN/tensorboard/  RUN/panels/
RUN/checkpoints/step-000000/   the newest few
RUN/model/        the best by validation, or the last; what the next stage starts from
RUN/model-last/   the last
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fidediff_model import config as model_config
from fidediff_model.config import ModelConfig
from fidediff_model.model import folder as model_folder
from fidediff_model.training import settings as train_settings
from fidediff_model.training.settings import Stage, TrainSettings
from trajectory_builder.disk import atomic
from trajectory_builder.errors import ExitCode, UsageError

CONFIG = "config.yaml"
TEMPORARY = ".tmp-"
LOCK = ".tmp-lock"
VERSION = 1
_LISTED = 8
_HEAD = (
    "# What this run was started with. `fidediff train {stage} --run-dir THIS --resume` goes on.\n"
    "# Values are ours unless `fidediff train {stage} --help` says paper or prior.\n"
)


@dataclass(frozen=True)
class RunConfig:
    """All that decides a run.

    Attributes:
        stage: base, kernel or control.
        data: folder of the data set.
        data_digest: of its manifest's content.
        base_model: folder or hub id of the base weights, or `random:SEED`.
        start: model folder of the stage before; empty for base.
        start_digest: of that folder's files.
        model: what is built.
        settings: how it is trained.
    """

    stage: Stage
    data: str
    data_digest: str
    base_model: str
    start: str
    start_digest: str
    model: ModelConfig
    settings: TrainSettings

    def to_dict(self) -> dict[str, Any]:
        """As plain values for YAML."""
        return {
            "fidediff_run": VERSION,
            "stage": self.stage,
            "data": self.data,
            "data_digest": self.data_digest,
            "base_model": self.base_model,
            "start": self.start,
            "start_digest": self.start_digest,
            "settings": train_settings.to_dict(self.settings),
            "model": model_config.to_dict(self.model),
        }


@contextmanager
def telling_a_full_disk(run_dir: Path) -> Iterator[None]:
    """Turn what the disk says of a log, a panel or a model into an error that names the cure.

    Raises:
        OutputError: the disk is full, read-only or broken; checkpoints stay as they were.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors tells a full disk in an error of its own kind.
        if isinstance(error, OSError) and error.errno not in atomic.REFUSALS:
            raise
        cure = "make room and run the same command again; it goes on from the newest checkpoint"
        raise atomic.not_written("the run folder", error, run_dir, cure) from error


def write(run_dir: Path, config: RunConfig) -> None:
    """Write config.yaml in one go.

    Raises:
        OutputError: the disk refuses.
    """
    text = _HEAD.format(stage=config.stage) + yaml.safe_dump(config.to_dict(), sort_keys=False)
    with telling_a_full_disk(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        atomic.write_atomic(run_dir / CONFIG, text.encode())


def lock(run_dir: Path) -> Any:
    """Hold the run folder for this process; gives the lock, which ends with the process.

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


def read(run_dir: Path) -> dict[str, Any] | None:
    """The plain values of config.yaml; None where there is no such file.

    Raises:
        UsageError: the file is not a run's.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        return None
    values = read_yaml(path)
    if values.get("fidediff_run") != VERSION:
        raise UsageError(
            "config.yaml is not that of a run of this release",
            where=str(path),
            cure="choose another --run-dir",
            exit_code=ExitCode.OTHER_CONFIG,
        )
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a table.

    Raises:
        UsageError: it cannot be read or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path.name} cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            cure="give a YAML file of name: value lines",
        ) from error
    if not isinstance(values, dict):
        raise UsageError(
            f"{path.name} holds no table of settings",
            where=str(path),
            cure="give a YAML file of name: value lines",
        )
    return values


def refuse_other(run_dir: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse to go on with a run of another config.

    Without `resume` every setting must be the same; with it the safe ones may differ, and a data
    set may have moved as long as its manifest holds the same rows.

    Raises:
        UsageError: naming what differs, old value and new.
    """
    stored = read(run_dir)
    if stored is None:
        # A kill while config.yaml was written leaves only its temporary name.
        if run_dir.is_dir() and any(not p.name.startswith(TEMPORARY) for p in run_dir.iterdir()):
            raise UsageError(
                "the run folder holds something else",
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
        return
    changed = differences(stored, config.to_dict())
    if stored.get("data_digest") == config.data_digest:
        changed.pop("data", None)
    unsafe = [name for name in changed if not (resume and _may_change(name, config))]
    if unsafe:
        shown = [f"{name}: {changed[name][0]!r} -> {changed[name][1]!r}" for name in unsafe]
        rest = f"\n         and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
        could = not resume and all(_may_change(name, config) for name in unsafe)
        raise UsageError(
            f"{run_dir} holds a run of another config",
            where="\n         ".join([f"{run_dir / CONFIG}", *shown[:_LISTED]]) + rest,
            cure="add --resume to go on with these changes"
            if could
            else "choose another --run-dir, or give the settings of that run",
            exit_code=ExitCode.OTHER_CONFIG,
        )


def differences(before: Any, now: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted names whose values differ -> (before, now)."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*before, *(k for k in now if k not in before)]:
            dotted = f"{name}.{key}" if name else str(key)
            found |= differences(before.get(key), now.get(key), dotted)
        return found
    return {} if before == now else {name: (before, now)}


def _may_change(name: str, config: RunConfig) -> bool:
    kind, _, setting = name.partition(".")
    if kind != "settings":
        return False
    # Another end bends a schedule that leads to it.
    if setting == "steps" and config.settings.schedule != "constant":
        return False
    return train_settings.is_safe(setting)


def model_before(start: Path | None, stage: Stage) -> Path:
    """The model folder that a stage starts from.

    Args:
        start: a run folder or model folder of the stage before.
        stage: kernel or control.

    Raises:
        UsageError: it is not there, or lacks a part that the stage needs.
    """
    before = "base" if stage == "kernel" else "kernel"
    cure = f"run `fidediff train {before}` first, and give its run folder with --from"
    if start is None:
        raise UsageError(f"the stage {stage} starts from the stage {before}", cure=cure)
    folder = start / "model" if (start / "model" / model_folder.CONFIG_FILE).is_file() else start
    if not (folder / model_folder.CONFIG_FILE).is_file():
        raise UsageError(f"there is no model of the stage {before}", where=str(folder), cure=cure)
    parts = model_folder.read_config(folder)["parts"]
    if stage == "control" and "kernel_estimator" not in parts:
        raise UsageError(
            "the model has no kernel_estimator: the stage kernel is missing",
            where=str(folder),
            cure=cure,
        )
    return folder


def digest_of(folder: Path) -> str:
    """A digest of a model folder's weights and config."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json"):
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def data_digest(table: Any) -> str:
    """A digest of a manifest's rows."""
    from trajectory_builder.manifest import content_sha256

    return str(content_sha256(table))[:16]


def given_settings(
    stage: Stage, stored: Mapping[str, Any] | None, file: Path | None, flags: Mapping[str, Any]
) -> TrainSettings:
    """Settings in the order of weight: flags, the YAML file, the run resumed, the defaults.

    Args:
        stage: whose defaults.
        stored: the `settings` of the run that is resumed, or None.
        file: a YAML file of settings; a run's config.yaml serves as well.
        flags: what was given on the command line.
    """
    settings = train_settings.defaults(stage)
    if stored is not None:
        settings = train_settings.merged(settings, stored, where=CONFIG)
    if file is not None:
        values = read_yaml(file)
        settings = train_settings.merged(settings, values.get("settings", values), where=str(file))
    return train_settings.merged(settings, flags, where="command line")
