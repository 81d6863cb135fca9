"""A model folder on disk: complete or absent, safetensors and JSON only, refused when not ours."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fidediff_model.errors import ModelError, WeightsError
from trajectory_builder.disk.atomic import flush
from trajectory_builder.disk.regular import open_regular, read_regular, read_regular_json
from trajectory_builder.errors import shorten

FORMAT = "fidediff-model"
VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_TEMPORARY, _FORMER = ".tmp-", ".old-"
_SAMPLED = 1 << 20


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary folder with `write` and rename it, so that `folder` is never half-written.

    An existing model folder is replaced; an empty folder is used; any other is left alone.

    Args:
        folder: final name; missing parents are made.
        write: fills the folder that it is given.

    Raises:
        ModelError: `folder` contains something that is not a model.
        OSError: the disk is full, the place read-only, ...; the former model is still there.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}-{folder.name}"
    temporary = folder.with_name(_TEMPORARY + mark)
    try:
        temporary.mkdir()
        write(temporary)
        _flush(temporary)
        _swap(temporary, folder, folder.with_name(_FORMER + mark))
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # The writer of safetensors has the system's error in its text alone.
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        raise


def _refuse_foreign(folder: Path) -> None:
    try:
        values = read_regular_json(folder / CONFIG_FILE)
        ours = isinstance(values, dict) and values.get("format") == FORMAT
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ModelError(
            f"{folder.name} contains something that is not a FideDiff model; nothing was written",
            where=str(folder),
            cure="choose another folder, or empty this one yourself",
        )


def _swap(temporary: Path, folder: Path, former: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(temporary, folder)
        flush(folder.parent)
        return
    # No system call exchanges two folders everywhere: between these two renames a kill leaves the
    # former model under its other name, which `_advice` finds.
    os.rename(folder, former)
    try:
        os.rename(temporary, folder)
    except BaseException:
        os.rename(former, folder)
        raise
    flush(folder.parent)
    shutil.rmtree(former)


def _flush(folder: Path) -> None:
    # A rename may reach the disk before the content does, so the content goes first.
    for path in (*sorted(folder.rglob("*")), folder):
        flush(path)


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder of this release, as plain values.

    Raises:
        ModelError: the folder is absent, foreign, or of another version.
    """
    file = folder / CONFIG_FILE
    try:
        values = read_regular_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder} is not a FideDiff model folder",
            where=f"{file} is missing or is not JSON",
            cure=_advice(folder),
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ModelError(
            f"{folder} contains another kind of model", where=str(file), cure=_advice(folder)
        )
    version = values.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        raise ModelError(
            f"the model has format version {version}, this release reads {VERSION}",
            where=f"{file}: version",
            cure="install a newer release" if newer else "train it again, or use an older release",
        )
    for key, kind in (("base_model", str), ("base_fingerprint", str), ("parts", list)):
        value = values.get(key)
        if not isinstance(value, kind) or not all(isinstance(part, str) for part in value):
            raise ModelError(
                f"the model's config lacks {key}", where=str(file), cure="copy the folder again"
            )
    return values


def model_digest(folder: Path) -> str:
    """A digest that distinguishes models without reading gigabytes.

    It covers the config, and of each weight file the name, the size and a megabyte at both ends.

    Raises:
        ModelError: a file is absent or no regular file.
    """
    try:
        return _model_digest(folder)
    except OSError as error:
        raise ModelError(
            f"a file of the model cannot be read: {error.strerror}",
            where=str(error.filename or folder),
            cure=_advice(folder),
        ) from error


def _model_digest(folder: Path) -> str:
    digest = hashlib.sha256(read_regular(folder / CONFIG_FILE))
    for path in sorted(folder.rglob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
        with open_regular(path) as file:
            digest.update(file.read(_SAMPLED))
            file.seek(max(0, size - _SAMPLED))
            digest.update(file.read(_SAMPLED))
    return digest.hexdigest()[:16]


def refuse_other_base(
    values: Mapping[str, Any], name: str, fingerprint: str, *, where: str
) -> None:
    """Compare base weights with those that a model was trained over.

    Args:
        values: what `read_config` gave of the model.
        name: the base weights' name.
        fingerprint: theirs.
        where: the file of `values`, for the error.

    Raises:
        ModelError: the fingerprints differ.
    """
    if fingerprint != values["base_fingerprint"]:
        raise ModelError(
            f"the model was trained over {values['base_model']}, {name} is another base",
            where=f"{where}: base_fingerprint",
            cure="give the base weights that it names as --base-model",
        )


def _advice(folder: Path) -> str:
    if (folder / "model" / CONFIG_FILE).is_file():
        return f"give the model inside the run folder: {folder / 'model'}"
    if (folder / "unet").is_dir() or (folder / "model_index.json").is_file():
        return "this looks like a base model: give it as --base-model"
    left = sorted(folder.parent.glob(f"{_FORMER}*-{folder.name}"))
    if left:
        return f"a save was cut short; rename {left[-1].name} back to {folder.name}"
    return "give the folder that FideDiff.save or a training stage wrote (run_dir/model)"


def save_part(folder: Path, module: nn.Module, settings: Mapping[str, Any]) -> None:
    """Write a module's weights and constructor arguments into a new folder."""
    from safetensors.torch import save_file

    folder.mkdir()
    # channels_last tensors are not contiguous, which safetensors refuses.
    tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    values = {
        "class": type(module).__name__,
        "parameters": sum(p.numel() for p in module.parameters()),
        "settings": dict(settings),
    }
    write_json(folder / CONFIG_FILE, values)


def load_part(folder: Path, module: nn.Module) -> None:
    """Read a module's weights; every tensor must be there in its shape.

    Raises:
        ModelError: the file is absent, damaged, or of other settings.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS_FILE
    try:
        open_regular(file).close()  # a pipe in its place would hang the loader
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights of {folder.name} are missing or damaged",
            where=str(file),
            cure="copy the model folder again",
        ) from error
    own = {k: v.shape for k, v in module.state_dict().items()}
    found = {k: v.shape for k, v in tensors.items()}
    if own != found:
        wrong = sorted(k for k in own.keys() | found.keys() if own.get(k) != found.get(k))
        raise ModelError(
            f"the weights of {folder.name} do not fit config.json: {shorten(wrong, at_most=2)}",
            where=str(file),
            cure="take config.json and weights from the same model",
        )
    refuse_not_finite(tensors, file)
    module.load_state_dict(tensors)


def refuse_not_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights with NaN or infinity, which would restore black images without a word.

    Raises:
        WeightsError: naming the tensors.
    """
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"the weights contain values that are not numbers: {shorten(broken, at_most=2)}",
            where=str(file),
            cure="copy the model folder again, or train it again",
        )


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write indented JSON with a final newline."""
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
