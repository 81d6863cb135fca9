"""GoPro: from folder and file names to clips and official pairs.

The sequence's name says which frames make which blur: `GOPRxxxx_nn_zz` averages nn frames, and its
windows begin zz frames early. The rule, and the first numbers of the 33 published sequences, agree
with two public maps (DeepDeblur_release#66). No image is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trajectory_builder.errors import UsageError, printable, shorten
from trajectory_builder.sources.gopro_layout import (
    GOPRO_SPLITS,
    HOME,
    SEQUENCE_NAME,
    Trees,
    find_trees,
)
from trajectory_builder.sources.gopro_published import known_sequences
from trajectory_builder.trajectory import GOPRO_FPS, Clip, Problem, Window

BLUR_FOLDERS = {"srgb": "blur", "gamma2.2": "blur_gamma"}
_NUMBERED = re.compile(r"(\d+)\.png", re.IGNORECASE)
COPY_CURE = f"copy what is missing from {HOME} and run the same command again"


@dataclass(frozen=True, slots=True)
class OfficialPair:
    """An official pair: its number, its window, and its files relative to the pairs' root.

    `blur` and `sharp` are None where the tree lacks that file, or where there is no tree.
    """

    number: int
    window: Window
    blur: str | None
    sharp: str | None


@dataclass(frozen=True, slots=True)
class Sequence:
    """One GoPro sequence: its clip, its official pairs, and how they were averaged."""

    clip: Clip
    n_frames: int
    shift: int
    pairs: tuple[OfficialPair, ...]


@dataclass(frozen=True, slots=True)
class GoPro:
    """A source's sequences, what is missing (problems) and what is unusual (notes)."""

    trees: Trees
    sequences: tuple[Sequence, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def window_of_pair(rank: int, n_frames: int, shift: int) -> Window:
    """The frames of the `rank`-th (0-based) official pair of a sequence `GOPRxxxx_nn_zz`.

    window(i) = F[i n - zz : i n - zz + n]; ignoring zz mis-maps 1,003 of the 2,103 training pairs
    (DeepDeblur_release#66). The first window of a shifted sequence begins below 0.
    """
    return Window(rank * n_frames - shift, n_frames)


@dataclass(slots=True)
class _Listing:
    """Numbered PNG files of one folder, and the names that are none."""

    files: dict[int, str]
    doubled: list[str]
    odd: list[str]


def scan(src: Path, frames: Path | None = None, *, domain: str = "srgb") -> GoPro:
    """List a GoPro source.

    Args:
        src: GOPRO_Large, GOPRO_Large_all, or the folder that contains them.
        frames: GOPRO_Large_all, where it is neither inside nor beside `src`.
        domain: `srgb` takes official blurs from blur/, `gamma2.2` from blur_gamma/.

    Raises:
        UsageError: the folders are not GoPro's.
    """
    trees = find_trees(src, frames)
    problems: list[Problem] = []
    notes: list[str] = []
    sequences: list[Sequence] = []
    for split in GOPRO_SPLITS:
        names = _names(trees, split)
        problems += _missing_sequences(split, names)
        for name in names:
            if name in {sequence.clip.name for sequence in sequences}:
                problems.append(
                    Problem("clip-doubled", f"{name} is in train and in test", "remove one",
                            split, name)
                )  # fmt: skip
                continue
            read = _sequence(trees, split, name, domain)
            sequences += [read.sequence] if read.sequence else []
            problems += read.problems
            notes += read.notes
    if not any(sequence.pairs for sequence in sequences):
        # A fault of a sequence that is present says more than the absence of others.
        ranked = sorted(problems, key=lambda problem: problem.reason == "sequence-missing")
        raise UsageError(
            f"no sequence of {src} can be used",
            where=ranked[0].what if ranked else str(src),
            cure=ranked[0].cure if ranked else "give the folder GOPRO_Large",
        )
    return GoPro(trees, tuple(sequences), tuple(problems), tuple(notes))


def _names(trees: Trees, split: str) -> list[str]:
    names: set[str] = set()
    for root in (trees.pairs, trees.frames):
        folder = root / split if root else None
        if folder is not None and folder.is_dir():
            names |= {
                e.name for e in os.scandir(folder)
                if e.is_dir() and SEQUENCE_NAME.fullmatch(e.name)
            }  # fmt: skip
    return sorted(names)


def _missing_sequences(split: str, names: Iterable[str]) -> list[Problem]:
    """Published sequences of a split that are absent where others of them are present."""
    known = {s.name for s in known_sequences().values() if s.split == split}
    present = set(names) & known
    return [
        Problem("sequence-missing", f"{split} lacks the sequence {name}", COPY_CURE, split, name)
        for name in sorted(known - present)
        if present
    ]


@dataclass(frozen=True, slots=True)
class _Read:
    """One sequence as read; None where it cannot be used."""

    sequence: Sequence | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def _sequence(trees: Trees, split: str, name: str, domain: str) -> _Read:
    match = SEQUENCE_NAME.fullmatch(name)
    if match is None:
        return _Read(None, ())
    n, shift = int(match[1]), int(match[2])
    problems: list[Problem] = []
    try:
        if n < 3 or n % 2 == 0:
            raise _Unusable("sequence-name", f"averages {n} frames, which is not odd")
        sharp, blur, missing = _pair_files(trees, split, name, domain)
        problems += [missing] if missing else []
        try:
            listing = _frame_files(trees, split, name)
            mapped = _mapped(name, n, sharp, listing.files)
        except _UnusableFrames as error:
            if not sharp:
                raise
            # Official pairs need no frames; only further windows do.
            problems.append(_problem_of(error, split, name))
            listing, mapped = _Listing({}, [], []), _mapped(name, n, sharp, {})
        else:
            problems += _frame_problems(trees, split, name, listing)
    except _Unusable as error:
        return _Read(None, (*problems, _problem_of(error, split, name)))
    pairs = tuple(
        OfficialPair(
            number, window_of_pair(rank, n, shift), blur.get(number), sharp.get(number)
        )
        for rank, number in enumerate(range(mapped.first_pair, mapped.first_pair + mapped.pairs))
    )  # fmt: skip
    odd = _odd_names(f"{split}/{name}", listing)
    sequence = Sequence(Clip(name, split, mapped.frames, GOPRO_FPS), n, shift, pairs)
    return _Read(sequence, tuple(problems), (*odd, *mapped.notes))


class _Unusable(Exception):
    """A sequence whose files cannot be mapped to frames without guessing."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _UnusableFrames(_Unusable):
    """The same where only the frames are at fault."""


def _problem_of(error: _Unusable, split: str, name: str) -> Problem:
    return Problem(error.reason, f"{split}/{name} {error}", COPY_CURE, split, name)


@dataclass(frozen=True, slots=True)
class _Mapped:
    """Number of the first pair, number of pairs, and the frames by rank."""

    first_pair: int
    pairs: int
    frames: tuple[str | None, ...]
    notes: tuple[str, ...]


def _mapped(name: str, n: int, sharp: dict[int, str], frames: dict[int, str]) -> _Mapped:
    first = _first_pair(name, n, sharp, frames)
    count = _pair_count(name, n, sharp, frames, first)
    ranked, notes = _ranked(name, frames, first, n, count)
    return _Mapped(first, count, ranked, notes)


def _list(folder: Path, prefix: str) -> _Listing:
    """PNG files of a folder by number; other files are ignored (GoPro has text files)."""
    listing = _Listing({}, [], [])
    for entry in os.scandir(folder):
        match = _NUMBERED.fullmatch(entry.name)
        if match is None:
            if entry.name.lower().endswith(".png"):
                listing.odd.append(entry.name)
        elif int(match[1]) in listing.files:
            listing.doubled.append(entry.name)
        else:
            listing.files[int(match[1])] = f"{prefix}/{entry.name}"
    return listing


def _pair_files(
    trees: Trees, split: str, name: str, domain: str
) -> tuple[dict[int, str], dict[int, str], Problem | None]:
    """Sharp and blur files of a sequence by number; both empty without a tree of pairs.

    The problem says that the tree lacks this sequence.
    """
    if trees.pairs is None:
        return {}, {}, None
    folder = trees.pairs / split / name
    if not folder.is_dir():
        missing = Problem(
            "sequence-missing-in-pairs",
            f"{split}/{name} is in the frames but not among the official pairs",
            COPY_CURE + ", or give --src GOPRO_Large_all alone to rebuild them by averaging",
            split,
            name,
        )
        return {}, {}, missing
    found = []
    for kind in ("sharp", BLUR_FOLDERS[domain]):
        if not (folder / kind).is_dir():
            raise _Unusable("folder-missing", f"has no folder {kind}")
        listing = _list(folder / kind, f"{split}/{name}/{kind}")
        if listing.doubled:
            raise _Unusable(
                "pair-doubled", f"has a number twice in {kind}: {shorten(listing.doubled)}"
            )
        found.append(listing.files)
    return found[0], found[1], None


def _frame_files(trees: Trees, split: str, name: str) -> _Listing:
    """The frames of a sequence by number; empty where there are none."""
    folder = trees.frames / split / name if trees.frames else None
    if folder is None or not folder.is_dir():
        return _Listing({}, [], [])
    listing = _list(folder, f"{split}/{name}")
    if listing.doubled:
        raise _UnusableFrames(
            "frame-doubled", f"has a frame number twice: {shorten(sorted(listing.doubled))}"
        )
    return listing


def _frame_problems(trees: Trees, split: str, name: str, listing: _Listing) -> list[Problem]:
    """That a tree of frames lacks this sequence, or has nothing in its folder."""
    if trees.frames is None or listing.files:
        return []
    if (trees.frames / split / name).is_dir():
        reason, what = "sequence-empty", f"{split}/{name} has no frames in its folder"
    else:
        reason, what = "sequence-missing-in-frames", (
            f"{split}/{name} has official pairs but no frames"
        )  # fmt: skip
    return [Problem(reason, what, COPY_CURE, split, name)]


def _odd_names(place: str, listing: _Listing) -> list[str]:
    if not listing.odd:
        return []
    names = shorten([printable(name) for name in sorted(listing.odd)])
    return [f"{place}: {len(listing.odd)} PNG files are not frames and are ignored: {names}"]


def _first_pair(name: str, n: int, sharp: dict[int, str], frames: dict[int, str]) -> int:
    """The number of the first pair, also where the first files are missing."""
    known = known_sequences().get(name)
    if not sharp:
        if known:
            return known.first_pair_number
        first = min(frames, default=1)
        return (first - 1) // n + 1 if (first - 1) % n == 0 else 1
    low, high = min(sharp), max(sharp)
    if known is None:
        return low
    if known.first_pair_number <= low and high < known.first_pair_number + known.pairs:
        return known.first_pair_number
    if len(sharp) == known.pairs and high - low + 1 == known.pairs:
        return low  # all renumbered alike, so ranks are right
    raise _Unusable(
        "pairs-renumbered",
        f"has pairs numbered {low} to {high}, {len(sharp)} of them; published are"
        f" {known.pairs} from {known.first_pair_number}",
    )


def _pair_count(
    name: str, n: int, sharp: dict[int, str], frames: dict[int, str], first: int
) -> int:
    known = known_sequences().get(name)
    if known:
        return known.pairs
    if sharp:
        return max(sharp) - first + 1
    return (max(frames) - min(frames) + 1) // n if frames else 0


def _ranked(
    name: str, frames: dict[int, str], first_pair: int, n: int, count: int
) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """Frames by rank with None for missing numbers, so that no rank shifts; and notes."""
    if not frames:
        return (), ()
    notes = []
    low, high = min(frames), max(frames)
    known = known_sequences().get(name)
    expected = count * n
    base = known.first_frame_number if known else (first_pair - 1) * n + 1
    span = high - low + 1
    complete = span == expected == len(frames)
    if low != base and (complete or not base <= low < base + expected):
        # Fewer frames than expected under other numbers may lack their first or their last.
        guessed = known or span < expected or span != len(frames)
        if span != expected and guessed:
            raise _UnusableFrames(
                "frames-renumbered",
                f"has frames numbered {low} to {high}, {len(frames):,} of them; expected are"
                f" {expected:,} from {base}",
            )
        if known:
            notes.append(f"{name}: frames are renumbered from {low}; ranks are used, not numbers")
        base = low
    surplus = high - (base + expected) + 1
    if surplus > 0:
        notes.append(f"{name}: {surplus:,} frames more than {count} pairs x {n}")
    ranked = (frames.get(number) for number in range(base, max(high + 1, base + expected)))
    return tuple(ranked), tuple(notes)
