"""Where existing sets of pairs keep their files: HIDE, RealBlur, REDS, BSD, RSBlur, plain folders.

Each function lists pairs by equal names, never by position, and names what has no partner. Only
names are read here; `pairs` opens the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trajectory_builder.errors import DataError, ExitCode, shorten
from trajectory_builder.trajectory import Problem

_HIDE_NAME = re.compile(r"^\d+from(.+?)(?:\.MP4)?$", re.IGNORECASE)
_BLUR_FOLDERS = ("input", "blur", "blur_gamma", "blurry", "lq")
_SHARP_FOLDERS = ("target", "sharp", "gt", "groundtruth", "hq")
_SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_COMPLETE = "copy what is missing from the set's own download and index again"


@dataclass(frozen=True, slots=True)
class FoundPair:
    """A blur and its sharp on disk.

    Attributes:
        split: train, validation or test.
        clip: unique over all splits of the set.
        name: of the sharp image within its clip; sharps may have several blurs.
        blur: the file; so is `sharp`.
        kind: tells blurs of one sharp apart; last part of the sample_id.
        origin: as the manifest's column.
        exposure_ms: of the blur, where the set's names tell it.
    """

    split: str
    clip: str
    name: str
    blur: Path
    sharp: Path
    kind: str = "blur"
    origin: str = "official"
    exposure_ms: float | None = None


@dataclass
class Listing:
    """What a folder holds: pairs in order, and what is missing or odd."""

    pairs: list[FoundPair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Splitting:
    """How pairs of a set without split folders are told apart.

    Attributes:
        default: split of pairs that no list names.
        test_files: paths that a test list names.
    """

    default: str
    test_files: frozenset[str] = frozenset()

    def split(self, root: Path, *files: Path) -> str:
        """`test` when a list names one of `files`, relative to `root` or to its parent."""
        for file in files:
            name = file.relative_to(root).as_posix()
            if name in self.test_files or f"{root.resolve().name}/{name}" in self.test_files:
                return "test"
        return self.default


def read_list(path: Path) -> frozenset[str]:
    """All paths in a list such as RealBlur's: two a line, blanks between and after them."""
    words = path.read_text(encoding="utf-8", errors="replace").split()
    return frozenset(word.removeprefix("./").lstrip("/") for word in words)


def splitting(
    root: Path, layout: str, default: str | None = None, test_list: Path | None = None
) -> Splitting:
    """How the pairs of `root` are split where folders do not tell.

    Args:
        root: the set.
        layout: one of `LAYOUTS`; RealBlur's own test lists are found in `root` or beside it.
        default: split of pairs that no list names; by default `train` if there is a list, else
            `test`.
        test_list: a list of the user's.
    """
    lists = [test_list] if test_list else []
    if layout == "realblur" and not lists:
        lists = sorted({*root.glob("*test_list.txt"), *root.parent.glob("RealBlur*test_list.txt")})
    named = frozenset(name for path in lists for name in read_list(path))
    return Splitting(default or ("train" if named else "test"), named)


def hide(root: Path, splitting: Splitting) -> Listing:
    """HIDE: `train/`, `test/test-close-ups/`, `test/test-long-shot/`, `GT/`; or re-hosted.

    The re-hosted form is `input/` and `target/` and holds the test split. A file named
    `10fromGOPR1096.png` belongs to clip GOPR1096.
    """
    listing = Listing()
    if (root / "input").is_dir():
        blurs = {"test": _images(root / "input", listing)}
        sharps = _images(root / "target", listing)
    else:
        blurs = {split: _images(root / split, listing) for split in ("train", "test")}
        sharps = _images(root / "GT", listing)
    by_name = {path.name: path for path in sharps.values()}
    used: set[str] = set()
    for split, files in blurs.items():
        for _, blur in sorted(files.items()):
            used.add(blur.name)
            sharp = by_name.get(blur.name)
            if sharp is None:
                listing.problems.append(_alone("sharp-missing", blur, root, split))
                continue
            found = _HIDE_NAME.match(blur.stem)
            clip = f"{split}_{found.group(1) if found else 'HIDE'}"
            listing.pairs.append(FoundPair(split, clip, blur.stem, blur, sharp))
    for name in sorted(by_name.keys() - used):
        listing.problems.append(_alone("blur-missing", by_name[name], root, ""))
    return listing


