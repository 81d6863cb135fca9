"""WebDataset: tar shards of about equal size, the same bytes whenever they are written."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from trajectory_builder.export import work
from trajectory_builder.export.request import (
    ExportReport,
    Patch,
    Request,
    check,
    kernels_of,
    patches,
    read_rows,
    shards,
)  # fmt: skip
from trajectory_builder.export.work import Unit

TARGET = "webdataset"
JSON_COLUMNS = (
    "sample_id", "trajectory_id", "split", "clip_id", "n_frames", "timestep", "native_n_frames",
    "backward_n_frames", "origin", "average_domain", "first_index", "center_index", "fps",
    "exposure_ms", "motion_px",
)  # fmt: skip
"""What a pair's .json tells of its row."""


def export_webdataset(request: Request) -> ExportReport:
    """Write `SPLIT-000000.tar`, ... with `KEY.blur.png`, `KEY.json`, `KEY.sharp.png` a pair.

    `KEY.kernels.npz` is there too for a pair whose trajectory has a kernel file.

    Times, owners and modes in the tars are fixed and members sorted, so equal data give equal
    shards. `export.json` lists every shard with its pairs, bytes and SHA-256: a tar that was cut
    between members shows no other sign of it.

    Raises:
        OutputError: `out` is not ours or holds another export.
        DataError: a source file is not as the manifest says.
    """
    check(request)
    rows = read_rows(request)
    units = [
        Unit(f"{split}-{index:06d}", str(request.out), tuple(run), request,
             f"{split}-{index:06d}.tar")
        for split, runs in shards(rows, request)
        for index, run in enumerate(runs)
    ]  # fmt: skip
    with work.claimed(request, TARGET, rows) as folder:
        markers, made = work.run(folder, units, write_shard)
        work.write_index(request, TARGET, markers)
        pairs = work.pairs_a_split(markers)
        work.write_card(request, "Blur trajectories as WebDataset shards", pairs, _reading(units))
    hint = (
        f"webdataset.WebDataset({str(request.out / units[0].file)!r}, shardshuffle=False)"
        ".decode('rgb8').to_tuple('blur.png', 'sharp.png')"
    )
    return ExportReport(request.out, TARGET, pairs, len(units), made, hint)


def _reading(units: list[Unit]) -> list[str]:
    counts: dict[str, int] = {}
    for unit in units:
        split = unit.file.rsplit("-", 1)[0]
        counts[split] = counts.get(split, 0) + 1
    split, count = next(iter(counts.items()))
    shard = f"{split}-{{000000..{count - 1:06d}}}.tar"
    return [
        "```python",
        "import webdataset",
        f'pairs = webdataset.WebDataset("THIS_FOLDER/{shard}", shardshuffle=False).decode("rgb8")',
        'for blur, sharp, row in pairs.to_tuple("blur.png", "sharp.png", "json"):',
        "    ...",
        "```",
    ]


def write_shard(unit: Unit) -> dict[str, Any]:
    """Write one tar; its marker."""
    request = unit.request
    path = Path(unit.out) / unit.file
    count = 0
    with (
        work.whole_file(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row in unit.rows:
            kernels = kernels_of(row)
            for patch in patches(row, request.crop, request.overlap):
                _add(tar, patch, row, kernels)
                count += 1
    return {
        "files": {unit.file: work.file_entry(path)},
        "split": unit.rows[0]["split"],
        "pairs": count,
    }


def _add(tar: tarfile.TarFile, patch: Patch, row: dict[str, Any], kernels: bytes | None) -> None:
    described = {name: row[name] for name in JSON_COLUMNS}
    described |= {"width": patch.width, "height": patch.height}
    described |= {"left": patch.left, "top": patch.top}
    members = {
        "blur.png": patch.blur,
        "json": json.dumps(described, sort_keys=True).encode(),
        "sharp.png": patch.sharp,
    }
    if kernels is not None:
        members["kernels.npz"] = kernels
    for field, payload in sorted(members.items()):
        info = tarfile.TarInfo(f"{patch.key}.{field}")
        info.size = len(payload)
        info.mode = 0o644
        tar.addfile(info, io.BytesIO(payload))
