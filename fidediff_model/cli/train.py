"""`fidediff train base|kernel|control`: one command per stage, its options made of the settings."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from fidediff_model.cli.model_options import base_to_use
from fidediff_model.config import ControlVariant
from fidediff_model.model.presets import PRESETS
from fidediff_model.training.request import parse_sets
from fidediff_model.training.settings import (
    DEFAULTS,
    PRESET_DEFAULTS,
    Stage,
    TrainSettings,
    of_stage,
)
from trajectory_builder.cli.app import say
from trajectory_builder.errors import UserError

if TYPE_CHECKING:
    from fidediff_model.training.loop import Outcome

FOLDER = click.Path(path_type=Path, readable=False)
ABOUT: dict[Stage, tuple[str, str]] = {
    "base": (
        "Stage 1: LoRA and prompt over a pre-trained Stable Diffusion 2.1-base.",
        "fidediff train base --data OUT --run-dir runs/base --base-model SD21",
    ),
    "kernel": (
        "Stage 2: the kernel estimator M, by reblurring.",
        "fidediff train kernel --data OUT --from runs/base --run-dir runs/kernel",
    ),
    "control": (
        "Stage 3: kernel control and timestep regressor; the base is frozen.",
        "fidediff train control --data OUT --from runs/kernel --run-dir runs/control",
    ),
}
# Values of the model's config that have an option: dotted name -> (option, help).
MODEL_OPTIONS: dict[Stage, dict[str, click.Option]] = {
    "base": {
        "codec.latent_stride": click.Option(
            ["--latent-stride"],
            type=int,
            help="4 or 8 image pixels per latent cell. [paper: 4; default: the preset's]",
        ),
        "lora.rank": click.Option(
            ["--lora-rank"],
            type=click.IntRange(1),
            help="Rank of the UNet's update. [prior; default: the preset's]",
        ),
        "prompt.learn": click.Option(
            ["--learn-prompt/--fixed-prompt"],
            default=None,
            help="Train the text embedding. [paper: learn]",
        ),
    },
    "kernel": {},
    "control": {
        "control.variant": click.Option(
            ["--control"],
            type=click.Choice(get_args(ControlVariant)),
            help="How kernels steer the UNet. [paper: filter; default: the model's]",
        ),
    },
}
NAMES = {"vgg16": "FILE", "validation_split": "NAME"}


class StageGroup(click.Group):
    """The stages in the order in which they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The stages' names in the order of `ABOUT`; click would sort them."""
        return list(ABOUT)


@click.group(name="train", cls=StageGroup, short_help="Train a stage: base, kernel or control.")
def command() -> None:
    """Train FideDiff in three stages, each from the run folder of the one before.

    A run folder contains config.yaml, log.jsonl, checkpoints and model/. Run
    the same command again to resume a run that was cut short. On several GPUs:
    torchrun --nproc_per_node 8 -m fidediff_model.cli train base ...
    """


def _stage_command(stage: Stage) -> click.Command:
    about, example = ABOUT[stage]
    text = (
        f"{about}\n\nWrites RUN/model, the best by validation or else the last. Values marked"
        " [paper] are published, [prior] come from an earlier one-step model, all others are"
        f" our choice.\n\n\b\nExample:\n  {example}\nRun the same command again to resume."
    )
    options = _folder_options(stage)
    options += list(MODEL_OPTIONS[stage].values())
    options += [_option(stage, name) for name in (f.name for f in of_stage(stage))]
    return click.Command(
        stage,
        params=options,
        callback=lambda **values: _run(stage, values),
        help=text,
        short_help=about,
    )


