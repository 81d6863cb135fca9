"""One `restore` command, decided before it runs: jobs from names first, then the model, then work.

A missing model or device is told before an output folder is made; a wrong file name before the
seconds that a model takes to load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fidediff_model.model.engine import ReadyModel, Settings, choose_device
from fidediff_model.model.fidediff import open_model
from fidediff_model.model.folder import read_config
from fidediff_model.model.step import Part, no_part
from fidediff_model.restore.files import encode_picture, to_tensor, with_image
from fidediff_model.restore.jobs import Job, collect, left_to_do
from fidediff_model.restore.run import Report, RunOptions, RunReport, restore_files
from trajectory_builder.disk.regular import open_regular, read_regular
from trajectory_builder.images.pictures import decode

_SAMPLED = 1 << 20


@dataclass(frozen=True)
class RestorePlan:
    """What a command will do: jobs that are left, and how many were done before."""

    jobs: list[Job]
    skipped: int
    out: Path
    model: Path
    base_model: str | None
    settings: Settings
    options: RunOptions

    def load(self) -> ReadyModel:
        """The model, ready to restore."""
        return open_model(self.model, self.settings, base_model=self.base_model)

    def run(self, ready: ReadyModel, report: Report) -> RunReport:
        """Restore all jobs with the model that `load` gave."""
        return restore_files(ready, self.jobs, self.out, self.options, report=report)


def make_plan(
    inputs: Sequence[str], out: Path, settings: Settings, values: Mapping[str, Any]
) -> RestorePlan:
    """Decide all that can be decided without pixels and weights.

    Args:
        inputs: files, folders, patterns.
        out: the output folder.
        settings: how to restore.
        values: `model`, `base_model`, `batch`, `side_by_side`, `show_kernels`, `overwrite`,
            `skip_existing`.

    Raises:
        UserError: the model folder, the device, an input or an output cannot be used.
    """
    _need_parts(read_config(values["model"])["parts"], settings, values["show_kernels"])
    choose_device(settings.device)
    jobs = collect(inputs, out)
    recorded = {"model": model_digest(values["model"]), **asdict(settings)}
    recorded["side_by_side"] = values["side_by_side"]
    recorded["show_kernels"] = values["show_kernels"]
    # Where it ran is no part of what was asked for.
    del recorded["device"], recorded["compile"]
    left = left_to_do(
        jobs, out, recorded, overwrite=values["overwrite"], skip=values["skip_existing"]
    )
    options = RunOptions(values["batch"], values["side_by_side"], values["show_kernels"], recorded)
    return RestorePlan(
        left, len(jobs) - len(left), out, values["model"], values["base_model"], settings, options
    )


def nothing_done() -> RunReport:
    """The report of a run for which nothing was left."""
    return RunReport()


def restore_bytes(
    content: bytes, settings: Settings, values: Mapping[str, Any]
) -> tuple[bytes, float]:
    """One image file's content restored, in its own format; and its timestep."""
    picture = decode(content, name="standard input")
    ready = open_model(values["model"], settings, base_model=values["base_model"])
    answer = ready.run(to_tensor(picture)[None])
    restored = with_image(picture, answer.images[0])
    return encode_picture(restored), float(answer.t_hat[0])


def model_digest(folder: Path) -> str:
    """Tells models apart without reading gigabytes: sizes, and both ends of each weight file."""
    digest = hashlib.sha256(read_regular(folder / "config.json"))
    for path in sorted(folder.rglob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
        with open_regular(path) as file:
            digest.update(file.read(_SAMPLED))
            file.seek(max(0, size - _SAMPLED))
            digest.update(file.read(_SAMPLED))
    return digest.hexdigest()[:16]


def _need_parts(parts: Sequence[str], settings: Settings, show_kernels: bool) -> None:
    """Refuse what no image can be done with, before the model loads and a thousand files fail."""
    needed: tuple[Part, ...] = ("kernel_estimator", "timestep_regressor")
    for part in needed if settings.timestep is None else ():
        if part not in parts:
            raise no_part(part, parts)
    if show_kernels and "kernel_estimator" not in parts:
        raise no_part("kernel_estimator", parts, where="--show-kernels")
