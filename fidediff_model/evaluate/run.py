"""One `evaluate` command: checked before anything is loaded, then scored and summarised.

At the end of a run the rows of `scoring` are in `OUT/scores.parquet` in the set's order; a set's
score is the mean over its images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fidediff_model.evaluate import plots, tables
from fidediff_model.evaluate.scoring import (
    Evaluation,
    Scoring,
    check_content,
    digest_of,
    read_rows,
    write_table,
)
from fidediff_model.evaluate.sets import Pair, choose_pairs
from fidediff_model.model.engine import Settings, choose_device
from fidediff_model.model.fidediff import open_model
from fidediff_model.model.folder import read_config
from fidediff_model.restore.command import model_digest
from fidediff_model.scores.scorer import Scorer
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.ownership import refuse_other_config
from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.errors import UsageError

TABLE_FILE, RUN_FILE = "scores.parquet", "run.json"


@dataclass(frozen=True)
class EvaluateRequest:
    """What `fidediff evaluate` is asked for.

    Attributes:
        out: folder of the scores.
        data: one trajbuild folder, or two folders: blurs, sharp images.
        model: model folder, or None.
        baseline: `blurry` scores the blurs themselves.
        base_model: folder or hub id of the base weights, if they moved.
        settings: how to restore.
        metrics: names of `definitions.METRICS`.
        vgg16: file of the backbone.
        align: align by ECC first.
        split: of a manifest; `all` takes all.
        points: `native` or `all`.
        limit: the first N pairs only.
        batch: images of one size restored at once.
        save_images: also write the restorations.
        name: name of the result.
        paper: whose rows of the paper to print: a set's name or `none`.
        compare: folders of further results for table and plot.
    """

    out: Path
    data: tuple[Path, ...] = ()
    model: Path | None = None
    baseline: str | None = None
    base_model: str | None = None
    settings: Settings = field(default_factory=Settings)
    metrics: tuple[str, ...] = ("psnr", "ssim")
    vgg16: str | None = None
    align: bool = False
    split: str = "test"
    points: str = "native"
    limit: int | None = None
    batch: int = 1
    save_images: bool = False
    name: str | None = None
    paper: str = "none"
    compare: tuple[Path, ...] = ()

    def pairs(self) -> list[Pair]:
        """The pairs to score; none when results are only compared.

        Raises:
            UsageError: both or neither of a model and a baseline, or no data.
        """
        chosen = [self.model, self.baseline]
        if chosen == [None, None] and self.compare and not self.data:
            return []
        if chosen.count(None) != 1 or not self.data:
            raise UsageError(
                "it is not clear what to score",
                where="--model, --baseline, --data",
                cure="give --model DIR or --baseline blurry, and --data; or --compare alone",
            )
        split = None if self.split == "all" else self.split
        return choose_pairs(self.data, split=split, points=self.points, limit=self.limit)

    @property
    def result_name(self) -> str:
        """`name`, or the model's folder, RUN for RUN/model."""
        if self.name or self.model is None:
            return self.name or "blurry"
        folder = self.model.resolve()
        return folder.parent.name if folder.name == "model" else folder.name


@dataclass(frozen=True)
class EvaluateResult:
    """What a command prints.

    Attributes:
        summary: of the method scored; None when results were only compared.
        compared: names of the further results.
        markdown: the table of all of them.
        evaluation: rows and failures.
    """

    summary: tables.Summary | None
    compared: list[str]
    markdown: str
    evaluation: Evaluation

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"compared": self.compared} if self.summary is None else self.summary.to_json()


def run(
    request: EvaluateRequest, report: Callable[[int], Any] = lambda count: None
) -> EvaluateResult:
    """Score a model or the blurs, or only compare finished results.

    Args:
        request: what to do.
        report: called with the number of pairs that are newly done.

    Raises:
        UserError: an option, the model, the backbone or the folder cannot be used.
    """
    pairs = request.pairs()
    others = [tables.read_summary(place) for place in request.compare]
    evaluation, ours = Evaluation([], []), list[tables.Summary]()
    if pairs:
        scorer, about = prepare(request, pairs)
        ready = None
        if request.model is not None:
            ready = open_model(request.model, request.settings, base_model=request.base_model)
        images = request.out / "images" if request.save_images else None
        score = Scoring(request.out, scorer, batch=request.batch, images=images)
        evaluation = score(ready, pairs, report=report)
        write_table([row.flat() for row in evaluation.rows], request.out / TABLE_FILE)
        failed = len(evaluation.failures)
        ours = [tables.summarise(request.result_name, evaluation.rows, about, failed=failed)]
    request.out.mkdir(parents=True, exist_ok=True)
    paper = None if request.paper == "none" else request.paper
    markdown = tables.to_markdown([*ours, *others], paper)
    write_atomic(request.out / tables.MARKDOWN_FILE, markdown.encode())
    for summary in ours:
        tables.write_summary(summary, request.out)
    plots.plot_plane([*ours, *others], paper, request.out / plots.PLANE_FILE)
    names = [summary.name for summary in others]
    return EvaluateResult(ours[0] if ours else None, names, markdown, evaluation)


def prepare(
    request: EvaluateRequest, pairs: Sequence[Pair], timesteps: Sequence[float] = ()
) -> tuple[Scorer, dict[str, Any]]:
    """Check model and backbone before a folder is made or a model loaded, then claim the folder.

    Args:
        request: of `evaluate`, or the part of a scan's that both share.
        pairs: what is scored.
        timesteps: of a scan.

    Returns:
        The scorer, and what decides the scores, as in `run.json`.
    """
    if request.model is not None:
        read_config(request.model)
    device = choose_device(request.settings.device)
    scorer = Scorer(request.metrics, vgg16=request.vgg16, aligned=request.align, device=device)
    about: dict[str, Any] = {
        "model": "blurry" if request.model is None else model_digest(request.model),
        "pairs": digest_of(pairs),
        "metrics": list(request.metrics),
        "aligned": request.align,
        "vgg16": Path(request.vgg16).name if request.vgg16 else None,
        "settings": None,
    }
    if request.model is not None:
        about["settings"] = asdict(request.settings)
        # Where it runs decides nothing.
        del about["settings"]["device"], about["settings"]["compile"]
    if timesteps:
        about["timesteps"] = list(timesteps)
    claim(request.out, about)
    check_content(read_rows(request.out), pairs, request.out)
    return scorer, about


def claim(out: Path, run: Mapping[str, Any]) -> None:
    """Make the folder of an evaluation, or take it up again.

    Args:
        out: the folder.
        run: what decides the scores; must be what the folder has already, if it has any.

    Raises:
        OutputError: the folder has an evaluation of something else (exit code 5).
    """
    file = out / RUN_FILE
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(file, (json.dumps(run, indent=2) + "\n").encode())
        return
    try:
        stored = dict(json.loads(read_regular_text(file)))
    except (ValueError, TypeError):
        stored = {}
    refuse_other_config(
        out, stored, run, file=RUN_FILE, contents="an evaluation", cure="choose another --out"
    )
