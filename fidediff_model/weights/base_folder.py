"""Checks of a base model's folder, made before any weight is read.

A network's shape does not say what it predicts, and diffusers silently falls back to pickles; so
configs, schedule and kinds of files are checked here, and each refusal names its cure.
"""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from fidediff_model.config import BaseConfig
from fidediff_model.errors import ModelError
from fidediff_model.weights import shipped
from trajectory_builder.disk.regular import open_regular, read_regular_json

USE_BASE = "give --base-model a folder of SD 2.1-base (512 pixels) in diffusers' layout"


def unusable_base(what: str, *, where: str = "", cure: str = USE_BASE) -> ModelError:
    """The error for base weights that are absent, damaged or of another kind than FideDiff's."""
    return ModelError(what, where=where, cure=cure)


WEIGHTS = "diffusion_pytorch_model"
PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
SCHEDULE_FILE = "scheduler_config.json"
SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "rescale_betas_zero_snr": False,
}
"""SD 2.1-base's noise schedule, in the words of diffusers."""
_HUB_FILES = (
    "*.json",
    "*.txt",
    "unet/*.safetensors",
    "vae/*.safetensors",
    "text_encoder/*.safetensors",
)


def unet_config(config: BaseConfig) -> dict[str, Any]:
    """Constructor arguments of diffusers' UNet for this base, as SD 2.1 sets them."""
    attends = [level in config.unet_attention for level in range(len(config.unet_channels))]
    return {
        "sample_size": 64,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)
        ),
        "block_out_channels": config.unet_channels,
        # diffusers keeps this old name for the number of heads of each level.
        "attention_head_dim": config.unet_heads,
        "cross_attention_dim": config.prompt_width,
        "norm_num_groups": config.unet_groups,
        "use_linear_projection": True,
    }


def vae_config(config: BaseConfig) -> dict[str, Any]:
    """Constructor arguments of diffusers' VAE for this base; its own defaults describe a toy."""
    levels, colours = len(config.vae_channels), 3 * config.vae_patch**2
    is_small = config.vae_patch > 1
    return {
        "sample_size": 768,
        "in_channels": colours,
        "out_channels": colours,
        "latent_channels": config.latent_channels,
        "block_out_channels": config.vae_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1 if is_small else 2,
        "norm_num_groups": config.vae_groups,
        "mid_block_add_attention": not is_small,
    }


def write_base(folder: Path, unet: Any, vae: Any) -> None:
    """Save a base model as a diffusers folder; its schedule, written last, marks it complete."""
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    values = {"_class_name": "DDPMScheduler", "prediction_type": "epsilon", **SCHEDULE}
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2) + "\n"
    (folder / "scheduler" / SCHEDULE_FILE).write_text(text, encoding="utf-8")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: OWNER/NAME."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~")


def find_folder(location: str | Path, *, fetch: bool = True) -> Path:
    """Return the local folder of `small`, a path or a hub id; the hub's safetensors are fetched.

    Args:
        location: as `load_base` takes it.
        fetch: ask the hub for what is not in its local cache.

    Raises:
        ModelError: there is no such folder, and the hub does not have it.
    """
    if str(location) == shipped.NAME:
        return shipped.base_folder()
    folder = Path(location)
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise unusable_base(
            f"{folder} is one file, not a diffusers model folder",
            where=str(folder),
            cure="convert the checkpoint to a folder with diffusers once, and give the folder",
        )
    if isinstance(location, Path) or not is_hub_id(str(location)):
        raise unusable_base(f"there is no folder {location}", where=str(location))
    return in_hub_cache(str(location)) or _from_hub(str(location), fetch)


