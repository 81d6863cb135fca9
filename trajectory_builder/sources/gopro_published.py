"""The 33 published GoPro sequences, and how the pairs and frames of each are numbered."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("gopro_sequences.csv")
_NUMBERS = ("frames_per_blur", "shift", "pairs", "first_pair_number", "first_frame_number")


@dataclass(frozen=True, slots=True)
class KnownSequence:
    """A row of the table of the 33 published sequences."""

    split: str
    name: str
    n_frames: int
    shift: int
    pairs: int
    first_pair_number: int
    first_frame_number: int


@cache
def known_sequences() -> dict[str, KnownSequence]:
    """The 33 published sequences by name: 22 for training, 11 for testing."""
    with TABLE.open(newline="") as file:
        rows = [
            KnownSequence(row["split"], row["sequence"], *(int(row[key]) for key in _NUMBERS))
            for row in csv.DictReader(file)
        ]
    return {row.name: row for row in rows}
