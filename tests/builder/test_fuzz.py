"""A bounded fuzz with fixed seeds; `benchmarks/fuzz.py` runs more of the same tries."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fuzz

pytestmark = pytest.mark.slow
COUNTS = {"images": 200, "videos": 60, "data sets": 100, "recipes": 30}
SEED = 20


@pytest.mark.parametrize("kind", COUNTS)
def test_no_damaged_file_hangs_fails_or_passes_for_right(kind):
    if kind == "videos":
        pytest.importorskip("av")
    report = fuzz.fuzz(kind, seed=SEED, count=COUNTS[kind])
    assert report.wrong == []
    assert sum(report.counts.values()) == COUNTS[kind]
    # Damage that nothing notices, or that nothing survives, would show little.
    assert report.counts["refused"] > COUNTS[kind] // 4
    assert report.counts["accepted"] > 0
