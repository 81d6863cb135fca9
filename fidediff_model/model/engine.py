"""A trained model at work: prepared once for a device, then images of any size in and out.

`make_ready` fuses, casts and compiles a model; `ReadyModel.run` restores a batch of tensors and
retries with less memory where it runs out; `ReadyModel.restore` takes images of any kind.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import joblib
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fidediff_model.errors import DeviceError, ModelError
from fidediff_model.model.codec import Codec, pad_to_multiple
from fidediff_model.model.diffusion import LAST_TIMESTEP
from fidediff_model.model.fast_layers import compile_regions
from fidediff_model.model.images import ValueRange, restore_image
from fidediff_model.model.kernels import kernel_mosaic
from fidediff_model.model.tiles import OVERLAP, Report, TilePlan, plan_for, smaller
from trajectory_builder.errors import ExitCode

if TYPE_CHECKING:
    from fidediff_model.model.fidediff import FideDiff

Control = Literal["none", "filter"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
NARROW = 32
"""Channels of a UNet's first level below which one thread is best (our choice)."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to restore.

    Attributes:
        timestep: t in [0, 999]; None lets the model estimate one per image.
        strength: share of the restoration in the output: 0 is the input, 1 the restoration.
        latent_stride: 4 or 8; None takes what the model was trained with.
        control: `none` leaves the kernel control out, `filter` insists on it; None takes what the
            model has.
        tile: side of a UNet tile in pixels, 0 for complete images, None by size.
        overlap: pixels that tiles share.
        dtype: of UNet, VAE and control; auto is bf16 on CUDA devices that have it, else fp32.
        device: such as cuda, cuda:1, mps, cpu; None takes the best there is.
        compile: compile the repeated blocks; pays after some hundred images of one size.
    """

    timestep: float | None = None
    strength: float = 1.0
    latent_stride: int | None = None
    control: Control | None = None
    tile: int | None = None
    overlap: int = OVERLAP
    dtype: Precision = "auto"
    device: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.timestep is not None and not 0 <= self.timestep <= LAST_TIMESTEP:
            raise ModelError(
                f"the timestep {self.timestep:g} is out of range",
                where="--timestep",
                cure=f"give auto, or a number from 0 to {LAST_TIMESTEP:g}; n frames are (n-1) x 20",
            )
        if not 0 <= self.strength <= 1:
            raise ModelError(
                f"the strength {self.strength:g} is out of range",
                where="--strength",
                cure="give a number from 0 (the input) to 1 (the restoration)",
            )
        TilePlan(self.tile or None, self.overlap if self.tile else 0)


@dataclass(frozen=True)
class Answer:
    """A batch restored.

    Attributes:
        images: (B, 3, H, W) float32 on the CPU, near [-1, 1].
        t_hat: (B,) float32 on the CPU.
        notes: what was done differently for lack of memory, a sentence each.
    """

    images: Tensor
    t_hat: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReadyModel:
    """A model that is fused, cast and on its device; `run` may be called from several threads."""

    model: FideDiff
    settings: Settings
    device: torch.device

    def run(
        self,
        blur: Tensor,
        timestep: float | Tensor | None = None,
        *,
        report: Report | None = None,
    ) -> Answer:
        """Restore images (B, 3, H, W) in [-1, 1] of one size, from any device.

        Args:
            blur: the images.
            timestep: overrides the settings' timestep, as for `FideDiff.forward`.
            report: as for `FideDiff.forward`; counts anew where memory ran out.

        Raises:
            DeviceError: out of memory even in the smallest tiles.
        """
        timestep = self.settings.timestep if timestep is None else timestep
        size = (blur.shape[-2], blur.shape[-1])
        plan: TilePlan | None = plan_for(
            self.model,
            size,
            tile=self.settings.tile,
            overlap=self.settings.overlap,
            batch=blur.shape[0],
        )
        notes: list[str] = []
        # Exact ways to save memory come first (one image, strips), then smaller tiles.
        while plan is not None:
            try:
                return self._attempt(blur, timestep, plan, tuple(notes), report)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler: the traceback would keep the failed try's tensors alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if blur.shape[0] > 1:
                return self._one_by_one(blur, timestep, report)
            plan = smaller(plan, size)
            if plan is not None:
                notes.append(plan.note)
                log.warning(plan.note)
        raise DeviceError(
            f"{size[1]} x {size[0]} pixels do not fit the memory of {self.device}",
            cure="give --dtype bf16, --latent-stride 8, a smaller --tile, or --device cpu",
        )

    def _attempt(
        self,
        blur: Tensor,
        timestep: float | Tensor | None,
        plan: TilePlan,
        notes: tuple[str, ...],
        report: Report | None,
    ) -> Answer:
        with torch.inference_mode():
            if self.device.type == "cuda" and blur.device.type == "cpu":
                blur = blur.pin_memory()  # so that the copy does not wait
            x = blur.to(self.device, torch.float32, non_blocking=True)
            restored = self.model(x, timestep, keep_kernels=False, plan=plan, report=report)
            images = blend(x, restored.image, self.settings.strength)
            # Nothing before this line waits for the device.
            return Answer(images.cpu(), restored.t_hat.cpu(), notes)

    def _one_by_one(
        self, blur: Tensor, timestep: float | Tensor | None, report: Report | None
    ) -> Answer:
        note = "out of memory: images one at a time"
        log.warning(note)
        batch = len(blur)
        each = timestep.expand(batch) if isinstance(timestep, Tensor) else [timestep] * batch
        answers = [self.run(blur[i : i + 1], each[i], report=report) for i in range(batch)]
        return Answer(
            torch.cat([answer.images for answer in answers]),
            torch.cat([answer.t_hat for answer in answers]),
            tuple(dict.fromkeys([note, *(n for answer in answers for n in answer.notes)])),
        )

    def restore(
        self,
        image: Any,
        timestep: float | None = None,
        *,
        value_range: ValueRange = (0.0, 1.0),
    ) -> Any:
        """Restore an image of any kind, as `FideDiff.restore` does."""

        def run(blur: Tensor) -> Tensor:
            return self.run(blur, timestep).images

        return restore_image(run, image, value_range=value_range)

    def kernel_picture(self, blur: Tensor) -> npt.NDArray[np.uint8]:
        """A gray picture of the kernels that M sees in one image (1, 3, H, W), and of no padding.

        Raises:
            ModelError: the model has no kernel estimator.
        """
        estimator = self.model.part("kernel_estimator")
        with torch.inference_mode():
            # Means over 4 x 4 pixels: at full size they would be 1.33 GB at 1280 x 720.
            padded = pad_to_multiple(blur.to(self.device, torch.float32), 64)
            height, width = (-(-side // 4) for side in blur.shape[-2:])
            cells = estimator.pooled(padded, 4)[..., :height, :width]
        return kernel_mosaic(cells)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    # oneDNN, the convolutions of CPUs, says of a failed allocation only that.
    signs = ("can't allocate memory", "out of memory", "could not create a primitive")
    return any(sign in text for sign in signs)


def blend(blur: Tensor, restored: Tensor, strength: float) -> Tensor:
    """blur + strength (restored - blur); the restoration itself at strength 1."""
    return restored if strength == 1 else blur + strength * (restored - blur)


def make_ready(
    model: FideDiff, settings: Settings, *, device: torch.device | None = None
) -> ReadyModel:
    """Prepare a loaded model in place; it can no longer be trained or saved.

    Raises:
        DeviceError: the device is absent.
        ModelError: the settings ask for a part that the model lacks.
    """
    device = device or choose_device(settings.device)
    _apply(model, settings)
    model.prepare_for_inference(
        dtype=choose_dtype(settings.dtype, device),
        channels_last=device.type == "cuda",
        device=device,
    )
    if settings.compile:
        compile_regions(model.base.unet, model.codec.vae, model.control)
    return ReadyModel(model, settings, device)


def _apply(model: FideDiff, settings: Settings) -> None:
    """Latent stride and control as the settings want them."""
    # The VAE is the same at both strides; only the enlargement before it differs.
    if settings.latent_stride not in (None, model.codec.latent_stride):
        model.codec = Codec(model.codec.vae, settings.latent_stride)
    if settings.control == "none":
        model.control = None
    elif settings.control == "filter" and (
        model.control is None or model.config.control.variant != "filter"
    ):
        has = "no control" if model.control is None else f"control {model.config.control.variant}"
        raise ModelError(
            f"this model has {has}, not the kernel filter",
            where="--control filter",
            cure="train it (fidediff train control), or leave --control out",
        )


def choose_device(name: str | None) -> torch.device:
    """The device of that name, checked; None takes CUDA, then MPS, then the CPU.

    Raises:
        DeviceError: the name means nothing, or no such device is there.
    """
    # By name alone torch would fail at the first tensor, after the model was loaded.
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"{name} names no device",
            where="--device",
            cure="give cuda, cuda:1, mps or cpu",
            exit_code=ExitCode.WRONG_USE,
        ) from error
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}
    count["cuda"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count.get(device.type, 0):
        raise DeviceError(
            f"the device {name} is not there",
            where=f"--device; this torch ({torch.__version__}) sees {count['cuda']} CUDA devices",
            cure="give --device cpu, or install a torch build for your GPU (fidediff doctor)",
            exit_code=ExitCode.WRONG_USE,
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of that name; auto is bf16 where a CUDA device has it, else fp32.

    A CPU takes bf16 on request only: without AMX it is slower there than fp32.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda" and not has_bf16(device):
        log.warning("this GPU only emulates bf16, so auto is fp32; --dtype fp16 is faster")
    return torch.bfloat16 if has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether a CUDA device computes in bf16.

    Turing and Volta (T4, 2080 Ti, V100) emulate it, slower than fp32, and torch counts that too
    unless it is asked not to.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def choose_threads(width: int) -> None:
    """Set torch's threads for work on a CPU, unless OMP_NUM_THREADS does.

    A narrow UNet gains little from a second thread and loses much on a busy machine, where one
    thread waits for another that has no core.

    Args:
        width: channels of the UNet's first level.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        # joblib counts the cores that this process may use: a container or a scheduler restricts
        # them, and a second thread on one core gains nothing.
        cores = joblib.cpu_count(only_physical_cores=True)
        torch.set_num_threads(1 if width < NARROW else cores)
