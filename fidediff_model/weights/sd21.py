"""The weights that FideDiff starts from: found, checked, loaded, or made at random.

A base model is a diffusers folder (or the hub id of one) with `unet/`, `vae/` and
`scheduler/`. diffusers itself would fall back to pickles, fill missing tensors with noise and take
a v-prediction model for an epsilon model; so everything is checked here before it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fidediff_model.config import BaseConfig, PromptStart
from fidediff_model.weights import shipped
from fidediff_model.weights.base_folder import (
    PARTS,
    check_folder,
    find_folder,
    read_json,
    unet_config,
    unusable_base,
    vae_config,
    weight_file,
)
from trajectory_builder.errors import shorten

RANDOM = "random"


@dataclass
class BaseWeights:
    """A clean UNet (no LoRA), a VAE, where they came from, and the first prompt.

    `name` is a folder, a hub id or `random:SEED`; `prompt` is (1, tokens, width) in float32;
    `fingerprint` is a short digest of some tensors as they are in the files, equal for a float32
    file and its float16 variant.
    """

    unet: Any
    vae: Any
    prompt: Tensor
    name: str
    fingerprint: str


def _fingerprint(unet: Any, vae: Any) -> str:
    tensors = (
        unet.conv_in.weight,
        unet.conv_out.weight,
        unet.mid_block.resnets[0].conv1.bias,
        vae.encoder.conv_in.weight,
        vae.decoder.conv_out.weight,
    )
    if unet.conv_in.weight.is_meta:
        return "meta"  # shapes only, for counting
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise modules reproducibly inside; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_base(config: BaseConfig, *, seed: int = 0) -> BaseWeights:
    """The same structure with random weights and a `normal` prompt, for tests and speed.

    The same seed gives the same weights on the same release of torch and diffusers.
    """
    diffusers: Any = import_module("diffusers")
    with seeded(seed):
        unet = diffusers.UNet2DConditionModel(**unet_config(config)).eval()
        vae = diffusers.AutoencoderKL(**vae_config(config)).eval()
        prompt = torch.randn(1, config.prompt_tokens, config.prompt_width) * 0.02
    return BaseWeights(unet, vae, prompt, f"{RANDOM}:{seed}", _fingerprint(unet, vae))


def load_base(
    location: str | Path,
    config: BaseConfig,
    *,
    dtype: torch.dtype = torch.float32,
    prompt_start: PromptStart = "empty",
    fetch: bool = True,
) -> BaseWeights:
    """Check and load base weights.

    Args:
        location: a local diffusers folder, a hub id, `small`, or `random:SEED`.
        config: the structure that they must have.
        dtype: of the loaded weights, whatever the files' own.
        prompt_start: `empty` needs `text_encoder/` and `tokenizer/` in the folder as well.
        fetch: ask the hub for a hub id that is not in its local cache.

    Raises:
        ModelError: the folder is not a model, a part or tensor is missing, the widths differ,
            it predicts v or has a zero-SNR schedule, its weights are a pickle, a git-lfs pointer
            or truncated, the hub cannot be reached.
    """
    if str(location).partition(":")[0] == RANDOM:
        weights = random_base(config, seed=_seed_of(str(location)))
    else:
        folder = find_folder(location, fetch=fetch)
        check_folder(folder, config)
        unet, vae = (_load_part(folder, part) for part in PARTS)
        prompt = _first_prompt(folder, config, prompt_start)
        is_path = Path(location).is_dir() and str(location) != shipped.NAME
        name = str(folder.resolve() if is_path else location)
        weights = BaseWeights(unet, vae, prompt, name, _fingerprint(unet, vae))
    cast(weights.unet, dtype)
    cast(weights.vae, dtype)
    return weights


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Change the type of a module's floats in place.

    Bypasses diffusers' own `to`, which warns about layers that these models do not have.
    """
    nn.Module.to(module, dtype)


def _load_part(folder: Path, part: str) -> Any:
    diffusers: Any = import_module("diffusers")
    file, variant = weight_file(folder / part)
    try:
        model, info = getattr(diffusers, PARTS[part]).from_pretrained(
            folder,
            subfolder=part,
            variant=variant,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise unusable_base(
            f"the weights of {part} cannot be read: {str(error).splitlines()[0]}",
            where=str(file),
            cure="copy the file again and compare its size with the source's",
        ) from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            names = sorted(str(k) for k in info[problem])
            raise unusable_base(
                f"the weights of {part} do not fit their config: "
                f"{problem.replace('_', ' ')} {shorten(names)}",
                where=str(file),
                cure="take config and weights from the same source",
            )
    return model.eval()


def _first_prompt(folder: Path, config: BaseConfig, start: PromptStart) -> Tensor:
    if start == "normal":
        with seeded(0):
            return torch.randn(1, config.prompt_tokens, config.prompt_width) * 0.02
    return empty_prompt(folder, tokens=config.prompt_tokens)


def empty_prompt(folder: Path, *, tokens: int = 77) -> Tensor:
    """The text encoder's output for the empty prompt, (1, tokens, width) in float32.

    The empty prompt has no words, so its ids are read from the tokenizer's files: start, end,
    then padding.

    Raises:
        ModelError: `text_encoder/` or `tokenizer/` is missing or unreadable.
    """
    for part in ("text_encoder", "tokenizer"):
        if not (folder / part).is_dir():
            raise unusable_base(
                f"the base model lacks {part}, from which the prompt starts",
                where=str(folder),
                cure=f"copy {part}/ as well, or give --set model.prompt.start=normal",
            )
    transformers: Any = import_module("transformers")
    ids = _empty_ids(folder / "tokenizer", tokens)
    try:
        encoder = transformers.CLIPTextModel.from_pretrained(
            folder / "text_encoder", use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise unusable_base(
            f"the text encoder cannot be read: {str(error).splitlines()[0]}",
            where=str(folder / "text_encoder"),
            cure="copy it again, or give --set model.prompt.start=normal",
        ) from error
    with torch.no_grad():
        states: Tensor = encoder.eval().float()(input_ids=ids).last_hidden_state
    return states


def _empty_ids(folder: Path, tokens: int) -> Tensor:
    names = read_json(folder / "special_tokens_map.json")
    vocabulary = read_json(folder / "vocab.json")

    def number(role: str) -> int:
        token = names.get(role)
        text = token["content"] if isinstance(token, dict) else token
        if text not in vocabulary:
            raise unusable_base(f"the tokenizer names no {role}", where=str(folder))
        return int(vocabulary[text])

    padding = [number("pad_token")] * (tokens - 2)
    return torch.tensor([[number("bos_token"), number("eos_token"), *padding]])


def _seed_of(name: str) -> int:
    seed = name.partition(":")[2] or "0"
    if not seed.isdecimal() or int(seed[:20]) >= 1 << 63:
        raise unusable_base(
            f"{name} names no random base", where=name, cure="give random:SEED, 0 or more"
        )
    return int(seed)
