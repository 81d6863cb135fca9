"""Manifest tools on a million rows, beside pyarrow alone doing the same filter or the same groups.

    python benchmarks/manifest_tools.py [--rows 1000000] [--repeats 5]

The manifest is generated (no images): four pairs per trajectory, a thousand trajectories per
clip. Each task runs in turn with its peers, `repeats` times, and the best of each counts.

- `pyarrow`: for `select`, `pyarrow.dataset` with the same filter, page checksums on, and the same
  Parquet writer; for `stats`, `Table.group_by` for pairs, distinct trajectories, bytes and motion.
  It checks no digest, path or id, and makes no new backward points.
- `with digest`: the same after one read of the file for its SHA-256. The tools hold a manifest
  against the digest in build.json before they believe a row of it, since Parquet's footer has no
  checksum of its own; a selection of few rows costs little else.

The other tools have no peer: seconds are given. Whole commands are measured at a quarter of the
rows and at all of them, for what memory does. Writes `results/manifest_tools.md` beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from expand import machine

from trajectory_builder import manifest
from trajectory_builder.build import record
from trajectory_builder.curate import diff, select, split, stats

RESULTS = Path(__file__).parent / "results"
NS = (5, 7, 9, 11)
TRAJECTORIES_PER_CLIP = 1000
SUMS = [
    ([], "count_all"), ("trajectory_id", "count_distinct"), ("blur_bytes", "sum"),
    ("sharp_bytes", "sum"), ("motion_px", "mean"),
]  # fmt: skip
CONDITIONS: dict[str, tuple[str, pc.Expression]] = {
    "few rows": ("motion_px >= 20", pc.field("motion_px") >= 20),
    "one n in four": ("n_frames >= 11", pc.field("n_frames") >= 11),
    "one clip": ('clip_id == "GOPR0003_11_00"', pc.field("clip_id") == "GOPR0003_11_00"),
    "all rows": ("n_frames >= 5", pc.field("n_frames") >= 5),
}


def make(folder: Path, rows: int) -> Path:
    """Write a data set's folder with one manifest of about `rows` rows and no images."""
    random = np.random.default_rng(0)
    count = -(-rows // len(NS))
    owner, n = np.repeat(np.arange(count), len(NS)), np.tile(NS, count)
    of = pa.array(owner)
    clips = [f"GOPR{i // TRAJECTORIES_PER_CLIP:04d}_11_00" for i in range(count)]
    ids = [f"{clip}/{i % TRAJECTORIES_PER_CLIP:06d}" for i, clip in enumerate(clips)]
    center = (owner % TRAJECTORIES_PER_CLIP * 11 + 5).astype(np.int32)
    total = len(n)
    backward = {m: [1, *(k for k in NS if k < m)] for m in NS}
    columns = {
        "sample_id": [f"{ids[i]}/n{m:02d}" for i, m in zip(owner, n, strict=True)],
        "trajectory_id": pa.array(ids).take(of),
        "split": ["train"] * total,
        "clip_id": pa.array(clips).take(of),
        "n_frames": n,
        "timestep": (n - 1) * 20,
        "native_n_frames": np.full(total, 11),
        "backward_n_frames": [backward[m] for m in n.tolist()],
        "blur_file_name": [f"blur/{ids[i]}_n{m:02d}.png" for i, m in zip(owner, n, strict=True)],
        "sharp_file_name": pa.array([f"sharp/{one}.png" for one in ids]).take(of),
        "origin": ["averaged"] * total,
        "average_domain": ["srgb"] * total,
        "first_index": center - n // 2,
        "center_index": center,
        "center_frame": [f"{i:06d}.png" for i in center],
        "width": np.full(total, 1280),
        "height": np.full(total, 720),
        "fps": np.full(total, 240.0),
        "exposure_ms": n / 0.24,
        "motion_px": random.gamma(2, 4, total),
        "step_px": random.gamma(2, 0.4, total),
        "blur_sha256": [random.bytes(32).hex() for _ in range(total)],
        "sharp_sha256": pa.array([random.bytes(32).hex() for _ in range(count)]).take(of),
        "blur_pixel_sha256": [random.bytes(32).hex() for _ in range(total)],
        "blur_bytes": random.integers(800_000, 1_400_000, total),
        "sharp_bytes": random.integers(800_000, 1_400_000, count)[owner],
    }
    table = pa.table(
        {
            f.name: columns[f.name].cast(f.type)
            if isinstance(columns[f.name], pa.Array)
            else pa.array(columns[f.name]).cast(f.type)
            for f in manifest.SCHEMA
        }
    )
    path = folder / "train" / manifest.FILE_NAME
    path.parent.mkdir(parents=True)
    digest = manifest.write(table, path, {"recipe": "generated"})
    entry = {f"train/{manifest.FILE_NAME}": {"sha256": digest, "rows": total}}
    record.write_build(folder, {"format_version": 2, "manifests": entry, "files": {}})
    return path


def best(tasks: list[Callable[[], object]], repeats: int) -> list[float]:
    """The least seconds of each task, run in turn so that a noisy minute hits all."""
    seconds = [float("inf")] * len(tasks)
    for _ in range(repeats):
        for index, task in enumerate(tasks):
            start = time.perf_counter()
            task()
            seconds[index] = min(seconds[index], time.perf_counter() - start)
    return seconds


def checked(path: Path) -> ds.Dataset:
    """The manifest as pyarrow alone reads it, page checksums on."""
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    layout = ds.ParquetFileFormat(default_fragment_scan_options=options)
    return ds.dataset(path, format=layout)


def digest(path: Path) -> str:
    """SHA-256 of the file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare_select(path: Path, home: Path, repeats: int) -> list[str]:
    """Table lines: each condition by pyarrow alone and by `select`, manifests written by both."""
    lines = []
    for name, (text, expression) in CONDITIONS.items():

        def peer(expression: pc.Expression = expression) -> None:
            manifest.write(checked(path).to_table(filter=expression), home / "peer.parquet", {})

        def peer_with_digest(expression: pc.Expression = expression) -> None:
            digest(path)
            peer(expression)

        def ours(text: str = text) -> None:
            shutil.rmtree(home / "selected", ignore_errors=True)
            manifest._sha256.cache_clear()  # a fresh process would hash the file
            select.select([path], home / "selected", select.Criteria(where=text), files="none")

        lines.append(
            line(f"select, {name}: `{text}`", best([ours, peer, peer_with_digest], repeats))
        )
    return lines


def compare_stats(path: Path, repeats: int) -> list[str]:
    """Table lines: counts by split and n, and by clip and n."""
    lines = []
    for by in (["split", "n_frames"], ["clip_id", "n_frames"]):
        columns = [*by, "trajectory_id", "blur_bytes", "sharp_bytes", "motion_px"]

        def peer(by: list[str] = by, columns: list[str] = columns) -> None:
            checked(path).to_table(columns=columns).group_by(by).aggregate(SUMS)

        def peer_with_digest(by: list[str] = by, columns: list[str] = columns) -> None:
            digest(path)
            peer(by, columns)

        def ours(by: list[str] = by) -> None:
            manifest._sha256.cache_clear()
            stats.stats([path], by)

        lines.append(
            line(f"stats --by {','.join(by)}", best([ours, peer, peer_with_digest], repeats))
        )
    return lines


def line(name: str, seconds: list[float]) -> str:
    """One row of the table of results: ours, pyarrow, pyarrow with the digest."""
    tool, alone, with_digest = seconds
    return (
        f"| {name} | {tool:.2f} | {alone:.2f} | {tool / alone:.2f} | {with_digest:.2f} |"
        f" {tool / with_digest:.2f} |"
    )


def time_others(path: Path, home: Path) -> list[str]:
    """Table lines of the tools without a peer."""
    shares = {"train": 0.9, "validation": 0.1}
    tasks: dict[str, Callable[[], object]] = {
        "select --max-per-trajectory 2, ids only": lambda: select.choose(
            [path], select.Criteria(max_per_trajectory=2)
        ),
        "select --balance n_frames --sample 10000, ids only": lambda: select.choose(
            [path], select.Criteria(balance="n_frames", sample=10_000)
        ),
        "split --by trajectory, manifests written": lambda: split.split(
            [path], home / "split", shares, by="trajectory", files="none"
        ),
        "diff of equal manifests": lambda: diff.diff(path, path),
        "diff with a quarter of the rows": lambda: diff.diff(path, home / "peer.parquet"),
    }
    return [f"| {name} | {best([task], 1)[0]:.2f} | | | | |" for name, task in tasks.items()]


def command_memory(paths: dict[int, Path], home: Path) -> list[str]:
    """Table lines of whole commands, start-up included: seconds and peak memory by rows."""
    selection = ("--files", "none", "--json", "--out")
    commands = {
        "select --where 'n_frames >= 5'": ["select", "--where", "n_frames >= 5", *selection],
        "select --where 'n_frames >= 11'": ["select", "--where", "n_frames >= 11", *selection],
        "select --max-per-trajectory 2": ["select", "--max-per-trajectory", "2", *selection],
        "stats --by clip_id,n_frames": ["stats", "--by", "clip_id,n_frames", "--json"],
    }
    lines = []
    for name, (tool, *options) in commands.items():
        cells = []
        for path in paths.values():
            shutil.rmtree(home / "by_command", ignore_errors=True)
            out = [home / "by_command"] if options[-1] == "--out" else []
            seconds, peak = child("-m", "trajectory_builder", tool, str(path), *options, *out)
            cells.append(f"{seconds:.2f} s, {peak:.0f} MiB")
        lines.append(f"| `trajbuild {name}` | {' | '.join(cells)} |")
    alone = []
    for path in paths.values():
        seconds, peak = child("-c", PEER, str(path), home / "peer.parquet")
        alone.append(f"{seconds:.2f} s, {peak:.0f} MiB")
    return [*lines, f"| pyarrow alone, `n_frames >= 5` | {' | '.join(alone)} |"]


PEER = """
import sys, pyarrow.compute as pc, pyarrow.dataset as ds, pyarrow.parquet as pq
pq.write_table(ds.dataset(sys.argv[1]).to_table(filter=pc.field("n_frames") >= 5), sys.argv[2])
"""


def child(*arguments: str | Path) -> tuple[float, float]:
    """Seconds and peak memory in MiB of a Python process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    peak = 0.0
    # The kernel's own count for a parent that waits holds what the parent had when it forked.
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(kib) / 1024 for kib in re.findall(r"VmHWM:\s+(\d+)", status))])
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return time.perf_counter() - start, peak


