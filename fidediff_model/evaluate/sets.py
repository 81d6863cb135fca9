"""What is scored: the pairs of a manifest or of two folders, and other methods' results for them.

Programs name their results in their own ways. A name is compared with `/`, `-` and `_` taken for
one character, so that `GOPR0384_11_00/000001/n11` (a sample_id), `GOPR0384_11_00/000001_n11` (a
blur's name) and `GOPR0384_11_00-000001_n11` (flattened) are one name. Where a set has one blur per
trajectory, `GOPR0384_11_00-000001` is enough, and where no two blurs of a set have the same file
name, that alone: of an indexed set, the file's original name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trajectory_builder import manifest as manifests
from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import ManifestError, UsageError, shorten
from trajectory_builder.images.formats import FORMATS

_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN = (0, 2, 3)  # colour types gray, RGB, palette: no alpha


@dataclass(frozen=True)
class Pair:
    """A blur and its sharp image.

    Attributes:
        sample_id: unique in the set.
        blur: file.
        sharp: file.
        trajectory_id: the trajectory it belongs to; its own name where unknown.
        n_frames: frames averaged, or None.
        native_n_frames: n of the trajectory's official pair, or None.
        timestep: its t, or None.
        motion_px: length of the picture's way during the exposure, or None.
        blur_name: the blur's path in its set, without the ending.
    """

    sample_id: str
    blur: Path
    sharp: Path
    trajectory_id: str
    n_frames: int | None = None
    native_n_frames: int | None = None
    timestep: int | None = None
    motion_px: float | None = None
    blur_name: str = ""

    @property
    def is_native(self) -> bool:
        """Whether it is the trajectory's official blur (true where nothing is known)."""
        return self.n_frames == self.native_n_frames


def pairs_of_manifest(data: Path, *, split: str | None = "test", native: bool = True) -> list[Pair]:
    """The pairs of a `trajbuild` folder, or of any manifest, in its order.

    Args:
        data: the data set's folder, a split's folder or a manifest file.
        split: of this split only; None takes all.
        native: official blurs only, which are what papers score.

    Raises:
        ManifestError: it cannot be read or trusted.
        UsageError: nothing is left.
    """
    manifest = manifests.read(data)
    pairs = []
    splits = set()
    for row, values in enumerate(manifest.rows()):
        splits.add(str(values["split"]))
        if split not in (None, values["split"]):
            continue
        pair = Pair(
            str(values["sample_id"]),
            manifest.file(row, "blur_file_name"),
            manifest.file(row, "sharp_file_name"),
            str(values["trajectory_id"]),
            values["n_frames"],
            values["native_n_frames"],
            values["timestep"],
            values["motion_px"],
            PurePosixPath(values["blur_file_name"]).with_suffix("").as_posix(),
        )
        if pair.is_native or not native:
            pairs.append(pair)
    if not pairs:
        raise UsageError(
            f"no pair of split {split or 'any'} is left to score",
            where=f"{data}, which has the splits {', '.join(sorted(splits))}",
            cure="give another --split, or --points all for blurs that are not native",
        )
    return pairs


def pairs_of_folders(blurs: Path, sharps: Path) -> list[Pair]:
    """The pairs of two folders whose files have the same relative names, whatever their endings.

    Raises:
        UsageError: a folder is not there or empty, or a blur has no sharp image.
    """
    if blurs.resolve() == sharps.resolve():
        raise UsageError(
            "the folder of blurs is the folder of sharp images",
            where=f"--data {blurs}",
            cure="give two folders: --data BLURS --data SHARPS",
        )
    images = {side: images_by_name(side) for side in (blurs, sharps)}
    lonely = sorted(set(images[blurs]) - set(images[sharps]))
    if lonely:
        raise UsageError(
            f"{len(lonely):,} blurs have no sharp image of the same name",
            where=f"{sharps}: {shorten(lonely)}",
            cure="give folders whose files have the same relative names",
        )
    return [
        Pair(name, path, images[sharps][name], name, blur_name=name)
        for name, path in sorted(images[blurs].items())
    ]