def realblur(root: Path, splitting: Splitting) -> Listing:
    """RealBlur-J and -R: `SET/sceneNNN/{blur/blur_K,gt/gt_K}.png`; test lists give the split."""
    listing = Listing()
    scenes = sorted(p.parent for p in root.glob("**/gt") if p.parent.name.startswith("scene"))
    for scene in scenes:
        short = re.match(r"RealBlur-[A-Z]", scene.parent.resolve().name)
        clip = f"{short.group(0)}_{scene.name}" if short else scene.name
        blurs, sharps = _images(scene / "blur", listing), _images(scene / "gt", listing)
        sharps = {name.replace("gt_", "blur_", 1): path for name, path in sharps.items()}
        for name, blur, sharp in _matched(blurs, sharps, root, listing):
            split = splitting.split(root, blur, sharp)
            listing.pairs.append(FoundPair(split, clip, name, blur, sharp))
    there = {file.relative_to(base).as_posix() for pair in listing.pairs
             for file in (pair.blur, pair.sharp) for base in (root, root.parent)}  # fmt: skip
    for name in sorted(splitting.test_files - there):
        if scenes and name.endswith(".png") and _same_set(name, scenes):
            what = f"{name} is in the test list and not on disk"
            listing.problems.append(Problem("file-missing", what, _COMPLETE, "test", file=name))
    return listing


def _same_set(name: str, scenes: list[Path]) -> bool:
    """Whether a listed file is of a set (J or R) that is there at all."""
    return any(scene.parent.resolve().name in name for scene in scenes)


def reds(root: Path, splitting: Splitting) -> Listing:
    """REDS: `{train,val}/{train,val}_{blur,sharp}/CLIP/NNNNNNNN.png`, with or without the first."""
    listing = Listing()
    for folder, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        homes = [home for home in (root / folder, root) if (home / f"{folder}_blur").is_dir()]
        if homes:
            blurs = _images(homes[0] / f"{folder}_blur", listing)
            sharps = _images(homes[0] / f"{folder}_sharp", listing)
            for name, blur, sharp in _matched(blurs, sharps, root, listing):
                clip, _, pair = name.rpartition("/")
                listing.pairs.append(FoundPair(split, f"{folder}_{clip}", pair, blur, sharp))
    return listing


def bsd(root: Path, splitting: Splitting) -> Listing:
    """BSD: `BSD_1ms8ms/{train,valid,test}/NNN/{Blur,Sharp}/RGB/NNNNNNNN.png`; 8 ms: the blur's."""
    listing = Listing()
    subsets = [root] if root.name.startswith("BSD_") else sorted(root.glob("**/BSD_*ms*ms"))
    for subset in subsets:
        times = re.search(r"(\d+)ms(\d+)ms$", subset.name)
        exposure = float(times.group(2)) if times else None
        for folder in ("train", "valid", "test"):
            for scene in sorted(p for p in subset.glob(f"{folder}/*") if p.is_dir()):
                blurs = _images(scene / "Blur" / "RGB", listing)
                sharps = _images(scene / "Sharp" / "RGB", listing)
                clip = f"{subset.name}_{folder}_{scene.name}"
                for name, blur, sharp in _matched(blurs, sharps, root, listing):
                    listing.pairs.append(
                        FoundPair(_SPLITS[folder], clip, name, blur, sharp, exposure_ms=exposure)
                    )
    return listing


def rsblur(root: Path, splitting: Splitting) -> Listing:
    """RSBlur: `0001/000001/{real_blur/real_blur,gt/gt_sharp}.png` and averages beside them."""
    listing = Listing()
    blurs = {
        "real_blur": ("real_blur/real_blur.png", "official"),
        "avg65_img": ("avg65_img/avg_blur.png", "interpolated"),
        "avg65_mask_100": ("avg65_mask_100/avg_blur.png", "interpolated"),
    }
    for home in sorted(root.glob("[0-9]*/[0-9]*")):
        sharp = home / "gt" / "gt_sharp.png"
        there = {kind: home / name for kind, (name, _) in blurs.items() if (home / name).is_file()}
        if there and not sharp.is_file():
            listing.problems.append(_alone("sharp-missing", next(iter(there.values())), root, ""))
            continue
        if not there:
            listing.problems.append(_alone("blur-missing", sharp, root, ""))
        for kind, blur in there.items():
            split = splitting.split(root, blur, sharp)
            listing.pairs.append(
                FoundPair(split, home.parent.name, home.name, blur, sharp, kind, blurs[kind][1])
            )
    return listing


