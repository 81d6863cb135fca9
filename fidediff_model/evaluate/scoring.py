"""Score restorations image by image, resumable: one row per pair and prescribed timestep.

Scores are taken on 8-bit RGB as it would be written to a file, one image at a time, without
cropping. `OUT/scores.jsonl` grows while a command runs, and the same command resumes from it. A row
belongs to the content of its two files: it stores their digests, and a folder whose rows were made
of other files is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from fidediff_model.data.ahead import map_ahead
from fidediff_model.data.json_lines import append_line, read_lines
from fidediff_model.evaluate.sets import Pair
from fidediff_model.model.engine import ReadyModel
from fidediff_model.scores import metrics
from fidediff_model.scores.metrics import Image
from fidediff_model.scores.scorer import Scorer
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import (
    DataError,
    ExitCode,
    ImageError,
    OutputError,
    UserError,
    shorten,
)
from trajectory_builder.images.pictures import read_rgb8
from trajectory_builder.manifest import is_hostile

ROWS_FILE = "scores.jsonl"


Key = tuple[str, str, float | None]


@dataclass(frozen=True)
class Method:
    """Who restored the images that are scored.

    Attributes:
        name: unique in an evaluation.
        files: results of another program by sample_id.
        model: folder of a model that restores them now. With neither, the blurs are scored.
    """

    name: str
    files: Mapping[str, Path] | None = None
    model: Path | None = None

    def source(self, pair: Pair) -> Path:
        """The file that is read for a pair: a result, or the blur."""
        return pair.blur if self.files is None else self.files[pair.sample_id]


@dataclass(frozen=True)
class Row:
    """The scores of one restoration.

    Attributes:
        method: who restored it.
        sample_id: the pair.
        trajectory_id: its trajectory.
        n_frames: frames averaged, or None.
        native_n_frames: n of the trajectory's official pair, or None.
        timestep: the pair's true t, or None.
        motion_px: length of the picture's way during the exposure, or None.
        t: the t that was prescribed, or None where the model estimated it.
        t_hat: the t that the model used, or None where no model ran.
        width: pixels.
        height: pixels.
        input_sha256: of the file that was restored.
        sharp_sha256: of the sharp file.
        scores: by metric; see `definitions.METRICS`.
    """

    method: str
    sample_id: str
    trajectory_id: str
    n_frames: int | None
    native_n_frames: int | None
    timestep: int | None
    motion_px: float | None
    t: float | None
    t_hat: float | None
    width: int
    height: int
    input_sha256: str
    sharp_sha256: str
    scores: dict[str, float]

    @property
    def key(self) -> Key:
        """What is unique in an evaluation: method, pair and prescribed t."""
        return self.method, self.sample_id, self.t

    def flat(self) -> dict[str, Any]:
        """One level of columns, the scores last, for Parquet."""
        values = asdict(self)
        return {**values, **values.pop("scores")}


@dataclass(frozen=True)
class Failure:
    """A pair without a row, and the reason."""

    method: str
    sample_id: str
    what: str


@dataclass(frozen=True)
class Evaluation:
    """The outcome of a run: rows in the set's order, and the pairs that failed."""

    rows: list[Row]
    failures: list[Failure]

    @property
    def exit_code(self) -> ExitCode:
        """How the command ends."""
        if not self.failures:
            return ExitCode.DONE
        return ExitCode.DONE_IN_PART if self.rows else ExitCode.FAILED


@dataclass(frozen=True)
class _Opened:
    """A pair in memory; `image` is what the method read, later its restoration."""

    method: Method
    pair: Pair
    image: Image
    sharp: Image
    input_sha256: str
    sharp_sha256: str
    t: float | None = None
    t_hat: float | None = None


@dataclass(frozen=True)
class Scoring:
    """Restores and scores pairs into a folder, resuming from its rows.

    Attributes:
        out: a claimed folder.
        scorer: how to score.
        batch: images of one size restored at once.
        images: folder of `SAMPLE_ID.png` of each restoration; None writes none.
    """

    out: Path
    scorer: Scorer
    batch: int = 1
    images: Path | None = None

    def __call__(
        self,
        method: Method,
        ready: ReadyModel | None,
        pairs: Sequence[Pair],
        *,
        timesteps: Sequence[float | None] = (None,),
        report: Callable[[int], Any] = lambda count: None,
    ) -> Evaluation:
        """Score every pair at every timestep.

        Args:
            method: who restored them.
            ready: the loaded model, where `method` is one.
            pairs: what to score.
            timesteps: t in [0, 999]; None lets the model's settings decide.
            report: called with the number of restorations that are newly done.
        """
        known = read_rows(self.out)
        keys = [(method.name, pair.sample_id, t) for pair, t in product(pairs, timesteps)]
        missing = set(keys) - known.keys()
        report(len(keys) - len(missing))
        names = {sample_id for _, sample_id, _ in missing}
        left = [pair for pair in pairs if pair.sample_id in names]
        depth = self.batch + 2
        opened = map_ahead(partial(_open, method), left, depth=depth)
        at_all_t = (
            replace(one, t=t) if isinstance(one, _Opened) else one
            for one in opened
            for t in timesteps
            if isinstance(one, Failure) or (method.name, one.pair.sample_id, t) in missing
        )
        restored = _restore(ready if method.model else None, at_all_t, self.batch)
        failures: dict[str, Failure] = {}
        for outcome in map_ahead(self._score, restored, depth=depth):
            if isinstance(outcome, Failure):
                failures[outcome.sample_id] = outcome
            else:
                known[outcome.key] = outcome
                append_line(self.out / ROWS_FILE, asdict(outcome))
            report(1)
        return Evaluation([known[key] for key in keys if key in known], list(failures.values()))

    def _score(self, restored: _Opened | Failure) -> Row | Failure:
        if isinstance(restored, Failure):
            return restored
        pair, (height, width) = restored.pair, restored.image.shape[:2]
        try:
            if self.images is not None and restored.method.model:
                _save(restored.image, self.images, pair.sample_id)
            scores = self.scorer(restored.image, restored.sharp)
        except UserError as error:
            return _failure(restored.method, pair, error)
        return Row(
            restored.method.name,
            pair.sample_id, pair.trajectory_id, pair.n_frames, pair.native_n_frames, pair.timestep,
            pair.motion_px, restored.t, restored.t_hat, width, height, restored.input_sha256,
            restored.sharp_sha256, scores,
        )  # fmt: skip


