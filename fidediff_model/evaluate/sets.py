"""The pairs to score: of a manifest, or of two folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trajectory_builder import manifest as manifests
from trajectory_builder.errors import ManifestError, UsageError, shorten
from trajectory_builder.images.formats import FORMATS


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
    found = {side: images_by_name(side) for side in (blurs, sharps)}
    lonely = sorted(set(found[blurs]) - set(found[sharps]))
    if lonely:
        raise UsageError(
            f"{len(lonely):,} blurs have no sharp image of the same name",
            where=f"{sharps}: {shorten(lonely)}",
            cure="give folders whose files have the same relative names",
        )
    return [
        Pair(name, path, found[sharps][name], name, blur_name=name)
        for name, path in sorted(found[blurs].items())
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
