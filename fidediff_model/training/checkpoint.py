"""Checkpoints: all that a run needs to resume bit for bit, in safetensors and JSON alone.

    checkpoints/step-000100/
      trained.safetensors      the trained parameters
      ema.safetensors          their moving averages
      discriminator.safetensors
      optimizer-NAME.safetensors and .json
      random-0.safetensors     states of the generators of rank 0, ...
      state.json               step, best score, sums of the log, processes
      whole.json               written last: the size and SHA-256 of every other file

A checkpoint is made in a temporary folder and renamed, so one that was cut short never gets the
name of a complete one; `newest` still compares every file with its digest before it is loaded.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fidediff_model.errors import TrainingError
from trajectory_builder.disk.atomic import TEMPORARY, flush
from trajectory_builder.disk.regular import (
    open_regular,
    read_regular,
    read_regular_json,
    read_regular_text,
)
from trajectory_builder.errors import ExitCode

FOLDER = "checkpoints"
MARKER = "whole.json"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{6,})")
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumable:
    """The tensors of a checkpoint.

    Attributes:
        tensors: file name -> tensor name -> the live tensor, written into on loading.
        optimizers: by name.
    """

    tensors: dict[str, Mapping[str, Tensor]]
    optimizers: dict[str, Optimizer]


@dataclass(frozen=True)
class Progress:
    """The plain values of a checkpoint.

    Attributes:
        step: training steps done.
        trajectories_per_step: over all processes.
        processes: how many trained together.
        log_bytes: length of log.jsonl.
        best: scores of the model that is kept.
        sums: of measures not yet logged: name -> (sum, count).
    """

    step: int
    trajectories_per_step: int = 1
    processes: int = 1
    log_bytes: int = 0
    best: Mapping[str, float] = field(default_factory=dict)
    sums: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Generators(NamedTuple):
    """States of the global generators of one process, as values that travel between processes."""

    tensors: bytes  # safetensors
    plain: str  # JSON


def write(
    run_dir: Path, progress: Progress, resumable: Resumable, generators: Sequence[Generators]
) -> Path:
    """Write the files of a checkpoint into a temporary folder, which `publish` then completes.

    Tensors are streamed one by one, so no copy of the optimizer is made in memory, and nothing is
    flushed: training waits only until the files are in the system's cache.

    Args:
        run_dir: its `checkpoints` folder is made if absent.
        progress: the plain values.
        resumable: the tensors.
        generators: `generator_states()` of each rank.

    Raises:
        TrainingError: the disk refuses; earlier checkpoints are untouched.
    """
    folder = run_dir / FOLDER
    temporary = folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    with _reporting(temporary, progress.step):
        folder.mkdir(parents=True, exist_ok=True)
        _drop_temporaries(folder)
        temporary.mkdir()
        _write_files(temporary, progress, resumable, generators)
    return temporary


def publish(temporary: Path, step: int, *, keep: int) -> Path:
    """Flush what `write` wrote, seal it, name it, and drop all but the newest `keep` checkpoints.

    It touches files alone, so it may run in a thread while training goes on.

    Raises:
        TrainingError: the disk refuses; earlier checkpoints are untouched.
    """
    folder = temporary.parent
    target = folder / f"step-{step:06d}"
    with _reporting(temporary, step):
        for path in temporary.iterdir():
            flush(path)
        _write_marker(temporary)
        if target.exists():  # damaged, or the run would have resumed from it
            shutil.rmtree(target)
        os.rename(temporary, target)
        flush(folder)
    for old in _numbered(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


@contextmanager
def _reporting(temporary: Path, step: int) -> Iterator[None]:
    """Turn a disk's refusal into an error with its cure, and leave no temporary folder."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint of step {step:,} cannot be written: {error.strerror or error}",
            where=str(temporary.parent),
            cure="make room and run the same command again; it resumes from the last complete one",
        ) from error


def newest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint, or None; damaged ones are named in a warning."""
    for path in reversed(_numbered(run_dir / FOLDER)):
        if damage := _damage(path):
            log.warning("checkpoint %s is damaged and is skipped: %s", path, damage)
        else:
            return path
    return None


def load(path: Path, resumable: Resumable, *, rank: int) -> Progress:
    """Bring tensors, optimizers and generators back to what `write` saw, in place.

    Raises:
        TrainingError: the checkpoint has another structure.
    """
    from safetensors.torch import load_file

    for name, live in resumable.tensors.items():
        stored = load_file(path / f"{name}.safetensors")
        if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in live.items()}:
            raise TrainingError(
                f"the checkpoint's {name} has another structure",
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
    random_file = path / f"random-{rank}.safetensors"
    # With more processes than before, the new ones keep the state that they started with.
    if random_file.is_file():
        plain = read_regular_text(random_file.with_suffix(".json"))
        set_generator_states(Generators(read_regular(random_file), plain))
    return Progress(**_read(path / STATE))


def generator_states() -> Generators:
    """The states of Python's, numpy's and torch's global generators in this process."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # others may draw from it
    version, numbers, gauss = random.getstate()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    plain = {"python": [version, list(numbers), gauss], "numpy": [name, *rest]}
    return Generators(_to_bytes(tensors), json.dumps(plain))


def set_generator_states(states: Generators) -> None:
    """Restore the states that `generator_states` returned."""
    from safetensors.torch import load

    tensors, plain = load(states.tensors), json.loads(states.plain)
    version, numbers, gauss = plain["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, *rest = plain["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy(), *rest))  # noqa: NPY002
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _write_files(
    folder: Path, progress: Progress, resumable: Resumable, generators: Sequence[Generators]
) -> None:
    for name, live in resumable.tensors.items():
        _save_tensors(folder / f"{name}.safetensors", live)
    for name, optimizer in resumable.optimizers.items():
        tensors, plain = _split_optimizer(optimizer)
        _save_tensors(folder / f"optimizer-{name}.safetensors", tensors)
        _write(folder / f"optimizer-{name}.json", plain)
    for rank, states in enumerate(generators):
        _write_bytes(folder / f"random-{rank}.safetensors", states.tensors)
        _write_bytes(folder / f"random-{rank}.json", states.plain.encode())
    _write(folder / STATE, asdict(progress))


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Stream tensors into a safetensors file: header length, JSON header, raw data.

    The library's own writer wants all tensors as one block of bytes, and reports a full disk as an
    error of its own kind.
    """
    # Larger elements first, so that every tensor stays aligned to its own.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(raw.numpy().data)


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
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"groups": state["param_groups"], "values": {}}
    for index, values in state["state"].items():
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
    flush(folder)


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint; empty where it is complete."""
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
    checkpoints = [p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(checkpoints, key=lambda p: int(p.name.removeprefix("step-")))


def _drop_temporaries(folder: Path) -> None:
    for left in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = read_regular_json(path)
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    _write_bytes(path, (json.dumps(values, indent=1) + "\n").encode())