def images_by_name(folder: Path, *, option: str = "--data") -> dict[str, Path]:
    """Images by relative name without ending.

    Args:
        folder: searched through, subfolders included.
        option: what named the folder, for errors.

    Raises:
        UsageError: it is no folder, contains no image, or two images differ in their ending alone.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", where=option, cure="check the path")
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in FORMATS or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in images:
            raise UsageError(
                f"two images are named {name}",
                where=f"{images[name]} and {path}",
                cure="keep one of them",
            )
        images[name] = path
    if not images:
        raise UsageError(
            f"{folder} contains no image",
            where=f"{option}; looked for {', '.join(FORMATS)}",
            cure="give the folder that contains the images",
        )
    return images


def choose_pairs(
    data: Sequence[Path], *, split: str | None, points: str, limit: int | None
) -> list[Pair]:
    """The pairs that the options of `evaluate` and `scan` select.

    Args:
        data: a data set's folder or manifest, or two folders, blurs first.
        split: of a manifest; None takes all.
        points: `native` or `all`.
        limit: the first N; None takes all.

    Raises:
        UsageError: more than two places, or nothing to score.
    """
    if len(data) == 2 and not any(_has_manifest(place) for place in data):
        pairs = pairs_of_folders(*data)
    elif len(data) == 1:
        pairs = pairs_of_manifest(data[0], split=split, native=points == "native")
    else:
        raise UsageError(
            f"{len(data)} data sets were given",
            where="--data",
            cure="give one trajbuild folder, or two folders: --data BLURS --data SHARPS",
        )
    return pairs[:limit] if limit is not None else pairs


def _has_manifest(place: Path) -> bool:
    try:
        return bool(manifests.files(place))
    except ManifestError:
        return False


@dataclass(frozen=True)
class Results:
    """A method's results for a set.

    Attributes:
        name: of the method.
        files: by sample_id.
        missing: pairs without a result.
        extra: files without a pair.
    """

    name: str
    files: Mapping[str, Path]
    missing: list[str]
    extra: list[Path]

    @property
    def unmatched(self) -> str:
        """The numbers of both as a sentence."""
        total = len(self.files) + len(self.missing)
        return (
            f"{len(self.missing):,} of {total:,} pairs have no image,"
            f" {len(self.extra):,} images have no pair"
        )


def find_results(
    folders: Sequence[tuple[str, Path]],
    pairs: Sequence[Pair],
    everything: Sequence[Pair],
    *,
    partial: bool,
) -> list[Results]:
    """The results of several methods, each checked.

    Args:
        folders: name and folder of each method.
        pairs: what is scored.
        everything: all pairs of the set, so that results of pairs outside `pairs` are not strange.
        partial: accept pairs without a result and files without a pair.

    Raises:
        UsageError: a folder is given twice, absent or empty, two files have
            one name, names do not match, or a file is no 8-bit PNG without alpha.
    """
    _check_folders(folders)
    matched = [_match(name, folder, pairs, everything) for name, folder in folders]
    for results in matched:
        if not results.files:
            raise UsageError(
                f"no image of {results.name} has the name of a pair",
                where=f"{shorten([str(path) for path in results.extra])};"
                f" pairs: {shorten([pair.sample_id for pair in pairs])}",
                cure="name the results by sample_id or by the blur's file, `/` written as `-` or"
                " `_` if you like",
            )
        if (results.missing or results.extra) and not partial:
            raise UsageError(
                f"{results.name}: {results.unmatched}",
                where=shorten([*results.missing, *map(str, results.extra)]),
                cure="complete the folder, or give --partial to score the pairs that every method"
                " has",
            )
        _check_files(results)
    return matched


def _check_folders(folders: Sequence[tuple[str, Path]]) -> None:
    counts = Counter(folder.resolve() for _, folder in folders)
    twice = [folder for _, folder in folders if counts[folder.resolve()] > 1]
    if twice:
        raise UsageError(
            f"the folder {twice[0]} is given twice",
            where="--restored",
            cure="give each method a folder of its own",
        )


def _match(name: str, folder: Path, pairs: Sequence[Pair], everything: Sequence[Pair]) -> Results:
    files: dict[str, Path] = {}
    for relative, path in images_by_name(folder, option="--restored").items():
        other = files.setdefault(_key(relative), path)
        if other != path:
            raise UsageError(
                f"two images of {name} have the same name",
                where=f"{other} and {path}",
                cure="keep one of them",
            )
    # A trajectory names its blur only where the set has one blur of it, and a file name its file.
    blurs = Counter(pair.trajectory_id for pair in pairs)
    bare = Counter(_bare(pair) for pair in everything)
    chosen: dict[str, Path] = {}
    for pair in pairs:
        keys = [*_keys(pair)]
        keys += [_key(pair.trajectory_id)] if blurs[pair.trajectory_id] == 1 else []
        keys += [_bare(pair)] if bare[_bare(pair)] == 1 else []
        match = next((files[key] for key in keys if key in files), None)
        if match is not None:
            chosen[pair.sample_id] = match
    known = {key for pair in everything for key in (*_keys(pair), _key(pair.trajectory_id))}
    known |= bare.keys()
    missing = [pair.sample_id for pair in pairs if pair.sample_id not in chosen]
    extra = [path for key, path in files.items() if key not in known]
    return Results(name, chosen, missing, extra)


def _keys(pair: Pair) -> tuple[str, ...]:
    """Names of a pair's blur: its sample_id, its file, its file without the first folder."""
    return _key(pair.sample_id), _key(pair.blur_name), _key(pair.blur_name.partition("/")[2])


def _bare(pair: Pair) -> str:
    """The name of a pair's blur without any folder."""
    return _key(pair.blur_name.rpartition("/")[2])


def _key(name: str) -> str:
    return name.replace("/", "_").replace("-", "_")


def _check_files(results: Results) -> None:
    """Scores are defined on what the method computed: 8 bits, RGB, no lossy coding."""
    wrong = {path: reason for path in results.files.values() if (reason := _unfit(path))}
    if wrong:
        first, reason = next(iter(wrong.items()))
        raise UsageError(
            f"{results.name}: {len(wrong):,} of {len(results.files):,} results are not 8-bit PNG"
            f" without alpha, the first is: {reason}",
            where=str(first),
            cure="save the results as 8-bit RGB PNG: scores are of that, and JPEG changes them",
        )


def _unfit(path: Path) -> str:
    """Why a result cannot be scored, or nothing; from the first bytes (PNG specification, IHDR)."""
    with open_regular(path) as file:
        head = file.read(29)
    if not head.startswith(_PNG) or len(head) < 29:
        return "JPEG" if head.startswith(b"\xff\xd8") else "no PNG"
    depth, color_type = head[24], head[25]
    if depth > 8:
        return f"{depth} bits"
    return "" if color_type in _PLAIN else "alpha"
