"""How fast `trajbuild expand` is, beside the usual script and the floor of the codecs.

    python benchmarks/expand.py --out benchmarks/results/expand

One run times, in turn and several rounds, on sequences of 1280 x 720 frames made from photographs:

- `usual, cv2`: every window re-read with OpenCV, float mean, OpenCV's default PNG writer;
- `usual, Pillow`: the same with Pillow's writer at its default settings;
- `floor`: one decode of each needed frame and one encode a new pair with the fastest codecs, files
  written without a flush: nothing that makes these blurs with these codecs can be faster;
- `ours`: `trajbuild expand` as users call it: start, plan, pixel check, copies of the official
  files, averages, hashes, flushes, markers, manifest;
- `ours, deep verify`: `trajbuild verify --level deep` of such a build: all files hashed and
  decoded, all new blurs averaged again from their frames.

Each is a fresh process and each is timed whole. `floor` and `usual` make only the new blurs; ours
also takes over the official files. Then ours alone: the smallest build, whose time a build of any
length pays once; 1, 2, 4 and 8 times the frames; and what flushing to the disk (fsync) and the
columns motion_px and step_px cost.

    python benchmarks/expand.py --pairs 48 --floor-only --out benchmarks/results/expand_long

is the same on sequences of 528 frames (GoPro's 22 training sequences need 798 on average): ours,
the floor, deep verify and the smallest build. The usual script, the longest by far, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import small_gopro
from expand_costs import flush_cost, motion_cost

SIZE = (1280, 720)
BUILT = "built"  # the build that deep verify looks at
ROWS = ("usual, cv2", "usual, Pillow", "floor", "ours", "ours, deep verify")


def windows(source: Path) -> Iterator[list[list[str]]]:
    """For each trajectory the frame files of its new windows, shortest first."""
    from trajectory_builder.plan import gopro, recipe

    table = gopro.plan_gopro(source, recipe.load_recipe("fidediff-7877")).table
    root = source.with_name("GOPRO_Large_all")
    found: dict[str, list[list[str]]] = {}
    for row in table.to_pylist():
        if not row["blur_source"]:
            names = [str(root / name) for name in row["frame_names"]]
            found.setdefault(row["trajectory_id"], []).append(names)
    yield from found.values()


def usual(trajectory: list[list[str]], out: Path, writer: str) -> None:
    """What public scripts do: read each window's frames again, mean in float, write."""
    import cv2
    import numpy as np
    from PIL import Image

    cv2.setNumThreads(1)
    for names in trajectory:
        mean = np.mean([cv2.imread(name).astype(np.float32) for name in names], axis=0)  # type: ignore[union-attr]
        pixels = np.rint(mean).astype(np.uint8)
        path = out / f"{Path(names[0]).parent.name}-{Path(names[0]).stem}-{len(names)}.png"
        if writer == "cv2":
            cv2.imwrite(str(path), pixels)
        else:
            Image.fromarray(pixels[:, :, ::-1]).save(path)


def floor(trajectory: list[list[str]], out: Path, writer: str) -> None:
    """One decode a needed frame, one encode a pair, one write; no mean, no check, no flush."""
    from kornia_rs.io import decode_image_png_u8

    from trajectory_builder.build import workers
    from trajectory_builder.images import png

    workers.set_up()  # ours keeps freed memory too
    decoded = []
    for name in trajectory[-1]:
        payload = Path(name).read_bytes()
        decoded.append(decode_image_png_u8(payload, (SIZE[1], SIZE[0]), "rgb"))
    for index, names in enumerate(trajectory):
        payload = png.encode_png(decoded[index])
        path = out / f"{Path(names[0]).parent.name}-{Path(names[0]).stem}-{len(names)}.png"
        path.write_bytes(payload)


def work(job: tuple[str, list[list[str]], str]) -> None:
    """One trajectory of a rival, in a pool's worker."""
    row, trajectory, out = job
    function: Callable[[list[list[str]], Path, str], None] = floor if row == "floor" else usual
    function(trajectory, Path(out), "cv2" if row.endswith("cv2") else "pillow")


def rival(row: str, source: Path, out: Path, jobs: int) -> None:
    """Run a rival to its end in this process, on a pool if `jobs` > 1."""
    from multiprocessing import Pool

    out.mkdir(parents=True)
    tasks = [(row, trajectory, str(out)) for trajectory in windows(source)]
    if jobs == 1:
        for task in tasks:
            work(task)
        return
    with Pool(jobs) as pool:
        pool.map(work, tasks, chunksize=1)


