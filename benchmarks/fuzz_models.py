"""Damaged model folders through `fidediff restore`."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import fuzz_damage as damage
import small_gopro
from fuzz_tries import Outcome, Try, command

from fidediff_model.cli import main as fidediff
from fidediff_model.model import presets
from fidediff_model.model.fidediff import build
from fidediff_model.model.step import PARTS
from fidediff_model.weights.sd21 import random_base
from trajectory_builder.images import png


def models(root: Path) -> Try:
    """A tiny model with all parts over a random base, one file of it damaged."""
    tiny = presets.preset("tiny")
    build(tiny, random_base(tiny.base), parts=PARTS).save(root / "model")
    (root / "a.png").write_bytes(png.encode_png(small_gopro.moving(1, (48, 32), seed=3)[0]))

    def attempt(rng: random.Random, folder: Path) -> Outcome:
        model = shutil.copytree(root / "model", folder / "model")
        what = _damage(rng, model)
        out = folder / "out"
        words = ("restore", root / "a.png", "--model", model, "--out", out, "--device", "cpu")
        ran = command(*words, "--dtype", "fp32", program=fidediff)
        if ran.fault():
            return Outcome("fault", f"{what}: {ran.fault()}")
        if ran.code:
            return Outcome("refused", f"{what}: {ran.err.splitlines()[0][:100]}")
        if not (out / "a.png").is_file():
            return Outcome("wrong", f"{what}: exit 0 and no image")
        return Outcome("accepted", what)

    return attempt


def _damage(rng: random.Random, model: Path) -> str:
    kind = rng.choice(["values", "values", "values", "bytes", "header", "swap"])
    if kind == "values":
        file = model / "config.json"
        values = damage.odd_json(rng, json.loads(file.read_text()))
        file.write_text(json.dumps(values))
        return "config.json with odd values"
    file = rng.choice(sorted(model.rglob("*.safetensors")))
    content = file.read_bytes()
    if kind == "bytes":
        file = rng.choice(sorted(p for p in model.rglob("*") if p.is_file()))
        file.write_bytes(damage.damaged_bytes(rng, file.read_bytes()))
    elif kind == "header":
        (length,) = struct.unpack("<Q", content[:8])
        header = damage.odd_json(rng, json.loads(content[8 : 8 + length]))
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    else:
        file.write_bytes(rng.choice(sorted(model.rglob("*.safetensors"))).read_bytes())
    return f"{kind} of {file.relative_to(model)}"
