"""The manifest's columns: what each row of a data set states, and the error for a missing one.

This is the one list of columns; manifests/README.md is made from it.
"""

from __future__ import annotations

import pyarrow as pa

from trajectory_builder.errors import ManifestError, shorten

FORMAT_VERSION = 2
_COLUMNS = f"see manifests/README.md for the columns of version {FORMAT_VERSION}"
FILE_NAME = "metadata.parquet"
ORIGINS = ("official", "averaged", "interpolated", "synthetic")
FILE_COLUMNS = {
    "blur_file_name": "blur_bytes",
    "sharp_file_name": "sharp_bytes",
    "kernel_path": "kernel_bytes",
}
"""Columns that name files, with those that tell their sizes; `kernel_path` is an extra one."""


def _field(name: str, kind: pa.DataType, meaning: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={b"meaning": meaning.encode()})


SCHEMA = pa.schema(
    [
        _field("sample_id", pa.string(), "name of the pair, unique: `CLIP/PAIR/nNN`"),
        _field("trajectory_id", pa.string(), "name of its trajectory: `CLIP/PAIR`"),
        _field("split", pa.string(), "`train`, `validation` or `test`"),
        _field("clip_id", pa.string(), "source clip; for GoPro the sequence"),
        _field("n_frames", pa.int16(), "n: frames averaged, odd; null where unknown", null=True),
        _field("timestep", pa.int16(), "t = (n - 1) x 20; null where unknown", null=True),
        _field(
            "native_n_frames",
            pa.int16(),
            "n of the trajectory's official pair, or its largest n",
            null=True,
        ),
        _field(
            "backward_n_frames",
            pa.list_(pa.field("element", pa.int16(), nullable=False)),
            "smaller n on this trajectory in this manifest, the sharp point 1 included, ascending",
        ),
        _field("blur_file_name", pa.string(), "POSIX path, relative to the manifest's folder"),
        _field("sharp_file_name", pa.string(), "POSIX path, relative to the manifest's folder"),
        _field("origin", pa.string(), "`official`, `averaged`, `interpolated` or `synthetic`"),
        _field(
            "average_domain",
            pa.string(),
            "`srgb` (values as stored), `gamma2.2`, or `camera` (light, as column `camera`"
            " tells); null where unknown or photographed",
            null=True,
        ),
        _field(
            "first_index",
            pa.int32(),
            "0-based rank of the window's first frame in its clip; below 0 for the 14 official"
            " GoPro windows that begin before the first published frame",
            null=True,
        ),
        _field("center_index", pa.int32(), "0-based rank of the centre frame", null=True),
        _field("center_frame", pa.string(), "file name or time of the centre frame", null=True),
        _field("width", pa.int32(), "pixels"),
        _field("height", pa.int32(), "pixels"),
        _field("fps", pa.float32(), "frames a second of the clip", null=True),
        _field("exposure_ms", pa.float32(), "n / fps in milliseconds", null=True),
        _field(
            "motion_px",
            pa.float32(),
            "length of the picture's way during the window, pixels: the median displacement between"
            " neighbouring frames, summed; null where the frames were not read; an official blur of"
            " GoPro whose outermost frames were not read goes on at the speed of the longest window"
            " of its trajectory",
            null=True,
        ),
        _field(
            "step_px",
            pa.float32(),
            "largest step between two neighbouring frames of the window, pixels: 95th percentile"
            " over the picture; above 2 to 3 the blur shows ghosts",
            null=True,
        ),
        _field("blur_sha256", pa.string(), "SHA-256 of the blur's file"),
        _field("sharp_sha256", pa.string(), "SHA-256 of the sharp's file"),
        _field(
            "blur_pixel_sha256",
            pa.string(),
            "SHA-256 of the blur's RGB bytes (H, W, 3), whatever the encoder; null for files"
            " that were taken over as they are",
            null=True,
        ),
        _field("blur_bytes", pa.int64(), "size of the blur's file"),
        _field("sharp_bytes", pa.int64(), "size of the sharp's file"),
    ]
)
"""Columns of schema version 2, in order. Further ones may follow; readers take what they know."""

FURTHER = pa.schema(
    [
        _field("camera", pa.string(), "JSON: what the camera did to the blur", null=True),
        _field(
            "kernel_path",
            pa.string(),
            "the true blur kernels of a synthetic trajectory (.npz), relative to the manifest's"
            " folder",
            null=True,
        ),
        _field("kernel_sha256", pa.string(), "SHA-256 of that file", null=True),
        _field("kernel_bytes", pa.int64(), "size of that file", null=True),
    ]
)
"""Columns that `trajbuild generate` adds where they apply."""


def conform(table: pa.Table, *, where: str = "the table in memory") -> pa.Table:
    """The table with the columns of `SCHEMA` first, in order and type, further ones after.

    Args:
        table: rows with at least the columns of `SCHEMA`, in any order.
        where: what to name in an error.

    Raises:
        ManifestError: a column is missing, occurs twice or cannot be cast.
    """
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if "kernel_path" in table.column_names:  # a file has a size and a digest too
        missing += [name for name in FURTHER.names if name.startswith("kernel_")
                    and name not in table.column_names]  # fmt: skip
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if missing or twice:
        raise ManifestError(
            f"a manifest lacks columns: {shorten(missing)}"
            if missing
            else f"a manifest has columns twice: {shorten(twice)}",
            where=where,
            cure=_COLUMNS,
        )
    extra = [table.schema.field(n) for n in table.column_names if n not in SCHEMA.names]
    # The type alone: a field's metadata would change the bytes of files that have it.
    extra = [f.with_type(FURTHER.field(f.name).type) if f.name in FURTHER.names else f
             for f in extra]  # fmt: skip
    schema = pa.schema([*SCHEMA, *extra], metadata=table.schema.metadata)
    odd = [f.name for f in schema if not _fits(table.schema.field(f.name).type, f.type)]
    if odd:
        raise ManifestError(
            f"a manifest's column has the wrong type: {shorten(odd)}",
            where=where,
            cure=_COLUMNS,
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise ManifestError(
            f"a manifest's column has the wrong type: {error}",
            where=where,
            cure=_COLUMNS,
        ) from error


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column's type is of the kind wanted: Arrow would parse texts as numbers."""
    kinds = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_list)
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_large_string(found):
        found = pa.string()
    if pa.types.is_null(found) or (pa.types.is_floating(wanted) and pa.types.is_integer(found)):
        return True
    return found == wanted or any(kind(found) and kind(wanted) for kind in kinds)
