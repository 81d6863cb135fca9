"""The README is true: its commands run on the sample in their order and print what it shows."""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fidediff_model.cli import COMMANDS as MODEL_COMMANDS
from trajectory_builder.cli import COMMANDS as BUILDER_COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = [
    (block[1], block[2]) for block in re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
]

# CI runs these by themselves.
LEFT_TO_CI = re.compile(r"^(pip |pytest)")
# Appended, so that they win over what the README gives. Where it names Stable Diffusion 2.1 and
# VGG16, which no test machine has, the tiny preset over random weights stands for them: the same
# commands with the smallest model, for two steps.
SMALLEST = {
    "fidediff train base": "--preset tiny --base-model random:0 --perceptual none",
    "fidediff train control": "--perceptual none",
    "fidediff train": "--steps 2 --crop 64 --batch 1 --workers 0 --validate-every 0",
    "fidediff demo": "--scale 0.01",
    "fidediff evaluate": "--limit 1",
    "trajbuild expand": "--jobs 1",
}
NOT_HERE = " --vgg16 vgg16.safetensors"
# The README says what `blurry` may be; here it is a corner of a photograph.
BEFORE_PYTHON = """
import cv2
blurry = cv2.imread("GOPRO_Large/test/GOPR9005_11_00/blur/000101.png")[:96, :128, ::-1].copy()
"""


def commands_of(body):
    """Commands of an sh block, one a line; parts of `a && b` are commands of their own."""
    for line in body.replace("\\\n", " ").splitlines():
        for command in line.partition("  #")[0].split("&&"):
            if command.strip() and not LEFT_TO_CI.match(command.strip()):
                yield command.strip()


# In their order; what stands twice (the first screen names the main job) runs where it stands last.
_ALL = [c for kind, body in BLOCKS if kind == "sh" for c in commands_of(body)]
COMMANDS = [*reversed(dict.fromkeys(reversed(_ALL)))]
# Output that is shown, with the commands of the block before it.
SHOWN = [
    (list(commands_of(before[1])), after[1])
    for before, after in pairwise(BLOCKS)
    if before[0] == "sh" and after[0] == "text"
]
PYTHON = [body for kind, body in BLOCKS if kind == "python"]


def on_the_sample(command):
    further = " ".join(flags for start, flags in SMALLEST.items() if command.startswith(start))
    return f"{command.replace(NOT_HERE, '')} {further}".strip()


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def ran(room):
    """Every command of the README, run in its order; `cd` changes the folder of what follows."""
    found, here = {}, room
    for command in COMMANDS:
        if command.startswith("cd "):
            here = here / command.removeprefix("cd ")
        else:
            found[command] = run(["bash", "-c", on_the_sample(command)], here)
    return found


def run(words, folder):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # One thread a process: several tests run side by side.
    further = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    further |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    return subprocess.run(
        words, cwd=folder, env=os.environ | further, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("cd ")])
def test_command_of_the_readme_runs_on_the_sample(ran, command):
    done = ran[command]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def masked(text, room):
    """Lines without what differs from run to run: seconds, sizes, scores, the folder."""
    text = re.sub(r"\d+\.\d+|(?<=\| )\d+(?= \|)", "#", text.replace(str(room), "/..."))
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize(("commands", "shown"), SHOWN, ids=lambda value: value[0][:40])
def test_output_in_the_readme_is_what_its_commands_print(ran, room, commands, shown):
    printed = [ran[c].stdout + ran[c].stderr for c in commands if not c.startswith("cd ")]
    real = masked("\n".join(printed), room)
    lost = [line for line in masked(shown, room) if line not in {*real, "...", ""}]
    assert lost == [], "\n".join(real)


@pytest.mark.parametrize("body", PYTHON, ids=lambda body: body.splitlines()[0])
def test_python_of_the_readme_runs_on_what_its_commands_made(ran, room, body):
    done = run([sys.executable, "-c", BEFORE_PYTHON + body], room / "try")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", dict.fromkeys(re.findall(r"`((?:trajbuild|fidediff) [^`]+)`", README))
)
def test_command_named_in_the_readme_exists(command):
    words = shlex.split(command)
    tables = {"trajbuild": BUILDER_COMMANDS, "fidediff": MODEL_COMMANDS}
    assert words[1] in tables[words[0]]


@pytest.fixture(scope="module")
def published():
    table = pq.read_table(ROOT / "manifests/gopro_fidediff_7877.parquet",
                          columns=["split", "n_frames", "origin"])  # fmt: skip
    return table.to_pandas()


def test_counts_by_n_in_the_readme_are_the_plans(published):
    told = re.search(r"\{5: [\d,:\s]+\}", README)[0]
    told = {int(n): int(count.replace(",", ""))
            for n, count in re.findall(r"(\d+):\s+([\d,]+\d)", told)}  # fmt: skip
    counted = published[published.split == "train"].n_frames.value_counts().to_dict()
    assert told == counted


@pytest.mark.parametrize(
    ("told", "rows"),
    [
        ("7,877", "split == 'train'"),
        ("2,103", "split == 'train' and origin == 'official'"),
        ("1,111", "split == 'test'"),
    ],
)
def test_totals_in_the_readme_are_the_plans(published, told, rows):
    assert f"{len(published.query(rows)):,}" == told
    assert told in README


# Rows of the README's table of figures: they end in a link to the table that was measured.
MEASURED = re.findall(r"^\|(.+)\| \[[^]]+\]\((benchmarks/results/[\w.]+)\) \|$", README, re.M)
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")


@pytest.mark.parametrize(("row", "table"), MEASURED, ids=lambda value: value.strip()[:30])
def test_figures_of_the_readme_stand_in_the_table_that_they_link_to(row, table):
    measured = set(NUMBER.findall((ROOT / table).read_text()))
    assert {number for number in NUMBER.findall(row) if number not in measured} == set()


def test_readme_has_a_table_of_measured_figures():
    assert len(MEASURED) >= 4


def test_readme_without_its_outputs_stays_under_240_lines():
    outputs = sum(body.count("\n") for kind, body in BLOCKS if kind == "text")
    assert len(README.splitlines()) - outputs < 240