def timed(row: str, source: Path, scratch: Path, jobs: int) -> tuple[float, float]:
    """Seconds of one fresh run, and the largest resident memory of one of its processes, MiB."""
    out = scratch / "out"
    command = [sys.executable, __file__, "--rival", row, "--source", str(source), "--scratch",
               str(out), "--jobs", str(jobs)]  # fmt: skip
    if row.startswith("ours"):
        words = ["expand", "--src", str(source), "--out", str(out), "--no-progress"]
        if row == "ours, deep verify":
            words = ["verify", str(scratch / BUILT), "--level", "deep"]
        command = [sys.executable, "-m", "trajectory_builder", *words, "--jobs", str(jobs)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    memory = Memory(process.pid, workers_only=row.startswith("ours") and jobs > 1)
    _, errors = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors.decode()}")
    if out.exists():  # a look at a build makes none
        shutil.rmtree(out)
    return seconds, memory.peak


class Memory(threading.Thread):
    """The largest resident memory that one process of a family has had, in MiB."""

    def __init__(self, pid: int, *, workers_only: bool) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._workers_only = workers_only
        self.peak = 0.0
        self.start()

    def run(self) -> None:
        """Watch until the process is gone."""
        while self._root.is_running() and self._root.status() != "zombie":
            try:
                family = self._root.children(recursive=True)
                if not self._workers_only:
                    family.append(self._root)
                for one in family:
                    self.peak = max(self.peak, one.memory_info().rss / 2**20)
            except psutil.Error:
                pass
            time.sleep(0.03)


def compare(
    source: Path, scratch: Path, rounds: int, cores: int, rows: Sequence[str]
) -> list[dict[str, Any]]:
    """Medians of `rows` at one process and at all cores, taken in turn."""
    settings = [
        (row, jobs) for row in rows for jobs in dict.fromkeys((1, cores))
        if jobs == cores or row != "usual, Pillow"  # the slowest: its ratio is at all cores
    ]  # fmt: skip
    seconds: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    memory = dict.fromkeys(settings, 0.0)
    for index in range(rounds):
        for setting in settings:
            row, jobs = setting
            took, peak = timed(row, source, scratch, jobs)
            seconds[setting].append(took)
            memory[setting] = max(memory[setting], peak)
        print(f"round {index + 1} of {rounds} done", file=sys.stderr)
    return [
        {
            "what": row,
            "processes": jobs,
            "seconds": round(statistics.median(seconds[row, jobs]), 2),
            "lowest": round(min(seconds[row, jobs]), 2),
            "highest": round(max(seconds[row, jobs]), 2),
            "peak MiB a process": round(memory[row, jobs]),
        }
        for row, jobs in settings
    ]


def scaling(scratch: Path, base: int) -> list[dict[str, Any]]:
    """Ours at one process on 1, 2, 4 and 8 times the frames of one clip."""
    found = []
    for times in (1, 2, 4, 8):
        root = scratch / f"times-{times}"
        root.mkdir()
        source, _ = small_gopro.make(root, {"train/GOPR0001_11_00": base * times}, size=SIZE)
        took, peak = timed("ours", source, scratch, 1)
        found.append({"frames": base * times * 11, "seconds": round(took, 2),
                      "peak MiB": round(peak)})  # fmt: skip
        shutil.rmtree(root)
    return found


def smallest(scratch: Path, rounds: int, cores: int) -> dict[str, float]:
    """Medians of ours on two sequences of one pair, in turn at one process and at all cores."""
    root = scratch / "smallest"
    root.mkdir()
    names = {"train/GOPR0001_11_00": 1, "train/GOPR0002_11_00": 1}
    source, _ = small_gopro.make(root, names, size=SIZE)
    taken: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(rounds):
        for jobs, seconds in taken.items():
            seconds.append(timed("ours", source, scratch, jobs)[0])
    shutil.rmtree(root)
    return {str(jobs): round(statistics.median(seconds), 2) for jobs, seconds in taken.items()}


def ratios(rows: list[dict[str, Any]], smallest: dict[str, float]) -> dict[str, float]:
    """The figures that the aims are about, and how the machine itself gains from more processes."""
    at = {(row["what"], row["processes"]): row["seconds"] for row in rows}
    cores = max(jobs for _, jobs in at)
    ours = at["ours", cores]
    found = {
        "times the floor, one process": at["ours", 1] / at["floor", 1],
        "times the floor, all cores": ours / at["floor", cores],
        "deep verify, times the floor, one process": at["ours, deep verify", 1] / at["floor", 1],
        "deep verify, times the floor, all cores": (
            at["ours, deep verify", cores] / at["floor", cores]
        ),
        f"{cores} processes against one": at["ours", 1] / ours,
        "the same without the smallest build's time": (
            (at["ours", 1] - smallest["1"]) / (ours - smallest[str(cores)])
        ),
        f"{cores} processes against one, floor": at["floor", 1] / at["floor", cores],
    }
    if ("usual, cv2", 1) not in at:
        return found
    alone, script = at["usual, cv2", 1], at["usual, cv2", cores]
    return {
        "faster than the usual script (cv2), same processes": script / ours,
        "faster than the usual script (Pillow), same processes": at["usual, Pillow", cores] / ours,
        "faster than the usual script (cv2), one process each": alone / at["ours", 1],
        "faster on all cores than the usual script (cv2) on one": alone / ours,
        f"{cores} processes against one, usual script (cv2)": alone / script,
        **found,
    }


