"""Seconds and memory of one restoration, as a whole and part by part.

Weights do not change the time, so random ones will do. The whole is timed as `restore` runs it,
without waiting inside; each part is timed in further runs that wait for the device around it.
`benchmarks/flops.py` counts the arithmetic.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fidediff_model.errors import DeviceError
from fidediff_model.model import engine
from fidediff_model.model.engine import ReadyModel, Settings
from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.model.presets import preset
from fidediff_model.model.step import PARTS
from fidediff_model.weights.sd21 import RANDOM, load_base
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import ExitCode

GIVEN_T = 200.0
"""t where the control is off: nothing needs the kernels then, as in the paper's d = 8 row."""
PAPER_SECONDS = {
    "DiffBIR, 50 steps": 25.40,
    "Diff-Plugin, 20 steps": 5.29,
    "AdaRevD": 1.09,
    "FideDiff, d = 4 in full": 1.52,
    "FideDiff, d = 8 without Kernel ControlNet": 0.25,
}
"""Seconds per GoPro image (1280 x 720) from the paper, arXiv 2510.01641."""


@dataclass(frozen=True)
class BenchmarkRequest:
    """What to measure: all combinations of strides, controls and types.

    Attributes:
        preset: of the model.
        base_model: folder or hub id of base weights, or `random:SEED`.
        size: height and width in pixels.
        latent_stride: only this one; None takes 8 and 4.
        control: only this one; None takes `none` and `filter`.
        dtypes: none takes bf16 and fp32 on CUDA, fp32 elsewhere.
        compile: also compiled.
        device: such as cuda or cpu; None takes the best available.
        repeats: timed runs.
        warm_up: runs before them.
    """

    preset: str = "sd21"
    base_model: str = f"{RANDOM}:0"
    size: tuple[int, int] = (720, 1280)
    latent_stride: int | None = None
    control: engine.Control | None = None
    dtypes: tuple[engine.Precision, ...] = ()
    compile: bool = False
    device: str | None = None
    repeats: int = 20
    warm_up: int = 3

    def variants(self) -> list[Settings]:
        """The rows in order, compiled ones last.

        Raises:
            DeviceError: the device is absent, or float16 is asked of a CPU.
        """
        kind = engine.choose_device(self.device).type
        dtypes = self.dtypes or (("bf16", "fp32") if kind == "cuda" else ("fp32",))
        if kind == "cpu" and "fp16" in dtypes:
            raise DeviceError(
                "CPUs cannot compute in float16",
                where="--dtype fp16",
                cure="give fp32 or bf16",
                exit_code=ExitCode.WRONG_USE,
            )
        compiled = (False, True) if self.compile else (False,)
        strides = (self.latent_stride,) if self.latent_stride else (8, 4)
        both: tuple[engine.Control, ...] = ("none", "filter")
        controls = (self.control,) if self.control else both
        return [
            Settings(
                GIVEN_T if control == "none" else None, latent_stride=stride, control=control,
                tile=0, dtype=dtype, device=self.device, compile=is_compiled,
            )
            for is_compiled, dtype, stride, control in product(
                compiled, dtypes, strides, controls
            )
        ]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One variant: seconds, bytes, and a note where it was run otherwise or not at all."""

    label: str
    seconds_p50: float | None = None
    seconds_p95: float | None = None
    peak_bytes: int | None = None
    parts: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """What was measured, on which device, with which torch and how many threads."""

    request: BenchmarkRequest
    device: str
    torch: str
    threads: int
    rows: list[Row]


def run(request: BenchmarkRequest, report: Callable[[int], Any] = lambda count: None) -> Benchmark:
    """Measure one variant after another; `report` is called with 1 after each."""
    device, rows = engine.choose_device(request.device), []
    blur = torch.rand(1, 3, *request.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for settings in request.variants():
        model = make_model(request.preset, request.base_model, device)
        ready = engine.make_ready(model, settings, device=device)
        rows.append(_measure(ready, blur, request))
        del model, ready
        gc.collect()  # a model has circles, which would keep its weights beside the next one's
        report(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Benchmark(request, name, torch.__version__, torch.get_num_threads(), rows)


def make_model(name: str, base_model: str, device: torch.device) -> FideDiff:
    """A new model of the preset `name` with all parts, over random or real base weights."""
    config = preset(name)
    if device.type == "cpu":
        engine.choose_threads(config.base.unet_channels[0])
    is_random = base_model.partition(":")[0] == RANDOM
    # Random weights are drawn where they are used: a GPU draws a billion in a blink.
    with device if is_random else nullcontext():
        # The learnt prompt does not matter to the time, so no text encoder is needed.
        return build(config, load_base(base_model, config.base, prompt_start="normal"), parts=PARTS)


def _measure(ready: ReadyModel, blur: Tensor, request: BenchmarkRequest) -> Row:
    settings, device = ready.settings, ready.device
    control = "no control" if settings.control == "none" else settings.control
    label = f"d = {settings.latent_stride}, {control}, {settings.dtype}"
    label += ", compiled" if settings.compile else ""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        note = "; ".join(ready.run(blur).notes)
        for _ in range(request.warm_up - 1):
            ready.run(blur)
        seconds = [_seconds(partial(ready.run, blur), device) for _ in range(request.repeats)]
    except DeviceError as error:
        return Row(label, note=error.what)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of the process so far
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    p50, p95 = (float(np.percentile(seconds, p, method="inverted_cdf")) for p in (50, 95))
    # The first of these runs is left out: from now on each part waits for the device.
    runs = [_parts(ready, blur) for _ in range(1 + max(3, request.repeats // 4))][1:]
    parts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return Row(label, p50, p95, peak, parts, note)


def _parts(ready: ReadyModel, blur: Tensor) -> dict[str, float]:
    """Seconds of each part in one run, whose methods are replaced while it lasts."""
    model, seconds = ready.model, dict[str, float]()

    def timed(original: Callable[..., Any], name: str, *args: Any, **keywords: Any) -> Any:
        results: list[Any] = []
        spent = _seconds(lambda: results.append(original(*args, **keywords)), ready.device)
        seconds[name] = seconds.get(name, 0.0) + spent
        return results[0]

    parts = [
        (model.codec, "encode", "VAE encode"),
        (model.kernel_estimator, "pooled", "kernel estimator"),
        (model.timestep_regressor, "forward", "timestep regressor"),
        (model.control, "forward", "kernel control"),
        (model.base, "forward", "UNet"),
        (model.codec, "decode", "VAE decode"),
    ]
    present = [entry for entry in parts if entry[0] is not None]
    try:
        for part, method, name in present:
            setattr(part, method, partial(timed, getattr(part, method), name))
        ready.run(blur)
    finally:
        for part, method, _ in present:
            vars(part).pop(method, None)
    return seconds


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    synchronize = getattr(torch, device.type).synchronize  # nothing to wait for on a CPU
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def write(result: Benchmark, out: Path) -> None:
    """Write OUT.json and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(f"{out}.json"), (json.dumps(asdict(result), indent=2) + "\n").encode())
    write_atomic(Path(f"{out}.md"), to_markdown(result).encode())


