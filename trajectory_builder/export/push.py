"""A data set exported as `hf`, pushed to the hub: checked first, then in one commit."""

from __future__ import annotations

import re
from pathlib import Path

from trajectory_builder.curate import card
from trajectory_builder.disk import hub
from trajectory_builder.disk.regular import read_regular, read_regular_json, read_regular_text
from trajectory_builder.errors import DataError, printable, shorten
from trajectory_builder.export import croissant
from trajectory_builder.export.work import INDEX

CARD = "README.md"
_EXPORT = "make it first: trajbuild export DIR --to hf --out OUT"


def push(folder: Path, name: str, *, private: bool = True, licence: str | None = None) -> str:
    """Push what `trajbuild export --to hf` wrote.

    Args:
        folder: the export.
        name: OWNER/NAME[@BRANCH].
        private: as for `hub.push`.
        licence: the hub's identifier, such as cc-by-4.0; None takes the card's.

    Returns:
        The repository's address.

    Raises:
        DataError: it is no complete export as `hf`, or states no licence.
        UserError: the hub does not take it.
    """
    place = hub.parse(name)
    if place is None:
        raise DataError(
            f"{printable(name)} is no name on the hub", where="NAME", cure="give OWNER/NAME"
        )
    files: dict[str, Path | bytes] = {}
    for shard, size in _shards(folder).items():
        path = folder / shard
        if not path.is_file() or path.stat().st_size != size:
            raise DataError(
                f"the export is incomplete: {shard}",
                where=str(path),
                cure="run the same `trajbuild export` again",
            )
        files[shard] = path
    files[CARD] = _card(folder, place, licence).encode()
    files[croissant.NAME] = read_regular(folder / croissant.NAME)
    return hub.push(files, place, kind="dataset", private=private, owned=("data/",))


def _shards(folder: Path) -> dict[str, int]:
    """File -> bytes of every shard of the export."""
    try:
        index = read_regular_json(folder / INDEX)
        shards = {str(entry["file"]): int(entry["bytes"]) for entry in index["shards"]}
        target = index["target"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not an export", where=str(folder / INDEX), cure=_EXPORT
        ) from error
    climbing = [name for name in shards if not re.fullmatch(r"data/[\w.-]+\.parquet", name)]
    if target != "hf" or climbing or not shards:
        raise DataError(
            f"{folder} is an export as {printable(target)}, not as hf",
            where=shorten([str(folder / INDEX), *climbing]),
            cure=_EXPORT,
        )
    return shards


def _card(folder: Path, place: hub.HubName, licence: str | None) -> str:
    head, body = card.split_front(read_regular_text(folder / CARD))
    licence = licence or head.get("license")
    if not licence or licence == "unknown":
        raise DataError(
            "the card states no licence",
            where=f"{folder / CARD}: license",
            cure="give --licence with the hub's identifier: cc-by-4.0 for GoPro's frames",
        )
    body = body.replace("THIS_FOLDER_OR_REPOSITORY", place.repository)
    return "\n".join([*card.front_lines(head | {"license": licence}), body])
