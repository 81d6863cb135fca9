"""Files of the frozen networks behind LPIPS and DISTS: named by the user, checked, or refused.

The format is torchvision's .pth, or the tensors of its convolutions as safetensors. A random
backbone gives plausible numbers that mean nothing, so there is one only under the name
`random-for-tests`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fidediff_model.errors import WeightsError
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import shorten

DOWNLOAD = "download"
"""The value of an option such as `--vgg16` that downloads the file."""

MAX_BYTES = 2 << 30
"""Four times the largest published file."""

RANDOM_FOR_TESTS = "random-for-tests"
"""The value that gives seeded random weights; only for tests of the program."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class BackboneFile:
    """A published weight file.

    Attributes:
        network: its name in messages: VGG16, AlexNet.
        option: the option that names a copy of it.
        url: where torchvision publishes it.
        sha256_prefix: the first digits of its SHA-256.
        without: how to do without it, for the cure of its absence.
        unfit: which similar files do not fit.
    """

    network: str
    option: str
    url: str
    sha256_prefix: str
    without: str
    unfit: str

    @property
    def name(self) -> str:
        """The published file's name."""
        return Path(self.url).name


def open_backbone(
    file: BackboneFile, spec: str | Path | None, make: Callable[[str], Network], *, needed_by: str
) -> Network:
    """The network that an option names.

    Args:
        file: the published file.
        spec: a .pth or .safetensors file, `download`, `random-for-tests`, or None.
        make: builds the network, its weights unset, from a description of their source.
        needed_by: the loss or metric that needs it, for the error: "LPIPS", "DISTS".

    Raises:
        WeightsError: nothing is named, the file is absent, damaged or another network's, or the
            download fails.
    """
    if spec is None:
        verb = "need" if " and " in needed_by else "needs"
        raise WeightsError(
            f"{needed_by} {verb} the {file.network} backbone, and no file is named",
            where=file.option,
            cure=f"give {file.option} FILE ({file.name} or its safetensors), or"
            f" {file.option} {DOWNLOAD} where there is a network, or do without {needed_by}"
            f" ({file.without})",
        )
    if str(spec) == RANDOM_FOR_TESTS:
        return randomise(make, file, seed=0)
    return load_backbone(file, download(file) if str(spec) == DOWNLOAD else Path(spec), make)


def load_backbone(file: BackboneFile, path: Path, make: Callable[[str], Network]) -> Network:
    """The network with the weights of a .pth or .safetensors file.

    Raises:
        WeightsError: the file is absent, unreadable, or another network's.
    """
    network = make(str(path))
    network.load_state_dict(_checked(file, _read(file, path), path, network.state_dict()))
    return network.requires_grad_(False)


def randomise(make: Callable[[str], Network], file: BackboneFile, *, seed: int) -> Network:
    """Seeded random weights, scaled so that features keep their size: for tests alone."""
    generator = torch.Generator().manual_seed(seed)
    network = make(f"random weights for tests, {file.network}, seed {seed}: distances mean nothing")
    for parameter in network.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        # Weights have four axes, biases one.
        scale = (2.0 / parameter[0].numel()) ** 0.5 if parameter.ndim == 4 else 0.05
        parameter.copy_(drawn * scale)
    return network


def download(file: BackboneFile) -> Path:
    """Fetch the published file into torch's own cache, once, and check its digest.

    Raises:
        WeightsError: the download or its digest fails; nothing is left under the file's name.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / file.name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(path), hash_prefix=file.sha256_prefix)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"the {file.network} backbone cannot be fetched: {error}",
            where=file.url,
            cure=f"fetch it on a machine with a network and give it with {file.option} FILE",
        ) from error
    return path


def convert_backbone(
    file: BackboneFile, source: Path, target: Path, make: Callable[[str], Network]
) -> Path:
    """Write the convolutions of a published file as safetensors, a fraction of its size.

    Args:
        file: what `source` is a copy of.
        source: a file that `load_backbone` reads.
        target: a name ending in .safetensors that does not exist yet.
        make: builds the network.

    Raises:
        WeightsError: `source` cannot be used, or `target` exists or has another ending.
    """
    if target.suffix != ".safetensors" or target.exists():
        problem = "exists already" if target.exists() else "does not end in .safetensors"
        raise WeightsError(f"{target.name} {problem}", where=str(target), cure="give another name")
    checked = _checked(file, _read(file, source), source, make("").state_dict())
    tensors = {name: tensor.contiguous() for name, tensor in checked.items()}
    write_atomic(target, save(tensors, {"network": file.network, "source": source.name}))
    return target


def _read(file: BackboneFile, path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise WeightsError(
            f"there is no such {file.network} file",
            where=str(path),
            cure=f"give the path of {file.name} or of its safetensors",
        )
    try:
        open_regular(path, at_most=MAX_BYTES).close()  # the loaders would wait for a pipe
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: a pickle that needs code to load is refused.
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError,
            ValueError) as error:  # fmt: skip
        raise WeightsError(
            f"the {file.network} file cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            cure="fetch it again; a file that needs code to load is refused",
        ) from error
    if not isinstance(tensors, dict):
        raise WeightsError(
            f"the {file.network} file is no table of tensors",
            where=str(path),
            cure=f"give {file.name}, which is a state dict",
        )
    return tensors


def _checked(
    file: BackboneFile, tensors: Mapping[str, Tensor], path: Path, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of the convolutions in float32: all present, of the right shape, finite."""
    wrong = [
        name
        for name, tensor in expected.items()
        if name not in tensors or tensors[name].shape != tensor.shape
    ]
    stray = [n for n in tensors if n.startswith("features.") and n not in expected]
    if wrong or stray:
        raise WeightsError(
            f"the file is not of {file.network}: missing, of another shape or unknown are"
            f" {shorten(wrong + stray)}",
            where=str(path),
            cure=f"give {file.name}; {file.unfit}",
        )
    chosen = {name: tensors[name].float() for name in expected}
    broken = [name for name, tensor in chosen.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"the {file.network} file contains values that are not numbers: {shorten(broken)}",
            where=str(path),
            cure="fetch it again",
        )
    return chosen
