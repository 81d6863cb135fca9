"""The request of a stage, completed by a file of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from fidediff_model import config as model_config
from fidediff_model.config import ModelConfig
from fidediff_model.training import settings as train_settings
from fidediff_model.training.settings import RunConfig, Stage
from trajectory_builder.disk.strict_yaml import parse_yaml
from trajectory_builder.errors import UsageError, shorten


@dataclass(frozen=True)
class Request:
    """What a user asks of a stage; what is None comes from the file, then from the resumed run.

    Attributes:
        run_dir: the run folder, new or to be resumed.
        data: folder of the data set, or a manifest.
        base_model: base weights: folder, hub id or `random:SEED`.
        start: run folder or model folder of the stage before; for the stage base a model to train
            on, or `small`.
        config_file: YAML file of settings, or the config.yaml of a run.
        settings: values of `TrainSettings`, by name.
        model: values of the model's config, by dotted name, such as {"lora.rank": 16}.
        preset: of the model, for the stage base.
        resume: continue the run; safe settings may differ.
    """

    run_dir: Path
    data: Path | None = None
    base_model: str | None = None
    start: Path | None = None
    config_file: Path | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    model: Mapping[str, object] = field(default_factory=dict)
    preset: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class Values:
    """Values of a run's config that differ from its defaults, by name."""

    settings: dict[str, object]
    model: dict[str, object]


def parse_sets(words: Sequence[str], stage: Stage) -> Values:
    """Read `--set` options, such as model.kernel.kernel_size=11 or settings.clip=0.5.

    Values are YAML: true, 0.5, text, [8, 16].

    Raises:
        UsageError: no `=`, or a name that the stage does not know.
    """
    names = [f"settings.{f.name}" for f in train_settings.of_stage(stage)]
    names += [f"model.{name}" for name in model_config.leaves(ModelConfig())]
    values = Values({}, {})
    for word in words:
        name, is_given, text = word.partition("=")
        if not is_given:
            raise UsageError(f"{word} has no value", where="--set", cure="give NAME=VALUE")
        if name not in names:
            raise model_config.unknown_setting(name, names, "--set")
        group, _, rest = name.partition(".")
        target = values.settings if group == "settings" else values.model
        try:
            target[rest] = parse_yaml(text)
        except ValueError as error:
            cure = "give a plain value, such as 0.5, true or [8, 16]"
            raise UsageError(f"{name}: {error}", where="--set", cure=cure) from error
    return values


def with_config_file(stage: Stage, request: Request) -> Request:
    """The request with what its file adds: settings alone, or the config.yaml of a run.

    Raises:
        UsageError: the file names something unknown, or something that would be ignored.
    """
    if request.config_file is None:
        return request
    where = str(request.config_file)
    values = train_settings.read_yaml(request.config_file)
    if not values.keys() & {"settings", "model", "fidediff_run"}:
        values = {"settings": values}
    known = {f.name for f in fields(RunConfig)} | {"fidediff_run"}
    for name in values:
        if name not in known:
            raise model_config.unknown_setting(name, known, where)
    if values.get("stage", stage) != stage:
        raise UsageError(
            f"the file is of the stage {values['stage']}",
            where=where,
            cure=f"run `fidediff train {values['stage']}`, or keep only its settings",
        )
    if "model" in values and request.preset is not None:
        raise UsageError(
            "the file contains a model, so a preset would be ignored",
            where=f"{where}: model",
            cure="leave out --preset",
        )
    settings, model = (_table(values.get(name, {}), where) for name in ("settings", "model"))
    _refuse_unused(stage, settings, where)
    # Checked alone, so that an error names the file and not the command line.
    model_config.changed(train_settings.DEFAULTS[stage], settings, where=where)
    model_config.changed(ModelConfig(), model, where=where)
    paths = {n: Path(str(values[n])) for n in ("data", "start") if values.get(n)}
    return replace(
        request,
        data=request.data or paths.get("data"),
        start=request.start or paths.get("start"),
        base_model=request.base_model or _text(values.get("base_model")),
        settings={**settings, **request.settings},
        model={**model, **request.model},
    )


def _table(values: object, where: str) -> dict[str, object]:
    """Nested values by dotted name."""
    if not isinstance(values, dict):
        raise UsageError("not a table of settings", where=where, cure="give name: value lines")
    flat: dict[str, object] = {}
    for name, value in values.items():
        inner = _table(value, where) if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{rest}".rstrip("."): v for rest, v in inner.items()}
    return flat


def _text(value: object) -> str | None:
    return str(value) if value else None


def _refuse_unused(stage: Stage, settings: Mapping[str, object], where: str) -> None:
    """Refuse settings of other stages, unless they have the defaults that config.yaml lists."""
    used = {f.name for f in train_settings.of_stage(stage)}
    defaults = model_config.to_dict(train_settings.DEFAULTS[stage])
    unused = [n for n, v in settings.items() if n in defaults.keys() - used and v != defaults[n]]
    if unused:
        raise UsageError(
            f"the stage {stage} does not use {shorten(unused)}",
            where=where,
            cure="leave it out",
        )