def pairs(root: Path, splitting: Splitting) -> Listing:
    """Any two folders with the same names in them, with or without split folders above.

    Blurs lie in `input`, `blur`, `blur_gamma`, `blurry` or `lq`, sharps in `target`, `sharp`, `gt`,
    `groundtruth` or `hq`, in any case; a folder below them, or a split's absence, is a clip.
    """
    listing = Listing()
    homes = {root: splitting.default}
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path.is_dir() and path.name.lower() in _SPLITS:
            homes[path] = _SPLITS[path.name.lower()]
    for home, split in homes.items():
        blur_folder, sharp_folder = (_one_of(home, n) for n in (_BLUR_FOLDERS, _SHARP_FOLDERS))
        if blur_folder and sharp_folder:
            blurs, sharps = _images(blur_folder, listing), _images(sharp_folder, listing)
            for name, blur, sharp in _matched(blurs, sharps, root, listing):
                clip, _, pair = name.rpartition("/")
                clip = clip.replace("/", "_") or "pairs"
                told = splitting.split(root, blur, sharp) if home == root else split
                prefix = "" if home == root else f"{home.name}_"
                listing.pairs.append(FoundPair(told, f"{prefix}{clip}", pair, blur, sharp))
    return listing


LAYOUTS: dict[str, Callable[[Path, Splitting], Listing]] = {
    "hide": hide,
    "realblur": realblur,
    "reds": reds,
    "rsblur": rsblur,
    "bsd": bsd,
    "pairs": pairs,
}


def find(layout: str, root: Path, splitting: Splitting) -> Listing:
    """List the pairs of `root`.

    Raises:
        DataError: it holds none.
    """
    listing = LAYOUTS[layout](root, splitting)
    if not listing.pairs:
        there = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
        described = " ".join((LAYOUTS[layout].__doc__ or "").split("\n\n")[0].split())
        raise DataError(
            f"no pair of layout {layout} in {root}",
            where=f"it holds {shorten(there) or 'nothing'}",
            cure=f"give the folder that is laid out so: {described}",
            exit_code=ExitCode.FAILED,
        )
    return listing


def _images(folder: Path, listing: Listing) -> dict[str, Path]:
    """Relative name without suffix -> PNG file below `folder`; other files are named as odd."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix.lower() == ".png":
            found[path.relative_to(folder).with_suffix("").as_posix()] = path
        else:
            what = f"{path.name} is not a PNG file and was left out"
            cure = "convert it to 8-bit RGB PNG if it belongs to a pair"
            listing.problems.append(Problem("file-odd", what, cure, file=str(path)))
    return found


def _matched(
    blurs: dict[str, Path], sharps: dict[str, Path], root: Path, listing: Listing
) -> Iterator[tuple[str, Path, Path]]:
    """Pairs of equal names; the others become problems."""
    for name in sorted(blurs.keys() | sharps.keys()):
        if name not in sharps:
            listing.problems.append(_alone("sharp-missing", blurs[name], root, ""))
        elif name not in blurs:
            listing.problems.append(_alone("blur-missing", sharps[name], root, ""))
        else:
            yield name, blurs[name], sharps[name]


def _alone(reason: str, path: Path, root: Path, split: str) -> Problem:
    name = path.relative_to(root).as_posix()
    missing = reason.split("-")[0]
    return Problem(reason, f"{name} has no {missing}", _COMPLETE, split, file=name)


def _one_of(home: Path, names: tuple[str, ...]) -> Path | None:
    there = {path.name.lower(): path for path in home.iterdir() if path.is_dir()}
    return next((there[name] for name in names if name in there), None)
