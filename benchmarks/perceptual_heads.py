"""Write the heads of LPIPS and DISTS as safetensors, from the files inside torchmetrics.

    python benchmarks/perceptual_heads.py [TARGET]

The package ships the result, so that scoring does not need torchmetrics.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from fidediff_model.weights.heads import FILE


def convert() -> dict[str, torch.Tensor]:
    """The tensors under the names that `heads.load_heads` expects."""
    [folder] = importlib.util.find_spec("torchmetrics").submodule_search_locations  # type: ignore[misc, union-attr]
    files = {
        "lpips-vgg": "lpips_models/vgg.pth",
        "lpips-alex": "lpips_models/alex.pth",
        "dists": "dists_models/weights.pt",
    }
    # The heads were saved on a CUDA device.
    stored = {
        name: torch.load(
            Path(folder) / "functional/image" / file, map_location="cpu", weights_only=True
        )
        for name, file in files.items()
    }
    heads = {
        f"{net}.lin{i}": stored[net][f"lin{i}.model.1.weight"]
        for net in ("lpips-vgg", "lpips-alex")
        for i in range(5)
    }
    heads |= {f"dists.{name}": stored["dists"][name].flatten() for name in ("alpha", "beta")}
    return {name: tensor.detach().float().contiguous() for name, tensor in heads.items()}


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    save_file(convert(), target, metadata={"format": "pt", "licence": "BSD-2-Clause, MIT: NOTICE"})
    print(f"{target}: {target.stat().st_size:,} bytes")
