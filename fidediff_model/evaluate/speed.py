"""Seconds, memory and arithmetic of one restoration, part by part and as a whole.

Weights do not change the time, so random ones will do. Each part is timed with the device waited
for before and after; the whole is timed without waiting inside, as `restore` runs it.
"""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fidediff_model import config as model_config
from fidediff_model.config import CodecConfig, ModelConfig
from fidediff_model.model.codec import Codec, pad_to_multiple
from fidediff_model.model.fast_layers import compile_regions
from fidediff_model.model.fidediff import PARTS, FideDiff, build
from fidediff_model.model.kernels import pool_kernels
from fidediff_model.restore.engine import DTYPES, cast, is_out_of_memory, prepare
from fidediff_model.restore.tiles import TilePlan, plan_for, restore_tensor
from fidediff_model.weights.sd21 import RANDOM, load_base, random_base

GIVEN_T = 200.0
"""t where the control is off: nothing needs the kernels then, as in the paper's d = 8 row."""
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
}
"""Dense bf16 peak by a part of the device's name, as the makers publish it; SXM where there are
several."""


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


def all_variants(dtypes: tuple[str, ...], *, compiled: bool) -> list[Variant]:
    """Latent strides x control x types, and with them compiled, which come last."""
    return [
        Variant(stride, control, dtype, compile_)
        for compile_ in ((False, True) if compiled else (False,))
        for dtype in dtypes
        for stride in (8, 4)
        for control in (False, True)
    ]


def make_model(preset: str, base_model: str, device: torch.device) -> FideDiff:
    """A new model of a preset with all parts, over random or real base weights."""
    config = model_config.preset(preset)
    random = base_model.partition(":")[0] == RANDOM
    # Random weights are drawn where they are used: a GPU draws a billion in a blink.
    with device if random else nullcontext():
        # The learnt prompt does not matter to the time, so no text encoder is needed.
        weights = load_base(base_model, config.base, prompt_start="normal")
        return build(config, weights, parts=PARTS)


def measure(
    model: FideDiff,
    variants: list[Variant],
    *,
    size: tuple[int, int] = (720, 1280),
    device: torch.device,
    repeats: int = 20,
    warm_up: int = 3,
    report: Callable[[Variant], Any] = lambda variant: None,
) -> dict[str, Any]:
    """Measure variants one after another on one model, which it fuses and casts.

    Args:
        model: with all parts.
        variants: compiled ones last, since compiling cannot be undone.
        size: height and width in pixels.
        device: where.
        repeats: timed runs of the whole and of each part.
        warm_up: runs before them.
        report: told of each variant that is done.
    """
    prepare(model, torch.float32, device)
    control, estimator = model.control, model.kernel_estimator
    blur = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows, compiled = [], False
    for variant in variants:
        _apply(model, variant, control)
        if variant.compile and not compiled:
            compile_regions(model.base.unet, model.codec.vae, control)
            compiled = True
        row = _measure_one(model, variant, blur.to(device), repeats, warm_up)
        row |= {"label": variant.label, **vars(variant)}
        row["tflop"] = count_tflop(model.config, variant, size)
        rows.append(_with_share(row, device))
        report(variant)
    model.control, model.kernel_estimator = control, estimator
    return {"machine": machine(device), "size": list(size), "rows": rows}


def _apply(model: FideDiff, variant: Variant, control: Any) -> None:
    model.control = control if variant.control else None
    if model.codec.latent_stride != variant.latent_stride:
        model.codec = Codec(model.codec.vae, variant.latent_stride)
    for part in (model.base.unet, model.codec.vae, control):
        cast(part, DTYPES[variant.dtype])


