"""The documents are true: commands run, links lead somewhere, counts are the plan's."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import pyarrow.parquet as pq
import pytest

import fidediff_model
import trajectory_builder
from fidediff_model.cli import COMMANDS as MODEL_COMMANDS
from trajectory_builder.cli import COMMANDS as BUILDER_COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "manifests/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS = [
    *(("trajbuild", "trajectory_builder", name) for name in BUILDER_COMMANDS),
    *(("fidediff", "fidediff_model", name) for name in MODEL_COMMANDS),
]

# What stands in the README for a real set, and what it means on the sample of 384 x 216 pixels.
ON_THE_SAMPLE = {
    "GOPR0372_07_00/000047/n07": "GOPR9005_11_01/003013/n11",
    "--crop 512": "--crop 128",
    "--jobs 8": "--jobs 1",
    " --vgg16 vgg16.safetensors": "",
}
# Appended, so that they win over what the README gives: the smallest model, for two steps.
SMALLEST = {
    "fidediff train base": "--preset tiny --base-model random:0 --perceptual none",
    "fidediff train control": "--perceptual none",
    "fidediff train": "--steps 2 --crop 64 --batch 1 --workers 0 --validate-every 0",
    "fidediff evaluate": "--metrics psnr,ssim --limit 1",
    "fidediff scan": "--metrics psnr --limit 1 --timesteps 0,200 --trajectories 1",
    "fidediff benchmark": "--preset tiny --size 64x64 --repeats 1 --warm-up 1",
    "fidediff demo": "--scale 0.01",
}
# CI runs these by themselves, or they end in a server or another machine's address.
LEFT_TO_CI = re.compile(r"^(pip |pytest|git |python -m build)")


def commands_of(page):
    """Commands of a page's sh blocks, one a line; parts of `a && b` are commands of their own."""
    for block in re.findall(r"```sh\n(.*?)```", page, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.partition("  #")[0].split("&&"):
                if command.strip() and not LEFT_TO_CI.match(command.strip()):
                    yield command.strip()


def on_the_sample(command):
    for real, small in ON_THE_SAMPLE.items():
        command = command.replace(real, small)
    further = " ".join(flags for start, flags in SMALLEST.items() if command.startswith(start))
    return f"{command} {further}".strip()


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Every command of the README, run in its order in one folder that holds the sample."""
    room = tmp_path_factory.mktemp("readme")
    found = {}
    for command in commands_of(README):
        found[command] = run(on_the_sample(command), room)
        if command == "trajbuild demo":  # its sample now stands where a user has GoPro
            for name in ("GOPRO_Large", "GOPRO_Large_all"):
                shutil.move(room / "demo" / name, room / name)
            write_footage(room)
    return found


def run(command, room):
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command], cwd=room, env=env, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def write_footage(room):
    """holiday.mp4, of the sample's frames, and a blurry photograph of its pairs."""
    clip = sorted((room / "GOPRO_Large_all/train").iterdir())[0]
    frames = [cv2.imread(str(path)) for path in sorted(clip.glob("*.png"))[:30]]
    with av.open(room / "holiday.mp4", "w") as file:
        stream = file.add_stream("libx264", rate=240, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], (
            "yuv420p"
        )  # fmt: skip
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        file.mux(stream.encode())
    blurry = next((room / "GOPRO_Large/test").rglob("blur/*.png"))
    small = cv2.imread(str(blurry))[:128, :128]
    for name in ("blurry.png", "blurry.jpg", "photo.jpg"):
        cv2.imwrite(str(room / name), small)


@pytest.mark.parametrize("command", dict.fromkeys(commands_of(README)))
def test_command_of_the_readme_runs_on_the_sample(ran, command):
    done = ran[command]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "command", dict.fromkeys(re.findall(r"`((?:trajbuild|fidediff) [^`]+)`", README))
)
def test_command_named_in_the_readme_exists(command):
    words = shlex.split(command)
    tables = {"trajbuild": BUILDER_COMMANDS, "fidediff": MODEL_COMMANDS}
    assert words[1] in tables[words[0]]


def has_module(package, name):
    return importlib.util.find_spec(f"{package}.cli.{name}") is not None


