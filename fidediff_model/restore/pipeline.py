"""The model behind the interface of a diffusers pipeline, for programs that are built on those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch

from fidediff_model.model.fidediff import FideDiff
from fidediff_model.restore.any_image import restore_image
from fidediff_model.restore.engine import ReadyModel, Settings, make_ready


@dataclass(frozen=True)
class PipelineOutput:
    """What a call gives, as diffusers' `ImagePipelineOutput`: `images`, a list."""

    images: list[Any]


class FideDiffPipeline:
    """`FideDiffPipeline.from_pretrained(folder).to("cuda")(image).images[0]`.

    Args:
        model: as `FideDiff.load` gives it; the pipeline fuses it and takes it over.
        settings: how to restore.
    """

    def __init__(self, model: FideDiff, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(device="cpu")
        self._ready: ReadyModel = make_ready(model, self.settings)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        base_model: str | Path | None = None,
        torch_dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a model folder; `torch_dtype` is the type of UNet, VAE and control."""
        names: dict[torch.dtype, Literal["fp32", "bf16", "fp16"]] = {
            torch.float32: "fp32",
            torch.bfloat16: "bf16",
            torch.float16: "fp16",
        }
        settings = Settings(device="cpu", dtype=names[torch_dtype])
        return cls(FideDiff.load(folder, base_model=base_model), settings)

    def to(self, device: str | torch.device) -> Self:
        """Move the model; returns the pipeline."""
        self._ready.model.to(device)
        self._ready = replace(self._ready, device=torch.device(device))
        return self

    def __call__(self, image: Any, timestep: float | None = None) -> PipelineOutput:
        """Restore one image or a list of images, each as `restore_image` takes them."""
        images: Sequence[Any] = image if isinstance(image, (list, tuple)) else [image]
        restored = [
            restore_image(self._ready.model, one, timestep, settings=self.settings)
            for one in images
        ]
        return PipelineOutput(restored)
