"""Model folders by name on the hub: found for `FideDiff.load`, and checked before they are pushed.

What comes from the hub is untrusted: only JSON and safetensors are fetched, and no code of it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from fidediff_model.errors import ModelError
from fidediff_model.model.folder import CONFIG_FILE, read_config
from fidediff_model.weights import shipped
from fidediff_model.weights.sd21 import RANDOM
from trajectory_builder.disk import hub
from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.disk.strict_yaml import parse_yaml
from trajectory_builder.errors import UserError, printable, shorten

CARD = "README.md"
_PATTERNS = ("config.json", "README.md", "*/config.json", "*/*.safetensors")
_WEIGHTS = {"base": ("prompt.safetensors", "pytorch_lora_weights.safetensors")}
_PART_WEIGHTS = ("model.safetensors",)
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.S)
# A path from the root, a drive or a home; not the slashes of an address.
_ABSOLUTE = re.compile(r"(?<![\w:/.~-])(?:~?/[\w.@-]+/[\w.@-]|[A-Za-z]:\\)[^\s\"'|]*")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def find(location: str | Path) -> Path:
    """The local folder of a model: a path as it is, `small`, or OWNER/NAME[@REVISION] of the hub.

    A folder here goes before a repository of the same name. Nothing is asked of the hub where the
    first part of the name is a folder here, since then the rest was mistyped.

    Raises:
        ModelError: the hub does not give it completely, or the files of `small` are damaged.
    """
    if str(location) == shipped.NAME and not Path(location).exists():
        return shipped.model_folder()
    path, name = Path(location), hub.parse(str(location))
    if name is None or path.exists() or (path.parent.exists() and path.parent != Path()):
        return path
    try:
        folder = hub.fetch(name, patterns=_PATTERNS)
    except UserError as error:
        raise ModelError(
            f"there is no folder {printable(location)} here, and {error.what}",
            where=error.where,
            cure=error.cure,
        ) from error
    check_complete(folder)
    return folder


def check_complete(folder: Path) -> None:
    """Refuse a model folder of which a part is missing or cut short, by headers alone.

    Raises:
        ModelError: naming the file.
    """
    parts = read_config(folder)["parts"]
    for part in ("base", *parts):
        for file in _WEIGHTS.get(part, _PART_WEIGHTS):
            path = folder / part / file
            try:
                # Reads the header, and compares the lengths in it with the file's.
                with safe_open(path, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise ModelError(
                    f"the model's {part} is missing or damaged",
                    where=str(path),
                    cure="copy the model folder again, or fetch it again with a network",
                ) from error


def push(
    folder: Path,
    name: str,
    *,
    private: bool = True,
    licence: str | None = None,
    base_model: str | None = None,
) -> str:
    """Push a model folder to the hub, in one commit, once it is fit to be read by others.

    Args:
        folder: what `FideDiff.save` or a training stage wrote.
        name: OWNER/NAME[@BRANCH].
        private: as for `hub.push`.
        licence: the hub's identifier, such as apache-2.0; None takes the card's.
        base_model: hub id of the base weights, where the folder names a local one.

    Returns:
        The repository's address.

    Raises:
        ModelError: a part is missing, the base has no name that others know, the card states no
            licence, or a path of this machine is in it.
        UserError: the hub does not take it.
    """
    place = hub.parse(name)
    if place is None:
        raise ModelError(
            f"{printable(name)} is no name on the hub", where="NAME", cure="give OWNER/NAME"
        )
    check_complete(folder)
    config = read_config(folder)
    config["base_model"] = _public_base(base_model or config["base_model"], folder)
    files: dict[str, Path | bytes] = {
        CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        CARD: _card(folder, place, config["base_model"], licence).encode(),
    }
    for part in ("base", *config["parts"]):
        for path in sorted((folder / part).iterdir()):
            if path.suffix in (".json", ".safetensors"):
                files[f"{part}/{path.name}"] = path
    _refuse_paths(files)
    owned = [f"{part}/" for part in ("base", "kernel_estimator", "timestep_regressor", "control")]
    return hub.push(files, place, kind="model", private=private, owned=owned)


def _public_base(base: str, folder: Path) -> str:
    """The base's name, where others can find the same weights by it."""
    known = base == shipped.NAME or base.partition(":")[0] == RANDOM
    if known or (hub.parse(base) and not Path(base).exists()):
        return base
    raise ModelError(
        f"the model names its base weights by a folder of this machine: {printable(base)}",
        where=f"{folder / CONFIG_FILE}: base_model",
        cure="give the hub id of the same weights: --base-model OWNER/NAME",
    )


def _card(folder: Path, place: hub.HubName, base: str, licence: str | None) -> str:
    """The card with the licence, the base and how to load the model by its name."""
    try:
        text = read_regular_text(folder / CARD)
    except (OSError, ValueError) as error:
        raise ModelError(
            "the model has no card", where=str(folder / CARD), cure="write one: what it was trained"
            " on, how, and for what it is good",
        ) from error  # fmt: skip
    found = _FRONT.match(text)
    front = _front_matter(found[1], folder) if found else {}
    licence = licence or front.get("license")
    if not isinstance(licence, str) or not _LICENCE.fullmatch(licence):
        raise ModelError(
            "the model's card states no licence",
            where=f"{folder / CARD}: license",
            cure="give --licence with the hub's identifier, such as apache-2.0; that of the base"
            " weights (openrail++ for Stable Diffusion 2.1) and of the data bind you",
        )
    front |= {"license": licence, "library_name": "fidediff", "pipeline_tag": "image-to-image"}
    if hub.parse(base):
        front["base_model"] = base
    body = text[found.end() :] if found else text
    body = body.replace("FideDiff.load(folder, base_model=...)", f'FideDiff.load("{place}")')
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{body}"


def _front_matter(text: str, folder: Path) -> dict[str, Any]:
    try:
        front = parse_yaml(text)
    except ValueError as error:
        raise ModelError(
            "the head of the model's card is not YAML", where=str(folder / CARD),
            cure="correct the text between the two lines ---",
        ) from error  # fmt: skip
    return dict(front) if isinstance(front, dict) else {}


def _refuse_paths(files: Mapping[str, Path | bytes]) -> None:
    found = []
    for name, content in files.items():
        if name.endswith((".json", ".md")):
            text = content.decode() if isinstance(content, bytes) else read_regular_text(content)
            found += [f"{name}: {printable(path[0])}" for path in _ABSOLUTE.finditer(text)]
    if found:
        raise ModelError(
            f"{len(found):,} paths of this machine are in the model's files",
            where=shorten(found),
            cure="take them out of config.json and README.md, and push again",
        )
