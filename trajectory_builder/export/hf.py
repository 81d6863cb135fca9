"""Hugging Face: Parquet shards with the images inside, which `datasets` and the hub's viewer read.

`Dataset.to_parquet` writes paths, not bytes, and one row group for a whole shard, which the viewer
cannot page through; so the shards are written here, streamed, in row groups of some ten rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trajectory_builder import manifest
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.export import croissant, work
from trajectory_builder.export.request import (
    ExportReport,
    Request,
    check,
    kernels_of,
    patches,
    read_rows,
    shards,
)  # fmt: skip
from trajectory_builder.export.work import Unit

TARGET = "hf"
ROWS_A_GROUP = 32
"""At most; the viewer loads whole groups, and wants some ten rows of images in one."""
BYTES_A_GROUP = 64 << 20
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
"""The trajectory's kernel file (.npz, of the whole image), where the source knows of such files."""


def export_hf(request: Request) -> ExportReport:
    """Write `data/SPLIT-00000-of-00007.parquet`, a card that names them, and croissant.json.

    The folder loads with `datasets.load_dataset(OUT)` and can be uploaded as it is.

    Raises:
        OutputError: `out` is not ours or holds another export.
        DataError: a source file is not as the manifest says.
    """
    check(request)
    rows = read_rows(request)
    units = [
        Unit(f"{split}-{index:05d}", str(request.out), tuple(run), request,
             f"data/{split}-{index:05d}-of-{len(runs):05d}.parquet")
        for split, runs in shards(rows, request)
        for index, run in enumerate(runs)
    ]  # fmt: skip
    with work.claimed(request, TARGET, rows) as folder:
        markers, made = work.run(folder, units, write_shard)
        work.write_index(request, TARGET, markers)
        pairs = work.pairs_a_split(markers)
        front = {"configs": _configs(pairs), "task_categories": ["image-to-image"]}
        work.write_card(request, "Blur trajectories", pairs, _reading(), front)
        described = croissant.described(
            (request.out / "README.md").read_text(), markers, schema_of(request, rows)
        )
        write_atomic(request.out / croissant.NAME, json.dumps(described, indent=1).encode())
    hint = f"datasets.load_dataset({str(request.out)!r})"
    return ExportReport(request.out, TARGET, pairs, len(units), made, hint)


def schema_of(request: Request, rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """The columns of the shards, with the entry by which `datasets` knows images."""
    schema = PAIR_SCHEMA if request.rows == "pair" else TRAJECTORY_SCHEMA
    if "kernels_path" in rows[0]:
        schema = schema.append(KERNELS)
    features = {"info": {"features": {field.name: _feature(field.type) for field in schema}}}
    return schema.with_metadata({b"huggingface": json.dumps(features).encode()})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        # The older word; datasets 4 and later read it as List.
        return {"_type": "Sequence", "feature": _feature(kind.value_type)}
    name = {pa.float32(): "float32", pa.string(): "string"}.get(kind, str(kind))
    return {"_type": "Value", "dtype": name}


def _configs(pairs: dict[str, int]) -> list[dict[str, Any]]:
    files = [{"split": split, "path": f"data/{split}-*"} for split in pairs]
    return [{"config_name": "default", "data_files": files}]


def _reading() -> list[str]:
    return [
        "```python",
        "from datasets import load_dataset",
        'rows = load_dataset("THIS_FOLDER_OR_REPOSITORY")',
        "```",
    ]


def write_shard(unit: Unit) -> dict[str, Any]:
    """Write one Parquet shard; its marker. Memory holds one row group."""
    request = unit.request
    schema = schema_of(request, unit.rows)
    path = Path(unit.out) / unit.file
    rows = _pairs(unit) if request.rows == "pair" else _trajectories(unit)
    pairs = 0
    with (
        work.whole_file(path) as temporary,
        # PNG does not compress any further, and the rest is small.
        pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False,
                         write_page_checksum=True, write_page_index=True) as writer,
    ):  # fmt: skip
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            pairs += sum(len(row.get("blurs", [None])) for row in group)
    return {
        "files": {unit.file: work.file_entry(path)},
        "split": unit.rows[0]["split"],
        "pairs": pairs,
    }


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        images = [row["sharp"], *([row["blur"]] if "blur" in row else row["blurs"])]
        size += sum(len(image["bytes"]) for image in images) + len(row["kernels"] or b"")
        if len(group) >= ROWS_A_GROUP or size >= BYTES_A_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _pairs(unit: Unit) -> Iterator[dict[str, Any]]:
    request = unit.request
    for row in unit.rows:
        kernels = kernels_of(row)
        for patch in patches(row, request.crop, request.overlap):
            columns = {name: row[name] for name in PAIR_SCHEMA.names if name in row}
            yield columns | {
                "kernels": kernels,
                "blur": {"bytes": patch.blur, "path": f"{patch.key}.blur.png"},
                "sharp": {"bytes": patch.sharp, "path": f"{patch.key}.sharp.png"},
                "width": patch.width,
                "height": patch.height,
                "left": patch.left,
                "top": patch.top,
            }


def _trajectories(unit: Unit) -> Iterator[dict[str, Any]]:
    """One row a trajectory and crop; the rows of a unit stand trajectory by trajectory."""
    request = unit.request
    for _, members in groupby(unit.rows, key=lambda row: row["trajectory_id"]):
        rows = list(members)
        kernels = kernels_of(rows[0])
        cuts = [patches(row, request.crop, request.overlap) for row in rows]
        for same_place in zip(*cuts, strict=True):
            first = same_place[0]
            yield {
                "kernels": kernels,
                "trajectory_id": rows[0]["trajectory_id"],
                "clip_id": rows[0]["clip_id"],
                "sharp": {"bytes": first.sharp, "path": f"{first.key}.sharp.png"},
                "blurs": [
                    {"bytes": patch.blur, "path": f"{patch.key}.blur.png"} for patch in same_place
                ],
                "n_frames": [row["n_frames"] for row in rows],
                "timesteps": [row["timestep"] for row in rows],
                "native_n_frames": rows[0]["native_n_frames"],
                "width": first.width,
                "height": first.height,
                "left": first.left,
                "top": first.top,
            }
