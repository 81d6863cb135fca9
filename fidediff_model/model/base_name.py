"""How a model folder names its base weights: by hub id, or by a path relative to itself.

A model folder is published, so it contains no path of the machine that it was trained on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fidediff_model.errors import ModelError
from fidediff_model.weights import shipped
from fidediff_model.weights.base_folder import is_hub_id

_RELATIVE = ("./", "../")


def portable(name: str, folder: Path) -> str:
    """The name of base weights as a model in `folder` stores it.

    A folder is named by its path from the model's. Where the two share nothing but the root, that
    path would be as telling as an absolute one; then the folder's own name is stored, and loading
    asks for `--base-model`.
    """
    base, home = Path(name), folder.resolve()
    if not base.is_absolute():
        return name
    if os.path.commonpath([base, home]) == home.anchor:
        return base.name
    path = os.path.relpath(base, home)
    return path if path.startswith("..") else f"./{path}"


def located(name: str, folder: Path) -> str:
    """What `portable` stored, as `load_base` takes it.

    Raises:
        ModelError: the base weights are named by the name of their folder alone.
    """
    if name.startswith(_RELATIVE):
        return str((folder.resolve() / name).resolve())
    is_known = name == shipped.NAME or ":" in name or is_hub_id(name) or os.path.isabs(name)
    if not is_known:
        raise ModelError(
            f"the model names its base weights, {name}, but not their place",
            where=str(folder / "config.json"),
            cure=f"give --base-model FOLDER, the folder {name} that it was trained over",
        )
    return name


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain settings in which absolute paths are cut to their last names."""
    return {key: _without_place(value) for key, value in values.items()}


def _without_place(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_places(value)
    if isinstance(value, list | tuple):
        return [_without_place(one) for one in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