def _open(method: Method, pair: Pair) -> _Opened | Failure:
    source = method.source(pair)
    try:
        image, sharp = read_rgb8(source), read_rgb8(pair.sharp)
        if image.shape != sharp.shape:
            kind = "blur" if method.files is None else "result"
            raise ImageError(
                f"{kind} and sharp image differ in size: {image.shape[1]} x {image.shape[0]} and"
                f" {sharp.shape[1]} x {sharp.shape[0]}",
                where=str(source),
                cure="leave the pair out, or fix the set",
            )
        digests = file_sha256(source), file_sha256(pair.sharp)
        return _Opened(method, pair, image, sharp, *digests)
    except UserError as error:
        return _failure(method, pair, error)


def _failure(method: Method, pair: Pair, error: UserError) -> Failure:
    what = f"{error.what} ({error.where or method.source(pair)})"
    return Failure(method.name, pair.sample_id, what)


def _restore(
    ready: ReadyModel | None, opened: Iterable[_Opened | Failure], batch: int
) -> Iterator[_Opened | Failure]:
    """Restore neighbours of one size together; failures pass through."""
    if ready is None:
        yield from opened
        return
    group: list[_Opened] = []
    for one in opened:
        if isinstance(one, Failure):
            yield one
            continue
        if group and (len(group) == batch or group[0].image.shape != one.image.shape):
            yield from _restore_group(ready, group)
            group = []
        group.append(one)
    if group:
        yield from _restore_group(ready, group)


def _restore_group(ready: ReadyModel, group: Sequence[_Opened]) -> Iterator[_Opened | Failure]:
    blur = torch.stack([metrics.to_tensor(one.image) for one in group])  # (B, 3, H, W)
    ts = [one.t for one in group if one.t is not None]
    try:
        answer = ready.run(blur, torch.tensor(ts) if ts else None)
    except UserError as error:
        yield from (_failure(one.method, one.pair, error) for one in group)
        return
    for one, image, t_hat in zip(group, answer.images, answer.t_hat, strict=True):
        yield replace(one, image=metrics.as_uint8(image), t_hat=float(t_hat))


def restored_image(method: Method, ready: ReadyModel | None, pair: Pair) -> Image:
    """A method's restoration of one pair (H, W, 3): read, or made by the loaded model."""
    image = read_rgb8(method.source(pair))
    if ready is None or method.model is None:
        return image
    answer = ready.run(metrics.to_tensor(image)[None])
    return metrics.as_uint8(answer.images[0])


def _save(image: Image, folder: Path, sample_id: str) -> None:
    from fidediff_model.restore.files import encode_picture
    from trajectory_builder.images.picture import Picture

    name = f"{sample_id}.png"
    if is_hostile(name):
        raise DataError(
            f"the sample_id {sample_id!r} cannot name a file",
            where="--save-images",
            cure="leave --save-images out, or rename the pair in the manifest",
        )
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(place, encode_picture(Picture(image, "PNG")))


def read_rows(out: Path) -> dict[Key, Row]:
    """The rows that earlier runs made, by `Row.key`; a torn last line is left out."""
    rows = {}
    for values in read_lines(out / ROWS_FILE):
        try:
            row = Row(**values)
        except TypeError:
            continue  # a row of another version is scored again
        rows[row.key] = row
    return rows


def check_content(
    known: Iterable[Row], method: Method, pairs: Sequence[Pair], rows_file: Path
) -> None:
    """Refuse to resume from rows that were made of other files than those of `pairs`.

    Names say nothing about content: two methods' results over one set have the same names.

    Args:
        known: rows of earlier runs.
        method: whose rows to check.
        pairs: what is scored now.
        rows_file: where `known` was read from, for the error.

    Raises:
        OutputError: the content of a scored file differs (exit code 5).
    """
    scored = {
        row.sample_id: (row.input_sha256, row.sharp_sha256)
        for row in known
        if row.method == method.name
    }
    again = [pair for pair in pairs if pair.sample_id in scored]
    changed = [
        pair.sample_id
        for pair, digests in zip(
            again, map_ahead(partial(_digests, method), again, depth=8), strict=True
        )
        if digests != scored[pair.sample_id]
    ]
    if changed:
        raise OutputError(
            f"{rows_file.parent} has scores of other images as {method.name}: {len(changed):,} of"
            f" {len(again):,} differ",
            where=f"{rows_file}: {shorten(changed)}",
            cure="choose another --out, or delete this one to score the images anew",
            exit_code=ExitCode.OTHER_CONFIG,
        )


def _digests(method: Method, pair: Pair) -> tuple[str, str]:
    try:
        return file_sha256(method.source(pair)), file_sha256(pair.sharp)
    except OSError:
        return "", ""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as Parquet, one row group, zstd."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def digest_of(pairs: Sequence[Pair]) -> str:
    """Short digest of which pairs are scored."""
    names = "\n".join(pair.sample_id for pair in pairs)
    return hashlib.sha256(names.encode("utf-8", "replace")).hexdigest()[:16]
