"""A set restored and scored image by image, resumable, as a table of one row a pair.

Scores are taken on 8-bit RGB as it would be written to a file, one image at a time, without
cropping; a set's score is the mean over its images. `OUT/scores.jsonl` grows while it runs, and the
same command goes on from it; at the end the rows stand in `scores.parquet` in the set's order.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from fidediff_model.data.image_files import read_image
from fidediff_model.evaluate.sets import Pair
from fidediff_model.restore.engine import ReadyModel
from fidediff_model.scores import metrics, no_reference
from fidediff_model.scores.align import align
from fidediff_model.scores.metrics import Image
from fidediff_model.scores.perceptual import DISTS, LPIPS
from fidediff_model.weights.vgg import open_vgg16
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import DataError, ExitCode, ImageError, UserError
from trajectory_builder.manifest import is_hostile

Metric = Literal[
    "psnr", "ssim", "ssim-matlab", "lpips", "dists",
    "blur-effect", "niqe", "musiq", "maniqa", "clipiqa",
]  # fmt: skip
METRICS: tuple[Metric, ...] = get_args(Metric)
ROWS_FILE, TABLE_FILE, RUN_FILE = "scores.jsonl", "scores.parquet", "run.json"
_THREADS = 2


class Scorer:
    """Scores of one restoration against its sharp image.

    Args:
        names: which of `METRICS`.
        vgg16: the backbone's file for LPIPS and DISTS, as `vgg.open_vgg16` takes it.
        aligned: bring the restoration onto the sharp image first (`evaluate_align`).
        device: where LPIPS and DISTS run.

    Raises:
        WeightsError: LPIPS or DISTS is asked for and the backbone is not there.
        WeightsError: a score of pyiqa is asked for and pyiqa or its weights are not there.
    """

    def __init__(
        self,
        names: Sequence[Metric],
        *,
        vgg16: str | None = None,
        aligned: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.names = list(names)
        self.aligned = aligned
        self.device = device or torch.device("cpu")
        self._nets: dict[str, LPIPS | DISTS] = {}
        deep = [name for name in names if name in ("lpips", "dists")]
        if deep:
            backbone = open_vgg16(vgg16, needed_by=" and ".join(n.upper() for n in deep))
            kinds: dict[str, type[LPIPS] | type[DISTS]] = {"lpips": LPIPS, "dists": DISTS}
            self._nets = {name: kinds[name](backbone).to(self.device).eval() for name in deep}
        self._alone: dict[str, Callable[[Image], float]] = {"blur-effect": no_reference.blur_effect}
        self._alone |= {
            name: no_reference.open_learnt(name, self.device)
            for name in no_reference.LEARNT
            if name in self.names
        }

    def __call__(self, restored: Image, sharp: Image) -> dict[str, float]:
        """Scores by name; images (H, W, 3) uint8.

        Raises:
            DataError: the images differ in size or are too small for a score.
        """
        try:
            # Without a reference there is nothing to align to, and no covered part to cut out.
            scores = {n: self._alone[n](restored) for n in self.names if n in self._alone}
            if self.aligned:
                aligned = align(restored, sharp)
                scores |= {"psnr": aligned.psnr(), "ssim": aligned.ssim()}
                restored, sharp = aligned.as_uint8()
            for name in self.names:
                if name not in scores:
                    scores[name] = self._score(name, restored, sharp)
        except ValueError as error:
            raise DataError(
                f"it cannot be scored: {error}", cure="leave it out, or mend the set"
            ) from error
        return {name: scores[name] for name in self.names}

    def _score(self, name: str, restored: Image, sharp: Image) -> float:
        if name == "psnr":
            return metrics.psnr(restored, sharp)
        if name == "ssim":
            return metrics.ssim(restored, sharp)
        if name == "ssim-matlab":
            return metrics.ssim(restored, sharp, variant="matlab")
        with torch.inference_mode():
            pair = [to_tensor(image).to(self.device)[None] for image in (restored, sharp)]
            return float(self._nets[name](*pair))


@dataclass
class Evaluation:
    """What an evaluation gave.

    Attributes:
        rows: one a pair, in the set's order.
        failures: sample_id and what is wrong, for pairs without a row.
        resumed: rows that an earlier run had made.
    """

    rows: list[dict[str, Any]]
    failures: list[tuple[str, str]] = field(default_factory=list)
    resumed: int = 0


def to_tensor(image: Image) -> torch.Tensor:
    """(H, W, 3) uint8 as (3, H, W) float32 in [-1, 1]."""
    values = image.astype(np.float32) * np.float32(2 / 255) - 1
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def evaluate(
    ready: ReadyModel | None,
    pairs: Sequence[Pair],
    scorer: Scorer,
    out: Path,
    *,
    batch: int = 1,
    save_images: bool = False,
    report: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Restore and score pairs into `out`, going on from what is there.

    Args:
        ready: the model; None scores the blurs themselves.
        pairs: what to score.
        scorer: how.
        out: made by `claim`.
        batch: images of one size at once.
        save_images: also write `images/SAMPLE_ID.png`.
        report: told of each pair that is done.
    """
    known = read_rows(out)
    result = Evaluation([], resumed=sum(pair.sample_id in known for pair in pairs))
    report(result.resumed)
    left = [pair for pair in pairs if pair.sample_id not in known]
    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as scorers:
        pending: deque[tuple[Pair, Future[dict[str, Any]]]] = deque()
        for group in _groups(_read_ahead(left, readers, batch + 2), batch, result, report):
            for pair, restored, sharp, t_hat in _restore(ready, group):
                place = _image_place(out, pair) if save_images else None
                job = scorers.submit(_score, scorer, pair, restored, sharp, t_hat, place)
                pending.append((pair, job))
            while len(pending) > batch + 2:
                _keep(pending.popleft(), known, out, result, report)
        while pending:
            _keep(pending.popleft(), known, out, result, report)
    result.rows = [known[pair.sample_id] for pair in pairs if pair.sample_id in known]
    write_table(result.rows, out / TABLE_FILE)
    return result


