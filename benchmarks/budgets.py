"""What a user waits for around a build: help, plan, a run with nothing to do, a large manifest.

    python benchmarks/budgets.py --out benchmarks/results/budgets

Each figure stands beside the least that it could cost, measured in the same run, in turn: an empty
Python, listing the folders, `stat` of the same files, pyarrow alone on the same columns. The tree
has the 33 published sequences with their numbers of frames; images are 16 x 16 pixels, since none
of these jobs reads a pixel.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from expand import machine, table

from trajectory_builder import manifest
from trajectory_builder.build import run
from trajectory_builder.curate import select, stats
from trajectory_builder.images import png
from trajectory_builder.plan import gopro as plan
from trajectory_builder.plan import recipe
from trajectory_builder.sources import gopro_published

ROWS = 1_000_000
SHARP_BYTES = png.encode_png(np.zeros((16, 16, 3), np.uint8))


def published_tree(root: Path) -> Path:
    """Both trees of GoPro with all names that were published, each file a 16 x 16 image."""
    with gopro_published.TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            n, pairs = int(row["frames_per_blur"]), int(row["pairs"])
            where = f"{row['split']}/{row['sequence']}"
            first = int(row["first_pair_number"])
            for kind in ("sharp", "blur"):
                _fill(root / "GOPRO_Large" / where / kind, first, pairs)
            _fill(root / "GOPRO_Large_all" / where, int(row["first_frame_number"]), n * pairs)
    return root / "GOPRO_Large"


def _fill(folder: Path, first: int, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        (folder / f"{number:06d}.png").write_bytes(SHARP_BYTES)


def seconds(job: Callable[[], Any]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def command(*arguments: str) -> Callable[[], Any]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def list_all(root: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(root))


def stat_all(out: Path, names: list[str]) -> int:
    return sum(os.stat(f"{out}/{name}").st_size for name in names)


def million(path: Path, source: Path) -> None:
    """A manifest of a million rows: the GoPro plan again and again under other clip names."""
    rows = plan.plan_gopro(source, recipe.load_recipe("fidediff-7877")).table
    keep = [name for name in rows.column_names if name in manifest.SCHEMA.names]
    rows = rows.select(keep)
    copies = -(-ROWS // rows.num_rows)
    parts = []
    for index in range(copies):
        part = rows
        for name in ("sample_id", "trajectory_id", "clip_id"):
            at = part.column_names.index(name)
            renamed = pc.binary_join_element_wise(f"C{index:03d}", part[name], "_")
            part = part.set_column(at, name, renamed)
        parts.append(part)
    whole = pa.concat_tables(parts).slice(0, ROWS).combine_chunks()
    rng = np.random.default_rng(3)
    columns: dict[str, Any] = {name: whole[name] for name in whole.column_names}
    digests = pa.array([rng.bytes(32).hex() for _ in range(10_000)])
    picks = pa.array(rng.integers(0, 10_000, ROWS))
    for name in ("blur_sha256", "sharp_sha256", "blur_pixel_sha256"):
        columns[name] = digests.take(picks)
    for name in ("blur_bytes", "sharp_bytes"):
        columns[name] = pa.array(rng.integers(900_000, 2_000_000, ROWS))
    columns["width"], columns["height"] = (pa.array(np.full(ROWS, v)) for v in (1280, 720))
    columns["motion_px"] = pa.array(rng.random(ROWS) * 40)
    path.parent.mkdir(parents=True)
    manifest.write(manifest.conform(pa.table(columns)), path, {"recipe": "budget"})


def arrow_select(path: Path) -> list[str]:
    """The ids that pyarrow alone selects."""
    found = _dataset(path).to_table(columns=["sample_id"], filter=pc.field("n_frames") >= 9)
    names: list[str] = found["sample_id"].to_pylist()
    return names


def arrow_stats(path: Path) -> pa.Table:
    """Groups and sums by pyarrow alone."""
    columns = ["split", "n_frames", "trajectory_id", "blur_bytes", "sharp_bytes", "motion_px"]
    rows = _dataset(path).to_table(columns=columns)
    return rows.group_by(["split", "n_frames"]).aggregate([
        ("trajectory_id", "count_distinct"), ("blur_bytes", "sum"), ("sharp_bytes", "sum"),
        ("motion_px", "mean"),
    ])  # fmt: skip


def _dataset(path: Path) -> ds.Dataset:
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.dataset(path, format=ds.ParquetFileFormat(default_fragment_scan_options=checked))


def in_turn(rounds: int, jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Medians of the jobs, taken in turn so that a busy moment hits all."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            taken[name].append(seconds(job))
    return {name: statistics.median(values) for name, values in taken.items()}


def measure(root: Path, rounds: int) -> list[dict[str, Any]]:
    """All rows of the table."""
    source = published_tree(root)
    out = root / "out"
    chosen = plan.plan_gopro(source, recipe.load_recipe("fidediff-7877"))
    jobs = len(os.sched_getaffinity(0))
    run.build_plan(chosen, out, run.BuildOptions(jobs=jobs))
    names = sorted(
        {f"{row['split']}/{row[f'{kind}_file_name']}" for row in manifest.read(out).rows()
         for kind in ("blur", "sharp")}
    )  # fmt: skip
    large = root / "large" / "train" / manifest.FILE_NAME
    million(large, source)
    expand = ("-m", "trajectory_builder", "expand", "--src", str(source), "--out", str(out))
    command(*expand, "--no-progress")()  # the pixel check is stored by this one
    took = in_turn(rounds, {
        "python": command("-c", "pass"),
        "help": command("-m", "trajectory_builder", "--help"),
        "list": lambda: list_all(root / "GOPRO_Large") + list_all(root / "GOPRO_Large_all"),
        "plan": command("-m", "trajectory_builder", "plan", "--src", str(source)),
        "plan call": lambda: plan.plan_gopro(source, recipe.load_recipe("fidediff-7877")),
        "stat": lambda: stat_all(out, names),
        "no-op call": lambda: run.build_plan(chosen, out, run.BuildOptions(progress=False)),
        "no-op": command(*expand, "--no-progress"),
        "arrow select": lambda: arrow_select(large),
        "select": lambda: select.choose([large], select.Criteria("n_frames >= 9")).sample_ids(),
        "arrow stats": lambda: arrow_stats(large),
        "stats": lambda: stats.stats([large]),
    })  # fmt: skip
    return list(rows_of(took, len(names)))


def rows_of(took: dict[str, float], files: int) -> list[dict[str, Any]]:
    """Rows of the table from the medians."""

    def row(what: str, name: str, beside: str, least: str, aim: str) -> dict[str, Any]:
        ratio = took[name] / took[least]
        return {"what": what, "s": round(took[name], 3), "beside": beside,
                "its s": round(took[least], 3), "difference": round(took[name] - took[least], 3),
                "ratio": round(ratio, 2), "aim": aim}  # fmt: skip

    python, listing = "`python -c pass`", "listing the folders"
    stat = f"`stat` of its {files:,} files"
    return [
        row("`trajbuild --help`", "help", python, "python", "difference of 0.25 s"),
        row("`trajbuild plan`, all of GoPro", "plan", listing, "list", "2 s"),
        row("`plan_gopro`, the call", "plan call", listing, "list", ""),
        row("a build with nothing to do, the call", "no-op call", stat, "stat", "ratio of 3"),
        row("`trajbuild expand` with nothing to do, the whole command", "no-op", stat, "stat", ""),
        row(f"select in {ROWS:,} rows", "select", "pyarrow", "arrow select", "ratio of 1.5"),
        row(f"stats of {ROWS:,} rows", "stats", "pyarrow", "arrow stats", "ratio of 1.5"),
    ]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="budgets-") as folder:
        rows = measure(Path(folder), given.rounds)
    report = {"machine": machine(), "load": round(load, 2), "rounds": given.rounds, "rows": rows}
    if given.out:
        text = [
            "# Budgets", "",
            f"{report['machine']}; load before the start {report['load']}; medians of"
            f" {given.rounds} rounds taken in turn. Made by `benchmarks/budgets.py`.", "",
            *table(rows),
        ]  # fmt: skip
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.with_suffix(".md").write_text("\n".join(text))
        given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