def _measure_one(
    model: FideDiff, variant: Variant, blur: Tensor, repeats: int, warm_up: int
) -> dict[str, Any]:
    device = blur.device
    t = None if variant.control else GIVEN_T
    size = (blur.shape[-2], blur.shape[-1])
    plan = plan_for(model, size, tile=0, overlap=0)
    _reset_peak(device)
    try:
        with torch.inference_mode():
            whole = _times(
                lambda: restore_tensor(model, blur, t, plan=plan), device, repeats, warm_up
            )
            peak = _peak(device)
            parts = {
                name: statistics.median(_times(call, device, max(3, repeats // 4), 1).clock)
                for name, call in _parts(model, blur, t, plan)
            }
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"out_of_memory": True}
    return {
        "seconds_p50": _percentile(whole.clock, 50),
        "seconds_p95": _percentile(whole.clock, 95),
        "seconds_best": min(whole.clock),
        "processor_seconds_p50": _percentile(whole.processor, 50),
        "parts": parts,
        "peak_bytes": peak,
        "strip_rows": plan.strip_rows,
    }


def _parts(
    model: FideDiff, blur: Tensor, t: float | None, plan: TilePlan
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The parts in the order of the step, each with its true inputs."""
    codec, stride = model.codec, model.codec.latent_stride
    padded = pad_to_multiple(blur, codec.multiple)
    strips: dict[str, Any] = {"strip_rows": plan.strip_rows, "store": plan.store}
    size = (blur.shape[-2], blur.shape[-1])
    z_t = codec.encode(padded, **strips)
    t_hat = torch.full((1,), GIVEN_T, device=blur.device)
    residuals = k_in = None
    half = model.base.dtype != torch.float32
    side = torch.autocast(blur.device.type, dtype=model.base.dtype if half else None, enabled=half)
    estimator, regressor, control = model.kernel_estimator, model.timestep_regressor, model.control
    yield "VAE encode", lambda: codec.encode(padded, **strips)
    if t is None and estimator is not None and regressor is not None:
        with side:
            cells = estimator.pooled(padded, regressor.pool)
            k_in = pool_kernels(cells, stride // regressor.pool)
            yield "kernel estimator", lambda: estimator.pooled(padded, regressor.pool)
            yield "timestep regressor", lambda: regressor(cells, pooled=True)
    if control is not None:
        prompt = model.base.prompt
        residuals = control(z_t, t_hat, prompt, k_in=k_in, image=None)
        yield "kernel control", lambda: control(z_t, t_hat, prompt, k_in=k_in, image=None)
    yield "UNet", lambda: model.base(z_t, t_hat, residuals)
    yield "VAE decode", lambda: codec.decode(z_t, size, **strips)


@dataclass(frozen=True)
class _Times:
    """Repeated runs: seconds by the clock, and of all processors together."""

    clock: list[float]
    processor: list[float]


def _times(call: Callable[[], Any], device: torch.device, repeats: int, warm_up: int) -> _Times:
    for _ in range(warm_up):
        call()
    times = _Times([], [])
    for _ in range(repeats):
        _wait(device)
        start, worked = time.perf_counter(), time.process_time()
        call()
        _wait(device)
        times.clock.append(time.perf_counter() - start)
        times.processor.append(time.process_time() - worked)
    return times


def _percentile(values: list[float], percent: int) -> float:
    """Nearest rank: a time that was measured, not one between two."""
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


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
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(li.split()[1]) * 1024 for li in lines if li.startswith("VmHWM")), 0)


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
    settings = replace(config, codec=CodecConfig(latent_stride))
    counts = {}
    with torch.device("meta"), torch.no_grad():
        model = build(settings, random_base(settings.base), parts=PARTS).eval()
        model.base.unet.disable_adapters()  # fused at run time
        model.requires_grad_(False)
        blur = torch.empty(1, 3, *size)
        z = model.codec.encode(blur)
        t = torch.empty(1)
        calls: dict[str, Callable[[], Any]] = {"VAE encode": lambda: model.codec.encode(blur)}
        if model.control is not None:
            control, estimator = model.control, model.kernel_estimator
            k_in = torch.empty(1, settings.kernel.kernel_size**2, *z.shape[2:])
            calls["kernel estimator"] = lambda: estimator and estimator(blur)
            calls["kernel control"] = lambda: control(
                z, t, model.base.prompt, k_in=k_in, image=None
            )
        calls["UNet"] = lambda: model.base(z, t)
        calls["VAE decode"] = lambda: model.codec.decode(z, size)
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            counts[name] = counter.get_total_flops() / 1e12
    return counts


def _with_share(row: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Add TFLOP in all, TFLOP/s, and the share of the device's peak where it is known."""
    total = sum(row["tflop"].values())
    row["tflop_total"] = total
    if not row.get("out_of_memory"):
        row["tflops"] = total / row["seconds_p50"]
        peak = peak_tflops(device)
        row["share_of_peak"] = None if peak is None else row["tflops"] / peak
    return row


def peak_tflops(device: torch.device) -> float | None:
    """The device's published dense bf16 peak in TFLOP/s, or None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def machine(device: torch.device) -> dict[str, Any]:
    """What ran: device, processor, threads, versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "kind": device.type,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (li.partition(":")[2].strip() for li in lines if li.startswith("model name"))
    return next(names, platform.machine())
