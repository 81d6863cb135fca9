"""Paired folders of image files, as trainers without a manifest list them.

Those trainers pair by sorted position or by equal names and take whatever is in the folder, so
nothing but the pairs is there, and both files of a pair have the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trajectory_builder.curate.links import FileTransfer
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.errors import DataError, ExitCode
from trajectory_builder.export import work
from trajectory_builder.export.pairs import Pair, by_split, patches, plain, read_pairs
from trajectory_builder.export.request import ExportReport, Request
from trajectory_builder.export.work import FileEntry, Unit, Written

TARGET = "folders"
PAIRS_PER_UNIT = 128
BLUR_FOLDERS = {"srgb": "blur", "gamma2.2": "blur_gamma"}
"""GoPro's own names for averages of stored values and of linearised ones."""


def _mprnet(pair: Pair, key: str, request: Request) -> tuple[str, str]:
    return f"{pair.split}/input/{key}.png", f"{pair.split}/target/{key}.png"


def _hinet(pair: Pair, key: str, request: Request) -> tuple[str, str]:
    names = ("blur_crops", "sharp_crops") if pair.split == "train" else ("input", "target")
    return f"{pair.split}/{names[0]}/{key}.png", f"{pair.split}/{names[1]}/{key}.png"


def _deepdeblur(pair: Pair, key: str, request: Request) -> tuple[str, str]:
    home = f"GOPRO_Large/{pair.split}/{plain(pair.clip_id)}"
    return f"{home}/{request.blur_key or _blur_folder(pair)}/{key}.png", f"{home}/sharp/{key}.png"


def _blur_folder(pair: Pair) -> str:
    return BLUR_FOLDERS.get(pair.average_domain or "srgb", "blur")


def _kernels_name(pair: Pair, request: Request) -> str:
    """Where a pair's kernel file goes: in a folder that none of these trainers reads."""
    home = pair.split
    if request.layout == "deepdeblur":
        home = f"GOPRO_Large/{pair.split}/{plain(pair.clip_id)}"
    return f"{home}/kernels/{pair.key}.npz"


LAYOUTS: dict[str, Callable[[Pair, str, Request], tuple[str, str]]] = {
    "mprnet": _mprnet,
    "hinet": _hinet,
    "deepdeblur": _deepdeblur,
}
"""Where a pair's blur and sharp go, below the export's folder."""

_READERS = {
    "mprnet": "MPRNet, Restormer, NAFNet: SPLIT/input and SPLIT/target",
    "hinet": "HINet: train/blur_crops and train/sharp_crops; test/input and test/target",
    "deepdeblur": "DeepDeblur-PyTorch: --data_root THIS_FOLDER --dataset GOPRO_Large --blur_key",
}


def export_folders(request: Request) -> ExportReport:
    """Write blurs and sharps into the folders of `request.layout`; same name, one pair.

    Kernel files go into a folder `kernels` of their own, `KEY.npz` for the complete image.

    Complete images are hardlinked, referenced or copied as `request.files` says; crops are written.

    Raises:
        DataError: blurs of two domains for DeepDeblur, which distinguishes them by folder.
    """
    request.check()
    pairs = read_pairs(request)
    blur_folders = {_blur_folder(pair) for pair in pairs}
    if request.layout == "deepdeblur" and not request.blur_key and len(blur_folders) > 1:
        raise DataError(
            "the data set has averages of both domains, DeepDeblur reads one folder of blurs",
            where=str(request.source),
            cure="take one domain with `trajbuild select --where`, or give --blur-key",
            exit_code=ExitCode.WRONG_USE,
        )
    hint = _READERS[request.layout]
    if request.layout == "deepdeblur":
        hint += f" {request.blur_key or min(blur_folders)}"
    with work.claimed(request, TARGET, pairs) as folder:
        done = work.run(folder, _units(pairs, request), write_pairs)
        work.describe(request, TARGET, done, "Blur trajectories in paired folders", [hint])
    files = 2 * sum(done.pairs.values())
    return ExportReport(request.out, TARGET, done.pairs, files, done.made, hint)


def _units(pairs: Sequence[Pair], request: Request) -> list[Unit]:
    return [
        Unit(f"rows-{start:08d}-{split}", tuple(members[start : start + PAIRS_PER_UNIT]), request)
        for split, members in by_split(pairs).items()
        for start in range(0, len(members), PAIRS_PER_UNIT)
    ]


def write_pairs(unit: Unit) -> Written:
    """Write one unit's pairs."""
    request = unit.request
    place = LAYOUTS[request.layout]
    transfer = FileTransfer(request.files, allow_links=request.allow_links)
    files: dict[str, FileEntry] = {}
    count = 0
    for pair in unit.pairs:
        linked = []
        if pair.kernels is not None:
            pair.kernels.read()  # refuses a file that has changed
            linked.append((_kernels_name(pair, request), pair.kernels))
        if request.crop is None:
            names = place(pair, pair.key, request)
            linked += zip(names, (pair.blur, pair.sharp), strict=True)
            count += 1
        for name, file in linked:
            transfer.add(Path(file.path), request.out / name)
            files[name] = FileEntry(file.size)
        for patch in patches(pair, request) if request.crop is not None else ():
            names = place(pair, patch.key, request)
            for name, payload in zip(names, (patch.blur, patch.sharp), strict=True):
                _write(request.out / name, payload)
                files[name] = FileEntry(len(payload))
            count += 1
    return Written(files, unit.pairs[0].split, count)


def _write(path: Path, payload: bytes) -> None:
    """Write one crop. It is not flushed: a hundred thousand flushes would take an hour.

    After a power cut a file may be short; resuming sees that by the sizes in the markers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, payload, sync=False)
