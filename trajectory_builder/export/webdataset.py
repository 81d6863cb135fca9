"""WebDataset: tar shards of about equal size, the same bytes whenever they are written."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter

from trajectory_builder.export import work
from trajectory_builder.export.pairs import Pair, Patch, patches, read_pairs
from trajectory_builder.export.request import ExportReport, Request
from trajectory_builder.export.work import Unit, Written

TARGET = "webdataset"
JSON_COLUMNS = (
    "sample_id", "trajectory_id", "split", "clip_id", "n_frames", "timestep", "native_n_frames",
    "backward_n_frames", "origin", "average_domain", "first_index", "center_index", "fps",
    "exposure_ms", "motion_px",
)  # fmt: skip
"""The columns in a pair's .json."""


def export_webdataset(request: Request) -> ExportReport:
    """Write `SPLIT-000000.tar`, ... with `KEY.blur.png`, `KEY.json`, `KEY.sharp.png` per pair.

    `KEY.kernels.npz` is there too for a pair whose trajectory has a kernel file.

    Times, owners and modes in the tars are fixed and members sorted, so equal data give equal
    shards. `export.json` lists every shard with its pairs, bytes and SHA-256: a tar that was cut
    between members shows no other sign of it.

    Raises:
        OutputError: `out` is not ours or contains another export.
        DataError: a source file is not as the manifest says.
    """
    request.check()
    pairs = read_pairs(request)
    units = work.shard_units(pairs, request, lambda split, i, count: f"{split}-{i:06d}.tar")
    with work.claimed(request, TARGET, pairs) as folder:
        done = work.run(folder, units, write_shard)
        title = "Blur trajectories as WebDataset shards"
        work.describe(request, TARGET, done, title, _reading(units))
    hint = (
        f"webdataset.WebDataset({str(request.out / units[0].file)!r}, shardshuffle=False)"
        ".decode('rgb8').to_tuple('blur.png', 'sharp.png')"
    )
    return ExportReport(request.out, TARGET, done.pairs, len(units), done.made, hint)


def _reading(units: list[Unit]) -> list[str]:
    counts = Counter(unit.pairs[0].split for unit in units)
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


def write_shard(unit: Unit) -> Written:
    """Write one tar."""
    path = unit.request.out / unit.file
    count = 0
    with (
        work.complete_file(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for pair in unit.pairs:
            kernels = pair.kernel_bytes()
            for patch in patches(pair, unit.request):
                for name, payload in sorted(_members(patch, pair, kernels).items()):
                    info = tarfile.TarInfo(f"{patch.key}.{name}")
                    info.size = len(payload)
                    info.mode = 0o644
                    tar.addfile(info, io.BytesIO(payload))
                count += 1
    return Written({unit.file: work.file_entry(path)}, unit.pairs[0].split, count)


def _members(patch: Patch, pair: Pair, kernels: bytes | None) -> dict[str, bytes]:
    """The files of a patch by their suffix."""
    row = {name: pair.columns[name] for name in JSON_COLUMNS}
    row |= {name: getattr(patch, name) for name in ("width", "height", "left", "top")}
    members = {
        "blur.png": patch.blur,
        "json": json.dumps(row, sort_keys=True).encode(),
        "sharp.png": patch.sharp,
    }
    return members if kernels is None else members | {"kernels.npz": kernels}
