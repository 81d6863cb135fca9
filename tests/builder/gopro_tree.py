"""Small stand-ins for GoPro's two trees, and the command line as a real process.

`write_real_names` makes the published set's 33 sequences of empty files: a plan opens none.
`write_small` makes a source with pixels and all of the real set's traps, which expands in a
second. Neither uses the package's own code, but for the table of the published sequences.
"""

import csv
import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

PACKAGE = Path(__file__).parents[2] / "trajectory_builder"
TABLE = PACKAGE / "sources" / "gopro_sequences.csv"
WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Source:
    """Where the two trees lie."""

    pairs: Path
    frames: Path


@dataclass(frozen=True)
class Small:
    """A sequence of the small source: its split and name, pairs, first pair and frame number."""

    split: str
    name: str
    pairs: int
    first_pair: int
    first_frame: int

    @property
    def n(self):
        return int(self.name.split("_")[1])

    @property
    def shift(self):
        return int(self.name.split("_")[2])


# Not names of the published table, so that nothing is known of them but what stands in the tree.
SMALL = (
    Small("train", "GOPR9001_07_00", 10, 47, 323),  # two shards
    Small("train", "GOPR9002_11_02", 3, 203, 2223),  # the first pair is truncated
    Small("train", "GOPR9003_13_00", 3, 11, 22131),  # frame numbers offset by 22,000
    Small("test", "GOPR9004_11_01", 2, 201, 2201),
)
SMALL_PAIRS = {"train": 10 + (3 + 8) + (3 + 9), "test": 2}
"""Of the default recipe; the truncated pair has no window of 9 frames."""


def published():
    """The rows of the table of published sequences, numbers as numbers."""
    with TABLE.open(newline="") as file:
        return [
            {k: v if k in ("split", "sequence") else int(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def write_real_names(root, *, pairs=True):
    """The published set as empty files below `root`; 45 thousand of them."""
    source = Source(root / "GOPRO_Large", root / "GOPRO_Large_all")
    for row in published():
        count, n = row["pairs"], row["frames_per_blur"]
        first, frame = row["first_pair_number"], row["first_frame_number"]
        names = [f"{number:06d}.png" for number in range(frame, frame + count * n)]
        _touch(source.frames / row["split"] / row["sequence"], names)
        names = [f"{number:06d}.png" for number in range(first, first + count)]
        for kind in ("blur", "blur_gamma", "sharp") if pairs else ():
            _touch(source.pairs / row["split"] / row["sequence"] / kind, names)
    return source


def _touch(folder, names):
    folder.mkdir(parents=True)
    at = os.open(folder, os.O_RDONLY)
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


def write_small(root):
    """The small source with pixels below `root`."""
    source = Source(root / "GOPRO_Large", root / "GOPRO_Large_all")
    for index, sequence in enumerate(SMALL):
        _write_sequence(source, sequence, index)
    return source


def _write_sequence(source, sequence, index):
    n, shift = sequence.n, sequence.shift
    # The camera ran before the first published frame: `shift` frames were thrown away.
    shot = camera(index, sequence.pairs * n + shift)
    folder = source.frames / sequence.split / sequence.name
    folder.mkdir(parents=True)
    for rank, frame in enumerate(shot[shift:]):
        save(folder / f"{sequence.first_frame + rank:06d}.png", frame)
    folder = source.pairs / sequence.split / sequence.name
    for kind in ("blur", "blur_gamma", "sharp"):
        (folder / kind).mkdir(parents=True)
    (folder / f"frames {shift} offset {sequence.first_frame}.txt").write_text("\n")
    for rank in range(sequence.pairs):
        window = shot[rank * n : rank * n + n]
        name = f"{sequence.first_pair + rank:06d}.png"
        save(folder / "blur" / name, mean(window))
        save(folder / "blur_gamma" / name, gamma_mean(window))
        save(folder / "sharp" / name, window[n // 2])


def camera(seed, count):
    """Frames of a camera that moves over a photograph: a list of (H, W, 3) uint8 arrays."""
    photo = data.coffee() if seed % 2 else data.astronaut()
    move = np.random.default_rng(seed).normal(0, 1.2, (count, 2)).cumsum(axis=0)
    at = (np.array([150, 200]) + move).astype(int)
    return [np.ascontiguousarray(photo[y : y + HEIGHT, x : x + WIDTH]) for y, x in at]


def mean(frames):
    """The float64 mean of uint8 frames, rounded to nearest: the witness of all averages."""
    return np.floor(np.mean(np.stack(frames).astype(np.float64), axis=0) + 0.5).astype(np.uint8)


def gamma_mean(frames):
    """Power 2.2, mean, power 1/2.2, in float64, rounded to nearest."""
    linear = (np.stack(frames).astype(np.float64) / 255) ** 2.2
    return np.floor(linear.mean(axis=0) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def save(path, pixels):
    """Write a PNG with Pillow, which shares no code with the package's writer."""
    Image.fromarray(pixels).save(path, compress_level=1)


def load(path):
    """Read a PNG with Pillow: (H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.array(image)


def trajbuild(*args, cwd=None, env=None, timeout=120):
    """Run the command as a user does; the result has returncode, stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, "-m", "trajectory_builder", *map(os.fspath, args)],
        cwd=cwd or PACKAGE.parent, env={**os.environ, **(env or {})}, timeout=timeout,
        capture_output=True, text=True, check=False, errors="surrogateescape",
    )  # fmt: skip


def wait_for(condition, seconds=90):
    """What `condition` gives as soon as it is true; it is asked each millisecond."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.001)
    return found


_OF_ONE_RUN = ("build.json", "lock", "holder.json")


def tree(folder):
    """Relative name of each file -> SHA-256 of its content.

    Left out: build.json, which has the time, and the lock.
    """
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _OF_ONE_RUN
    }


def three_parts(text):
    """The what, where and cure of an error message; "" for a part that is not there."""
    what = where = cure = ""
    for line in text.splitlines():
        if line.startswith("error: "):
            what = line.removeprefix("error: ")
        elif line.startswith("  where: "):
            where = line.removeprefix("  where: ")
        elif line.startswith("  cure:  "):
            cure = line.removeprefix("  cure:  ")
    return what, where, cure
