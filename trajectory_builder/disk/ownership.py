"""Ownership of output folders: each belongs to the config that it was started with.

A command stores its config in its output folder and compares the two when it runs there again. An
equal config resumes; another one is refused, so that no folder ever mixes two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trajectory_builder.errors import ExitCode, OutputError, shorten


def refuse_other_config(
    folder: Path,
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    file: str,
    contents: str,
    cure: str = "choose another --out, or use the settings that it was started with",
) -> None:
    """Raise unless a folder's stored config equals the one asked for.

    Read and lock the folder first; an empty folder belongs to nobody, so do not call this for it:

        stored = folder.read_sealed(CONFIG)
        if stored is None:
            folder.write_sealed(CONFIG, {"config": wanted})
        else:
            refuse_other_config(
                out, stored["config"], wanted, file=CONFIG, contents="an export"
            )

    A command that allows some settings to change calls `differences` itself and raises
    `other_config_error` for the others.

    Args:
        folder: the output folder, as the user named it.
        stored: the config that the folder was started with, as read from JSON or YAML.
        wanted: the config of this command; tuples count as lists.
        file: where `stored` was read from, relative to `folder`.
        contents: what the folder contains, with its article: `a build`, `an evaluation`.
        cure: how to go on.

    Raises:
        OutputError: they differ (exit code 5); the keys that differ are named with both values.
    """
    differing = differences(stored, wanted)
    if differing:
        raise other_config_error(folder, differing, file=file, contents=contents, cure=cure)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the settings that differ, sorted, each with its (stored, wanted) value."""
    # A config read from JSON has lists where it had tuples.
    plain = json.loads(json.dumps(wanted))
    return dict(sorted(_differences(stored, plain, "").items()))


def other_config_error(
    folder: Path,
    differing: Mapping[str, tuple[Any, Any]],
    *,
    file: str,
    contents: str,
    cure: str,
) -> OutputError:
    """The error for a folder that belongs to another config; `refuse_other_config` explains."""
    changes = [
        f"{name}: {_shown(stored)} -> {_shown(wanted)}"
        for name, (stored, wanted) in differing.items()
    ]
    return OutputError(
        f"{folder} contains {contents} of another config",
        where=f"{folder / file}, differing keys: {shorten(changes)}",
        cure=cure,
        exit_code=ExitCode.OTHER_CONFIG,
    )


def _differences(stored: Any, wanted: Any, name: str) -> dict[str, tuple[Any, Any]]:
    if not (isinstance(stored, Mapping) and isinstance(wanted, Mapping)):
        return {} if stored == wanted else {name: (stored, wanted)}
    differing: dict[str, tuple[Any, Any]] = {}
    for key in stored.keys() | wanted.keys():
        dotted = f"{name}.{key}" if name else str(key)
        differing |= _differences(stored.get(key), wanted.get(key), dotted)
    return differing


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "not given"
    return ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