def main() -> None:
    """Generate, measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        path = make(home / "set", options.rows)
        megabytes = path.stat().st_size / 1e6
        rows = [*compare_select(path, home, options.repeats)]
        rows += compare_stats(path, options.repeats)
        manifest.write(
            ds.dataset(path).to_table(filter=pc.field("n_frames") >= 11), home / "peer.parquet", {}
        )
        rows += time_others(path, home)
        quarter = make(home / "quarter", options.rows // 4)
        commands = command_memory({options.rows // 4: quarter, options.rows: path}, home)
    text = "\n".join(
        [
            "# Manifest tools",
            "",
            f"{options.rows:,} rows, {megabytes:.0f} MB of Parquet; best of {options.repeats};"
            f" {machine()}, pyarrow {pa.__version__}; load before the start {load:.2f}.",
            "",
            "| task | s | pyarrow, s | ratio | with digest, s | ratio |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "`with digest` is pyarrow after one read of the file for its SHA-256, as the tools do"
            " before they believe a row; see `benchmarks/manifest_tools.py`.",
            "",
            f"| whole command | {options.rows // 4:,} rows | {options.rows:,} rows |",
            "|---|---|---|",
            *commands,
            "",
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "manifest_tools.md").write_text(text)


if __name__ == "__main__":
    main()
