"""A folder that runs as a Hugging Face Space: the page, its requirements, perhaps a model."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from fidediff_model.model.folder import read_config
from trajectory_builder.errors import OutputError

APP = '''"""The page of `fidediff app`, as a Space runs it; locally: python app.py."""

import os
from pathlib import Path

from fidediff_model.app.serve import AppRequest, serve
from fidediff_model.weights import shipped

OWN = Path(__file__).with_name("model")
MODEL, NAME = (OWN, "{name}") if OWN.is_dir() else (shipped.model_folder(), "small")

if __name__ == "__main__":
    serve(
        AppRequest(
            MODEL,
            NAME,
            # A Space sets both, so that its own server reaches the page.
            host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
            port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        ),
        on_ready=lambda address: print(address, flush=True),
    )
'''

REQUIREMENTS = """fidediff[app]=={version}
"""

README = """---
title: FideDiff
emoji: 📷
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
suggested_hardware: cpu-basic
---

A blurry photo in, a sharp one out, in one diffusion step.

Try it here: `pip install -r requirements.txt`, then `python app.py`.

To publish it, make a Space of the SDK Gradio and push these files to it. `requirements.txt` names
the release that wrote this folder; for a version that no index has, put its wheel into this folder
and name it there: `./fidediff-{version}-py3-none-any.whl[app]`.
"""


def write_space(out: Path, model: Path | None) -> Path:
    """Write the folder of a Space.

    Args:
        out: a folder that does not exist, or is empty.
        model: a model folder to be copied into it; None takes the one that ships with the package.

    Returns:
        `out`.

    Raises:
        OutputError: there is something in the folder.
        ModelError: `model` is not a model folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"{out} is not an empty folder",
            where="--export-space",
            cure="choose another folder, or empty this one yourself",
        )
    if model is not None:
        read_config(model)
    out.mkdir(parents=True, exist_ok=True)
    if model is not None:
        shutil.copytree(model, out / "model")
    name = model.resolve().name if model is not None else "small"
    values = {"version": version("fidediff"), "gradio": version("gradio"), "name": _plain(name)}
    for file, text in (("app.py", APP), ("requirements.txt", REQUIREMENTS), ("README.md", README)):
        (out / file).write_text(text.format(**values), encoding="utf-8")
    return out


def _plain(name: str) -> str:
    """A name that cannot end the string that contains it."""
    return "".join(c for c in name if c.isalnum() or c in " ._-")
