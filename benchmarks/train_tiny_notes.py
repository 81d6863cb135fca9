"""What the runs of `train_tiny.py` left in their folder: curves, steps, seconds, and where."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from expand import machine

from fidediff_model.training import settings as train_settings


def curve(run_dir: Path) -> list[dict[str, Any]]:
    """The validation lines of a run's log."""
    log = run_dir / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return [line for line in lines if line["kind"] == "validation"]


def steps_done(home: Path, runs: Iterable[str]) -> dict[str, str]:
    """Steps that the parts took, of those that were planned where a run was ended early."""
    done: dict[str, str] = {}
    for line in (home / "vae.log").read_text().splitlines():
        part, count, _ = line.split(maxsplit=2)
        done[part] = count.partition("/")[0]
    for name in runs:
        log, stored = home / name / "log.jsonl", train_settings.read_config(home / name)
        if stored is not None and log.is_file() and log.stat().st_size:
            step = int(json.loads(log.read_text().splitlines()[-1])["step"])
            planned = stored.settings.steps
            done[name] = str(step) if step == planned else f"{step} of {planned}"
    return done


@contextmanager
def noting_seconds(home: Path, name: str) -> Iterator[None]:
    """On a CPU its seconds, so that a pause or a neighbour does not count; else the clock's."""
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    where = torch.cuda.get_device_name() if on_gpu else f"{machine()}, CPU seconds"
    begun = clock()
    try:
        yield
    finally:
        line = {"run": name, "seconds": clock() - begun, "where": where}
        with (home / "seconds.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _notes(home: Path) -> list[dict[str, Any]]:
    path = home / "seconds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def trained_on(home: Path) -> str:
    """The machines of all parts."""
    return "; ".join(dict.fromkeys(note["where"] for note in _notes(home)))


def seconds(home: Path) -> dict[str, int]:
    """Seconds of each part, those of cut runs added up."""
    found: dict[str, float] = {}
    for note in _notes(home):
        found[note["run"]] = found.get(note["run"], 0.0) + note["seconds"]
    return {name: round(seconds) for name, seconds in found.items()}


def crops(home: Path, runs: Iterable[str]) -> dict[str, str]:
    """Crops a step of each run, and their side in pixels."""
    stored = {name: train_settings.read_config(home / name) for name in runs}
    settings = {name: s.settings for name, s in stored.items() if s is not None}
    return {name: f"{s.batch} of {s.crop}" for name, s in settings.items()}


def kernel_channels(home: Path) -> list[int]:
    """Widths of M's levels, as the run `kernel` or the first that stands has them."""
    stored = (train_settings.read_config(home / name) for name in ("kernel", "base", "base-off"))
    return next(list(one.model.kernel.channels) for one in stored if one is not None)
