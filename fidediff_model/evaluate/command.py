"""One `evaluate` command: what it asks for, checked before anything is loaded, then done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fidediff_model.evaluate import tables
from fidediff_model.evaluate.run import Scorer, claim, digest_of, evaluate
from fidediff_model.evaluate.sets import Pair, choose_pairs
from fidediff_model.model.folder import read_config
from fidediff_model.restore.command import model_digest
from fidediff_model.restore.engine import Settings, choose_device, open_model
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import DataError, ExitCode


@dataclass(frozen=True)
class EvaluateResult:
    """What a command prints: the summary (none when results were only compared) and the table."""

    summary: dict[str, Any]
    markdown: str
    failures: list[tuple[str, str]]
    scored: int


def count(values: Mapping[str, Any]) -> int:
    """How many pairs there are to score; refuses options that contradict each other.

    Raises:
        DataError: both or neither of a model and a baseline.
    """
    chosen = [name for name in ("model", "baseline") if values[name]]
    only_compare = not chosen and values["compare"] and not values["data"]
    if only_compare:
        return 0
    if len(chosen) != 1 or not values["data"]:
        raise DataError(
            "nothing says what to score",
            where="--model, --baseline, --data",
            cure="give --model DIR or --baseline blurry, and --data; or --compare alone",
            exit_code=ExitCode.WRONG_USE,
        )
    return len(_pairs(values))


def _pairs(values: Mapping[str, Any]) -> list[Pair]:
    split = None if values["split"] == "all" else values["split"]
    return choose_pairs(values["data"], split=split, points=values["points"], limit=values["limit"])


def run(
    values: Mapping[str, Any], settings: Settings | None, report: Callable[[int], Any]
) -> EvaluateResult:
    """Score, or only compare.

    Args:
        values: the options by name.
        settings: how to restore; None for a baseline or a comparison.
        report: told of each pair that is done.

    Raises:
        UserError: as the parts raise it.
    """
    out: Path = values["out"]
    paper = None if values["paper"] == "none" else values["paper"]
    others = [tables.read_summary(place) for place in values["compare"]]
    if not values["model"] and not values["baseline"]:
        out.mkdir(parents=True, exist_ok=True)
        markdown = tables.to_markdown(others, paper)
        write_atomic(out / tables.MARKDOWN_FILE, markdown.encode())
        tables.plot(others, paper, out / tables.PLOT_FILE)
        return EvaluateResult({"compared": [s["name"] for s in others]}, markdown, [], len(others))
    result, about = _score(values, settings, report)
    summary = tables.summarise(_name(values), result.rows, about, failed=len(result.failures))
    markdown = tables.to_markdown([summary, *others], paper)
    tables.write_summary(summary, out, markdown)
    tables.plot([summary, *others], paper, out / tables.PLOT_FILE)
    return EvaluateResult(summary, markdown, result.failures, len(result.rows))


def _score(
    values: Mapping[str, Any], settings: Settings | None, report: Callable[[int], Any]
) -> tuple[Any, dict[str, Any]]:
    pairs = _pairs(values)
    if values["model"]:
        read_config(values["model"])
    device = choose_device(values["device"])
    # The backbone is looked for before a folder is made or a model loaded.
    scorer = Scorer(
        values["metrics"], vgg16=values["vgg16"], aligned=values["align"], device=device
    )
    about = about_run(values, settings, pairs)
    claim(values["out"], about)
    ready = None
    if settings is not None:
        ready = open_model(values["model"], settings, base_model=values["base_model"])
    result = evaluate(
        ready,
        pairs,
        scorer,
        values["out"],
        batch=values["batch"],
        save_images=values["save_images"],
        report=report,
    )
    return result, about


def about_run(
    values: Mapping[str, Any], settings: Settings | None, pairs: list[Pair]
) -> dict[str, Any]:
    """What decides the scores, for `run.json`."""
    about: dict[str, Any] = {
        "model": model_digest(values["model"]) if values["model"] else "blurry",
        "pairs": digest_of(pairs),
        "metrics": list(values["metrics"]),
        "aligned": values["align"],
        "vgg16": Path(values["vgg16"]).name if values["vgg16"] else None,
        "settings": asdict(settings) if settings else None,
    }
    if about["settings"]:
        del about["settings"]["device"], about["settings"]["compile"]
    return about


def _name(values: Mapping[str, Any]) -> str:
    if values["name"]:
        return str(values["name"])
    if not values["model"]:
        return "blurry"
    folder = Path(values["model"]).resolve()
    # RUN/model says less than RUN.
    return folder.parent.name if folder.name == "model" else folder.name
