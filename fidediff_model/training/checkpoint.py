"""Resume files: all that a run needs to go on bit for bit, in safetensors and JSON alone.

    checkpoints/step-000100/
      trained.safetensors      the trained parameters
      ema.safetensors          their moving averages
      discriminator.safetensors
      optimizer-NAME.safetensors and .json
      random-0.safetensors     states of the generators of rank 0, ...
      state.json               step, best score, sums of the log, processes
      whole.json               written last: the size and SHA-256 of every other file

A checkpoint is made in a temporary folder and renamed, so one that was cut short never has the
name of a whole one; and `newest` still holds every file against its digest before it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fidediff_model.errors import TrainingError
from trajectory_builder.errors import ExitCode

FOLDER = "checkpoints"
MARKER = "whole.json"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")
_TEMPORARY = ".tmp-"
log = logging.getLogger(__name__)


@dataclass
class Resumable:
    """What a checkpoint holds.

    Attributes:
        tensors: file name -> tensor name -> the live tensor, written into on loading.
        optimizers: by name.
        state: plain values: step, sums, best score.
    """

    tensors: dict[str, Mapping[str, Tensor]]
    optimizers: dict[str, Optimizer]
    state: dict[str, Any] = field(default_factory=dict)


def save(
    run_dir: Path, step: int, resumable: Resumable, generators: list[dict[str, Any]], *, keep: int
) -> Path:
    """Write the checkpoint of a step, then drop all but the newest `keep`.

    Args:
        run_dir: its `checkpoints` folder is made if absent.
        step: training steps done.
        resumable: what to write.
        generators: `generator_states()` of each rank.
        keep: whole checkpoints that stay.

    Raises:
        TrainingError: the disk refuses; earlier checkpoints are untouched.
    """
    folder = run_dir / FOLDER
    target = folder / f"step-{step:06d}"
    temporary = folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _drop_temporaries(folder)
        temporary.mkdir()
        _write_files(temporary, resumable, generators)
        _write_marker(temporary)
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
        _sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint of step {step:,} cannot be written: {error.strerror or error}",
            where=str(folder),
            cure="make room and run the same command again; it goes on from the last whole one",
        ) from error
    for old in _numbered(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(run_dir: Path) -> Path | None:
    """The newest checkpoint that is whole, or None; damaged ones are named in a warning."""
    for path in reversed(_numbered(run_dir / FOLDER)):
        if damage := _damage(path):
            log.warning("checkpoint %s is not whole and is left alone: %s", path, damage)
        else:
            return path
    return None


def load(path: Path, resumable: Resumable, *, rank: int) -> None:
    """Bring everything back to what `save` saw, in place; `resumable.state` too.

    Raises:
        TrainingError: the checkpoint is of another structure.
    """
    from safetensors.torch import load_file

    for name, live in resumable.tensors.items():
        stored = load_file(path / f"{name}.safetensors")
        if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in live.items()}:
            raise TrainingError(
                f"the checkpoint's {name} is of another structure",
                where=str(path),
                cure="give the settings of config.yaml, or another --run-dir",
                exit_code=ExitCode.OTHER_CONFIG,
            )
        with torch.no_grad():
            for key, tensor in live.items():
                tensor.copy_(stored[key])
    for name, optimizer in resumable.optimizers.items():
        tensors = load_file(path / f"optimizer-{name}.safetensors")
        _fill_optimizer(optimizer, tensors, _read(path / f"optimizer-{name}.json"))
    resumable.state = _read(path / STATE)
    random_file = path / f"random-{rank}.safetensors"
    # More processes than before: the new ones keep the state that they started with.
    if random_file.is_file():
        set_generator_states(load_file(random_file), _read(path / f"random-{rank}.json"))


def generator_states() -> dict[str, Any]:
    """The states of python's, numpy's and torch's global generators, of this process."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # others may draw from it
    version, numbers, gauss = random.getstate()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    plain = {"python": [version, list(numbers), gauss], "numpy": [name, *rest]}
    # As bytes, since they travel between processes.
    return {"tensors": _to_bytes(tensors), "plain": plain}


def set_generator_states(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Put back what `generator_states` gave."""
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, *rest = plain["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy(), *rest))  # noqa: NPY002
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _write_files(folder: Path, resumable: Resumable, generators: list[dict[str, Any]]) -> None:
    for name, live in resumable.tensors.items():
        _save_tensors(folder / f"{name}.safetensors", live)
    for name, optimizer in resumable.optimizers.items():
        tensors, plain = _split_optimizer(optimizer)
        _save_tensors(folder / f"optimizer-{name}.safetensors", tensors)
        _write(folder / f"optimizer-{name}.json", plain)
    for rank, states in enumerate(generators):
        _write_bytes(folder / f"random-{rank}.safetensors", states["tensors"])
        _write(folder / f"random-{rank}.json", states["plain"])
    _write(folder / STATE, resumable.state)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Not by the library's own writer: it tells a full disk in an error of its own kind.
    _write_bytes(path, _to_bytes(tensors))


def _to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    payload: bytes = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    return payload


def _write_bytes(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _split_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors, named INDEX.NAME, and plain values."""
    whole = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"groups": whole["param_groups"], "values": {}}
    for index, values in whole["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain["values"].setdefault(str(index), {})[name] = value
    return tensors, plain


def _fill_optimizer(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in plain["values"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})


def _write_marker(folder: Path) -> None:
    files = {p.name: [p.stat().st_size, _digest(p)] for p in sorted(folder.iterdir())}
    _write(folder / MARKER, {"files": files})
    _sync(folder)


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint; empty where it is whole."""
    try:
        files = _read(path / MARKER)["files"]
        for name, (size, digest) in files.items():
            if (path / name).stat().st_size != size or _digest(path / name) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first."""
    found = [p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def _drop_temporaries(folder: Path) -> None:
    for left in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
