"""What would stand twice in a new data set: an id, or a file name with two contents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trajectory_builder import manifest
from trajectory_builder.curate.rows import DROPPED, Rows, scan, texts
from trajectory_builder.errors import DataError, ExitCode, shorten


def refuse_ids(keys: pa.Table, rows: Rows, kept: npt.NDArray[np.int64]) -> None:
    """Refuse rows of which two would have the same `sample_id`.

    Args:
        keys: the rows of the new set, with `sample_id` as it shall be, or as a hash of that.
        rows: all rows of the sources, to read names from where hashes are equal.
        kept: (K,) which of `rows` are those of `keys`.

    Raises:
        DataError: naming the ids.
    """
    twice = _repeated(keys["sample_id"])
    if twice is not None and pa.types.is_integer(keys["sample_id"].type):
        # Equal hashes: perhaps of different names.
        same = np.isin(keys["sample_id"].to_numpy(), twice.to_numpy())
        twice = _repeated(pa.chunked_array([texts(rows, "sample_id", kept[same])]))
    if twice is not None:
        raise DataError(
            f"{len(twice):,} sample_ids would stand twice",
            where=shorten(twice.to_pylist()),
            cure="`trajbuild merge --clashes` offers ways round it",
        )


def _repeated(values: pa.ChunkedArray) -> pa.Array | None:
    """The values that stand more than once, or None."""
    if pa.types.is_integer(values.type):
        ordered = np.sort(values.to_numpy())
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        return pa.array(np.unique(again)) if len(again) else None
    counts = values.value_counts()
    if len(counts) == len(values):
        return None
    return counts.filter(pc.greater(counts.field("counts"), 1)).field("values")


def refuse_files(rows: Rows, splits: npt.NDArray[np.int8], prefixes: Sequence[str] = ()) -> None:
    """Refuse rows of different content that would land in one file.

    Args:
        rows: all of the files' rows; the names and digests of their files are read where needed.
        splits: (R,) as `derive.write` takes it.
        prefixes: as in `derive.Derivation`.

    Raises:
        DataError: naming the files.
    """
    owner = np.repeat(np.arange(len(rows.files)), rows.counts)[splits != DROPPED]
    homes_of_split = np.unique(splits[splits != DROPPED].astype(np.int64) * len(rows.files) + owner)
    if len(homes_of_split) == len(np.unique(splits[splits != DROPPED])):
        return  # every new split takes from one manifest alone, in which a name is one file
    columns = [f"{kind}_{what}" for kind in ("blur", "sharp") for what in ("file_name", "sha256")]
    kept = scan(rows.files, columns).table.filter(pa.array(splits != DROPPED))
    homes = pa.array([f"{p}/" if p else "" for p in prefixes or [""] * len(rows.files)])
    target = pa.array(manifest.SPLITS).take(pa.array(splits[splits != DROPPED]))
    for kind in ("blur", "sharp"):
        names = pc.binary_join_element_wise(
            pc.binary_join_element_wise(target, homes.take(pa.array(owner)), "/"),
            kept[f"{kind}_file_name"],
            "",
        )
        table = pa.table({"name": names, "digest": kept[f"{kind}_sha256"]})
        counts = table.group_by("name").aggregate([("digest", "count_distinct")])
        clashing = counts.filter(pc.greater(counts["digest_count_distinct"], 1))["name"]
        if len(clashing):
            raise DataError(
                f"{len(clashing):,} files of the same name have different content",
                where=shorten(clashing.to_pylist()),
                cure="use `trajbuild merge --clashes prefix`",
                exit_code=ExitCode.FAILED,
            )