def to_markdown(result: Benchmark) -> str:
    """The rows with their parts, then the paper's seconds where the size is the paper's."""
    request, (height, width) = result.request, result.request.size
    parts = list(dict.fromkeys(name for row in result.rows for name in row.parts))
    head = ["variant", "p50 s", "p95 s", "peak GB", *(f"{part} s" for part in parts), "note"]
    cells = [head, ["---"] * len(head)]
    for row in result.rows:
        gigabytes = None if row.peak_bytes is None else row.peak_bytes / 1e9
        numbers = [row.seconds_p50, row.seconds_p95, gigabytes, *(row.parts.get(p) for p in parts)]
        texts = ["" if n is None else f"{n:.3f}" for n in numbers]
        cells.append([row.label, *texts, row.note])
    lines = [
        f"`{request.preset}` at {width} x {height} on {result.device}, {result.threads} threads,"
        f" torch {result.torch}; base weights: {request.base_model}; {request.repeats} runs after"
        f" {request.warm_up}. Parts are timed in further runs that wait for the device, so they"
        " add up to more. Without control the timestep is given and no kernels are estimated.",
        "",
        *(f"| {' | '.join(line)} |" for line in cells),
    ]
    if (height, width) == (720, 1280):
        lines += ["", "| paper, seconds per image on its own machine | |", "| --- | --- |"]
        lines += [f"| {name} | {seconds:.2f} |" for name, seconds in PAPER_SECONDS.items()]
    return "\n".join([*lines, ""])
