"""What an export is asked for, and the pairs that it streams: whole files or crops of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trajectory_builder import manifest
from trajectory_builder.curate.links import FileMode
from trajectory_builder.errors import DataError, ExitCode
from trajectory_builder.images import png

_LOSSY = re.compile(r"[^A-Za-z0-9_/-]")


@dataclass(frozen=True)
class Request:
    """An export, whatever the target; what a target has no use for it ignores.

    Attributes:
        source: the data set.
        out: the folder to write; new, empty, or begun by the same request.
        crop: edge of square crops in pixels; None for whole images.
        overlap: pixels that neighbouring crops share.
        rows: `pair` or `trajectory`: what a row of `hf` is.
        layout: whose folders `folders` writes, one of `folders.LAYOUTS`.
        blur_key: name of DeepDeblur's folder of blurs; "" for what the average's domain says.
        files: how `folders` takes whole images over.
        shard_bytes: about how many bytes of images a file of `hf` and `webdataset` holds.
        jobs: worker processes.
        allow_links: follow symbolic links out of the source.
        progress: show progress on stderr.
    """

    source: Path
    out: Path
    crop: int | None = None
    overlap: int = 0
    rows: Literal["pair", "trajectory"] = "pair"
    layout: str = "mprnet"
    blur_key: str = ""
    files: FileMode = "hardlink"
    shard_bytes: int = 300_000_000
    jobs: int = 1
    allow_links: bool = False
    progress: bool = False

    def config(self, target: str) -> dict[str, Any]:
        """What decides the exported bytes, so that a folder is gone on with by its own request."""
        whole = asdict(self) | {"target": target}
        for name in ("source", "out", "jobs", "allow_links", "progress"):
            del whole[name]
        return whole


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        out: the folder.
        target: hf, webdataset, lmdb or folders.
        pairs: exported pairs (crops count) a split.
        files: files that hold them.
        made: units of work done by this run; 0 when all stood already.
        hint: how to read it; one sentence.
    """

    out: Path
    target: str
    pairs: dict[str, int]
    files: int
    made: int
    hint: str

    def as_data(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True)
class Patch:
    """A pair as it is exported: both images as PNG files of equal size.

    Attributes:
        key: unique flat name: letters, digits, `_` and `-` only, as WebDataset and BasicSR cut
            names at the first dot.
        left, top: where it lies in the whole image, pixels.
    """

    key: str
    blur: bytes
    sharp: bytes
    width: int
    height: int
    left: int = 0
    top: int = 0


def check(request: Request) -> None:
    """Refuse what cannot be.

    Raises:
        DataError: the overlap is not smaller than the crop, or `out` lies in the source.
    """
    if request.out.resolve().is_relative_to(request.source.resolve()):
        raise DataError(
            f"--out {request.out} lies inside the data set",
            where=str(request.source),
            cure="choose a folder outside it",
            exit_code=ExitCode.WRONG_USE,
        )
    if request.crop is not None and not 0 <= request.overlap < request.crop:
        raise DataError(
            f"crops of {request.crop} pixels cannot overlap by {request.overlap}",
            where="--crop, --overlap",
            cure="give an overlap from 0 to one less than the crop",
            exit_code=ExitCode.WRONG_USE,
        )


def read_rows(request: Request) -> list[dict[str, Any]]:
    """All rows in the manifests' order, with `key`, `blur_path` and `sharp_path` added.

    Where the manifests know of kernel files, each row has `kernels_path` too, None without one.

    Raises:
        ManifestError: the manifest cannot be trusted, or a file is absent or outside.
    """
    found = manifest.read(request.source, allow_links=request.allow_links)
    names = keys(found.table["sample_id"].to_pylist())
    with_kernels = "kernel_path" in found.table.column_names
    rows = []
    for index, row in enumerate(found.rows()):
        paths = {
            "blur_path": str(found.file(index, "blur_file_name").absolute()),
            "sharp_path": str(found.file(index, "sharp_file_name").absolute()),
        }
        kernels: dict[str, str | None] = {}
        if with_kernels:
            there = row["kernel_path"] is not None
            file = found.file(index, "kernel_path").absolute() if there else None
            kernels["kernels_path"] = str(file) if file else None
        rows.append(row | paths | kernels | {"key": names[index]})
    return rows


def keys(sample_ids: Sequence[str]) -> list[str]:
    """Flat unique names for sample_ids: slashes become `-`, all other odd characters `_`.

    A name that lost something, or that two ids share, ends in eight digits of its id's digest.
    """
    flat = [plain(one).replace("/", "-") for one in sample_ids]
    counts = Counter(flat)
    return [
        name if counts[name] == 1 and not _LOSSY.search(one) else f"{name}-{_short(one)}"
        for name, one in zip(flat, sample_ids, strict=True)
    ]


