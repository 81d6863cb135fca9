"""Seconds, memory and arithmetic of one restoration, part by part and as a whole.

Weights do not change the time, so random ones will do. The whole is timed without waiting inside,
as `restore` runs it; each part is timed in further runs, with the device waited for before and
after it.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fidediff_model import presets
from fidediff_model.config import CodecConfig, ModelConfig
from fidediff_model.errors import DeviceError
from fidediff_model.evaluate.paper import PAPER_SECONDS
from fidediff_model.model.codec import Codec
from fidediff_model.model.engine import DTYPES, choose_device, is_out_of_memory
from fidediff_model.model.fast_layers import compile_regions
from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.model.step import PARTS
from fidediff_model.model.tiles import plan_for
from fidediff_model.weights.sd21 import RANDOM, cast, load_base, random_base
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import ExitCode

GIVEN_T = 200.0
"""t where the control is off: nothing needs the kernels then, as in the paper's d = 8 row."""
PEAK_TFLOPS = {
    "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "RTX 4090": 165.2,
}  # fmt: skip
"""Dense bf16 peak by a part of the device's name, as published; SXM where there are several."""


@dataclass(frozen=True)
class Variant:
    """One row of the benchmark."""

    latent_stride: int = 4
    control: bool = True
    dtype: str = "bf16"
    compile: bool = False

    @property
    def label(self) -> str:
        """Such as `d = 4, filter, bf16, compiled`."""
        control = "filter" if self.control else "no control"
        compiled = ", compiled" if self.compile else ""
        return f"d = {self.latent_stride}, {control}, {self.dtype}{compiled}"


@dataclass(frozen=True)
class BenchmarkRequest:
    """What to measure, and how.

    Attributes:
        preset: `tiny` or `sd21`.
        base_model: folder or hub id of base weights, or `random:SEED`.
        size: height and width in pixels.
        latent_stride: only this one; None takes 8 and 4.
        control: only `none` or only `filter`; None takes both.
        dtypes: only these; none takes bf16 and fp32 on CUDA, fp32 elsewhere.
        compile: also compiled.
        device: such as cuda or cpu; None takes the best available.
        repeats: timed runs.
        warm_up: runs before them.
    """

    preset: str = "sd21"
    base_model: str = f"{RANDOM}:0"
    size: tuple[int, int] = (720, 1280)
    latent_stride: int | None = None
    control: str | None = None
    dtypes: tuple[str, ...] = ()
    compile: bool = False
    device: str | None = None
    repeats: int = 20
    warm_up: int = 3

    def variants(self) -> list[Variant]:
        """The rows in order; compiled ones come last, since compiling cannot be undone.

        Raises:
            DeviceError: the device is absent, or float16 is asked of a CPU.
        """
        device = choose_device(self.device)
        dtypes = self.dtypes or (("bf16", "fp32") if device.type == "cuda" else ("fp32",))
        if device.type == "cpu" and "fp16" in dtypes:
            raise DeviceError(
                "CPUs cannot compute in float16",
                where="--dtype fp16",
                cure="give fp32 or bf16",
                exit_code=ExitCode.WRONG_USE,
            )
        return [
            Variant(stride, control, dtype, compile_)
            for compile_ in ((False, True) if self.compile else (False,))
            for dtype in dtypes
            for stride in (8, 4)
            for control in (False, True)
            if self.latent_stride in (None, stride)
            and self.control in (None, "filter" if control else "none")
        ]


