"""The pairs that an export streams: complete files, or crops of them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trajectory_builder import manifest
from trajectory_builder.errors import DataError, shorten
from trajectory_builder.export.request import Request
from trajectory_builder.images import png

_LOSSY = re.compile(r"[^A-Za-z0-9_/-]")


@dataclass(frozen=True)
class File:
    """A file of the data set as its manifest describes it."""

    path: str
    sha256: str
    size: int

    def read(self) -> bytes:
        """Its content.

        Raises:
            DataError: it is not the file that the manifest describes.
        """
        payload = png.read_bytes(self.path)
        if hashlib.sha256(payload).hexdigest() != self.sha256:
            raise DataError(
                "a file is not the one that the manifest describes",
                where=self.path,
                cure="run `trajbuild verify --level full`, repair what it names, run this again",
            )
        return payload


@dataclass(frozen=True)
class Pair:
    """A row of the manifest, with its files.

    Attributes:
        key: unique flat name: letters, digits, `_` and `-` only, as WebDataset and BasicSR cut
            names at the first dot.
        split, trajectory_id, clip_id, n_frames, width, height, average_domain: of the row.
        kernels: the trajectory's kernel file, of the complete image; None without one.
        columns: all columns of the row.
    """

    key: str
    split: str
    trajectory_id: str
    clip_id: str
    n_frames: int | None
    width: int
    height: int
    average_domain: str | None
    blur: File
    sharp: File
    kernels: File | None
    columns: Mapping[str, object]

    def kernel_bytes(self) -> bytes | None:
        """The content of the kernel file.

        Raises:
            DataError: it is not the file that the manifest describes.
        """
        return None if self.kernels is None else self.kernels.read()


@dataclass(frozen=True)
class Patch:
    """One exported blur and its sharp image, as PNG files of equal size.

    Attributes:
        key: unique; that of the pair, and the crop's number where there are crops.
        left, top: where it is in the complete image, pixels.
    """

    key: str
    blur: bytes
    sharp: bytes
    width: int
    height: int
    left: int = 0
    top: int = 0


def read_pairs(request: Request) -> list[Pair]:
    """All pairs in the manifests' order.

    Raises:
        ManifestError: the manifest cannot be trusted, or a file is absent or outside.
        DataError: there is no pair, or two pairs would have the same key.
    """
    rows = manifest.read(request.source, allow_links=request.allow_links)
    if not len(rows):
        raise DataError(
            "the data set has no pairs, so there is nothing to export",
            where=str(request.source),
            cure="build it again, or select with looser conditions",
        )
    names = keys(rows.table["sample_id"].to_pylist())
    pairs = []
    for index, row in enumerate(rows.rows()):
        files = [
            File(str(rows.file(index, f"{kind}_file_name").absolute()),
                 row[f"{kind}_sha256"], row[f"{kind}_bytes"])
            for kind in ("blur", "sharp")
        ]  # fmt: skip
        kernels = None
        if row.get("kernel_path") is not None:
            path = str(rows.file(index, "kernel_path").absolute())
            kernels = File(path, row["kernel_sha256"], row["kernel_bytes"])
        pairs.append(
            Pair(
                names[index], row["split"], row["trajectory_id"], row["clip_id"], row["n_frames"],
                row["width"], row["height"], row["average_domain"], files[0], files[1], kernels,
                row,
            )
        )  # fmt: skip
    return pairs


def keys(sample_ids: Sequence[str]) -> list[str]:
    """Flat unique names for sample_ids: slashes become `-`, all other odd characters `_`.

    A name that lost something, or that two ids share, ends in eight digits of its id's digest.

    Raises:
        DataError: two ids have the same name even so.
    """
    flat = [plain(one).replace("/", "-") for one in sample_ids]
    counts = Counter(flat)
    names = [
        name if counts[name] == 1 and not _LOSSY.search(one) else f"{name}-{_short(one)}"
        for name, one in zip(flat, sample_ids, strict=True)
    ]
    by_name: dict[str, str] = {}
    for name, one in zip(names, sample_ids, strict=True):
        if by_name.setdefault(name, one) != one:
            raise DataError(
                f"two pairs would be exported under the name {name}",
                where=shorten([by_name[name], one]),
                cure="leave one of them out with `trajbuild select --where`",
            )
    return names


def plain(name: str) -> str:
    """A name with every character but letters, digits, `_`, `-` and `/` made `_`."""
    return _LOSSY.sub("_", name)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def patches(pair: Pair, request: Request) -> Iterator[Patch]:
    """A complete pair as the bytes of its files, or its crops row by row.

    Crops cover the image: the last of each row and column is moved back to the edge. An image
    smaller than the crop is exported complete.

    Raises:
        DataError: a file is not the one that the manifest describes.
        ImageError: a file cannot be decoded.
    """
    blur, sharp = pair.blur.read(), pair.sharp.read()
    width, height, crop = pair.width, pair.height, request.crop
    if crop is None:
        yield Patch(pair.key, blur, sharp, width, height)
        return
    pixels = [
        png.decode_png(payload, name=file.path, expect=(width, height))
        for payload, file in ((blur, pair.blur), (sharp, pair.sharp))
    ]
    places = positions(width, height, crop, request.overlap)
    for key, (left, top) in zip(patch_keys(pair, request), places, strict=True):
        cut = [p[top : top + crop, left : left + crop] for p in pixels]  # (crop, crop, 3)
        edges = cut[0].shape
        yield Patch(
            key, png.encode_png(cut[0]), png.encode_png(cut[1]), edges[1], edges[0], left, top
        )


def patch_keys(pair: Pair, request: Request) -> list[str]:
    """The keys of a pair's patches, in their order."""
    if request.crop is None:
        return [pair.key]
    count = len(positions(pair.width, pair.height, request.crop, request.overlap))
    return [f"{pair.key}_s{index + 1:03d}" for index in range(count)]


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


def expected_bytes(pair: Pair, request: Request) -> int:
    """About how many bytes a pair's images take in the export; decides where shards end."""
    size = pair.blur.size + pair.sharp.size
    if request.crop is None:
        return size
    pixels = pair.width * pair.height
    share = len(patch_keys(pair, request)) * min(request.crop**2, pixels)
    return size * share // pixels


def by_split(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs of each split, in the order of the splits' first pairs."""
    members: dict[str, list[Pair]] = {}
    for pair in pairs:
        members.setdefault(pair.split, []).append(pair)
    return members


def shards(pairs: Sequence[Pair], request: Request) -> dict[str, list[list[Pair]]]:
    """Each split's pairs cut into runs of about `shard_bytes`, from the manifest alone.

    Pairs of one trajectory stay together when a row of the export is a trajectory.
    """
    return {split: _runs(members, request) for split, members in by_split(pairs).items()}


def _runs(pairs: Sequence[Pair], request: Request) -> list[list[Pair]]:
    whole_trajectories = request.rows == "trajectory"
    if whole_trajectories:
        first: dict[str, int] = {}
        for pair in pairs:
            first.setdefault(pair.trajectory_id, len(first))
        pairs = sorted(pairs, key=lambda pair: (first[pair.trajectory_id], pair.n_frames or 0))
    runs: list[list[Pair]] = []
    filled = request.shard_bytes
    for pair in pairs:
        goes_on = runs and runs[-1][-1].trajectory_id == pair.trajectory_id
        if filled >= request.shard_bytes and not (whole_trajectories and goes_on):
            runs.append([])
            filled = 0
        runs[-1].append(pair)
        filled += expected_bytes(pair, request)
    return runs
