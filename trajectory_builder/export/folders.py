"""Paired folders of image files, as trainers without a manifest list them.

Those trainers pair by sorted position or by equal names and take whatever lies in the folder, so
nothing but the pairs lies there, and both files of a pair have the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trajectory_builder.curate.links import Placing
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import DataError, ExitCode
from trajectory_builder.export import work
from trajectory_builder.export.request import (
    ExportReport,
    Request,
    check,
    kernels_of,
    patches,
    plain,
    read_rows,
)
from trajectory_builder.export.work import Unit

TARGET = "folders"
ROWS_A_UNIT = 128
BLUR_FOLDERS = {"srgb": "blur", "gamma2.2": "blur_gamma"}
"""GoPro's own names for averages of stored values and of linearised ones."""


def _mprnet(row: dict[str, Any], key: str, request: Request) -> tuple[str, str]:
    return f"{row['split']}/input/{key}.png", f"{row['split']}/target/{key}.png"


def _hinet(row: dict[str, Any], key: str, request: Request) -> tuple[str, str]:
    names = ("blur_crops", "sharp_crops") if row["split"] == "train" else ("input", "target")
    return f"{row['split']}/{names[0]}/{key}.png", f"{row['split']}/{names[1]}/{key}.png"


def _deepdeblur(row: dict[str, Any], key: str, request: Request) -> tuple[str, str]:
    home = f"GOPRO_Large/{row['split']}/{plain(row['clip_id'])}"
    blur = request.blur_key or BLUR_FOLDERS.get(row["average_domain"] or "srgb", "blur")
    return f"{home}/{blur}/{key}.png", f"{home}/sharp/{key}.png"


def _kernels_name(row: dict[str, Any], request: Request) -> str:
    """Where a pair's kernel file lies: in a folder that none of these trainers reads."""
    home = row["split"]
    if request.layout == "deepdeblur":
        home = f"GOPRO_Large/{row['split']}/{plain(row['clip_id'])}"
    return f"{home}/kernels/{row['key']}.npz"


LAYOUTS: dict[str, Callable[[dict[str, Any], str, Request], tuple[str, str]]] = {
    "mprnet": _mprnet,
    "hinet": _hinet,
    "deepdeblur": _deepdeblur,
}
"""Where a pair's blur and sharp lie, below the export's folder."""

_READERS = {
    "mprnet": "MPRNet, Restormer, NAFNet: SPLIT/input and SPLIT/target",
    "hinet": "HINet: train/blur_crops and train/sharp_crops; test/input and test/target",
    "deepdeblur": "DeepDeblur-PyTorch: --data_root THIS_FOLDER --dataset GOPRO_Large --blur_key",
}


def export_folders(request: Request) -> ExportReport:
    """Write blurs and sharps into the folders of `request.layout`; same name, one pair.

    Kernel files go into a folder `kernels` of their own, `KEY.npz` for the whole image.

    Whole images are hardlinked, referenced or copied as `request.files` says; crops are written.

    Raises:
        DataError: blurs of two domains for DeepDeblur, which tells them apart by folder.
    """
    check(request)
    rows = read_rows(request)
    keys = {BLUR_FOLDERS.get(row["average_domain"] or "srgb", "blur") for row in rows}
    if request.layout == "deepdeblur" and not request.blur_key and len(keys) > 1:
        raise DataError(
            "the data set holds averages of both domains, DeepDeblur reads one folder of blurs",
            where=str(request.source),
            cure="take one domain with `trajbuild select --where`, or give --blur-key",
            exit_code=ExitCode.WRONG_USE,
        )
    units = [
        Unit(f"rows-{start:08d}-{split}", str(request.out), tuple(members), request)
        for split, start, members in _runs(rows)
    ]
    hint = _READERS[request.layout]
    if request.layout == "deepdeblur":
        hint += f" {request.blur_key or min(keys)}"
    with work.claimed(request, TARGET, rows) as folder:
        markers, made = work.run(folder, units, write_pairs)
        work.write_index(request, TARGET, markers)
        pairs = work.pairs_a_split(markers)
        work.write_card(request, "Blur trajectories in paired folders", pairs, [hint])
    return ExportReport(request.out, TARGET, pairs, 2 * sum(pairs.values()), made, hint)


def _runs(rows: list[dict[str, Any]]) -> list[tuple[str, int, list[dict[str, Any]]]]:
    by_split: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_split.setdefault(row["split"], []).append(row)
    return [
        (split, start, members[start : start + ROWS_A_UNIT])
        for split, members in by_split.items()
        for start in range(0, len(members), ROWS_A_UNIT)
    ]


def write_pairs(unit: Unit) -> dict[str, Any]:
    """Write one unit's pairs; its marker."""
    request = unit.request
    place = LAYOUTS[request.layout]
    files: dict[str, dict[str, int]] = {}
    pairs = 0
    out = Path(unit.out)
    placing = Placing(request.files, allow_links=request.allow_links)
    made: set[Path] = set()
    for row in unit.rows:
        if kernels_of(row) is not None:
            name = _kernels_name(row, request)
            placing.add_file(Path(row["kernels_path"]), out / name)
            files[name] = {"bytes": row["kernel_bytes"]}
        if request.crop is None:
            names = place(row, row["key"], request)
            for name, kind in zip(names, ("blur", "sharp"), strict=True):
                placing.add_file(Path(row[f"{kind}_path"]), out / name)
                files[name] = {"bytes": row[f"{kind}_bytes"]}
            pairs += 1
            continue
        for patch in patches(row, request.crop, request.overlap):
            names = place(row, patch.key, request)
            for name, payload in zip(names, (patch.blur, patch.sharp), strict=True):
                _write(out / name, payload, made)
                files[name] = {"bytes": len(payload)}
            pairs += 1
    return {"files": files, "split": unit.rows[0]["split"], "pairs": pairs}


def _write(path: Path, payload: bytes, made: set[Path]) -> None:
    """Write one crop. It is not flushed: a hundred thousand flushes would take an hour.

    After a power cut a file may be short; resuming sees that by the sizes in the markers.
    """
    if path.parent not in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.add(path.parent)
    write_atomic(path, payload, sync=False)