def plain(name: str) -> str:
    """A name with every character but letters, digits, `_`, `-` and `/` made `_`."""
    return _LOSSY.sub("_", name)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def patches(row: dict[str, Any], crop: int | None, overlap: int) -> Iterator[Patch]:
    """A row's pair whole, as the very bytes of its files, or cut into crops row by row.

    Crops cover the whole image: the last of each row and column is moved back to the edge. An
    image smaller than the crop is taken whole.

    Raises:
        DataError: a file is not the one that the manifest tells of.
        ImageError: a file cannot be decoded.
    """
    blur, sharp = (_payload(row, kind) for kind in ("blur", "sharp"))
    width, height = row["width"], row["height"]
    if crop is None:
        yield Patch(row["key"], blur, sharp, width, height)
        return
    pixels = [
        png.decode_png(payload, name=row[f"{kind}_path"], expect=(width, height))
        for kind, payload in (("blur", blur), ("sharp", sharp))
    ]
    for index, (left, top) in enumerate(positions(width, height, crop, overlap)):
        cut = [p[top : top + crop, left : left + crop] for p in pixels]  # (crop, crop, 3)
        key = f"{row['key']}_s{index + 1:03d}"
        edges = cut[0].shape
        yield Patch(
            key, png.encode_png(cut[0]), png.encode_png(cut[1]), edges[1], edges[0], left, top
        )


def positions(width: int, height: int, crop: int, overlap: int) -> list[tuple[int, int]]:
    """(left, top) of all crops of an image, row by row."""
    return [
        (left, top)
        for top in _starts(height, crop, overlap)
        for left in _starts(width, crop, overlap)
    ]


def _starts(length: int, crop: int, overlap: int) -> list[int]:
    last = max(length - crop, 0)
    starts = list(range(0, last + 1, crop - overlap))
    return starts if starts[-1] == last else [*starts, last]


def kernels_of(row: dict[str, Any]) -> bytes | None:
    """The kernel file of a row's trajectory, of the whole image also where crops are exported.

    Raises:
        DataError: it is not the file that the manifest tells of.
    """
    if row.get("kernels_path") is None:
        return None
    return _checked(row, "kernels", row["kernel_sha256"])


def _payload(row: dict[str, Any], kind: str) -> bytes:
    return _checked(row, kind, row[f"{kind}_sha256"])


def _checked(row: dict[str, Any], kind: str, sha256: str) -> bytes:
    path = row[f"{kind}_path"]
    payload = png.read_bytes(path)
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise DataError(
            f"the {kind} of {row['sample_id']} is not the file that the manifest tells of",
            where=path,
            cure="run `trajbuild verify --level full`, mend what it names, run this again",
        )
    return payload


def patch_count(row: dict[str, Any], request: Request) -> int:
    """How many patches a row gives."""
    if request.crop is None:
        return 1
    return len(positions(row["width"], row["height"], request.crop, request.overlap))


def expected_bytes(row: dict[str, Any], request: Request) -> int:
    """About how many bytes a row's images take in the export; decides where shards end."""
    size = int(row["blur_bytes"] + row["sharp_bytes"])
    if request.crop is None:
        return size
    pixels = int(row["width"] * row["height"])
    share = patch_count(row, request) * min(request.crop**2, pixels)
    return size * share // pixels


def shards(
    rows: Iterable[dict[str, Any]], request: Request
) -> Iterator[tuple[str, list[list[dict[str, Any]]]]]:
    """(split, its rows cut into runs of about `shard_bytes`), from the manifest alone.

    Rows of one trajectory stay together when a row of the export is a trajectory.
    """
    by_split: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_split.setdefault(row["split"], []).append(row)
    for split, members in by_split.items():
        runs: list[list[dict[str, Any]]] = []
        filled = request.shard_bytes
        for row in _in_order(members, request.rows):
            same = request.rows == "trajectory" and runs and _same(runs[-1][-1], row)
            if filled >= request.shard_bytes and not same:
                runs.append([])
                filled = 0
            runs[-1].append(row)
            filled += expected_bytes(row, request)
        yield split, runs


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["trajectory_id"] == other["trajectory_id"])


def _in_order(rows: list[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    """The rows as they stand, or trajectory after trajectory by first appearance, n ascending."""
    if unit == "pair":
        return rows
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row["trajectory_id"], len(first))
    return sorted(rows, key=lambda row: (first[row["trajectory_id"]], row["n_frames"] or 0))
