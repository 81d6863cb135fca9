"""`fidediff train base|kernel|control`: one command a stage, its options made of the settings."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from fidediff_model.config import PRESETS, ControlVariant
from fidediff_model.training.settings import Stage, TrainSettings, default_of, of_stage
from trajectory_builder.errors import UserError

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
            help="4 or 8 image pixels a latent cell. [paper: 4; default: the preset's]",
        ),
        "lora.rank": click.Option(
            ["--lora-rank"],
            type=click.IntRange(1),
            help="Of the UNet's update. [prior; default: the preset's]",
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
    """The stages in the order in which they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names as `ABOUT` has them; click would sort them."""
        return list(ABOUT)


@click.group(name="train", cls=StageGroup, short_help="Train a stage: base, kernel or control.")
def command() -> None:
    """Train FideDiff in three stages, each from the run folder of the one before.

    A run folder holds config.yaml, log.jsonl, checkpoints and model/. Run the
    same command again to go on with a run that was cut short. On several GPUs:
    torchrun --nproc_per_node 8 -m fidediff_model.cli train base ...
    """


def _stage_command(stage: Stage) -> click.Command:
    about, example = ABOUT[stage]
    text = (
        f"{about}\n\nWrites RUN/model, the best by validation or else the last. Values marked"
        " [paper] are published, [prior] come from an earlier one-step model, all others are"
        f" ours.\n\n\b\nExample:\n  {example}\nRun the same command again to resume."
    )
    options = _folder_options(stage)
    options += list(MODEL_OPTIONS[stage].values())
    options += [_option(stage, name) for name in (f.name for f in of_stage(stage))]
    return click.Command(
        stage,
        params=options,
        callback=lambda **given: _run(stage, given),
        help=text,
        short_help=about,
    )


def _folder_options(stage: Stage) -> list[click.Parameter]:
    options: list[click.Parameter] = [
        click.Option(["--data"], type=FOLDER, help="Folder that trajbuild wrote."),
        click.Option(["--run-dir"], type=FOLDER, required=True, help="Folder of this run."),
        click.Option(["--base-model"], help="SD 2.1-base: a folder, a hub id, or random:SEED."),
        click.Option(["--config", "settings_file"], type=FOLDER, help="YAML file of settings."),
        click.Option(
            ["--resume"],
            is_flag=True,
            help="Go on with RUN; what is not given comes from its config.yaml, and settings"
            " that leave the result alone may differ.",
        ),
    ]
    if stage == "base":
        shown = click.Choice(list(PRESETS))
        options.append(click.Option(["--preset"], type=shown, help="Size. [default: sd21]"))
    else:
        told = "Run folder of the stage before."
        options.append(click.Option(["--from", "start"], type=FOLDER, help=told))
    return options


def _option(stage: Stage, name: str) -> click.Option:
    """The option of one setting; its help ends with its source and default."""
    found = next(f for f in of_stage(stage) if f.name == name)
    kind = get_type_hints(TrainSettings)[name]
    default = default_of(found, stage)
    flag = "--" + name.replace("_", "-")
    source = {"paper": "paper; ", "prior": "prior; "}.get(found.metadata["source"], "")
    shown = default if default != "" else "none"
    if kind is bool:
        shown = "on" if default else "off"
    told = f"{found.metadata['help']} [{source}default: {shown}]"
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=default, help=told)
    shape: Any = kind
    if get_origin(kind) is not None:
        shape = click.Choice([str(v) for v in get_args(kind)])
    return click.Option([flag, name], type=shape, default=default, help=told,
                        metavar=NAMES.get(name))  # fmt: skip


def _run(stage: Stage, given: dict[str, Any]) -> int:
    context = click.get_current_context()
    typed = {
        name: value
        for name, value in given.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    names = {f.name for f in of_stage(stage)}
    start = import_module("fidediff_model.training.start")
    request = start.Request(
        run_dir=given["run_dir"],
        data=given["data"],
        base_model=given["base_model"],
        start=given.get("start"),
        settings_file=given["settings_file"],
        settings={k: v for k, v in typed.items() if k in names},
        model={
            dotted: typed[option.name]
            for dotted, option in MODEL_OPTIONS[stage].items()
            if option.name in typed
        },
        preset=given.get("preset"),
        resume=given["resume"],
    )
    module = import_module(f"fidediff_model.training.{stage}")
    try:
        outcome = module.train(request)
    except UserError as error:
        _end_of_one_of_many(error)
        raise
    return _tell(stage, outcome)


def _tell(stage: Stage, outcome: Any) -> int:
    if int(os.environ.get("RANK", "0")) != 0:
        return 0
    for name, value in outcome.scores.items():
        click.echo(f"{name}: {value:.4f}")
    click.echo(f"{outcome.run_dir / 'model'}: stage {stage}, {outcome.step:,} steps")
    if not outcome.finished:
        click.echo("the time was up; run the same command again to go on", err=True)
        return 0
    after = {"base": "train kernel --from", "kernel": "train control --from"}
    verb = after.get(stage, "restore --model")
    place = outcome.run_dir if stage in after else outcome.run_dir / "model"
    click.echo(f"next: fidediff {verb} {place} ...", err=True)
    return 0


def _end_of_one_of_many(error: UserError) -> None:
    """Among several processes an error ends at once: tidying up would wait for the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        click.echo(f"error: {error}", err=True)
        os._exit(int(error.exit_code))


for _stage in ABOUT:
    command.add_command(_stage_command(_stage))
