"""One `benchmark` command: which variants, on what; and its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fidediff_model.errors import DeviceError
from fidediff_model.evaluate.speed import Variant, all_variants, make_model, measure
from fidediff_model.evaluate.speed_table import to_markdown
from fidediff_model.restore.engine import choose_device
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import ExitCode


@dataclass(frozen=True)
class SpeedPlan:
    """What is measured, and how."""

    preset: str
    base: str
    variants: list[Variant]
    size: tuple[int, int]
    device: torch.device
    repeats: int
    warm_up: int

    def run(self, report: Callable[[Variant], Any]) -> dict[str, Any]:
        """Build the model and measure; a table's worth of values."""
        result = measure(
            make_model(self.preset, self.base, self.device),
            self.variants,
            size=self.size,
            device=self.device,
            repeats=self.repeats,
            warm_up=self.warm_up,
            report=report,
        )
        about = {"preset": self.preset, "base": self.base}
        return {**about, "repeats": self.repeats, "warm_up": self.warm_up, **result}


def make_plan(values: Mapping[str, Any]) -> SpeedPlan:
    """The variants that the options leave.

    Raises:
        DeviceError: the device is not there, or float16 is asked of a CPU.
    """
    device = choose_device(values["device"])
    dtypes = values["dtypes"] or (("bf16", "fp32") if device.type == "cuda" else ("fp32",))
    if device.type == "cpu" and "fp16" in dtypes:
        raise DeviceError(
            "float16 is not for CPUs",
            where="--dtype fp16",
            cure="give fp32 or bf16",
            exit_code=ExitCode.WRONG_USE,
        )
    variants = [
        variant
        for variant in all_variants(tuple(dtypes), compiled=values["compile"])
        if values["latent_stride"] in (None, str(variant.latent_stride))
        and values["control"] in (None, "filter" if variant.control else "none")
    ]
    return SpeedPlan(
        values["preset"],
        values["base_model"] or "random:0",
        variants,
        values["size"],
        device,
        values["repeats"],
        values["warm_up"],
    )


def write(result: Mapping[str, Any], out: Path) -> None:
    """Write OUT.json and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(f"{out}.json"), (json.dumps(result, indent=2) + "\n").encode())
    write_atomic(Path(f"{out}.md"), to_markdown(result).encode())
