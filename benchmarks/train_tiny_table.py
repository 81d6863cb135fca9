"""What `train_tiny.py` found, as the committed table and the picture of its learning curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_data

LEVELS = tiny_data.LEVELS
KNOWN_SET = "new motion, known scenes"
_MODELS = ("base", "base, consistency off", "full, filter", "full, no control")
BASE_LOST = (
    "The base model of these runs was not kept, so M and T alone could be scored; the PSNR of"
    " restorations stands in the curves only, on held-out crops."
)
Scores = dict[str, float]


def to_markdown(told: dict[str, Any], name: str) -> str:
    """The honest table."""
    lines = [
        "# Does a tiny FideDiff learn?",
        "",
        f"`benchmarks/train_tiny.py --scale {told['scale']}`, trained on {told['trained_on']},"
        f" scored on {told['machine']}, torch {told['torch']}.",
        "Steps: " + ", ".join(f"{name} {steps}" for name, steps in told["steps"].items()) + ";"
        " crops a step and their side in pixels: "
        + ", ".join(f"{name} {n}" for name, n in told["crops"].items())
        + f"; {told['clips']} training clips.",
        f"Structure: {json.dumps(told['structure'])}, LoRA rank 32, M {told['kernel_channels']}.",
        "Base model: a VAE and a UNet trained on the training clips first; there is no tiny"
        " Stable Diffusion. No perceptual loss, no discriminator.",
        "Crops are not turned in the stage base, so the known pictures can be learnt; in the others"
        " they are."
        " A run's `model/` is scored: the best one on clips of the known scenes that were held out"
        " of training, not on the test clips.",
        f"Clips of {tiny_data.WIDTH} x {tiny_data.HEIGHT} pixels, n = {LEVELS}; PSNR and SSIM are"
        " means over images, on 8-bit RGB. Rows of runs that have not ended are left out.",
        f"Deconvolution is scored on one trajectory of {told['deconvolved_every']}: where that is"
        " not 1, its rows are means over fewer images than the others.",
        f"The pictures move {tiny_data.SPEED[0]} to {tiny_data.SPEED[1]} pixels a frame on average."
        " At any speed t cannot be read off kernels: a short window of a fast motion has the kernel"
        " of a long window of a slow one. The best guess from the true length of the camera's way"
        f" would then err by {told['t_error_of_lengths']:.1f}.",
        *([] if told["base_kept"] else [BASE_LOST]),
        "T learns alone first (run `timestep`: the stage control with the variant none), then on"
        " beside the control.",
        "The VAE's own row bounds every row of a model: no restoration can be better than"
        " what the VAE gives back of the sharp image.",
        "",
    ]
    lines += _verdict(told["table"].get(KNOWN_SET, {}))
    for scenes, rows in told["table"].items():
        lines += [f"## {scenes}", "", "| | PSNR | " + " | ".join(f"n = {n}" for n in LEVELS)
                  + " | SSIM | trajectory gap |", "|" + "---|" * (len(LEVELS) + 4)]  # fmt: skip
        for row, s in rows.items():
            if "psnr" in s:
                levels = " | ".join(f"{s[f'psnr_{n}']:.2f}" for n in LEVELS)
                cells = f"{s['psnr']:.2f} | {levels} | {s['ssim']:.3f} | {s['gap']:.4f}"
                lines.append(f"| {row} | {cells} |")
        if "reblur" in rows:
            s = rows["reblur"]
            lines += ["", f"Reblur error (mean L1 in [-1, 1]): M {s['M']:.4f}, identity kernels"
                      f" {s['identity']:.4f}, true kernels {s['true']:.4f}."]  # fmt: skip
        if "timestep" in rows:
            s = rows["timestep"]
            lines += ["", f"Error of t: T {s['t_error']:.1f}, constant guess"
                      f" {s['t_error_constant']:.1f}."]  # fmt: skip
        lines.append("")
    lines += ["Seconds: " + ", ".join(f"{name} {n:,}" for name, n in told["seconds"].items()), "",
              f"Learning curves: `{name}.png`; pre-training of the base model:", "",
              "```", *told["vae"], "```", ""]  # fmt: skip
    return "\n".join(lines)


def _verdict(rows: dict[str, Scores]) -> list[str]:
    """Whether the three bars are reached on new motion over known scenes."""
    there = [row for row in _MODELS if row in rows]
    if "reblur" not in rows or "timestep" not in rows:
        return []
    bars = []
    if there:
        best = max(there, key=lambda row: rows[row]["psnr"])
        gain = rows[best]["psnr"] - rows["blurry input"]["psnr"]
        bars.append((f"{best}: {gain:+.2f} dB over the blurry input, asked +0.5", gain >= 0.5))
    t, blur = rows["timestep"], rows["reblur"]
    bars += [
        (f"t error {t['t_error']:.1f} of the constant guess's {t['t_error_constant']:.1f},"
         " asked half", t["t_error"] <= t["t_error_constant"] / 2),
        (f"reblur error {blur['M']:.4f} of identity's {blur['identity']:.4f}, asked half",
         blur["M"] <= blur["identity"] / 2),
    ]  # fmt: skip
    told = [f"- {'reached' if held else 'not reached'}: {what}" for what, held in bars]
    return [f"Asked of {KNOWN_SET}:", "", *told, ""]


def plot(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """PSNR and the error of t on the held-out crops, over training steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for name, curve in runs.items():
        gains = [(line["step"], line["psnr"] - line["psnr_blur"]) for line in curve
                 if "psnr" in line]  # fmt: skip
        errors = [(line["step"], line["t_error"]) for line in curve if "t_error" in line]
        if gains and name != "timestep":
            left.plot(*zip(*gains, strict=True), marker="o", label=name)
        if errors:
            right.plot(*zip(*errors, strict=True), marker="o", label=name)
    left.axhline(0, color="gray", linewidth=1)
    left.set(xlabel="training steps", ylabel="dB over the blurry input, held-out crops")
    right.set(xlabel="training steps", ylabel="error of t, held-out crops", ylim=(0, None))
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
