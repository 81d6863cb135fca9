"""Hugging Face: Parquet shards with the images inside, which `datasets` and the hub's viewer read.

`Dataset.to_parquet` writes paths, not bytes, and one row group for a complete shard, which the
viewer cannot page through; so the shards are written here, streamed, in row groups of some ten
rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.export import croissant, work
from trajectory_builder.export.pairs import Pair, Patch, patches, read_pairs
from trajectory_builder.export.request import ExportReport, Request
from trajectory_builder.export.work import Unit, Written

TARGET = "hf"
ROWS_PER_GROUP = 32
"""At most; the viewer loads complete groups, and wants some ten rows of images in one."""
BYTES_PER_GROUP = 64 << 20
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_PATCH = [pa.field(name, pa.int32()) for name in ("width", "height", "left", "top")]
_LEFT_OUT = {"blur_file_name", "sharp_file_name", "width", "height", "split"}
_LEFT_OUT |= {name for name in manifest.SCHEMA.names if name.endswith(("_sha256", "_bytes"))}
PAIR_SCHEMA = pa.schema(
    [
        pa.field("blur", IMAGE),
        pa.field("sharp", IMAGE),
        *(pa.field(f.name, f.type) for f in manifest.SCHEMA if f.name not in _LEFT_OUT),
        *_PATCH,
    ]
)
"""A row is a pair. Digests and sizes of files are left out: crops have others."""
TRAJECTORY_SCHEMA = pa.schema(
    [
        pa.field("trajectory_id", pa.string()),
        pa.field("clip_id", pa.string()),
        pa.field("sharp", IMAGE),
        pa.field("blurs", pa.list_(IMAGE)),
        pa.field("n_frames", pa.list_(pa.int16())),
        pa.field("timesteps", pa.list_(pa.int16())),
        pa.field("native_n_frames", pa.int16()),
        *_PATCH,
    ]
)
"""A row is a trajectory: its sharp image and its blurs by ascending n."""
KERNELS = pa.field("kernels", pa.binary())
"""The trajectory's kernel file (.npz, of the complete image), where the source has such files."""


READING = (
    "```python",
    "from datasets import load_dataset",
    'rows = load_dataset("THIS_FOLDER_OR_REPOSITORY")',
    "```",
)


def export_hf(request: Request) -> ExportReport:
    """Write `data/SPLIT-00000-of-00007.parquet`, a card that names them, and croissant.json.

    The folder loads with `datasets.load_dataset(OUT)` and can be uploaded as it is.

    Raises:
        OutputError: `out` is not ours or contains another export.
        DataError: a source file is not as the manifest says.
    """
    request.check()
    pairs = read_pairs(request)
    units = work.shard_units(
        pairs, request, lambda split, i, count: f"data/{split}-{i:05d}-of-{count:05d}.parquet"
    )
    with work.claimed(request, TARGET, pairs) as folder:
        done = work.run(folder, units, write_shard)
        splits = [{"split": split, "path": f"data/{split}-*"} for split in done.pairs]
        front = {
            "configs": [{"config_name": "default", "data_files": splits}],
            "task_categories": ["image-to-image"],
        }
        text = work.describe(request, TARGET, done, "Blur trajectories", READING, front)
        described = croissant.described(text, done.pairs, schema_of(request, pairs))
        write_atomic(request.out / croissant.NAME, json.dumps(described, indent=1).encode())
    hint = f"datasets.load_dataset({str(request.out)!r})"
    return ExportReport(request.out, TARGET, done.pairs, len(units), done.made, hint)


def schema_of(request: Request, pairs: Sequence[Pair]) -> pa.Schema:
    """The columns of the shards, with the entry by which `datasets` knows images."""
    schema = PAIR_SCHEMA if request.rows == "pair" else TRAJECTORY_SCHEMA
    if "kernel_path" in pairs[0].columns:
        schema = schema.append(KERNELS)
    features = {"info": {"features": {field.name: _feature(field.type) for field in schema}}}
    return schema.with_metadata({b"huggingface": json.dumps(features).encode()})


def _feature(kind: pa.DataType) -> dict[str, object]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        # The older word; datasets 4 and later read it as List.
        return {"_type": "Sequence", "feature": _feature(kind.value_type)}
    name = {pa.float32(): "float32", pa.string(): "string"}.get(kind, str(kind))
    return {"_type": "Value", "dtype": name}


@dataclass(frozen=True)
class _Row:
    """A row of a shard and the bytes of its images."""

    columns: Mapping[str, object]
    bytes: int
    pairs: int


def write_shard(unit: Unit) -> Written:
    """Write one Parquet shard; one row group is in memory at a time."""
    request = unit.request
    schema = schema_of(request, unit.pairs)
    path = request.out / unit.file
    rows = _pairs(unit) if request.rows == "pair" else _trajectories(unit)
    pairs = 0
    with (
        work.complete_file(path) as temporary,
        # PNG does not compress any further, and the rest is small.
        pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False,
                         write_page_checksum=True, write_page_index=True) as writer,
    ):  # fmt: skip
        for group in _groups(rows):
            columns = [row.columns for row in group]
            writer.write_table(pa.Table.from_pylist(columns, schema=schema))
            pairs += sum(row.pairs for row in group)
    return Written({unit.file: work.file_entry(path)}, unit.pairs[0].split, pairs)


def _groups(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    group: list[_Row] = []
    for row in rows:
        group.append(row)
        if len(group) >= ROWS_PER_GROUP or sum(r.bytes for r in group) >= BYTES_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


def _pairs(unit: Unit) -> Iterator[_Row]:
    for pair in unit.pairs:
        kernels = pair.kernel_bytes()
        for patch in patches(pair, unit.request):
            columns = {name: pair.columns[name] for name in PAIR_SCHEMA.names
                       if name in pair.columns}  # fmt: skip
            images = {"blur": _image(patch, "blur"), "sharp": _image(patch, "sharp")}
            size = len(patch.blur) + len(patch.sharp) + len(kernels or b"")
            yield _Row(columns | {"kernels": kernels} | images | _place(patch), size, 1)


def _trajectories(unit: Unit) -> Iterator[_Row]:
    """One row per trajectory and crop; the pairs of a unit come trajectory by trajectory."""
    for name, members in groupby(unit.pairs, key=lambda pair: pair.trajectory_id):
        pairs = list(members)
        kernels = pairs[0].kernel_bytes()
        same_for_all = {
            "kernels": kernels,
            "trajectory_id": name,
            "clip_id": pairs[0].clip_id,
            "n_frames": [pair.n_frames for pair in pairs],
            "timesteps": [pair.columns["timestep"] for pair in pairs],
            "native_n_frames": pairs[0].columns["native_n_frames"],
        }
        cuts = [patches(pair, unit.request) for pair in pairs]
        for same_place in zip(*cuts, strict=True):
            images = {
                "sharp": _image(same_place[0], "sharp"),
                "blurs": [_image(patch, "blur") for patch in same_place],
            }
            size = sum(len(patch.blur) for patch in same_place) + len(same_place[0].sharp)
            yield _Row(
                same_for_all | images | _place(same_place[0]), size + len(kernels or b""),
                len(pairs),
            )  # fmt: skip


def _image(patch: Patch, kind: str) -> dict[str, object]:
    payload = patch.blur if kind == "blur" else patch.sharp
    return {"bytes": payload, "path": f"{patch.key}.{kind}.png"}


def _place(patch: Patch) -> dict[str, int]:
    return {"width": patch.width, "height": patch.height, "left": patch.left, "top": patch.top}
