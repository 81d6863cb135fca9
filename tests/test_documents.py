"""The documents are true: commands are taken, links lead somewhere, counts are the plan's."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest

import fidediff_model
import trajectory_builder
from fidediff_model.cli import COMMANDS as MODEL_COMMANDS
from fidediff_model.cli import fidediff
from trajectory_builder.cli import COMMANDS as BUILDER_COMMANDS
from trajectory_builder.cli import trajbuild
from trajectory_builder.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "manifests/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS = [
    *(("trajbuild", "trajectory_builder", name) for name in BUILDER_COMMANDS),
    *(("fidediff", "fidediff_model", name) for name in MODEL_COMMANDS),
]


PROGRAMS = {"trajbuild": trajbuild, "fidediff": fidediff}
CODE = re.compile(r"```\w*\n(.*?)```", re.S)
BEFORE_OPTIONS = re.compile(r"^.*-m fidediff_model.cli(?= )")  # torchrun, accelerate launch


def commands_of(page):
    """(command, whether it is whole) of a page's blocks, and of its words in running text."""
    text = page.read_text()
    for block in CODE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&", BEFORE_OPTIONS.sub("fidediff", line)):
                if re.match(r"\s*(trajbuild|fidediff) ", part):
                    yield part.strip(), True
    for words in re.findall(r"`([^`\n]+)`", CODE.sub("", text)):
        whole = re.sub(r"^train (?=base|kernel|control)", "fidediff train ", words)
        if re.match(r"(trajbuild|fidediff) \w", whole):
            yield whole, False


def shell_words(command):
    """A command's own words: no comment, nothing from a redirection or a pipe on."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="<>|")
    lexer.whitespace_split = True
    words = list(lexer)
    return words[: next((i for i, word in enumerate(words) if word in "<>|"), len(words))]


def refusal(command, *, whole):
    """What the command line says against a command, without running it; None if it takes it."""
    name, *words = shell_words(command)
    found = PROGRAMS[name]
    while isinstance(found, click.Group) and words:
        found = found.get_command(click.Context(found), words[0]) or pytest.fail(command)
        words = words[1:]
    if isinstance(found, click.Group):
        return None
    try:
        found.make_context(found.name, words)
    except click.MissingParameter as error:
        return error.format_message() if whole else None
    except click.UsageError as error:
        said = error.format_message()
        absent = "does not exist" in said or (not whole and "requires an argument" in said)
        return None if absent else said
    except UserError:  # the command line took it; the model that it names is not here
        return None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_of_the_page_are_what_the_command_line_takes(page):
    refused = {c: refusal(c, whole=whole) for c, whole in commands_of(page) if "--help" not in c}
    assert {command: said for command, said in refused.items() if said} == {}


def test_commands_are_found_in_blocks_and_in_running_text():
    kinds = {whole for page in PAGES for _, whole in commands_of(page)}
    assert kinds == {True, False}


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


def test_counts_in_the_data_dictionary_are_the_plans():
    plan = ROOT / "manifests/gopro_fidediff_7877.parquet"
    published = pq.read_table(plan, columns=["split", "n_frames"]).to_pandas()
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
    table = (site / "commands.html").read_text()
    for program, _, name in COMMANDS:
        text = (site / f"commands/{program}-{name}.html").read_text()
        assert f"Usage: {program} {name}" in text
        assert f'href="commands/{program}-{name}.html"' in table


@pytest.mark.parametrize("package", [trajectory_builder, fidediff_model], ids=lambda p: p.__name__)
def test_every_public_name_stands_in_the_api_page(package):
    page = (ROOT / "docs/api.md").read_text()
    named = re.findall(r"^::: (\S+)$", page, re.M)
    homes = [".".join((package.__name__, *home)) for home in package._HOMES.values()]
    lost = [home for home in homes if home not in named and home.rpartition(".")[0] not in named]
    assert lost == []
