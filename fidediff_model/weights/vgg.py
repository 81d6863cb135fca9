"""The VGG16 backbone of LPIPS and DISTS: read from a file that the user names, or not at all.

One file serves both distances: torchvision's `vgg16-397923af.pth` (528 MB), or the 26 tensors of
its convolutions as safetensors (59 MB, `convert`). A random backbone gives plausible numbers that
mean nothing, so there is one only under the name `random-for-tests`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from fidediff_model.errors import WeightsError
from trajectory_builder.errors import shorten

DOWNLOAD_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
_SHA256_PREFIX = "397923af"

DOWNLOAD = "download"
"""The value of `--vgg16` that fetches the file."""

RANDOM_FOR_TESTS = "random-for-tests"
"""The value of `--vgg16` that gives seeded random weights; only for tests of the program."""

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five feature maps."""

# Where torchvision's `features` hold a convolution, by block: (index, channels in, channels out).
_BLOCKS = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)

Pooling = Literal["max", "l2"]


class VGG16(nn.Module):
    """The convolutions of VGG16, frozen (Simonyan and Zisserman 2015, configuration D).

    Its weights are not set yet: `open_vgg16` gives one that has them.

    Args:
        source: where its weights come from, for reports.
    """

    hann: Tensor

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        # Left unset: drawing weights that are read next anyway would shift the global generator.
        self.features = nn.ModuleDict(
            {
                str(at): skip_init(nn.Conv2d, a, b, 3, padding=1)  # type: ignore[no-untyped-call]
                for block in _BLOCKS
                for at, a, b in block
            }
        )
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("hann", (line[:, None] * line)[None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor, *, pooling: Pooling = "max") -> list[Tensor]:
        """The feature maps after the last ReLU of each of the five blocks.

        Args:
            x: (B, 3, H, W), normalised as the caller's distance wants it; H, W of 16 at least.
            pooling: between blocks; "max" as published, or the "l2" pooling of DISTS.

        Returns:
            Five maps (B, 64, H, W), (B, 128, H/2, W/2), ... (B, 512, H/16, W/16).
        """
        maps: list[Tensor] = []
        for number, block in enumerate(_BLOCKS):
            if number:
                x = functional.max_pool2d(x, 2) if pooling == "max" else self._l2_pool(x)
            for at, _, _ in block:
                x = functional.relu(self.features[str(at)](x))
            maps.append(x)
        return maps

    def _l2_pool(self, x: Tensor) -> Tensor:
        """Root of the Hann-weighted mean of squares, stride 2 (DISTS, Ding et al. 2020)."""
        channels = x.shape[1]
        squares = functional.conv2d(
            x * x, self.hann.expand(channels, 1, 3, 3).to(x.dtype), None, 2, 1, 1, channels
        )
        return (squares + 1e-12).sqrt()


def open_vgg16(spec: str | Path | None, *, needed_by: str) -> VGG16:
    """The backbone that a setting names.

    Args:
        spec: a .pth or .safetensors file, `download`, `random-for-tests`, or None.
        needed_by: the loss or metric that asks, named in the error: "LPIPS", "DISTS".

    Raises:
        WeightsError: nothing is named, the file is absent, damaged or another network's, or the
            download fails.
    """
    if spec is None:
        raise WeightsError(
            f"{needed_by} needs the VGG16 backbone, and no file is named",
            where="--vgg16",
            cure=f"give --vgg16 FILE ({Path(DOWNLOAD_URL).name} or its safetensors), or"
            f" --vgg16 {DOWNLOAD} where there is a network, or do without {needed_by}"
            " (train --perceptual none, evaluate --metrics psnr,ssim)",
        )
    if str(spec) == RANDOM_FOR_TESTS:
        return random_vgg16(seed=0)
    return load_vgg16(download() if str(spec) == DOWNLOAD else Path(spec))


def load_vgg16(path: Path) -> VGG16:
    """The backbone from torchvision's .pth or from the safetensors that `convert` writes.

    Raises:
        WeightsError: the file is absent, unreadable, or does not hold VGG16's convolutions.
    """
    vgg = VGG16(source=str(path))
    vgg.load_state_dict(_checked(_read(path), path))
    return vgg.requires_grad_(False)


def random_vgg16(seed: int) -> VGG16:
    """Seeded random weights, scaled so that features keep their size: for tests alone."""
    generator = torch.Generator().manual_seed(seed)
    vgg = VGG16(source=f"random weights for tests, seed {seed}: distances mean nothing")
    for parameter in vgg.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        # Weights have four axes, biases one.
        scale = (2.0 / parameter[0].numel()) ** 0.5 if parameter.ndim == 4 else 0.05
        parameter.copy_(drawn * scale)
    return vgg


def download() -> Path:
    """Fetch torchvision's file into torch's own cache, once, and check its digest.

    Raises:
        WeightsError: the network or the digest fails; nothing is left under the file's name.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(DOWNLOAD_URL).name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(DOWNLOAD_URL, str(path), hash_prefix=_SHA256_PREFIX)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"the VGG16 backbone cannot be fetched: {error}",
            where=DOWNLOAD_URL,
            cure="fetch it on a machine with a network and give it with --vgg16 FILE",
        ) from error
    return path


def convert(source: Path, target: Path) -> Path:
    """Write the 26 convolution tensors of a VGG16 file as safetensors (59 MB instead of 528).

    Args:
        source: a file that `load_vgg16` reads.
        target: a name ending in .safetensors that does not exist yet.

    Raises:
        WeightsError: `source` cannot be used, or `target` exists or has another ending.
    """
    if target.suffix != ".safetensors" or target.exists():
        problem = "exists already" if target.exists() else "does not end in .safetensors"
        raise WeightsError(f"{target.name} {problem}", where=str(target), cure="give another name")
    tensors = {name: t.contiguous() for name, t in _checked(_read(source), source).items()}
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")
    try:
        save_file(tensors, temporary, metadata={"network": "VGG16", "source": source.name})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return target


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            "there is no such VGG16 file",
            where=str(path),
            cure=f"give the path of {Path(DOWNLOAD_URL).name} or of its safetensors",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"the VGG16 file cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            cure="fetch it again; a file that needs code to load is refused",
        ) from error
    if not isinstance(tensors, dict):
        raise WeightsError(
            "the VGG16 file holds no table of tensors",
            where=str(path),
            cure=f"give {Path(DOWNLOAD_URL).name}, which holds a state dict",
        )
    return tensors


def _checked(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The 26 tensors of the convolutions in float32, all there, of the right shape, finite."""
    expected = VGG16(source="").state_dict()
    wrong = [
        name
        for name, tensor in expected.items()
        if name not in tensors or tensors[name].shape != tensor.shape
    ]
    stray = [n for n in tensors if n.startswith("features.") and n not in expected]
    if wrong or stray:
        raise WeightsError(
            f"the file does not hold VGG16: missing, of another shape or strange are"
            f" {shorten(wrong + stray)}",
            where=str(path),
            cure=f"give {Path(DOWNLOAD_URL).name}; VGG19 and batch-normalised variants do not fit",
        )
    chosen = {name: tensors[name].float() for name in expected}
    broken = [name for name, tensor in chosen.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"the VGG16 file holds values that are not numbers: {shorten(broken)}",
            where=str(path),
            cure="fetch it again",
        )
    return chosen
