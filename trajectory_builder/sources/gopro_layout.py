"""Recognise GoPro's trees, and say clearly when a folder is something else.

Two trees exist: `GOPRO_Large` (blur, blur_gamma and sharp of the official pairs) and
`GOPRO_Large_all` (every 240 fps frame). Nothing here opens an image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trajectory_builder.errors import UsageError, shorten

SEQUENCE_NAME = re.compile(r"GOPR\d{4}_(\d\d)_(\d\d)")
GOPRO_SPLITS = ("train", "test")
PAIR_FOLDERS = ("sharp", "blur", "blur_gamma")
HOME = "https://seungjunnah.github.io/Datasets/gopro"
OTHER_SETS = {
    "hide": re.compile(r"HIDE|GT$|test-close-ups$"),
    "realblur": re.compile(r"RealBlur"),
    "reds": re.compile(r"train_(sharp|blur|orig)$"),
    "bsd": re.compile(r"BSD_"),
}
FLAT_NAME = re.compile(r"GOPR\d{4}_\d\d_\d\d[-_]\d{6}\.png")


@dataclass(frozen=True)
class Trees:
    """The trees that exist; at least one of them."""

    pairs: Path | None
    frames: Path | None


def find_trees(src: Path, frames: Path | None = None) -> Trees:
    """Find GOPRO_Large and GOPRO_Large_all from a folder.

    `src` may be either tree or the folder of both; the frames are searched in `frames`,
    inside `src`, beside it, and beside the folder that it links to.

    Raises:
        UsageError: `src` does not exist, is empty, an archive, the inside of a tree or another set.
    """
    src_is_frames, pairs = False, None
    inside = src / "GOPRO_Large"
    if _kind(src) is None and _kind(inside) == "pairs":
        pairs = inside
    elif _kind(src) is None and _kind(src / "GOPRO_Large_all") == "frames":
        src, src_is_frames = src / "GOPRO_Large_all", True
    elif _kind(src) == "frames":
        src_is_frames = True
    elif _kind(src) == "pairs":
        pairs = src
    else:
        raise _not_gopro(src)
    if frames is not None:
        if _kind(frames) != "frames":
            raise UsageError(
                f"--frames {frames} has no GoPro frames",
                where=f"looked for {frames}/train/GOPRxxxx_nn_zz/NNNNNN.png",
                cure=f"give the folder GOPRO_Large_all; it is at {HOME}",
            )
        return Trees(pairs, frames)
    if src_is_frames:
        return Trees(None, src)
    # On clusters `src` is often a link to a shared folder, which has the frames beside it.
    homes = [src, pairs or src, src.resolve(), (pairs or src).resolve()]
    near = [path for home in homes for path in (
            home / "GOPRO_Large_all", home.parent / "GOPRO_Large_all",
            home.parent / f"{home.name}_all")]  # fmt: skip
    found = next((folder for folder in near if _kind(folder) == "frames"), None)
    return Trees(pairs, found)


def _kind(folder: Path) -> str | None:
    """`pairs`, `frames` or None, by the first sequence folder that is not empty."""
    for split in GOPRO_SPLITS:
        try:
            sequences = sorted(p for p in (folder / split).iterdir()
                               if SEQUENCE_NAME.fullmatch(p.name) and p.is_dir())  # fmt: skip
        except OSError:
            continue
        for sequence in sequences:
            if (sequence / "sharp").is_dir() or any(
                (sequence / blur).is_dir() for blur in ("blur", "blur_gamma")
            ):
                return "pairs"
            if any(p.suffix.lower() == ".png" for p in sequence.iterdir()):
                return "frames"
    return None


def _not_gopro(src: Path) -> UsageError:
    """The error that says what `src` is instead of a GoPro tree, and what to do."""
    if not src.exists():
        return UsageError(
            f"--src {src} does not exist",
            where=_nearest(src),
            cure="give the folder GOPRO_Large",
        )
    if src.is_file():
        import zipfile

        archive = zipfile.is_zipfile(src)
        cure = "unpack it and give the folder GOPRO_Large" if archive else "give its folder"
        kind = "an archive" if archive else "a file"
        return UsageError(f"--src {src} is {kind}, not a folder", where=str(src), cure=cure)
    try:
        names = sorted(p.name for p in src.iterdir())
    except OSError as error:
        return UsageError(
            f"--src {src} cannot be read: {error.strerror}",
            where=str(error.filename or src),
            cure="change its permissions: chmod u+rx",
        )
    if not names:
        return UsageError(
            f"--src {src} is empty", where=str(src), cure=f"download GOPRO_Large from {HOME}"
        )
    return _other_set(src, names) or UsageError(
        f"--src {src} is not a GoPro tree",
        where=f"it contains {shorten(names)}; looked for train/GOPRxxxx_nn_zz/sharp/NNNNNN.png",
        cure="give the folder GOPRO_Large, or use `trajbuild generate` for footage of your own",
    )


def _nearest(src: Path) -> str:
    """The contents of the nearest existing parent of a missing folder."""
    for folder in src.absolute().parents:
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            continue
        return f"{folder} contains {shorten(names)}" if names else f"{folder} is empty"
    return str(src)


def _other_set(src: Path, names: list[str]) -> UsageError | None:
    if any(SEQUENCE_NAME.fullmatch(name) for name in names):
        return UsageError(
            f"--src {src} is the inside of train or test",
            where=shorten([name for name in names if SEQUENCE_NAME.fullmatch(name)]),
            cure=f"give the folder above it: --src {src.resolve().parent}",
        )
    if SEQUENCE_NAME.fullmatch(src.resolve().name):
        return UsageError(
            f"--src {src} is one sequence",
            where=f"it contains {shorten(names)}",
            cure=f"give the folder GOPRO_Large: --src {src.resolve().parent.parent}",
        )
    for name, marks in OTHER_SETS.items():
        if any(marks.match(n) for n in [*names, src.resolve().name]):
            return UsageError(
                f"--src {src} looks like {name.upper()}, not GoPro",
                where=shorten(names),
                cure=f"use `trajbuild index --layout {name} {src}`; expand needs GoPro's frames",
            )
    return _flattened(src)


def _flattened(src: Path) -> UsageError | None:
    """Re-hosted copies put all pairs into input/ and target/ under joined names."""
    for folder in (src, src / "train", src / "test"):
        for inner in ("input", "target", "blur", "sharp"):
            try:
                first = next((p.name for p in (folder / inner).iterdir() if p.suffix), "")
            except OSError:
                continue
            if FLAT_NAME.fullmatch(first) or inner in ("input", "target"):
                return UsageError(
                    f"--src {src} is a flattened re-hosted copy of GoPro",
                    where=f"{folder / inner}/{first}",
                    cure=f"get GOPRO_Large with its folders from {HOME}; to train on this copy"
                    f" as it is, use `trajbuild index --layout pairs {src}`",
                )
    return None