def machine() -> str:
    """Processor, cores, memory and system, for the table's head."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = psutil.virtual_memory().total / 2**30
    return (f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()},"
            f" Python {platform.python_version()}")  # fmt: skip


def table(rows: list[dict[str, Any]]) -> list[str]:
    heads = list(rows[0])
    lines = [" | ".join(heads), *(" | ".join(str(row[head]) for head in heads) for row in rows)]
    text = [f"| {line} |" for line in lines]
    return [text[0], "|" + "---|" * len(heads), *text[1:], ""]


def markdown(report: dict[str, Any]) -> str:
    """The committed table."""
    return "\n".join([
        "# Expanding 1280 x 720 sequences", "",
        f"{report['machine']}; load before the start {report['load']}. {report['sequences']}"
        f" sequences, {report['frames']} frames of {report['frame_mb']:.2f} MB, {report['pairs']}"
        f" new pairs; medians of {report['rounds']} rounds taken in turn. Made by"
        " `benchmarks/expand.py`, which says what each row does.", "",
        *table(report["rows"]),
        *(f"- {name}: {value:.2f}" for name, value in report["ratios"].items()), "",
        "The smallest build (two sequences of one pair), which any build pays once: "
        + ", ".join(f"{s} s at {jobs}" for jobs, s in report["smallest"].items())
        + " processes.", "",
        *(_of_ours_alone(report) if "scaling" in report else []),
    ])  # fmt: skip


def _of_ours_alone(report: dict[str, Any]) -> list[str]:
    return [
        "Cost against the number of frames, one process:", "", *table(report["scaling"]),
        f"Flushing to the disk, one process: {report['flush']['flushed, s']} s with,"
        f" {report['flush']['not flushed, s']} s without,"
        f" {100 * report['flush']['cost']:+.1f} %.", "",
        *([f"Measuring motion, one process: {report['motion']['measured, s']} s with,"
           f" {report['motion']['not measured, s']} s without,"
           f" {100 * report['motion']['cost']:+.1f} %.", ""] if "motion" in report else []),
    ]  # fmt: skip


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="expand-", dir=given.scratch) as folder:
        scratch = Path(folder)
        names = {f"train/GOPR{i:04d}_11_{i % 3:02d}": given.pairs for i in range(given.sequences)}
        source, frames = small_gopro.make(scratch, names, size=SIZE)
        files = list(frames.rglob("*.png"))
        trajectories = list(windows(source))
        chosen = [row for row in ROWS if not (given.floor_only and row.startswith("usual"))]
        words = ["expand", "--src", str(source), "--out", str(scratch / BUILT)]
        subprocess.run([sys.executable, "-m", "trajectory_builder", *words], check=True)
        rows = compare(source, scratch, given.rounds, given.cores, chosen)
        least = smallest(scratch, given.rounds, given.cores)
        report = {
            "machine": machine(),
            "load": round(load, 2),
            "sequences": given.sequences,
            "frames": len(files),
            "frame_mb": sum(path.stat().st_size for path in files) / len(files) / 1e6,
            "pairs": sum(len(one) for one in trajectories),
            "rounds": given.rounds,
            "rows": rows,
            "smallest": least,
            "ratios": ratios(rows, least),
        }
        if not given.floor_only:
            report["scaling"] = scaling(scratch, max(1, given.pairs // 2))
            report["flush"] = flush_cost(source, scratch, min(3, given.rounds))
            report["motion"] = motion_cost(source, scratch, given.rounds)
        return report


def main() -> None:
    """Measure, or be one of the rivals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=16, help="official pairs a sequence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--floor-only", action="store_true",
                        help="leave out the usual script, growth and flushing")  # fmt: skip
    parser.add_argument("--scratch", help="a folder on the disk to measure")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    parser.add_argument("--rival", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rival:
        rival(given.rival, given.source, Path(given.scratch), given.jobs)
        return
    report = measure(given)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.with_suffix(".md").write_text(markdown(report))
        given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
