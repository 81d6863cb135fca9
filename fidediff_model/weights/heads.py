"""The small trained parts of LPIPS and DISTS, which come with the package: 23 kB, see NOTICE.

The backbones under them, VGG16 and AlexNet, do not: `backbone` reads them from files that the user
names.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

FILE = Path(__file__).with_name("perceptual_heads.safetensors")
"""Written by `benchmarks/perceptual_heads.py`."""


def load_heads(distance: str) -> dict[str, Tensor]:
    """The trained tensors of a distance, float32.

    Args:
        distance: `lpips-vgg` or `lpips-alex`: `lin0` ... `lin4`, each (1, C, 1, 1) for the C
            channels of one of the network's five maps (Zhang et al. 2018, version 0.1); or
            `dists`: `alpha` and `beta`, each (1475,) for the channels of the image and of VGG16's
            maps (Ding et al. 2020).
    """
    prefix = f"{distance}."
    tensors = load_file(FILE)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
