"""LMDB databases with meta_info.txt, as BasicSR reads them, and NAFNet and HINet after it.

Layout and names as those trainers' GoPro options give them: `train/blur_crops.lmdb` and
`train/sharp_crops.lmdb`, for other splits `input.lmdb` and `target.lmdb`. Keys are equal in both
databases; a line of meta_info.txt is `key.png (h,w,c) level`, and the reader cuts it at the first
dot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.progress import Progress
from trajectory_builder.errors import UserError
from trajectory_builder.export import work
from trajectory_builder.export.request import (
    ExportReport,
    Patch,
    Request,
    check,
    expected_bytes,
    kernels_of,
    patch_count,
    patches,
    read_rows,
)  # fmt: skip

TARGET = "lmdb"
PAIRS_A_COMMIT = 64
COMPRESSION_LEVEL = 1
"""Third field of meta_info.txt. BasicSR's reader skips it."""
META_INFO = "meta_info.txt"
KERNELS = "kernels.lmdb"
"""No trainer reads it; keys are those of whole pairs, without a crop's `_s001`."""


def folder_names(split: str) -> tuple[str, str]:
    """The databases of blurs and of sharps of a split, as NAFNet's options name them."""
    return ("blur_crops.lmdb", "sharp_crops.lmdb") if split == "train" else (
        "input.lmdb", "target.lmdb",
    )  # fmt: skip


def export_lmdb(request: Request) -> ExportReport:
    """Write two databases a split. Values are PNG files; a sharp stands once for each of its pairs.

    Commits are atomic, so a killed export goes on where it stopped; meta_info.txt, without which
    BasicSR opens nothing, comes last.

    Raises:
        UserError: the lmdb package is not installed, or as the other exports.
    """
    check(request)
    _package()
    rows = read_rows(request)
    by_split: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_split.setdefault(row["split"], []).append(row)
    made = 0
    markers = []
    with work.claimed(request, TARGET, rows) as folder:
        for split, members in by_split.items():
            marker = folder.read_marker(split)
            if marker is None or not _stand(request.out / split, split):
                marker = _write_split(request, split, members)
                folder.write_marker(split, marker)
                made += 1
            markers.append(marker)
        work.write_index(request, TARGET, markers)
        pairs = work.pairs_a_split(markers)
        work.write_card(request, "Blur trajectories as LMDB", pairs, _reading(list(by_split)))
    hint = "BasicSR: io_backend type lmdb, dataroot_lq and dataroot_gt as in README.md"
    return ExportReport(request.out, TARGET, pairs, 2 * len(by_split), made, hint)


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


def _stand(home: Path, split: str) -> bool:
    return all((home / name / META_INFO).is_file() for name in folder_names(split))


def _write_split(request: Request, split: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fill a split's two databases and write their meta_info.txt; the marker."""
    homes = [request.out / split / name for name in folder_names(split)]
    for home in homes:
        home.mkdir(parents=True, exist_ok=True)
    size = 2 * sum(expected_bytes(row, request) for row in rows) + (64 << 20)
    blurs, sharps = (_Database(home, size) for home in homes)
    lines: list[str] = []
    with blurs, sharps, Progress(len(rows), "pairs", shown=request.progress) as bar:
        for row in rows:
            for patch in _patches(row, request, blurs, sharps):
                blurs.put(patch.key, patch.blur)
                sharps.put(patch.key, patch.sharp)
            lines += _meta_lines(row, request)
            bar.advance(1)
    _write_kernels(request, split, rows)
    for home in homes:
        write_atomic(home / META_INFO, "".join(f"{line}\n" for line in lines).encode())
    files = {
        f"{split}/{home.name}/{META_INFO}": work.file_entry(home / META_INFO) for home in homes
    }
    return {"files": files, "split": split, "pairs": len(lines)}


def _write_kernels(request: Request, split: str, rows: list[dict[str, Any]]) -> None:
    """Fill `kernels.lmdb`: the kernel file (.npz, of the whole image) of each pair that has one."""
    with_one = [row for row in rows if row.get("kernels_path")]
    if not with_one:
        return
    home = request.out / split / KERNELS
    home.mkdir(parents=True, exist_ok=True)
    with _Database(home, sum(row["kernel_bytes"] for row in with_one) + (64 << 20)) as kernels:
        for row in with_one:
            if row["key"] not in kernels:
                kernels.put(row["key"], kernels_of(row) or b"")


def _patches(
    row: dict[str, Any], request: Request, blurs: _Database, sharps: _Database
) -> Iterator[Patch]:
    """The row's patches, none if an earlier run has committed all of them."""
    last = _keys(row, request)[-1]
    if not (last in blurs and last in sharps):
        yield from patches(row, request.crop, request.overlap)


def _keys(row: dict[str, Any], request: Request) -> list[str]:
    if request.crop is None:
        return [row["key"]]
    return [f"{row['key']}_s{i + 1:03d}" for i in range(patch_count(row, request))]


def _meta_lines(row: dict[str, Any], request: Request) -> list[str]:
    height, width = row["height"], row["width"]
    if request.crop is not None:
        height, width = min(height, request.crop), min(width, request.crop)
    return [f"{key}.png ({height},{width},3) {COMPRESSION_LEVEL}" for key in _keys(row, request)]


class _Database:
    """An LMDB environment that is written in commits and grows when it is full."""

    def __init__(self, home: Path, size: int) -> None:
        # Without a write-ahead sync a commit is still atomic; close() syncs.
        self._lmdb = _package()
        self._environment = self._lmdb.open(str(home), map_size=size, sync=False)
        self._waiting: list[tuple[bytes, bytes]] = []

    def __enter__(self) -> _Database:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._commit()
            self._environment.sync(True)
        self._environment.close()

    def __contains__(self, key: str) -> bool:
        with self._environment.begin() as transaction:
            return transaction.get(key.encode()) is not None

    def put(self, key: str, payload: bytes) -> None:
        """Add an entry; every `PAIRS_A_COMMIT` entries are committed together."""
        self._waiting.append((key.encode(), payload))
        if len(self._waiting) >= PAIRS_A_COMMIT:
            self._commit()

    def _commit(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, payload in self._waiting:
                        transaction.put(key, payload)
                break
            except self._lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._waiting.clear()


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
