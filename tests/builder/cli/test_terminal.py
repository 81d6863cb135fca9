"""Each command on a real terminal: no name or note of a stranger is obeyed by it."""

import json
import os
import pty
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from small_dataset import make, replaced, rewrite

from trajectory_builder.build import record
from trajectory_builder.trajectory import Problem

ESCAPES = "\x1b]0;owned\x07\x1b[31m\x9b2J"
EVIL = f"e{ESCAPES}v\u202eil\nFAKE line"
"""Sets the window's title, changes the colour, clears the screen, turns text round, adds a line."""
OBEYED = ("\x1b]", "\x1b[31m", "\x9b", "\x07", "\u202e", "\nFAKE", "\nFAKE line")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A sound set, one whose texts are all hostile, a GoPro tree and pictures with such names."""
    home = tmp_path_factory.mktemp("terminal")
    make(home / "clean", seed=1)
    evil = make(home / "evil")
    path = evil / "train/metadata.parquet"
    table = pq.read_table(path)
    for column in ("sample_id", "trajectory_id", "clip_id", "center_frame"):
        table = replaced(table, column, [f"{EVIL}{v}" for v in table[column].to_pylist()])
    table = table.append_column(f"x{EVIL}", table["sample_id"])
    rewrite(evil, "train", table, recipe=EVIL, **{f"key{EVIL}": EVIL})
    build = json.loads((evil / "build.json").read_text())
    problem = Problem(EVIL, EVIL, EVIL, "train", EVIL, EVIL, EVIL)
    (evil / "problems.parquet").write_bytes(record.problem_bytes([problem]))
    build |= {"notes": [EVIL], "config": {"recipe": {"name": EVIL}, "command": EVIL}}
    build.pop("sha256")
    record.write_build(evil, build)
    (evil / "train" / EVIL.replace("/", "")).write_text("a stray file")
    clip = home / "GOPRO_Large/train" / f"GOPR1_07_00{EVIL}"
    (clip / "sharp").mkdir(parents=True)
    (clip / "blur").mkdir()
    shutil.copy(next((home / "clean/train/sharp").rglob("*.png")), clip / "sharp/000001.png")
    (home / f"film{EVIL}.mp4").write_text("no film")
    (home / f"recipe{EVIL}.yaml").write_text(f"name: x\nwindows: {{7: [{json.dumps(EVIL)}]}}\n")
    return home


def on_terminal(places, *words):
    """All that a command writes on a terminal, and its exit code."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "1000", "NO_COLOR": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=places, env=environment, stdin=slave, stdout=slave,
        stderr=slave, close_fds=True,
    )  # fmt: skip
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(master)
    return written.decode("utf-8", "replace").replace("\r\n", "\n"), process.wait()


COMMANDS = {
    "verify": ("verify", "evil", "--level", "full", "--jobs", "1"),
    "verify deep": ("verify", "evil", "--level", "deep", "--jobs", "1"),
    "stats": ("stats", "evil"),
    "stats by clip": ("stats", "evil", "--by", "clip_id"),
    "stats by a column": ("stats", "evil", "--by", EVIL),
    "diff": ("diff", "evil", "clean"),
    "diff back": ("diff", "clean", "evil"),
    "explain": ("explain", "evil", f"{EVIL}GOPR0001_11_00/000001/n07"),
    "explain a near one": ("explain", "evil", "nothing"),
    "select": ("select", "evil"),
    "select by an unknown column": ("select", "evil", "--where", f"nothing{EVIL} > 3"),
    "split": ("split", "evil", "--by", "trajectory", "--out", "split"),
    "merge": ("merge", "evil", "clean", "--out", "merged"),
    "report": ("report", "evil", "--out", "page.html"),
    "export": ("export", "evil", "--to", "folders", "--jobs", "1", "--out", "folders"),
    "export webdataset": ("export", "evil", "--to", "webdataset", "--jobs", "1", "--out", "web"),
    "plan": ("plan", "--src", "GOPRO_Large"),
    "plan by a recipe": ("plan", "--src", "GOPRO_Large", "--recipe", f"recipe{EVIL}.yaml"),
    "expand": ("expand", "--src", "GOPRO_Large", "--out", "expanded", "--jobs", "1"),
    "expand into a set": ("expand", "--src", "GOPRO_Large", "--out", "evil", "--jobs", "1"),
    "generate": ("generate", "--src", f"film{EVIL}.mp4", "--out", "generated", "--jobs", "1"),
    "index": ("index", f"GOPRO_Large/train/GOPR1_07_00{EVIL}", "--out", "indexed"),
    "recipes": ("recipes", "--show", EVIL),
    "doctor": ("doctor", "--src", "GOPRO_Large"),
    "no such option": ("stats", "evil", f"--{EVIL}"),
    "no such command": (EVIL,),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_the_terminal_obeys_no_name(places, words):
    written, code = on_terminal(places, "trajectory_builder", *words)
    assert written
    assert [sign for sign in OBEYED if sign in written] == []
    assert code in (0, 1, 2, 3, 4, 5)
    assert "has a bug" not in written


def test_a_hostile_name_is_shown_as_escapes(places):
    written, _ = on_terminal(places, "trajectory_builder", "stats", "evil", "--by", "clip_id")
    assert "e\\x1b]0;owned\\x07\\x1b[31m\\x9b2Jv\\u202eil\\nFAKE line" in written


MODEL_COMMANDS = {
    "restore": ("restore", "clean", "--model", EVIL, "--out", "restored"),
    "restore a file": ("restore", EVIL, "--out", "restored"),
    "evaluate": ("evaluate", "--data", "evil", "--baseline", "blurry", "--metrics", "psnr",
                 "--out", "scores"),
    "train": ("train", "base", "--data", "evil", "--run-dir", "run", "--base-model", EVIL),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", MODEL_COMMANDS.values(), ids=MODEL_COMMANDS)
def test_the_terminal_obeys_no_name_in_commands_of_the_model(places, words):
    pytest.importorskip("torch")
    written, _ = on_terminal(places, "fidediff_model.cli", *words)
    assert written
    assert [sign for sign in OBEYED if sign in written] == []
    assert "has a bug" not in written
