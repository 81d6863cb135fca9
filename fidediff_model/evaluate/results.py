"""Other methods' result folders: which image belongs to which pair, by name.

Programs name their results in their own ways. A name is compared with `/`, `-` and `_` taken for
one character, so that `GOPR0384_11_00/000001/n11` (a sample_id), `GOPR0384_11_00/000001_n11` (a
blur's name) and `GOPR0384_11_00-000001_n11` (flattened) are one name. Where a set has one blur per
trajectory, `GOPR0384_11_00-000001` is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fidediff_model.evaluate.sets import Pair, images_by_name
from trajectory_builder.errors import UsageError, shorten

_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN = (0, 2, 3)  # colour types gray, RGB, palette: no alpha


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
    found = [_match(name, folder, pairs, everything) for name, folder in folders]
    for results in found:
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
    return found


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
    # A trajectory names its blur only where the set has one blur of it.
    blurs = Counter(pair.trajectory_id for pair in pairs)
    chosen: dict[str, Path] = {}
    for pair in pairs:
        keys = [
            *_keys(pair),
            *([_key(pair.trajectory_id)] if blurs[pair.trajectory_id] == 1 else []),
        ]
        match = next((files[key] for key in keys if key in files), None)
        if match is not None:
            chosen[pair.sample_id] = match
    known = {key for pair in everything for key in (*_keys(pair), _key(pair.trajectory_id))}
    missing = [pair.sample_id for pair in pairs if pair.sample_id not in chosen]
    extra = [path for key, path in files.items() if key not in known]
    return Results(name, chosen, missing, extra)


def _keys(pair: Pair) -> tuple[str, ...]:
    """Names of a pair's blur: its sample_id, its file, its file without the first folder."""
    return _key(pair.sample_id), _key(pair.blur_name), _key(pair.blur_name.partition("/")[2])


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
    with open(path, "rb") as file:
        head = file.read(29)
    if not head.startswith(_PNG) or len(head) < 29:
        return "JPEG" if head.startswith(b"\xff\xd8") else "no PNG"
    depth, color_type = head[24], head[25]
    if depth > 8:
        return f"{depth} bits"
    return "" if color_type in _PLAIN else "alpha"
