"""`small`, the trained model inside the package: where it is, and whether its files are intact.

small/base/    UNet, VAE and schedule as a diffusers folder, half precision
small/model/   what the stages trained, a model folder over `small/base`
small/digests.json
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fidediff_model.errors import ModelError
from trajectory_builder.disk.regular import open_regular, read_regular_json

NAME = "small"
FOLDER = Path(__file__).with_name(NAME)
DIGESTS = "digests.json"
_CURE = "install the package again: pip install --force-reinstall --no-deps fidediff"


def base_folder() -> Path:
    """Return the base weights of `small`. Raises `ModelError` if a file is not as shipped."""
    check(FOLDER)
    return FOLDER / "base"


def model_folder() -> Path:
    """Return the model folder of `small`. Raises `ModelError` if a file is not as shipped."""
    check(FOLDER)
    return FOLDER / "model"


def check(folder: Path) -> None:
    """Compare every file with its SHA-256.

    Raises:
        ModelError: a file is missing or differs.
    """
    try:
        digests: dict[str, str] = read_regular_json(folder / DIGESTS)
    except (OSError, ValueError) as error:
        raise ModelError(
            "the model small is missing or incomplete", where=str(folder / DIGESTS), cure=_CURE
        ) from error
    for name, wanted in digests.items():
        file = folder / name
        if not file.is_file() or digest(file) != wanted:
            raise ModelError("the model small is damaged", where=str(file), cure=_CURE)


def write_digests(folder: Path) -> None:
    """Record the SHA-256 of every file of a folder that is to be shipped."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != DIGESTS)
    digests = {p.relative_to(folder).as_posix(): digest(p) for p in files}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
