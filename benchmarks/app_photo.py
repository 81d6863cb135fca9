"""Seconds that `fidediff app` takes for a photo of 1280 x 720, on two threads of a CPU.

    python benchmarks/app_photo.py [--size 1280x720] [--threads 2] [--repeats 3] [--model DIR]

What the page does between the upload and its answer: the restoration with an estimated timestep,
the kernels drawn over it, and the files for the browser. Without `--model`, the one that ships with
the package. Writes `app_photo.json` and `app_photo.md`. On a busy machine its clock says nothing,
so the load before it is written too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from restore_cpu import moved, scene

from fidediff_model.app.photo import restore_photo
from fidediff_model.model.engine import Settings
from fidediff_model.model.fidediff import open_model
from fidediff_model.weights import shipped
from trajectory_builder.images.picture import Picture

AIM_SECONDS = 20


@dataclass(frozen=True)
class Result:
    """Clock and processor seconds of each run, and where they were measured."""

    width: int
    height: int
    threads: int
    load_before: float
    seconds: list[float]
    processor_seconds: list[float]
    torch: str

    def to_markdown(self) -> str:
        """The result as a table."""
        return (
            f"`fidediff app`, a photo of {self.width} x {self.height}, {self.threads} threads,"
            f" torch {self.torch}, load {self.load_before} before;"
            f" {len(self.seconds)} timed after one that was not.\n\n"
            "| median s | slowest s | processor s | aim s |\n| --- | --- | --- | --- |\n"
            f"| {median(self.seconds):.1f} | {max(self.seconds):.1f}"
            f" | {median(self.processor_seconds):.1f} | {AIM_SECONDS} |\n"
        )


def measure(model: Path, size: tuple[int, int], threads: int, repeats: int) -> Result:
    """Restore the same photo `repeats` times after one that warms up."""
    load = round(os.getloadavg()[0], 2)
    torch.set_num_threads(threads)
    ready = open_model(model, Settings(device="cpu"))
    width, height = size
    blurry = Picture(np.asarray(moved(scene(1, height, width)), np.uint8), "JPEG")
    clock, processor = [], []
    for _ in range(repeats + 1):
        started, used = time.perf_counter(), time.process_time()
        restore_photo(ready, blurry, "photo.jpg", timestep=None, strength=1)
        clock.append(round(time.perf_counter() - started, 2))
        processor.append(round(time.process_time() - used, 2))
    return Result(width, height, threads, load, clock[1:], processor[1:], torch.__version__)


def main() -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--size", default="1280x720")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--model", type=Path, default=None)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = options.parse_args()
    width, height = (int(side) for side in given.size.split("x"))
    model = given.model or shipped.model_folder()
    result = measure(model, (width, height), given.threads, given.repeats)
    (given.out / "app_photo.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    (given.out / "app_photo.md").write_text(result.to_markdown())
    print(result.to_markdown())


if __name__ == "__main__":
    main()
