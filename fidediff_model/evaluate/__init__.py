"""One `evaluate` command: checked before anything is loaded, then scored and summarised.

Every method is scored on the same pairs; a set's score is the mean over its images. At the end the
rows of `scoring` are in `OUT/scores.parquet`, method by method in the set's order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from fidediff_model.evaluate import plots, tables
from fidediff_model.evaluate.scoring import (
    ROWS_FILE,
    Evaluation,
    Method,
    Row,
    Scoring,
    check_content,
    digest_of,
    file_sha256,
    read_rows,
    restored_image,
    write_table,
)
from fidediff_model.evaluate.sets import Pair, choose_pairs, find_results
from fidediff_model.model.engine import ReadyModel, Settings, choose_device
from fidediff_model.model.fidediff import open_model
from fidediff_model.model.folder import model_digest, read_config
from fidediff_model.scores.definitions import METRICS
from fidediff_model.scores.scorer import Scorer
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.ownership import refuse_other_config
from trajectory_builder.disk.regular import read_regular_json
from trajectory_builder.errors import UsageError, UserError
from trajectory_builder.images.pictures import read_rgb8

TABLE_FILE, RUN_FILE = "scores.parquet", "run.json"
BLURRY = "blurry"
_PACKAGES = ("fidediff", "numpy", "opencv-python-headless", "scikit-image", "torch", "diffusers")


@dataclass(frozen=True)
class EvaluateRequest:
    """What `fidediff evaluate` is asked for.

    Attributes:
        out: folder of the scores.
        data: one trajbuild folder, or two folders: blurs, sharp images.
        model: model folder, or None.
        baseline: `blurry` scores the blurs themselves.
        restored: names and result folders of other methods.
        partial: score the pairs that every method has, instead of refusing incomplete folders.
        base_model: folder or hub id of the base weights, if they moved.
        settings: how to restore.
        metrics: names of `definitions.METRICS`.
        vgg16: file of the backbone.
        alexnet: file of the backbone.
        align: align by ECC first.
        split: of a manifest; `all` takes all.
        points: `native` or `all`.
        limit: the first N pairs only.
        batch: images of one size restored at once.
        save_images: also write the model's restorations.
        name: name of the model's result.
        paper: the set whose rows of the paper to print, `none`, or `auto`.
        compare: folders of further results for table and plot.
    """

    out: Path
    data: tuple[Path, ...] = ()
    model: Path | None = None
    baseline: str | None = None
    restored: tuple[tuple[str, Path], ...] = ()
    partial: bool = False
    base_model: str | None = None
    settings: Settings = field(default_factory=Settings)
    metrics: tuple[str, ...] = ("psnr", "ssim")
    vgg16: str | None = None
    alexnet: str | None = None
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
        """The pairs of the set that the options select."""
        split = None if self.split == "all" else self.split
        return choose_pairs(self.data, split=split, points=self.points, limit=self.limit)

    @property
    def model_name(self) -> str:
        """`name`, or the model's folder, RUN for RUN/model."""
        folder = (self.model or Path(BLURRY)).resolve()
        return self.name or (folder.parent.name if folder.name == "model" else folder.name)