def in_hub_cache(name: str) -> Path | None:
    """The folder of a hub id in the local cache; None where it is not complete there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return folder if all((folder / part).is_dir() for part in (*PARTS, "scheduler")) else None


def _from_hub(name: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not fetch:
        raise unusable_base(
            f"the model asks for the base weights {name} of the hub; nothing was fetched",
            where=f"https://huggingface.co/{name}, some gigabytes of someone's choice",
            cure="give --allow-download to fetch them, or --base-model FOLDER",
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise unusable_base(
            f"{name} is neither a local folder nor a model that the hub has",
            where=str(error).splitlines()[0],
            cure="check the name and the network, or give a local folder of SD 2.1-base",
        ) from error


def check_folder(folder: Path, config: BaseConfig) -> None:
    """Refuse a folder that `load_base` could not use, without reading its weights.

    Raises:
        ModelError: as for `load_base`.
    """
    present = [p for p in (*PARTS, "scheduler") if (folder / p).is_dir()]
    if not present:
        raise unusable_base(f"{folder} is not a diffusers model folder", where=str(folder))
    missing = [p for p in (*PARTS, "scheduler") if p not in present]
    if missing:
        raise unusable_base(
            f"the base model lacks {', '.join(missing)}",
            where=str(folder),
            cure="copy the missing folders from where the others came from",
        )
    check_schedule(folder / "scheduler")
    for part, wanted in (("unet", unet_config(config)), ("vae", vae_config(config))):
        _check_structure(folder / part, wanted)
        weight_file(folder / part)


def check_schedule(folder: Path) -> None:
    """Refuse a schedule other than SD 2.1-base's: epsilon, scaled linear, 1000 steps.

    A missing `prediction_type` means epsilon, as in old configs.

    Raises:
        ModelError: naming the key that differs.
    """
    values = read_json(folder / SCHEDULE_FILE)
    predicts = values.get("prediction_type", "epsilon")
    if predicts != "epsilon":
        raise unusable_base(
            f"the base model predicts {predicts.removesuffix('_prediction')}, not epsilon",
            where=f"{folder / SCHEDULE_FILE}: prediction_type",
            cure="use SD 2.1-base (512 pixels); the 768 pixel model is another parametrisation",
        )
    for key, value in SCHEDULE.items():
        found = values.get(key, False if key == "rescale_betas_zero_snr" else None)
        if found != value:
            raise unusable_base(
                f"the base model was trained with another schedule: {key} is {found}, not {value}",
                where=f"{folder / SCHEDULE_FILE}: {key}",
            )


def _check_structure(folder: Path, wanted: dict[str, Any]) -> None:
    values = read_json(folder / "config.json")
    kind = PARTS[folder.name]
    if values.get("_class_name", kind) != kind:
        raise unusable_base(
            f"{folder.name} is a {values['_class_name']}, not a {kind}",
            where=str(folder / "config.json"),
        )
    wanted = dict(wanted)
    del wanted["sample_size"]  # a note on its training, no part of its structure
    for key, value in wanted.items():
        found = values.get(key, _default_of(kind, key))
        if _as_list(found) != _as_list(value):
            raise unusable_base(
                f"the base model's {folder.name} has another structure: "
                f"{key} is {found}, this preset needs {_as_list(value)}",
                where=f"{folder / 'config.json'}: {key}",
                cure="choose the preset that fits, or " + USE_BASE,
            )


def _default_of(kind: str, key: str) -> Any:
    """diffusers' default for a key that a config leaves out."""
    diffusers: Any = import_module("diffusers")
    return inspect.signature(getattr(diffusers, kind).__init__).parameters[key].default


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def weight_file(folder: Path) -> tuple[Path, str | None]:
    """The file that will be loaded and diffusers' name for its variant, None or "fp16".

    Raises:
        ModelError: there is none, or only a pickle or a git-lfs pointer.
    """
    for variant in (None, "fp16"):
        name = f"{WEIGHTS}.{variant}.safetensors" if variant else f"{WEIGHTS}.safetensors"
        if (folder / name).is_file():
            _refuse_pointer(folder / name)
            return folder / name, variant
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".ckpt")]
    if pickles:
        raise unusable_base(
            "the weights are a pickle, which can run code; only safetensors are read",
            where=str(folder / pickles[0]),
            cure=f"fetch {WEIGHTS}.safetensors of the same model, or convert the file once",
        )
    raise unusable_base(
        f"{folder.name} has no weights",
        where=str(folder / f"{WEIGHTS}.safetensors"),
        cure="copy the file, or its .fp16.safetensors variant, from where the config came from",
    )


def _refuse_pointer(file: Path) -> None:
    with open_regular(file) as stream:
        start = stream.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise unusable_base(
            "the weights are a git-lfs pointer, not the file itself",
            where=str(file),
            cure="run git lfs pull in that folder",
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a table of settings. Raises `ModelError` where the file is absent or not one."""
    try:
        values = read_regular_json(file)
    except FileNotFoundError as error:
        raise unusable_base(
            f"the base model lacks {file.parent.name}/{file.name}",
            where=str(file),
            cure="copy the file from where the weights came from",
        ) from error
    except (OSError, ValueError) as error:
        raise unusable_base(f"{file.name} is not JSON", where=str(file)) from error
    if not isinstance(values, dict):
        raise unusable_base(f"{file.name} contains no settings", where=str(file))
    return values