def _folder_options(stage: Stage) -> list[click.Parameter]:
    options: list[click.Parameter] = [
        click.Option(["--data"], type=FOLDER, help="Folder that trajbuild wrote."),
        click.Option(["--run-dir"], type=FOLDER, required=True, help="Folder of this run."),
        click.Option(["--base-model"], help="SD 2.1-base: a folder, a hub id, or random:SEED."),
        click.Option(
            ["--config", "config_file"],
            type=FOLDER,
            help="YAML file of settings, or the config.yaml of a run; options win.",
        ),
        click.Option(
            ["--set", "sets"],
            multiple=True,
            metavar="NAME=VALUE",
            help="Any value of config.yaml, such as model.kernel.kernel_size=11.",
        ),
        click.Option(
            ["--consistency/--no-consistency"],
            default=True,
            help="Off: --points-of native --timestep-of fixed. [paper; default: on]",
        ),
        # The name of --checkpointing all in earlier versions.
        click.Option(["--gradient-checkpointing"], is_flag=True, hidden=True),
        click.Option(
            ["--resume"],
            is_flag=True,
            help="Continue RUN; options that are not given come from its config.yaml."
            " Settings that do not change the result may differ.",
        ),
    ]
    if stage == "base":
        presets = click.Choice(list(PRESETS))
        options.append(
            click.Option(["--preset"], type=presets, help="Model configuration. [default: sd21]")
        )
        about = "Model or run folder to train on, or small, the model of the package."
    else:
        about = "Run folder of the stage before."
    options.append(click.Option(["--from", "start"], type=FOLDER, help=about))
    about = "Fetch the base weights that its model names from the hub."
    options.append(click.Option(["--allow-download"], is_flag=True, help=about))
    return options


def _option(stage: Stage, name: str) -> click.Option:
    """The option of one setting; its help ends with its source and default."""
    setting = next(f for f in of_stage(stage) if f.name == name)
    kind = get_type_hints(TrainSettings)[name]
    default = getattr(DEFAULTS[stage], name)
    flag = "--" + name.replace("_", "-")
    source = {"paper": "paper; ", "prior": "prior; "}.get(setting.metadata["source"], "")
    shown = default if default != "" else "none"
    if kind is bool:
        shown = "on" if default else "off"
    others = [f"; {p}: {d[name]}" for p, d in PRESET_DEFAULTS.items() if name in d]
    text = f"{setting.metadata['help']} [{source}default: {shown}{''.join(others)}]"
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=default, help=text)
    shape: Any = kind
    if get_origin(kind) is not None:
        shape = click.Choice([str(v) for v in get_args(kind)])
    return click.Option(
        [flag, name], type=shape, default=default, help=text, metavar=NAMES.get(name)
    )


def _run(stage: Stage, values: dict[str, Any]) -> int:
    """Train and print the result; `values` are the command's options."""
    context = click.get_current_context()
    # Only typed options count: a resumed run keeps its own values for all others.
    typed = {
        name: value
        for name, value in values.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    settings = {f.name: typed.pop(f.name) for f in of_stage(stage) if f.name in typed}
    if "consistency" in typed:
        is_on = typed.pop("consistency")
        pair = ("all", "given") if is_on else ("native", "fixed")
        settings = dict(zip(("points_of", "timestep_of"), pair, strict=True)) | settings
    model = {
        dotted: typed.pop(option.name)
        for dotted, option in MODEL_OPTIONS[stage].items()
        if option.name in typed
    }
    if typed.pop("gradient_checkpointing", False):
        settings.setdefault("checkpointing", "all")
    sets = parse_sets(typed.pop("sets", ()), stage)
    settings, model = settings | sets.settings, model | sets.model
    allowed = typed.pop("allow_download", False)
    if "start" in typed:
        inside = typed["start"] / "model"
        model_folder = inside if inside.is_dir() else typed["start"]
        typed["base_model"] = base_to_use(typed.get("base_model"), model_folder, allowed)
    request = import_module("fidediff_model.training.request")
    module = import_module(f"fidediff_model.training.{stage}")
    try:
        outcome = module.train(request.Request(settings=settings, model=model, **typed))
    except UserError as error:
        _exit_at_once(error)
        raise
    return _report(stage, outcome)


def _report(stage: Stage, outcome: Outcome) -> int:
    if int(os.environ.get("RANK", "0")) != 0:
        return 0
    for name, value in outcome.scores.items():
        say(f"{name}: {value:.4f}")
    say(f"{outcome.run_dir / 'model'}: stage {stage}, {outcome.step:,} steps")
    if not outcome.finished:
        say("the time was up; run the same command again to resume", err=True)
        return 0
    after = {"base": "train kernel --from", "kernel": "train control --from"}
    verb = after.get(stage, "restore --model")
    place = outcome.run_dir if stage in after else outcome.run_dir / "model"
    say(f"next: fidediff {verb} {place} ...", err=True)
    return 0


def _exit_at_once(error: UserError) -> None:
    """Exit without cleanup if there are several processes: cleanup would wait for the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        say(*f"error: {error}".split("\n"), err=True)
        os._exit(int(error.exit_code))


for _stage in ABOUT:
    command.add_command(_stage_command(_stage))