_Opened = tuple[Pair, Image, Image]


def _read_ahead(
    pairs: Sequence[Pair], readers: ThreadPoolExecutor, depth: int
) -> Iterator[tuple[Pair, Future[tuple[Image, Image]]]]:
    rest = iter(pairs)
    ahead = deque((pair, readers.submit(_open, pair)) for pair in islice(rest, depth))
    while ahead:
        yield ahead.popleft()
        ahead.extend((pair, readers.submit(_open, pair)) for pair in islice(rest, 1))


def _open(pair: Pair) -> tuple[Image, Image]:
    blur, sharp = read_image(pair.blur), read_image(pair.sharp)
    if blur.shape != sharp.shape:
        raise ImageError(
            f"blur and sharp differ in size: {blur.shape[1]} x {blur.shape[0]} and"
            f" {sharp.shape[1]} x {sharp.shape[0]}",
            where=str(pair.blur),
        )
    return blur, sharp


def _groups(
    opened: Iterator[tuple[Pair, Future[tuple[Image, Image]]]],
    batch: int,
    result: Evaluation,
    report: Callable[[int], None],
) -> Iterator[list[_Opened]]:
    """Runs of neighbours of one size, at most `batch` long; unreadable pairs are listed."""
    group: list[_Opened] = []
    for pair, future in opened:
        try:
            blur, sharp = future.result()
        except UserError as error:
            _fail(pair, error, result, report)
            continue
        if group and (len(group) == batch or group[0][1].shape != blur.shape):
            yield group
            group = []
        group.append((pair, blur, sharp))
    if group:
        yield group


def _fail(pair: Pair, error: UserError, result: Evaluation, report: Callable[[int], None]) -> None:
    result.failures.append((pair.sample_id, f"{error.what} ({error.where or pair.blur})"))
    report(1)


def _restore(
    ready: ReadyModel | None, group: list[_Opened]
) -> Iterator[tuple[Pair, Image, Image, float | None]]:
    if ready is None:
        for pair, blur, sharp in group:
            yield pair, blur, sharp, None
        return
    answer = ready.run(torch.stack([to_tensor(blur) for _, blur, _ in group]))
    for (pair, _, sharp), image, t_hat in zip(group, answer.images, answer.t_hat, strict=True):
        yield pair, metrics.as_uint8(image), sharp, float(t_hat)


def _score(
    scorer: Scorer,
    pair: Pair,
    restored: Image,
    sharp: Image,
    t_hat: float | None,
    place: Path | None,
) -> dict[str, Any]:
    if place is not None:
        _save(restored, place)
    return {
        "sample_id": pair.sample_id,
        "trajectory_id": pair.trajectory_id,
        "n_frames": pair.n_frames,
        "native_n_frames": pair.native_n_frames,
        "timestep": pair.timestep,
        "t_hat": t_hat,
        "width": restored.shape[1],
        "height": restored.shape[0],
        **scorer(restored, sharp),
    }


def _image_place(out: Path, pair: Pair) -> Path:
    name = f"{pair.sample_id}.png"
    if is_hostile(name):
        raise DataError(
            f"the sample_id {pair.sample_id!r} cannot name a file",
            where="--save-images",
            cure="leave --save-images out, or rename the pair in the manifest",
        )
    return out / "images" / name


def _save(image: Image, place: Path) -> None:
    from fidediff_model.restore.files import Picture, encode_picture

    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(place, encode_picture(Picture(image, "PNG")))


def _keep(
    pending: tuple[Pair, Future[dict[str, Any]]],
    known: dict[str, dict[str, Any]],
    out: Path,
    result: Evaluation,
    report: Callable[[int], None],
) -> None:
    pair, future = pending
    try:
        row = future.result()
    except UserError as error:
        _fail(pair, error, result, report)
        return
    known[pair.sample_id] = row
    with open(out / ROWS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    report(1)


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    """The rows that earlier runs made, by sample_id; a torn last line is left out."""
    rows: dict[str, dict[str, Any]] = {}
    if not (out / ROWS_FILE).is_file():
        return rows
    for line in (out / ROWS_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            rows[row["sample_id"]] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as Parquet, one row group, zstd."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def claim(out: Path, run: dict[str, Any]) -> None:
    """Make the folder of an evaluation, or take it up again.

    Args:
        out: the folder.
        run: what decides the scores; must be what the folder holds already, if it holds any.

    Raises:
        DataError: the folder holds an evaluation of something else (exit code 5).
    """
    run = json.loads(json.dumps(run))
    file = out / RUN_FILE
    if file.is_file():
        try:
            former = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            former = {}
        keys = sorted(k for k in former.keys() | run.keys() if former.get(k) != run.get(k))
        if keys:
            raise DataError(
                f"{out.name} holds another evaluation",
                where=f"{file}: differing keys: {', '.join(keys)}",
                cure="choose another --out",
                exit_code=ExitCode.OTHER_CONFIG,
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(file, (json.dumps(run, indent=2) + "\n").encode())


def digest_of(pairs: Sequence[Pair]) -> str:
    """Short digest of which pairs are scored."""
    digest = hashlib.sha256("\n".join(pair.sample_id for pair in pairs).encode("utf-8", "replace"))
    return digest.hexdigest()[:16]