def run(
    request: BenchmarkRequest, report: Callable[[int], Any] = lambda count: None
) -> dict[str, Any]:
    """Build the model and measure its variants one after another.

    Args:
        request: what to measure.
        report: called with 1 after each variant.

    Returns:
        The JSON report: preset, base, repeats, warm_up, machine, size, and one row per variant.
    """
    device = choose_device(request.device)
    variants = request.variants()
    model = make_model(request.preset, request.base_model, device)
    model.prepare_for_inference(channels_last=device.type == "cuda", device=device)
    control, compiled, rows = model.control, False, []
    blur = torch.rand(1, 3, *request.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for variant in variants:
        _apply(model, variant, control)
        if variant.compile and not compiled:
            compile_regions(model.base.unet, model.codec.vae, control)
            compiled = True
        rows.append(_measure(model, variant, blur.to(device), request))
        report(1)
    return {
        "preset": request.preset, "base": request.base_model, "repeats": request.repeats,
        "warm_up": request.warm_up, "machine": machine(device), "size": list(request.size),
        "rows": rows,
    }  # fmt: skip


def make_model(preset: str, base_model: str, device: torch.device) -> FideDiff:
    """A new model of a preset with all parts, over random or real base weights."""
    config = presets.preset(preset)
    random = base_model.partition(":")[0] == RANDOM
    # Random weights are drawn where they are used: a GPU draws a billion in a blink.
    with device if random else nullcontext():
        # The learnt prompt does not matter to the time, so no text encoder is needed.
        weights = load_base(base_model, config.base, prompt_start="normal")
        return build(config, weights, parts=PARTS)


def _apply(model: FideDiff, variant: Variant, control: Any) -> None:
    model.control = control if variant.control else None
    if model.codec.latent_stride != variant.latent_stride:
        model.codec = Codec(model.codec.vae, variant.latent_stride)
    for part in (model.base.unet, model.codec.vae, control):
        cast(part, DTYPES[variant.dtype])


def _measure(
    model: FideDiff, variant: Variant, blur: Tensor, request: BenchmarkRequest
) -> dict[str, Any]:
    """The row of one variant."""
    device, tflop = blur.device, count_tflop(model.config, variant, request.size)
    plan = plan_for(model, request.size, tile=0, overlap=0)
    t = None if variant.control else GIVEN_T
    row = {"label": variant.label, **asdict(variant), "tflop": tflop}
    row["tflop_total"] = total = sum(tflop.values())

    def step() -> None:
        model(blur, t, keep_kernels=False, plan=plan)

    _reset_peak(device)
    try:
        with torch.inference_mode():
            for _ in range(request.warm_up):
                step()
            timed = [_timed(step, device) for _ in range(request.repeats)]
            peak = _peak(device)
            # The first of these runs is left out: the parts wait for the device now.
            runs = [
                _per_part(model, step, lambda call: _timed(call, device)[0])
                for _ in range(1 + max(3, request.repeats // 4))
            ][1:]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"out_of_memory": True, **row}
    clock, processor = zip(*timed, strict=True)
    p50, peak_rate = _percentile(clock, 50), peak_tflops(device)
    return {
        "seconds_p50": p50,
        "seconds_p95": _percentile(clock, 95),
        "seconds_best": min(clock),
        "processor_seconds_p50": _percentile(processor, 50),
        "parts": {name: statistics.median(run[name] for run in runs) for name in runs[0]},
        "peak_bytes": peak,
        "strip_rows": plan.strip_rows,
        **row,
        "tflops": total / p50,
        "share_of_peak": None if peak_rate is None else total / p50 / peak_rate,
    }


def _per_part(
    model: FideDiff, step: Callable[[], Any], meter: Callable[[Callable[[], Any]], float]
) -> dict[str, float]:
    """Run one step and meter each part of the model in it, in the order of their first calls.

    Args:
        model: whose parts; their methods are replaced while the step runs.
        step: one restoration.
        meter: calls its argument and returns what was metered; summed over the calls of a part.
    """
    metered: dict[str, float] = {}

    def call(original: Callable[..., Any], name: str, *args: Any, **keywords: Any) -> Any:
        results: list[Any] = []
        value = meter(lambda: results.append(original(*args, **keywords)))
        metered[name] = metered.get(name, 0.0) + value
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
            setattr(part, method, partial(call, getattr(part, method), name))
        step()
    finally:
        for part, method, _ in present:
            vars(part).pop(method, None)
    return metered


def _timed(call: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and of all processors together."""
    synchronize = getattr(torch, device.type).synchronize  # nothing to wait for on a CPU
    synchronize()
    start, worked = time.perf_counter(), time.process_time()
    call()
    synchronize()
    return time.perf_counter() - start, time.process_time() - worked


def _percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank: a time that was measured, not one between two."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


def _reset_peak(device: torch.device) -> None:
    """Forget the greatest memory so far; the weights stay counted, since they have to fit."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        # Linux: 5 resets the greatest resident size (proc(5), clear_refs).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> int:
    """Greatest allocation (CUDA) or resident size (Linux) since the reset; 0 where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    resident = _first_field(Path("/proc/self/status"), "VmHWM")
    return int(resident.split()[0]) * 1024 if resident else 0


def _first_field(file: Path, name: str) -> str:
    """The value of the first line `NAME: VALUE` of a file of /proc, or nothing."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((li.partition(":")[2].strip() for li in lines if li.startswith(name)), "")


def count_tflop(config: ModelConfig, variant: Variant, size: tuple[int, int]) -> dict[str, float]:
    """TFLOP of each part of a variant, one multiply-add being 2.

    T is left out: its share is below a thousandth, and it needs a real device.
    """
    counts = _count(config, variant.latent_stride, size)
    of_control = ("kernel estimator", "kernel control")
    return {name: n for name, n in counts.items() if variant.control or name not in of_control}


@cache
def _count(config: ModelConfig, latent_stride: int, size: tuple[int, int]) -> dict[str, float]:
    """TFLOP of all parts, counted on the meta device, where nothing is computed."""

    def count(call: Callable[[], Any]) -> float:
        with FlopCounterMode(display=False) as counter:
            call()
        return float(counter.get_total_flops()) / 1e12

    settings = replace(config, codec=CodecConfig(latent_stride))
    with torch.device("meta"), torch.no_grad():
        model = build(settings, random_base(settings.base), parts=PARTS).eval()
        model.requires_grad_(False).base.unet.disable_adapters()  # fused at run time
        blur, t = torch.empty(1, 3, *size), torch.empty(1)

        def step() -> None:
            z = model.codec.encode(blur)
            model.part("kernel_estimator").pooled(blur, latent_stride)
            k_in = torch.empty(1, settings.kernel.kernel_size**2, *z.shape[2:])
            model.part("control")(z, t, model.base.prompt, k_in=k_in, image=None)
            model.base(z, t)
            model.codec.decode(z, size)

        return _per_part(model, step, count)


def peak_tflops(device: torch.device) -> float | None:
    """The device's published dense bf16 peak in TFLOP/s, or None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def machine(device: torch.device) -> dict[str, Any]:
    """The device, processor, threads and versions of a measurement."""
    processor = _first_field(Path("/proc/cpuinfo"), "model name") or platform.machine()
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "kind": device.type, "processor": processor, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }  # fmt: skip


def write(result: Mapping[str, Any], out: Path) -> None:
    """Write OUT.json and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(f"{out}.json"), (json.dumps(result, indent=2) + "\n").encode())
    write_atomic(Path(f"{out}.md"), to_markdown(result).encode())


def to_markdown(result: Mapping[str, Any]) -> str:
    """Rows of variants with their parts, then the paper's seconds where the size is the paper's."""
    height, width = result["size"]
    about, rows = result["machine"], result["rows"]
    parts = list(dict.fromkeys(name for row in rows for name in row.get("parts", {})))
    head = ["variant", "p50 s", "p95 s", "processor s", "peak GB", "TFLOP", "TFLOP/s", "of peak"]
    head += [f"{part} s" for part in parts]
    cells = [head, ["---"] * len(head), *(_cells(row, parts) for row in rows)]
    lines = [
        f"`{result['preset']}` at {width} x {height} on {about['device']}"
        f" ({about['processor']}, {about['threads']} threads), torch {about['torch']};"
        f" base weights: {result['base']}; {result['repeats']} runs after {result['warm_up']}.",
        "",
        *(f"| {' | '.join(line)} |" for line in cells),
    ]
    if (height, width) == (720, 1280):
        lines += ["", "| paper, seconds per image on its own machine | |", "| --- | --- |"]
        lines += [f"| {name} | {seconds:.2f} |" for name, seconds in PAPER_SECONDS]
    notes = [
        "Parts are timed in further runs that wait for the device, so they add up to more.",
        "Without control the timestep is given, so no kernels are estimated.",
    ]
    if about["kind"] == "cpu":
        notes += [
            "Measured on a CPU: says nothing about a GPU.",
            "Processor seconds are those of all threads; clock seconds well above them mean that"
            " the machine was busy with other work.",
        ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _cells(row: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    if row.get("out_of_memory"):
        return [row["label"], "out of memory", *[""] * (6 + len(parts))]
    return [
        row["label"],
        *(f"{row[key]:.3f}" for key in ("seconds_p50", "seconds_p95", "processor_seconds_p50")),
        f"{row['peak_bytes'] / 1e9:.2f}",
        *(f"{row[key]:.3g}" for key in ("tflop_total", "tflops")),
        "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}",
        *(f"{row['parts'][p]:.3f}" if p in row["parts"] else "" for p in parts),
    ]
