"""Paired folders of image files, as trainers without a manifest list them.

Those trainers pair by sorted position or by equal names and take whatever is in the folder, so
nothing but the pairs is there, and both files of a pair have the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from trajectory_builder.curate.links import FileTransfer
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.export import work
from trajectory_builder.export.pairs import Pair, by_split, patches, plain, read_pairs
from trajectory_builder.export.request import ExportReport, Request
from trajectory_builder.export.work import FileEntry, Unit, Written

TARGET = "folders"
PAIRS_PER_UNIT = 128


def _mprnet(pair: Pair, key: str, request: Request) -> tuple[str, str]:
    return f"{pair.split}/input/{key}.png", f"{pair.split}/target/{key}.png"


def _hinet(pair: Pair, key: str, request: Request) -> tuple[str, str]:
    names = ("blur_crops", "sharp_crops") if pair.split == "train" else ("input", "target")
    return f"{pair.split}/{names[0]}/{key}.png", f"{pair.split}/{names[1]}/{key}.png"


def _mimo(pair: Pair, key: str, request: Request) -> tuple[str, str]:
    return f"{pair.split}/blur/{key}.png", f"{pair.split}/sharp/{key}.png"


def _deepdeblur(pair: Pair, key: str, request: Request) -> tuple[str, str]:
    home = f"GOPRO_Large/{pair.split}/{plain(pair.clip_id)}"
    return f"{home}/{request.blur_key}/{key}.png", f"{home}/sharp/{key}.png"


def _kernels_name(pair: Pair, request: Request) -> str:
    """Where a pair's kernel file goes: in a folder that none of these trainers reads."""
    home = pair.split
    if request.layout == "deepdeblur":
        home = f"GOPRO_Large/{pair.split}/{plain(pair.clip_id)}"
    return f"{home}/kernels/{pair.key}.npz"


LAYOUTS: dict[str, Callable[[Pair, str, Request], tuple[str, str]]] = {
    "mprnet": _mprnet,
    "hinet": _hinet,
    "mimo": _mimo,
    "deepdeblur": _deepdeblur,
}
"""Where a pair's blur and sharp go, below the export's folder."""

_READERS = {
    "mprnet": "MPRNet, Restormer, NAFNet: SPLIT/input and SPLIT/target",
    "hinet": "HINet: train/blur_crops and train/sharp_crops; test/input and test/target",
    "mimo": "MIMO-UNet: --data_dir THIS_FOLDER",
    "deepdeblur": "DeepDeblur-PyTorch: --data_root THIS_FOLDER --dataset GOPRO_Large",
}
_BASICSR = """In the options (.yml) of NAFNet, HINet, Restormer or BasicSR:

```yaml
datasets:
  train:
    dataroot_gt: THIS_FOLDER/train/{sharp}
    dataroot_lq: THIS_FOLDER/train/{blur}
    io_backend: {{type: disk}}
  val:
    dataroot_gt: THIS_FOLDER/test/target
    dataroot_lq: THIS_FOLDER/test/input
    io_backend: {{type: disk}}
```"""
_READING = {
    "mprnet": _BASICSR.format(blur="input", sharp="target")
    + """

In MPRNet's `Deblurring/training.yml`:

```yaml
TRAINING:
  TRAIN_DIR: THIS_FOLDER/train
  VAL_DIR: THIS_FOLDER/test
```""",
    "hinet": _BASICSR.format(blur="blur_crops", sharp="sharp_crops"),
    "mimo": """MIMO-UNet:

```sh
python main.py --model_name MIMO-UNet --mode train --data_dir THIS_FOLDER
```""",
    "deepdeblur": """DeepDeblur-PyTorch, in its folder `src`:

```sh
python main.py --data_root THIS_FOLDER --dataset GOPRO_Large
```

It always reads the folders `blur_gamma`, whatever its `--blur_key` says, so the blurs are there
in either domain: {domains} here. The path of THIS_FOLDER must contain neither `sharp/` nor
`blur_gamma/`, and heights and widths must be multiples of 4.""",
}
"""How each layout's trainers read it, for README.md."""


def export_folders(request: Request) -> ExportReport:
    """Write blurs and sharps into the folders of `request.layout`; same name, one pair.

    Kernel files go into a folder `kernels` of their own, `KEY.npz` for the complete image.

    Complete images are hardlinked, referenced or copied as `request.files` says; crops are written.

    Raises:
        OutputError: `out` is not ours or contains another export.
        DataError: a source file is not as the manifest says.
    """
    request.check()
    pairs = read_pairs(request)
    domains = sorted({pair.average_domain or "unknown" for pair in pairs})
    reading = _READING[request.layout].replace("{domains}", " and ".join(domains))
    with work.claimed(request, TARGET, pairs) as folder:
        done = work.run(folder, _units(pairs, request), write_pairs)
        title = "Blur trajectories in paired folders"
        work.describe(request, TARGET, done, title, reading.splitlines())
    files = 2 * sum(done.pairs.values())
    return ExportReport(request.out, TARGET, done.pairs, files, done.made, _READERS[request.layout])


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

    After a power cut a file may be short; a resumed export detects it by the sizes in the markers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, payload, sync=False)
