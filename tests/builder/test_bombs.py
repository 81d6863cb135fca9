"""Pictures of 900 million pixels in a megabyte: refused by their header, with little memory."""

import resource
import shutil
import struct
import subprocess
import sys
import zlib

import pytest
from small_dataset import make

from trajectory_builder.images.png_stream import png_chunk

pytestmark = pytest.mark.slow
SIDE = 30_000


@pytest.fixture(scope="module")
def bomb():
    """A sound gray PNG of 30,000 x 30,000."""
    packer = zlib.compressobj(1)
    row = bytes(1 + SIDE)
    data = b"".join([*(packer.compress(row) for _ in range(SIDE)), packer.flush()])
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.fixture
def spoilt(bomb, tmp_path):
    """A data set whose sharp images are all such pictures, and two folders of pairs."""
    folder = make(tmp_path / "set")
    for path in folder.rglob("sharp/*/*.png"):
        path.write_bytes(bomb)
    for kind in ("blur", "sharp"):
        (tmp_path / f"plain/train/{kind}").mkdir(parents=True)
    shutil.copy(next(folder.rglob("blur/*/*.png")), tmp_path / "plain/train/blur/a.png")
    (tmp_path / "plain/train/sharp/a.png").write_bytes(bomb)
    return tmp_path


def run(module, place, gibibytes, *words):
    limit = gibibytes << 30
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)], cwd=place, capture_output=True,
        text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [("verify", "set", "--level", "full", "--jobs", "1"), ("report", "set"),
     ("index", "plain", "--out", "indexed"),
     ("export", "set", "--to", "folders", "--crop", "16", "--jobs", "1", "--out", "out"),
     ("generate", "--src", "plain/train/sharp", "--stills", "--out", "stills", "--jobs", "1")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_no_command_decodes_it(spoilt, words):
    done = run("trajectory_builder", spoilt, 2, *words)
    assert done.returncode in (0, 1, 2, 3, 4)
    assert "out of memory" not in done.stderr
    assert "has a bug" not in done.stderr


def test_evaluate_does_not_decode_it(spoilt):
    pytest.importorskip("torch")
    done = run("fidediff_model.cli", spoilt, 8, "evaluate", "--data", "plain/train/blur",
               "--data", "plain/train/sharp", "--baseline", "blurry", "--metrics", "psnr",
               "--out", "scores")  # fmt: skip
    assert done.returncode in (1, 2, 4)
    assert "30,000 x 30,000" in done.stderr
    assert "has a bug" not in done.stderr


def test_restore_does_not_decode_it(spoilt):
    pytest.importorskip("torch")
    done = run("fidediff_model.cli", spoilt, 8, "restore", "plain/train/sharp/a.png",
               "--out", "sharp.png", "--device", "cpu")  # fmt: skip
    assert done.returncode in (1, 2)
    assert "30,000 x 30,000" in done.stderr
