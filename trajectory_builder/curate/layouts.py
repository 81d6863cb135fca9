"""Where existing sets of pairs keep their files: HIDE, RealBlur, REDS, BSD, RSBlur, plain folders.

Each function lists pairs by equal names, never by position, and names what has no partner. Only
names are read here; `index` opens the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trajectory_builder.disk.regular import read_regular_text
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
        blur, sharp: the files.
        kind: distinguishes blurs of one sharp; last part of the sample_id.
        origin: as the manifest's column.
        exposure_ms: of the blur, where the set's names contain it.
    """

    split: str
    clip: str
    name: str
    blur: Path
    sharp: Path
    kind: str = "blur"
    origin: str = "official"
    exposure_ms: float | None = None


@dataclass(frozen=True)
class Listing:
    """The pairs of a folder in order, and what is missing or odd."""

    pairs: tuple[FoundPair, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __add__(self, other: Listing) -> Listing:
        return Listing(self.pairs + other.pairs, self.problems + other.problems)


@dataclass(frozen=True)
class Splitting:
    """How the pairs of a set without split folders are divided.

    Attributes:
        default: split of pairs that no list names.
        test_files: paths in a test list.
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
    """All paths in a list such as RealBlur's: two per line, blanks between and after them."""
    words = read_regular_text(path, errors="replace").split()
    return frozenset(word.removeprefix("./").lstrip("/") for word in words)


def splitting(
    root: Path, layout: str, default: str | None = None, test_list: Path | None = None
) -> Splitting:
    """How the pairs of `root` are divided where folders do not say it.

    Args:
        root: the set.
        layout: one of `LAYOUTS`; RealBlur's own test lists are found in `root` or beside it.
        default: split of pairs that no list names; by default `train` if there is a list, else
            `test`.
        test_list: a list of the user's own.
    """
    lists = [test_list] if test_list else []
    if layout == "realblur" and not lists:
        lists = sorted({*root.glob("*test_list.txt"), *root.parent.glob("RealBlur*test_list.txt")})
    named = frozenset(name for path in lists for name in read_list(path))
    return Splitting(default or ("train" if named else "test"), named)


def hide(root: Path, splitting: Splitting) -> Listing:
    """HIDE: `train/`, `test/test-close-ups/`, `test/test-long-shot/`, `GT/`; or re-hosted.

    The re-hosted form is `input/` and `target/` and is the test split. A file named
    `10fromGOPR1096.png` belongs to clip GOPR1096.
    """
    if (root / "input").is_dir():
        blur_folders, sharp_folder = {"test": root / "input"}, root / "target"
    else:
        blur_folders, sharp_folder = {s: root / s for s in ("train", "test")}, root / "GT"
    sharps, problems = _images(sharp_folder)
    by_name = {path.name: path for path in sharps.values()}
    pairs: list[FoundPair] = []
    used: set[str] = set()
    for split, folder in blur_folders.items():
        blurs, odd = _images(folder)
        problems += odd
        for _, blur in sorted(blurs.items()):
            used.add(blur.name)
            sharp = by_name.get(blur.name)
            if sharp is None:
                problems.append(_alone("sharp-missing", blur, root, split))
                continue
            source = _HIDE_NAME.match(blur.stem)
            clip = f"{split}_{source.group(1) if source else 'HIDE'}"
            pairs.append(FoundPair(split, clip, blur.stem, blur, sharp))
    lonely = sorted(by_name.keys() - used)
    problems += [_alone("blur-missing", by_name[name], root, "") for name in lonely]
    return Listing(tuple(pairs), tuple(problems))


def realblur(root: Path, splitting: Splitting) -> Listing:
    """RealBlur-J and -R: `SET/sceneNNN/{blur/blur_K,gt/gt_K}.png`; test lists give the split."""
    listing = Listing()
    scenes = sorted(p.parent for p in root.glob("**/gt") if p.parent.name.startswith("scene"))
    for scene in scenes:
        short = re.match(r"RealBlur-[A-Z]", scene.parent.resolve().name)
        clip = f"{short.group(0)}_{scene.name}" if short else scene.name
        matched = _matched(root, scene / "blur", scene / "gt", sharp_prefix=("gt_", "blur_"))
        pairs = (
            FoundPair(splitting.split(root, blur, sharp), clip, name, blur, sharp)
            for name, blur, sharp in matched.pairs
        )
        listing += Listing(tuple(pairs), matched.problems)
    return listing + Listing(problems=tuple(_listed_but_absent(root, splitting, listing, scenes)))


def _listed_but_absent(
    root: Path, splitting: Splitting, listing: Listing, scenes: list[Path]
) -> Iterable[Problem]:
    """Files in RealBlur's test list, of a set (J or R) that is there at all, which are absent."""
    there = {file.relative_to(base).as_posix() for pair in listing.pairs
             for file in (pair.blur, pair.sharp) for base in (root, root.parent)}  # fmt: skip
    sets = {scene.parent.resolve().name for scene in scenes}
    for name in sorted(splitting.test_files - there):
        if name.endswith(".png") and any(one in name for one in sets):
            what = f"{name} is in the test list and not on disk"
            yield Problem("file-missing", what, _COMPLETE, "test", file=name)


def reds(root: Path, splitting: Splitting) -> Listing:
    """REDS: `{train,val}/{train,val}_{blur,sharp}/CLIP/NNNNNNNN.png`, with or without the first."""
    listing = Listing()
    for folder, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        homes = [home for home in (root / folder, root) if (home / f"{folder}_blur").is_dir()]
        if homes:
            matched = _matched(root, homes[0] / f"{folder}_blur", homes[0] / f"{folder}_sharp")
            listing += matched.as_clips(f"{folder}_", _always(split))
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
                matched = _matched(root, scene / "Blur" / "RGB", scene / "Sharp" / "RGB")
                clip = f"{subset.name}_{folder}_{scene.name}"
                pairs = (
                    FoundPair(_SPLITS[folder], clip, name, blur, sharp, exposure_ms=exposure)
                    for name, blur, sharp in matched.pairs
                )
                listing += Listing(tuple(pairs), matched.problems)
    return listing


def rsblur(root: Path, splitting: Splitting) -> Listing:
    """RSBlur: `0001/000001/{real_blur/real_blur,gt/gt_sharp}.png` and averages beside them."""
    blurs = {
        "real_blur": ("real_blur/real_blur.png", "official"),
        "avg65_img": ("avg65_img/avg_blur.png", "interpolated"),
        "avg65_mask_100": ("avg65_mask_100/avg_blur.png", "interpolated"),
    }
    pairs: list[FoundPair] = []
    problems: list[Problem] = []
    for home in sorted(root.glob("[0-9]*/[0-9]*")):
        sharp = home / "gt" / "gt_sharp.png"
        there = {kind: home / name for kind, (name, _) in blurs.items() if (home / name).is_file()}
        if there and not sharp.is_file():
            problems.append(_alone("sharp-missing", next(iter(there.values())), root, ""))
            continue
        if not there:
            problems.append(_alone("blur-missing", sharp, root, ""))
        for kind, blur in there.items():
            split = splitting.split(root, blur, sharp)
            pairs.append(
                FoundPair(split, home.parent.name, home.name, blur, sharp, kind, blurs[kind][1])
            )
    return Listing(tuple(pairs), tuple(problems))


def pairs(root: Path, splitting: Splitting) -> Listing:
    """Any two folders with the same names in them, with or without split folders above.

    Blurs are in `input`, `blur`, `blur_gamma`, `blurry` or `lq`, sharps in `target`, `sharp`, `gt`,
    `groundtruth` or `hq`, in any case; a folder below them, or a split's absence, is a clip.
    """
    listing = Listing()
    folders = [p for p in sorted(root.iterdir()) if p.is_dir()] if root.is_dir() else []
    for home in [root, *(p for p in folders if p.name.lower() in _SPLITS)]:
        blurs, sharps = (_one_of(home, names) for names in (_BLUR_FOLDERS, _SHARP_FOLDERS))
        if blurs is None or sharps is None:
            continue
        prefix, split_of = "", _listed(root, splitting)
        if home != root:
            prefix, split_of = f"{home.name}_", _always(_SPLITS[home.name.lower()])
        listing += _matched(root, blurs, sharps).as_clips(prefix, split_of)
    return listing


def _listed(root: Path, splitting: Splitting) -> Callable[[Path, Path], str]:
    return lambda blur, sharp: splitting.split(root, blur, sharp)


def _always(split: str) -> Callable[[Path, Path], str]:
    return lambda blur, sharp: split


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
        DataError: there is none.
    """
    listing = LAYOUTS[layout](root, splitting)
    if not listing.pairs:
        there = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
        described = " ".join((LAYOUTS[layout].__doc__ or "").split("\n\n")[0].split())
        raise DataError(
            f"no pair of layout {layout} in {root}",
            where=f"it contains {shorten(there) or 'nothing'}",
            cure=f"give a folder of this layout: {described}",
            exit_code=ExitCode.FAILED,
        )
    return listing


def _images(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Relative name without suffix -> PNG file below `folder`; other files are problems."""
    images: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix.lower() == ".png":
            images[path.relative_to(folder).with_suffix("").as_posix()] = path
        else:
            what = f"{path.name} is not a PNG file and was left out"
            cure = "convert it to 8-bit RGB PNG if it belongs to a pair"
            problems.append(Problem("file-odd", what, cure, file=str(path)))
    return images, problems


@dataclass(frozen=True)
class _Matched:
    """(name, blur, sharp) of equal names in two folders; the other files are problems."""

    pairs: tuple[tuple[str, Path, Path], ...]
    problems: tuple[Problem, ...]

    def as_clips(self, prefix: str, split_of: Callable[[Path, Path], str]) -> Listing:
        """The pairs, each folder below the two being a clip."""
        pairs = []
        for name, blur, sharp in self.pairs:
            clip, _, pair = name.rpartition("/")
            clip = f"{prefix}{clip.replace('/', '_') or 'pairs'}"
            pairs.append(FoundPair(split_of(blur, sharp), clip, pair, blur, sharp))
        return Listing(tuple(pairs), self.problems)


def _matched(
    root: Path, blur_folder: Path, sharp_folder: Path, sharp_prefix: tuple[str, str] = ("", "")
) -> _Matched:
    """Match two folders by names, where a sharp's prefix may be another than its blur's."""
    (blurs, odd_blurs), (sharps, odd_sharps) = _images(blur_folder), _images(sharp_folder)
    sharps = {name.replace(*sharp_prefix, 1): path for name, path in sharps.items()}
    names = sorted(blurs.keys() | sharps.keys())
    alone = [
        _alone("sharp-missing", blurs[name], root, "")
        if name in blurs
        else _alone("blur-missing", sharps[name], root, "")
        for name in names
        if (name in blurs) != (name in sharps)
    ]
    pairs = ((n, blurs[n], sharps[n]) for n in names if n in blurs and n in sharps)
    return _Matched(tuple(pairs), (*odd_blurs, *odd_sharps, *alone))


def _alone(reason: str, path: Path, root: Path, split: str) -> Problem:
    name = path.relative_to(root).as_posix()
    missing = reason.split("-")[0]
    return Problem(reason, f"{name} has no {missing}", _COMPLETE, split, file=name)


def _one_of(home: Path, names: tuple[str, ...]) -> Path | None:
    there = {path.name.lower(): path for path in home.iterdir() if path.is_dir()}
    return next((there[name] for name in names if name in there), None)
