"""LMDB databases with meta_info.txt, as BasicSR reads them, and NAFNet and HINet after it.

Layout and names as those trainers' GoPro options give them: `train/blur_crops.lmdb` and
`train/sharp_crops.lmdb`, for other splits `input.lmdb` and `target.lmdb`. Keys are equal in both
databases; a line of meta_info.txt is `key.png (h,w,c) level`, and the reader cuts it at the first
dot.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trajectory_builder.disk.atomic import not_written, write_atomic
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import UserError
from trajectory_builder.export import work
from trajectory_builder.export.pairs import (
    Pair,
    by_split,
    expected_bytes,
    patch_keys,
    patches,
    read_pairs,
)
from trajectory_builder.export.request import ExportReport, Request
from trajectory_builder.export.work import Done, Written

TARGET = "lmdb"
PAIRS_PER_COMMIT = 64
COMPRESSION_LEVEL = 1
"""Third field of meta_info.txt. BasicSR's reader skips it."""
META_INFO = "meta_info.txt"
_LEAST_FREE = 1 << 20  # bytes: a disk with fewer is called full
KERNELS = "kernels.lmdb"
"""No trainer reads it; keys are those of complete pairs, without a crop's `_s001`."""


def folder_names(split: str) -> tuple[str, str]:
    """The databases of blurs and of sharps of a split, as NAFNet's options name them."""
    return ("blur_crops.lmdb", "sharp_crops.lmdb") if split == "train" else (
        "input.lmdb", "target.lmdb",
    )  # fmt: skip


def export_lmdb(request: Request) -> ExportReport:
    """Write two databases per split. Values are PNG files; a sharp is there for each of its pairs.

    Commits are atomic, so a killed export resumes where it stopped; meta_info.txt, without which
    BasicSR opens nothing, comes last.

    Raises:
        UserError: the lmdb package is not installed, or as the other exports.
    """
    request.check()
    _package()
    pairs = read_pairs(request)
    made = 0
    units = []
    with work.claimed(request, TARGET, pairs) as folder:
        for split, members in by_split(pairs).items():
            written = work.read_marker(folder, split)
            if written is None or not _is_there(request.out / split, split):
                written = _write_split(request, split, members)
                work.write_marker(folder, split, written)
                made += 1
            units.append(written)
        done = Done(units, made)
        reading = _reading(list(done.pairs))
        work.describe(request, TARGET, done, "Blur trajectories as LMDB", reading)
    hint = "BasicSR: io_backend type lmdb, dataroot_lq and dataroot_gt as in README.md"
    return ExportReport(request.out, TARGET, done.pairs, 2 * len(units), made, hint)


def _package() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UserError(
            "the lmdb package is not installed",
            where="--to lmdb",
            cure="pip install 'fidediff[export]'",
        ) from error
    return lmdb


def _is_there(home: Path, split: str) -> bool:
    return all((home / name / META_INFO).is_file() for name in folder_names(split))


def _write_split(request: Request, split: str, pairs: Sequence[Pair]) -> Written:
    """Fill a split's two databases and write their meta_info.txt."""
    homes = [request.out / split / name for name in folder_names(split)]
    for home in homes:
        home.mkdir(parents=True, exist_ok=True)
    size = 2 * sum(expected_bytes(pair, request) for pair in pairs) + (64 << 20)
    blurs, sharps = (_Database(home, size) for home in homes)
    lines: list[str] = []
    with blurs, sharps, Progress(len(pairs), "pairs", shown=request.progress) as bar:
        for pair in pairs:
            last = patch_keys(pair, request)[-1]
            if not (last in blurs and last in sharps):  # else an earlier run committed all
                for patch in patches(pair, request):
                    blurs.put(patch.key, patch.blur)
                    sharps.put(patch.key, patch.sharp)
            lines += _meta_lines(pair, request)
            bar.advance(1)
    _write_kernels(request, split, [pair for pair in pairs if pair.kernels is not None])
    for home in homes:
        write_atomic(home / META_INFO, "".join(f"{line}\n" for line in lines).encode())
    files = {
        f"{split}/{home.name}/{META_INFO}": work.file_entry(home / META_INFO) for home in homes
    }
    return Written(files, split, len(lines))


def _write_kernels(request: Request, split: str, pairs: Sequence[Pair]) -> None:
    """Fill `kernels.lmdb`: the kernel file (.npz, of the complete image) of each of `pairs`."""
    if not pairs:
        return
    home = request.out / split / KERNELS
    home.mkdir(parents=True, exist_ok=True)
    size = sum(pair.kernels.size for pair in pairs if pair.kernels) + (64 << 20)
    with _Database(home, size) as kernels:
        for pair in pairs:
            if pair.key not in kernels:
                kernels.put(pair.key, pair.kernel_bytes() or b"")


def _meta_lines(pair: Pair, request: Request) -> list[str]:
    height, width = pair.height, pair.width
    if request.crop is not None:
        height, width = min(height, request.crop), min(width, request.crop)
    keys = patch_keys(pair, request)
    return [f"{key}.png ({height},{width},3) {COMPRESSION_LEVEL}" for key in keys]


class _Database:
    """An LMDB environment that is written in commits and grows when it is full."""

    def __init__(self, home: Path, size: int) -> None:
        # Without a write-ahead sync a commit is still atomic; close() syncs.
        self._lmdb, self._home = _package(), home
        with self._reporting():
            # No lock file: the folder is locked, and LMDB maps its own, which kills the process
            # (SIGBUS) where the disk is full.
            self._environment = self._lmdb.open(str(home), map_size=size, sync=False, lock=False)
        self._waiting: list[tuple[bytes, bytes]] = []

    def __enter__(self) -> _Database:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._commit()
                with self._reporting():
                    self._environment.sync(True)
        finally:
            self._environment.close()

    def __contains__(self, key: str) -> bool:
        with self._environment.begin() as transaction:
            return transaction.get(key.encode()) is not None

    def put(self, key: str, payload: bytes) -> None:
        """Add an entry; every `PAIRS_PER_COMMIT` entries are committed together."""
        self._waiting.append((key.encode(), payload))
        if len(self._waiting) >= PAIRS_PER_COMMIT:
            self._commit()

    def _commit(self) -> None:
        while True:
            try:
                with self._reporting(), self._environment.begin(write=True) as transaction:
                    for key, payload in self._waiting:
                        transaction.put(key, payload)
                break
            except self._lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._waiting.clear()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Inside, what the database cannot write is an error with its folder and cure."""
        try:
            yield
        except self._lmdb.MapFullError:
            raise
        except self._lmdb.Error as error:
            # LMDB calls a full disk an input/output error, so look.
            full = shutil.disk_usage(self._home).free < _LEAST_FREE
            why = "No space left on device" if full else str(error)
            cure = "make room or choose another --out, then run the same command again to resume"
            raise not_written("the database", OSError(0, why), self._home, cure) from error


def _reading(splits: list[str]) -> list[str]:
    lines = ["In the options of BasicSR, NAFNet or HINet:", "", "```yaml"]
    for split in splits:
        blur, sharp = folder_names(split)
        phase = "train" if split == "train" else "val"
        lines += [
            f"{phase}:",
            f"  dataroot_gt: THIS_FOLDER/{split}/{sharp}",
            f"  dataroot_lq: THIS_FOLDER/{split}/{blur}",
            "  io_backend: {type: lmdb}",
        ]
    return [*lines, "```"]
