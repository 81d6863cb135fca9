"""Give damaged files to the readers and commands, and count what comes of it.

    python benchmarks/fuzz.py --seed 1 --out benchmarks/results/fuzz
    python benchmarks/fuzz.py --kind videos --count 20 --first 300     # some tries again

Each try damages one file (`fuzz_damage`), gives it to the commands and judges the outcome
(`fuzz_tries`). Tries run in a process of their own, with 4 GiB more memory than it begins with: a
try that takes 20 s of a processor, or 100 s in all, counts as a hang, a process that dies as a
crash, and another goes on after it. OUT.md gets the table of all, and the tries that went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).parents[1]
BUSY_SECONDS = 20.0
HANG_SECONDS = 100.0
"""Of the clock: a machine at other work gives a try little of its processor."""
START_SECONDS = 300.0
MEMORY = 4 << 30
COUNTS = {"images": 3000, "videos": 200, "data sets": 300, "recipes": 300, "models": 100}
WRONG = ("fault", "hang", "crash", "wrong")


@dataclass
class Report:
    """Counts of one kind, and each try that went wrong: its index, verdict and detail."""

    kind: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, index: int, verdict: str, detail: str) -> None:
        """Count one try."""
        self.counts[verdict] += 1
        if verdict in WRONG:
            self.wrong.append({"index": index, "verdict": verdict, "detail": detail})


def fuzz(kind: str, *, seed: int, count: int, first: int = 0) -> Report:
    """Run `count` tries of a kind; a process that hangs or dies is replaced by another."""
    report, begun, at, last = Report(kind, seed), time.monotonic(), first, first + count
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        while at < last:
            place = Path(root, str(at))
            place.mkdir()
            for line in _lines(kind, seed, at, last - at, place):
                if "begins" in line:
                    at = line["begins"]
                else:
                    report.add(at, line["verdict"], line["detail"])
                    at += 1
    report.seconds = time.monotonic() - begun
    return report


def _lines(kind: str, seed: int, first: int, count: int, root: Path) -> Iterator[dict[str, Any]]:
    """What one worker process says, and at its end why it ended before all tries were done."""
    command = [sys.executable, __file__, "--worker", "--kind", kind, "--seed", str(seed),
               "--first", str(first), "--count", str(count), "--root", str(root)]  # fmt: skip
    checkout = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        said: queue.Queue[bytes] = queue.Queue()
        errors: queue.Queue[bytes] = queue.Queue()
        for stream, into in ((process.stdout, said), (process.stderr, errors)):
            threading.Thread(target=_pump, args=(stream, into), daemon=True).start()
        in_try, left, clock = False, count, _Clock(process.pid, START_SECONDS)
        while left:
            try:
                line = said.get(timeout=1)
            except queue.Empty:
                if not clock.is_over():
                    continue
                process.kill()
                yield {"verdict": "hang", "detail": f"no end after {clock.shown()}"}
                return
            if not line:
                process.wait()
                shown = b" ".join(errors.queue)[-300:].decode(errors="replace")
                if not in_try:
                    raise RuntimeError(f"the worker of {kind} does not start: {shown}")
                yield {"verdict": "crash", "detail": f"exit {process.returncode}: {shown}"}
                return
            content = json.loads(line)
            in_try, clock = "begins" in content, _Clock(process.pid, HANG_SECONDS)
            left -= not in_try
            yield content


class _Clock:
    """What a process has used since now: seconds of the clock, and of a processor."""

    def __init__(self, pid: int, limit: float) -> None:
        self._process, self._limit = psutil.Process(pid), limit
        self._then, self._busy = time.monotonic(), self._processor()

    def _processor(self) -> float:
        return sum(self._process.cpu_times()[:2])

    def is_over(self) -> bool:
        """Whether it has used more than a try may."""
        busy = self._processor() - self._busy
        waited = time.monotonic() - self._then
        return waited > self._limit or (self._limit == HANG_SECONDS and busy > BUSY_SECONDS)

    def shown(self) -> str:
        """Both, in words."""
        busy = self._processor() - self._busy
        return f"{time.monotonic() - self._then:.0f} s, {busy:.0f} s of them busy"


def _pump(stream: IO[bytes] | None, into: queue.Queue[bytes]) -> None:
    for line in stream or ():
        into.put(line)
    into.put(b"")


def _work(options: argparse.Namespace) -> None:
    """Run tries in this process and print a line before and after each."""
    from fuzz_tries import run_tries

    # Commands print into memory; what a library prints must not mix with the lines.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reported = False
    for line in run_tries(
        options.kind, options.seed, options.first, options.count, Path(options.root)
    ):
        if not reported:  # all is imported by now
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
            reported = True
        print(json.dumps(line), file=lines, flush=True)


def markdown(reports: list[Report]) -> str:
    """The committed table."""
    lines = [
        "# Fuzz",
        "",
        f"{sum(sum(r.counts.values()) for r in reports):,} damaged files, seed"
        f" {reports[0].seed}. Made by `benchmarks/fuzz.py`, which says what is tried and judged.",
        "",
        "| kind | tries | used, and right | refused in words | hangs | crashes | faults |"
        " silently wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        c = report.counts
        cells = [report.kind, sum(c.values()), c["accepted"], c["refused"], c["hang"], c["crash"],
                 c["fault"], c["wrong"]]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [""] + [
        f"- {report.kind} {one['index']}: {one['verdict']}: {one['detail']}"
        for report in reports
        for one in report.wrong
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kind", choices=COUNTS, help="one kind alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="tries of each kind; else as many as committed")
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--out", type=Path, help="write OUT.md")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options)
        return
    kinds = [options.kind] if options.kind else list(COUNTS)
    reports = []
    for kind in kinds:
        count = options.count or COUNTS[kind]
        reports.append(fuzz(kind, seed=options.seed, count=count, first=options.first))
        print(markdown(reports[-1:]), flush=True)
    if options.out:
        options.out.with_suffix(".md").write_text(markdown(reports))


if __name__ == "__main__":
    main()
