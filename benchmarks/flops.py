"""Parameters and FLOPs of the full-size model, part by part, on the meta device.

    python benchmarks/flops.py

Nothing is computed and no weight is allocated: the counts are exact and the same on any machine.
One multiply-add is 2 FLOP. Writes `results/flops.md` and `results/flops.json` beside this file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fidediff_model.config import CodecConfig, ModelConfig
from fidediff_model.model import presets
from fidediff_model.model.fidediff import FideDiff, build
from fidediff_model.model.step import PARTS
from fidediff_model.weights.sd21 import random_base

RESULTS = Path(__file__).parent / "results"
WIDTH, HEIGHT = 1280, 720
# Counted from the published configs of SD 2.1-base and of ControlNet (with its stock embedding).
PUBLISHED = {"UNet": 865_910_724, "VAE": 83_653_863, "ControlNet, stock": 364_228_240}
# TFLOP at 1280 x 720 counted on the bare classes before this model existed, batch 1.
EXPECTED = {
    8: {"UNet": 3.93, "ControlNet": 1.44, "VAE encode": 4.23, "VAE decode": 9.14},
    4: {"UNet": 33.8, "ControlNet": 12.8, "VAE encode": 22.0, "VAE decode": 41.7},
}


def meta_model(settings: ModelConfig) -> FideDiff:
    """A model whose tensors have shapes only."""
    with torch.device("meta"):
        return build(settings, random_base(settings.base), parts=PARTS).eval()


def part(model: FideDiff, name: str) -> Any:
    """A part that this script built and so is there."""
    return getattr(model, name)


def parameters(settings: ModelConfig) -> dict[str, int]:
    """Parameters of each part; those of a stock ControlNet for comparison."""
    with torch.device("meta"):
        weights = random_base(settings.base)
        counts = {"UNet": size(weights.unet), "VAE": size(weights.vae)}
    model = meta_model(settings)
    vanilla = replace(settings, control=replace(settings.control, variant="vanilla"))
    counts["ControlNet, stock"] = size(meta_model(vanilla).control)
    counts["ControlNet, ours"] = size(part(model, "control").controlnet)
    counts["Kernel filter"] = size(part(model, "control").block)
    counts["LoRA"] = sum(p.numel() for p in model.base.lora_parameters())
    counts["Prompt"] = model.base.prompt.numel()
    counts["Kernel estimator"] = size(model.kernel_estimator)
    counts["Timestep regressor"] = size(model.timestep_regressor)
    return counts


def size(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def flops(settings: ModelConfig) -> dict[str, float]:
    """TFLOP of each part for one image of 1280 x 720, LoRA fused."""
    model = meta_model(settings)
    model.requires_grad_(False)
    clean = _clean_unet(settings).requires_grad_(False)
    stride = settings.codec.latent_stride
    codec = model.codec
    blur = torch.empty(1, 3, HEIGHT, WIDTH, device="meta")
    z = torch.empty(1, 4, HEIGHT // stride, WIDTH // stride, device="meta")
    taps = settings.kernel.kernel_size**2
    k_in = torch.empty(1, taps, *z.shape[2:], device="meta")
    k_4 = torch.full((1, taps, HEIGHT // 4, WIDTH // 4), 1 / taps)
    # T switches autocast off for its last layers, which the meta device does not know.
    regressor = part(model, "timestep_regressor").to_empty(device="cpu")
    t = torch.empty(1, device="meta")
    prompt, control = model.base.prompt.detach(), part(model, "control")
    seen = torch.empty(1, 3, HEIGHT * codec.enlargement, WIDTH * codec.enlargement, device="meta")
    latent = torch.empty(1, 4, seen.shape[2] // 8, seen.shape[3] // 8, device="meta")
    filtering = count(lambda: control.block(z, k_in))
    steering = count(lambda: control(z, t, prompt, k_in=k_in, image=None))
    return {
        "UNet": count(lambda: clean(z, t, encoder_hidden_states=prompt)),
        "ControlNet": steering - filtering,
        "VAE encode": count(lambda: codec.vae.encode(seen)),
        "VAE decode": count(lambda: codec.vae.decode(latent)),
        "Kernel filter": filtering,
        "Kernel estimator": count(lambda: part(model, "kernel_estimator")(blur)),
        "Timestep regressor": count(lambda: regressor(k_4, pooled=True)),
    }


def _clean_unet(settings: ModelConfig) -> Any:
    with torch.device("meta"):
        return random_base(settings.base).unet


def count(call: Any) -> float:
    """TFLOP of a call on the meta device."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Parameters and FLOPs of preset sd21",
        "",
        f"Written by `benchmarks/flops.py` with torch {result['torch']}, diffusers "
        f"{result['diffusers']}, on the meta device: exact counts, no machine involved.",
        "",
        "| part | parameters | published config |",
        "|---|---|---|",
    ]
    for name, number in result["parameters"].items():
        lines.append(f"| {name} | {number:,} | {_or_dash(PUBLISHED.get(name), ',')} |")
    lines += [
        "",
        f"TFLOP for one image of {WIDTH} x {HEIGHT}, batch 1, one multiply-add = 2 FLOP. The "
        "figure in brackets was counted on the bare diffusers classes. A run pads the latent to "
        "multiples of 8 (90 to 96 rows at stride 8, 180 to 184 at stride 4), which costs some per "
        "cent more.",
        "",
        "| part | stride 8 | stride 4 |",
        "|---|---|---|",
    ]
    eight, four = result["tflop"]["8"], result["tflop"]["4"]
    for name in eight:
        cells = [
            f"{found[name]:.2f} ({_or_dash(EXPECTED[stride].get(name), '')})"
            for stride, found in ((8, eight), (4, four))
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    lines.append(f"| **all** | **{sum(eight.values()):.1f}** | **{sum(four.values()):.1f}** |")
    base = {s: sum(f[name] for name in EXPECTED[s]) for s, f in ((8, eight), (4, four))}
    lines += [
        "",
        f"UNet, ControlNet and VAE together: {base[8]:.1f} at stride 8, {base[4]:.1f} at stride 4 "
        "(18.7 and 110.4 counted beforehand with the stock embedding).",
        "",
    ]
    return "\n".join(lines)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main() -> None:
    """Count, print and write the results."""
    import diffusers

    settings = presets.preset("sd21")
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "parameters": parameters(settings),
        "tflop": {
            str(d): flops(replace(settings, codec=CodecConfig(latent_stride=d))) for d in (8, 4)
        },
    }
    text = table(result)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "flops.md").write_text(text, encoding="utf-8")
    (RESULTS / "flops.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
