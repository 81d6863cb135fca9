"""Kill real builds at many moments, run them again, and hold the result against a quiet build.

    python benchmarks/kill_fuzz.py --kills 500 --signals 50 --out benchmarks/results/kill_fuzz

A long run may be cut into slices: `--add` joins what this run finds to what OUT.json holds, and
another `--seed` gives other moments.

Each trial starts `trajbuild expand` in a fresh folder and disturbs it once:

- `group`, `parent`, `worker`: SIGKILL to the whole process group, to the builder alone, to one of
  its workers, when the folder holds a random number of files, and some milliseconds later;
- `fault`: a process kills itself at a named step of a write (see `atomic.fault_point`);
- `term-*`, `int-*`: SIGTERM or SIGINT to the group or to the builder alone.

Then no process of it may be alive after five seconds (and after a signal nothing of it be left in
shared memory), and the same command must end with 0, leave no temporary file, pass
`verify --level deep`, and give the bytes of the quiet build. Of build.json the time `finished`, and
the digest over it, are left out of the comparison; nothing else is. The second run is the command's
own `main` in a process that is forked from one with the imports done, which saves half of a trial.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import small_gopro
from kill_fuzz_table import KILLS, SIGNALS, joined, markdown, summary

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["trajectory_builder.build.run", "trajectory_builder.build.alignment"])

SEQUENCES = {
    "train/GOPR0001_07_00": 17, "train/GOPR0002_11_01": 18, "train/GOPR0003_13_02": 9,
    "test/GOPR0004_11_01": 9,
}  # fmt: skip
FAULT_POINTS = {
    "shard": 3, "temp-written": 40, "before-rename": 40, "after-rename": 40, "before-marker": 3,
    "before-manifest": 2,
}  # fmt: skip
INSIDE = [
    f"{step}={name}" for step in ("temp-written", "before-rename", "after-rename")
    for name in ("metadata.parquet", "build.json", "config.json", "alignment.json")
]  # fmt: skip
"""Steps inside the writing of a manifest and of the records that a build is known by."""
TOKEN = "TRAJBUILD_FUZZ_TRIAL"
GRACE_SECONDS = 5.0
HANG_SECONDS = 120.0  # a quiet build takes three
POLL_SECONDS = 0.004
JITTER_SECONDS = 0.02


@dataclass
class Trial:
    """What one disturbed build did, and what was wrong with it (nothing, one hopes)."""

    kind: str
    detail: str
    backend: str
    met: bool = False  # the build was still running when it was disturbed
    first_exit: int = 0
    seconds_to_end: float = 0.0  # from the blow until its last process was gone
    temporaries_met: int = 0  # left by the disturbed run
    wrong: str = ""


class Fuzz:
    """A source, a quiet build of it, and trials against that."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.source, _ = small_gopro.make(root, SEQUENCES)
        subprocess.run(self.command(root / "quiet", 2), check=True, capture_output=True)
        self.quiet = tree(root / "quiet")

    def command(self, out: Path, jobs: int, backend: str = "loky") -> list[str]:
        return [
            sys.executable, "-m", "trajectory_builder", "expand", "--src", str(self.source),
            "--out", str(out), "--jobs", str(jobs), "--backend", backend, "--no-progress",
        ]  # fmt: skip

    def _expand(self, out: Path) -> tuple[int | None, str]:
        """The same command again, alone in a process; its exit code and what it said."""
        said = out.with_name("said")
        arguments = self.command(out, 1)[3:]
        process = FORKS.Process(target=run_command, args=(arguments, said))
        process.start()
        process.join(300)
        return process.exitcode, said.read_text()

    def trials(self, kinds: tuple[str, ...], count: int) -> list[Trial]:
        """Trial descriptions: kinds in turn, moments and steps at random."""
        made = []
        for index in range(count):
            kind = kinds[index % len(kinds)]
            backend = "threading" if index % 5 == 4 and kind != "worker" else "loky"
            if kind == "fault":
                name = self.random.choice([*sorted(FAULT_POINTS), "inside"])
                counted = f"{name}:{self.random.randint(1, FAULT_POINTS.get(name, 1))}"
                detail = self.random.choice(INSIDE) if name == "inside" else counted
            else:
                # A count of files, not a time: on a busy machine a time would miss the build.
                first = 20 if kind == "worker" else 0  # workers are there when files are
                detail = str(self.random.randint(first, len(self.quiet)))
            made.append(Trial(kind, detail, backend))
        return made

    def run(self, trial: Trial) -> Trial:
        """Disturb one build, run it again, and note whatever is not as promised."""
        out = Path(tempfile.mkdtemp(dir=self.root)) / "out"
        token = secrets.token_hex(8)
        environment = os.environ | {TOKEN: token}
        if trial.kind == "fault":
            environment["TRAJBUILD_TEST_FAULT"] = trial.detail
        process = subprocess.Popen(
            self.command(out, 2, trial.backend), env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        struck = self._strike(trial, process, out)
        trial.wrong = self._ended(trial, process, token, struck) or self._again(trial, out)
        for name in shared_memory(process.pid):  # a killed group cannot tidy up after itself
            path = Path("/dev/shm", name)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(out.parent)
        return trial

    def _strike(self, trial: Trial, process: subprocess.Popen[str], out: Path) -> float:
        if trial.kind == "fault":
            with suppress(subprocess.TimeoutExpired):  # _ended tells of it
                process.wait(timeout=HANG_SECONDS)
            trial.met = True
            return time.monotonic()
        while not (out / ".trajbuild").is_dir() and process.poll() is None:
            time.sleep(POLL_SECONDS)
        while count_files(out) < int(trial.detail) and process.poll() is None:
            time.sleep(POLL_SECONDS)
        time.sleep(self.random.uniform(0, JITTER_SECONDS))
        trial.met = process.poll() is None
        target = trial.kind.rsplit("-", 1)[-1]
        number = {"term": signal.SIGTERM, "int": signal.SIGINT}.get(
            trial.kind.split("-")[0], signal.SIGKILL
        )
        if not trial.met:
            return time.monotonic()
        if target == "worker":
            workers = loky_workers(process.pid)
            trial.met = bool(workers)
            if workers:
                os.kill(self.random.choice(workers), number)
        elif target == "group":
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        return time.monotonic()

    def _ended(
        self, trial: Trial, process: subprocess.Popen[str], token: str, struck: float
    ) -> str:
        try:
            _, errors = process.communicate(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"the disturbed build hung for {HANG_SECONDS:.0f} s"
        trial.first_exit = process.returncode
        if trial.kind in ("worker", "fault"):
            struck = time.monotonic()  # the build goes on; its end counts
        while alive(token) and time.monotonic() - struck < GRACE_SECONDS:
            time.sleep(0.01)
        trial.seconds_to_end = round(time.monotonic() - struck, 3)
        if alive(token):
            return f"{len(alive(token))} processes alive after {GRACE_SECONDS:.0f} s"
        wanted = {
            "group": {-9}, "parent": {-9}, "worker": {0}, "fault": {-9, 0, 4},
            "term": {143}, "int": {130},
        }[trial.kind.split("-")[0]]  # fmt: skip
        if trial.met and trial.first_exit not in wanted | ({0} if trial.kind in SIGNALS else set()):
            return f"the disturbed build ended with {trial.first_exit}: {errors[-300:]}"
        if trial.kind in SIGNALS and (left := shared_memory(process.pid)):
            return f"left in shared memory: {left[:3]}"
        if "Traceback" in errors:
            return f"a traceback: {errors[-300:]}"
        return ""

    def _again(self, trial: Trial, out: Path) -> str:
        trial.temporaries_met = len(temporaries(out))
        code, errors = self._expand(out)
        if code != 0:
            return f"the second run ended with {code}: {errors[-300:]}"
        if left := temporaries(out):
            return f"temporary files are left: {left[:3]}"
        if differing := differences(self.quiet, tree(out)):
            told = [described(name, self.root / "quiet", out) for name in differing]
            return f"other than the quiet build, {len(told)} files: {told[:8]}"
        from trajectory_builder.verify import verify_folder

        if findings := verify_folder(out, "deep").findings:
            return f"verify: {findings[0].what}"
        return ""


def run_command(arguments: list[str], said: Path) -> None:
    """`trajbuild ARGUMENTS` in this process, its output in a file."""
    from trajectory_builder.cli import main

    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    main(arguments)


def loky_workers(pid: int) -> list[int]:
    """Process ids of a builder's workers."""
    try:
        children = psutil.Process(pid).children()
        return [c.pid for c in children if "popen_loky" in " ".join(c.cmdline())]
    except psutil.Error:
        return []


def alive(token: str) -> list[int]:
    """Processes that were started, at any remove, with this token in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and process.status() != "zombie":
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def count_files(out: Path) -> int:
    """Files in a folder, whatever they are: how far a build is."""
    return sum(len(names) for _, _, names in os.walk(out))


def shared_memory(pid: int) -> list[str]:
    """Semaphores and folders in shared memory that bear a builder's process id."""
    folder = Path("/dev/shm")
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if f"-{pid}-" in name or f"_{pid}_" in name]


def temporaries(out: Path) -> list[str]:
    """Temporary files of writers, anywhere in a folder."""
    return [str(path.relative_to(out)) for path in out.rglob(".tmp-*")]


def tree(out: Path) -> dict[str, str]:
    """Digest of each file outside `.trajbuild`, and of each marker."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if not path.is_file() or (name.startswith(".trajbuild") and "/markers/" not in name):
            continue
        content = path.read_bytes()
        if name == "build.json":
            build = json.loads(content)
            content = json.dumps({**build, "finished": "", "sha256": ""}).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names that stand in one tree only or have other bytes in the other."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def described(name: str, quiet: Path, out: Path) -> str:
    """A differing file and in what it differs: a trial's folder does not outlive it."""
    one, other = quiet / name, out / name
    if not (one.is_file() and other.is_file()):
        return f"{name} ({'absent' if one.is_file() else 'not wanted'})"
    if name.endswith(".png"):
        left, right = (np.asarray(cv2.imread(str(path), -1)) for path in (one, other))
        equal = np.array_equal(left, right)
        return f"{name} (pixels {'equal' if equal else 'differ'})"
    if name.endswith(".json"):
        bodies = (json.loads(path.read_text()) for path in (one, other))
        a, b = (body.get("body", body) for body in bodies)
        keys = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
        return f"{name} ({', '.join(keys)})"
    return name


def fuzz(
    kills: int, signals: int, *, seed: int = 0, side_by_side: int = 2, only: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run all trials and summarise them.

    Returns:
        Plain values: machine, seconds, a row for each kind, and every trial that went wrong.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-fuzz-") as folder:
        bench = Fuzz(Path(folder), seed)
        trials = bench.trials(KILLS, kills) + bench.trials(SIGNALS, signals)
        trials = [trial for trial in trials if not only or trial.kind in only]
        with ThreadPoolExecutor(side_by_side) as pool:
            done = list(progressing(pool.map(bench.run, trials), len(trials)))
        files = len(bench.quiet)
    return {
        "machine": f"{os.cpu_count()} cores, Linux {os.uname().release}",
        "seconds": round(time.monotonic() - started, 1),
        "files_in_quiet_build": files,
        "seeds": [seed],
        "kinds": list(summary(done)),
        "wrong": [asdict(trial) for trial in done if trial.wrong],
    }


def progressing(trials: Iterator[Trial], total: int) -> Iterator[Trial]:
    """Say on stderr how far it is, each 25 trials."""
    for index, trial in enumerate(trials, start=1):
        if index % 25 == 0:
            print(f"{index} of {total}", file=sys.stderr)
        yield trial


def main() -> None:
    """Run the trials and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--signals", type=int, default=8)
    parser.add_argument("--kinds", help="only these, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side-by-side", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    parser.add_argument("--add", action="store_true", help="join to what OUT.json holds")
    given = parser.parse_args()
    # In a shell's background SIGINT is ignored, and builds would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report = fuzz(
        given.kills, given.signals, seed=given.seed, side_by_side=given.side_by_side,
        only=tuple(given.kinds.split(",")) if given.kinds else (),
    )  # fmt: skip
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        stored = given.out.with_suffix(".json")
        if given.add and stored.is_file():
            report = joined(json.loads(stored.read_text()), report)
        given.out.with_suffix(".md").write_text(markdown(report))
        given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    sys.exit(1 if report["wrong"] else 0)


if __name__ == "__main__":
    main()
