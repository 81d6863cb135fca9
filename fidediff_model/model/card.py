"""The model card: what a saved model was trained on, how, and what it scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fidediff_model import config as model_config
from fidediff_model.config import ModelConfig
from fidediff_model.model.base_name import without_places


@dataclass(frozen=True)
class Card:
    """What only training and evaluation know; all of it may be left unsaid.

    Args:
        manifest: the data set, as a name or path.
        recipe: name of the recipe which made it.
        recipe_digest: digest of that recipe, from the manifest.
        stage: base, kernel or control: the last stage that trained the model.
        steps: training steps of that stage.
        settings: of the training, as plain values.
        scores: set and metric to value, such as {"GoPro PSNR": 28.79}.
    """

    manifest: str = ""
    recipe: str = ""
    recipe_digest: str = ""
    stage: str = ""
    steps: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    def without_places(self) -> Card:
        """A copy without paths of this machine: their last names alone."""
        return Card(**without_places(asdict(self)))


def to_markdown(card: Card, config: ModelConfig, *, base_model: str, parts: list[str]) -> str:
    """The card as Markdown, for the `README.md` of a model folder."""
    facts = {
        "Base model (named, not contained)": base_model,
        "Parts": ", ".join(parts),
        "Preset": config.preset,
        "Data": card.manifest or "not stated",
        "Recipe": f"{card.recipe} {card.recipe_digest}".strip() or "not stated",
        "Last stage": f"{card.stage}, {card.steps:,} steps" if card.stage else "not stated",
    }
    lines = ["---", "tags: [image-deblurring, fidediff]", "---", "", "# FideDiff model", ""]
    lines += ["| what | value |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    lines += ["", "Load it with `FideDiff.load(folder, base_model=...)`."]
    lines += ["The LoRA under `base/` also loads into a stock Stable Diffusion pipeline."]
    if card.scores:
        lines += ["", "## Scores", "", "| set and metric | value |", "|---|---|"]
        lines += [f"| {_cell(name)} | {value:.4f} |" for name, value in card.scores.items()]
    if card.settings:
        text = json.dumps(dict(card.settings), indent=2, default=str)
        lines += ["", "## Training settings", "", "```json", text, "```"]
    lines += ["", "## Structure", "", "```json", model_config.to_json(config).rstrip(), "```", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