@pytest.mark.parametrize(("program", "package", "name"), COMMANDS)
def test_command_has_a_module_that_does_it(program, package, name):
    assert has_module(package, name), f"{program} lists {name}, which nothing does"


STAGES = ["train base", "train kernel", "train control"]


@pytest.mark.parametrize("name", [*(name for name in MODEL_COMMANDS if name != "train"), *STAGES])
def test_model_command_has_help_with_an_example(name):
    done = subprocess.run(
        [sys.executable, "-m", "fidediff_model.cli", *name.split(), "--help"], cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"fidediff {name}" in done.stdout.partition("Usage:")[2].partition("\n")[2]


def test_every_command_stands_in_the_table_with_its_own_words():
    table = (ROOT / "docs/commands.md").read_text()
    rows = {tuple(row) for row in re.findall(r"^\| `(\w+ \w+)` \| (.+?) \|$", table, re.M)}
    wanted = {(f"trajbuild {name}", words) for name, words in BUILDER_COMMANDS.items()}
    wanted |= {(f"fidediff {name}", words) for name, words in MODEL_COMMANDS.items()}
    assert rows == wanted


def links(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page):
    """The anchors of a page's headings, as both GitHub and mkdocs make them."""
    words = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", word.lower()).replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_page_lead_somewhere(page):
    dead = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(target)
    assert dead == []


# A page that says these says too much, or not what the vocabulary of architecture.md says.
UNWANTED = re.compile(
    r"/root/|/home/\w|/tmp/\w|\bTODO\b|\bFIXME\b|ground[- ]truth|noisy latent|\bplease\b"
    r"|\bsimply\b|state[- ]of[- ]the[- ]art|blazing|powerful",
    re.I,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_page_says_nothing_that_it_should_not(page):
    text = page.read_text()
    if page.name == "architecture.md":  # its table of words names those that are not used
        text = text.partition("\n## Words\n")[0]
    assert UNWANTED.findall(text) == []


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


def test_counts_in_the_data_dictionary_are_the_plans(published):
    page = (ROOT / "manifests/README.md").read_text()
    rows = re.findall(r"^\| (train|validation|test) \| (\d+) \| \d+ \| ([\d,]+) \|$", page, re.M)
    told = {(split, int(n)): int(count.replace(",", "")) for split, n, count in rows}
    assert told == published.groupby(["split", "n_frames"]).size().to_dict()


BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").glob("*.py")
                    if "__main__" in path.read_text())  # fmt: skip


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.name)
def test_benchmark_stands_in_the_page_on_reproducing(script):
    assert f"benchmarks/{script.name}" in (ROOT / "docs/reproducing.md").read_text()


@pytest.mark.parametrize(
    "result", sorted((ROOT / "benchmarks/results").glob("*.md")), ids=lambda path: path.stem
)
def test_result_has_the_script_that_made_it(result):
    page = (ROOT / "docs/reproducing.md").read_text()
    assert (ROOT / "benchmarks" / f"{result.stem}.py").exists() or result.stem in page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documents as a site, built strictly: a dead link or a missing page fails it."""
    pytest.importorskip("mkdocs", reason="needs pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


LOADED = re.compile(r"""<(?:script|img|iframe)[^>]+src=["']https?:|<link[^>]+href=["']https?:""")


@pytest.mark.slow
def test_site_loads_nothing_from_the_network(site):
    pages = sorted(site.rglob("*.html"))
    loading = [page.name for page in pages if LOADED.search(page.read_text())]
    assert len(pages) > 15
    assert loading == []


@pytest.mark.slow
def test_site_shows_the_help_of_every_command(site):
    text = (site / "commands.html").read_text()
    assert [f"{p} {n}" for p, _, n in COMMANDS if f"Usage: {p} {n}" not in text] == []


@pytest.mark.parametrize("package", [trajectory_builder, fidediff_model], ids=lambda p: p.__name__)
def test_every_public_name_stands_in_the_api_page(package):
    page = (ROOT / "docs/api.md").read_text()
    named = re.findall(r"^::: (\S+)$", page, re.M)
    homes = [".".join((package.__name__, *home)) for home in package._HOMES.values()]
    lost = [home for home in homes if home not in named and home.rpartition(".")[0] not in named]
    assert lost == []