@dataclass(frozen=True)
class Plan:
    """The pairs and methods of an evaluation; neither where results are only compared.

    Attributes:
        request: what was asked for.
        pairs: what is scored, the same for every method.
        methods: who restored it.
        notes: what `--partial` leaves out, a sentence per method.
    """

    request: EvaluateRequest
    pairs: list[Pair]
    methods: list[Method]
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Images to score."""
        return len(self.pairs) * len(self.methods)


@dataclass(frozen=True)
class EvaluateResult:
    """What a command prints.

    Attributes:
        summary: the content of `summary.json`.
        tables: the table in each layout.
        evaluation: rows and failures of all methods.
    """

    summary: dict[str, Any]
    tables: dict[tables.Layout, str]
    evaluation: Evaluation


def make_plan(request: EvaluateRequest) -> Plan:
    """Decide what to score by names alone.

    Raises:
        UsageError: nothing to score, or a set or result folder that cannot be used.
    """
    names = [request.model and request.model_name, request.baseline]
    folders = [(name, folder) for name, folder in request.restored]
    names += [name for name, _ in folders]
    chosen = [name for name in names if name]
    if not chosen and request.compare and not request.data:
        return Plan(request, [], [])
    if not chosen or not request.data:
        raise UsageError(
            "it is not clear what to score",
            where="--model, --baseline, --restored, --data",
            cure="give --data, and --model DIR, --restored NAME=DIR or --baseline blurry; or"
            " --compare alone",
        )
    if len(set(chosen)) < len(chosen):
        raise UsageError(
            f"two results have one name: {', '.join(chosen)}",
            where="--restored, --name",
            cure="give each result a name of its own",
        )
    pairs = request.pairs()
    methods = [Method(name) for name in (request.baseline,) if name]
    notes: list[str] = []
    if folders:
        everything = choose_pairs(request.data, split=None, points="all", limit=None)
        results = find_results(folders, pairs, everything, partial=request.partial)
        methods += [Method(one.name, one.files) for one in results]
        notes = [f"{r.name}: {r.unmatched}" for r in results if r.missing or r.extra]
        pairs = [p for p in pairs if all(p.sample_id in one.files for one in results)]
        if not pairs:
            raise UsageError(
                "no pair has a result of every method",
                where="--restored, --partial",
                cure="score the methods one by one",
            )
    if request.model is not None:
        methods.append(Method(request.model_name, model=request.model))
    return Plan(request, pairs, methods, notes)


def run(plan: Plan, report: Callable[[int], Any] = lambda count: None) -> EvaluateResult:
    """Score all methods, or only compare finished results; write tables and plots.

    Args:
        plan: what to do.
        report: called with the number of images that are newly done.

    Raises:
        UserError: an option, the model, a backbone or the folder cannot be used.
    """
    request, out = plan.request, plan.request.out
    others = [one for place in request.compare for one in tables.read_summaries(place)]
    evaluations: list[Evaluation] = []
    ours: list[tables.Summary] = []
    if plan.methods:
        scorer, about = prepare(request, plan.pairs, plan.methods)
        ready = _open(request)
        score = Scoring(
            out, scorer, batch=request.batch, images=out / "images" if request.save_images else None
        )
        for method in plan.methods:
            one = score(method, ready, plan.pairs, report=report)
            evaluations.append(one)
            settings = {**about, "methods": {method.name: about["methods"][method.name]}}
            failed = len(one.failures)
            ours.append(tables.summarise(method.name, one.rows, settings, failed=failed))
        pictures = _pictures(plan, ready, evaluations)
        names = [BLURRY, *(m.name for m in _restorers(plan)), "sharp"]
        plots.plot_pictures(pictures, names, out / plots.PICTURES_FILE)
    out.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluation(
        [row for one in evaluations for row in one.rows],
        [failure for one in evaluations for failure in one.failures],
    )
    return _write(plan, [*ours, *others], evaluation)


def _open(request: EvaluateRequest) -> ReadyModel | None:
    if request.model is None:
        return None
    return open_model(request.model, request.settings, base_model=request.base_model)


def _restorers(plan: Plan) -> list[Method]:
    """The methods but for the blurs, which have a column of pictures anyway."""
    return [method for method in plan.methods if method.files is not None or method.model]


def _pictures(
    plan: Plan, ready: ReadyModel | None, evaluations: Sequence[Evaluation]
) -> list[plots.PictureRow]:
    """The worst and the median image of each method, restored by all methods."""
    pairs = {pair.sample_id: pair for pair in plan.pairs}
    rows = []
    for method, one in zip(plan.methods, evaluations, strict=True):
        extremes = plots.extremes(one.rows)
        if extremes is None:
            continue
        heading = METRICS[extremes.metric].heading
        for kind, (sample_id, score) in (("worst", extremes.worst), ("median", extremes.median)):
            pair = pairs[sample_id]
            with suppress(UserError):  # a method may have failed on this pair
                images = [restored_image(other, ready, pair) for other in _restorers(plan)]
                label = f"{kind} of {method.name}\n{sample_id}\n{heading} {score:.4g}"
                images = [read_rgb8(pair.blur), *images, read_rgb8(pair.sharp)]
                rows.append(plots.PictureRow(label, images))
    return rows


def _write(
    plan: Plan, summaries: Sequence[tables.Summary], evaluation: Evaluation
) -> EvaluateResult:
    """Write tables, summary and plot of a finished evaluation."""
    out = plan.request.out
    paper = tables.rows_for(plan.request.paper, plan.pairs)
    about: dict[str, Any] = {
        "images": len(plan.pairs),
        "notes": plan.notes,
        "content_sha256": content_sha256(evaluation.rows),
        "versions": {name: _version(name) for name in _PACKAGES},
        "paper": paper and paper.data,
    }
    if evaluation.rows:
        write_table([row.flat() for row in evaluation.rows], out / TABLE_FILE)
        about["per_image"] = {"file": TABLE_FILE, "sha256": file_sha256(out / TABLE_FILE)}
    summary = tables.to_json(summaries, about)
    content = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    write_atomic(out / tables.SUMMARY_FILE, content.encode())
    rendered = {layout: tables.render(summaries, paper, layout) for layout in tables.FILES}
    for layout, text in rendered.items():
        write_atomic(out / tables.FILES[layout], text.encode())
    plots.plot_plane(summaries, paper, out / plots.PLANE_FILE)
    return EvaluateResult(summary, rendered, evaluation)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def content_sha256(rows: Sequence[Row]) -> str:
    """Digest of everything scored: methods, pairs, and the content of their files."""
    lines = [
        f"{row.method}\0{row.sample_id}\0{row.input_sha256}\0{row.sharp_sha256}" for row in rows
    ]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()


def prepare(
    request: EvaluateRequest,
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    timesteps: Sequence[float] = (),
) -> tuple[Scorer, dict[str, Any]]:
    """Check model and backbones before a folder is made or a model loaded, then claim the folder.

    Args:
        request: of `evaluate`, or the part of a scan's that both share.
        pairs: what is scored.
        methods: who restored them.
        timesteps: of a scan.

    Returns:
        The scorer, and what decides the scores, as in `run.json`.
    """
    if request.model is not None:
        read_config(request.model)
    scorer = Scorer(
        request.metrics,
        vgg16=request.vgg16,
        alexnet=request.alexnet,
        aligned=request.align,
        device=choose_device(request.settings.device),
    )
    about: dict[str, Any] = {
        "pairs": digest_of(pairs),
        "metrics": list(request.metrics),
        "aligned": request.align,
        "backbones": {name: _backbone(source) for name, source in scorer.backbones.items()},
        "methods": {method.name: _about(method, request.settings) for method in methods},
    }
    if timesteps:
        about["timesteps"] = list(timesteps)
    claim(request.out, about)
    known = read_rows(request.out)
    for method in methods:
        check_content(known.values(), method, pairs, request.out / ROWS_FILE)
    return scorer, about


def _about(method: Method, settings: Settings) -> dict[str, Any]:
    """What decides a method's restorations besides its files' content."""
    if method.model is None:
        return {"kind": BLURRY if method.files is None else "restored"}
    # Where it runs decides nothing.
    plain = asdict(replace(settings, device=None, compile=False))
    return {"kind": "model", "model": model_digest(method.model), "settings": plain}


def _backbone(source: str) -> str:
    """The digest of a weight file, or what random weights say of themselves."""
    return file_sha256(Path(source)) if Path(source).is_file() else source


def claim(out: Path, run: Mapping[str, Any]) -> None:
    """Make the folder of an evaluation, or take it up again; further methods may join it.

    Args:
        out: the folder.
        run: what decides the scores; must be what the folder has already, if it has any, but for
            methods that are new there.

    Raises:
        OutputError: the folder has an evaluation of something else (exit code 5).
    """
    file = out / RUN_FILE
    known: dict[str, Any] = {}
    if file.is_file():
        try:
            stored = dict(read_regular_json(file))
            known = dict(stored.get("methods", {}))
        except (ValueError, TypeError):
            stored = {}
        both = known.keys() & run["methods"].keys()
        refuse_other_config(
            out,
            {**stored, "methods": {name: known[name] for name in sorted(both)}},
            {**run, "methods": {name: run["methods"][name] for name in sorted(both)}},
            file=RUN_FILE,
            contents="an evaluation",
            cure="choose another --out",
        )
    out.mkdir(parents=True, exist_ok=True)
    merged = {**run, "methods": {**known, **run["methods"]}}
    write_atomic(file, (json.dumps(merged, indent=2) + "\n").encode())
