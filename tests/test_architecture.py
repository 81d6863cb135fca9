"""docs/architecture.md against the packages: every module has a room, every arrow an import."""

import ast
import importlib
import re
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()
PICTURE = ROOT / "docs/images/architecture.svg"
PACKAGES = ("trajectory_builder", "fidediff_model")
UPWARD = {("model", "engine")}
"""FideDiff.restore imports its engine when it is called."""


@cache
def rooms(package):
    """Room to patterns of modules, in the page's order."""
    text = PAGE.split(f"\n## {package}\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| **")]
    return {row[1].strip(" *"): re.findall("`([^`]+)`", row[2]) for row in rows}


def files(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT / package).as_posix()[:-3].replace("/", ".")
        yield name.removesuffix(".__init__") if name != "__init__" else name, path


@cache
def home(package, module):
    """The rooms that claim a module; an exact name goes before a pattern."""
    table = rooms(package)
    exact = [room for room, patterns in table.items() if module in patterns]
    return exact or [room for room, patterns in table.items()
                     if any(fnmatch(module, pattern) for pattern in patterns)]  # fmt: skip


@cache
def edges(package, *, at_import=False):
    """(room, room) of all imports, or only of those that run when a module is imported."""
    found = set()
    for module, path in files(package):
        if module == "__init__":
            continue
        tree = ast.parse(path.read_text())
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or (at_import and id(node) in inside):
                continue
            if not (node.module or "").startswith(package):
                continue
            short = node.module.removeprefix(package).strip(".")
            names = [f"{short}.{alias.name}".strip(".") for alias in node.names]
            for name in names if short == "" else [short, *names]:
                if (ROOT / package / name.replace(".", "/")).with_suffix(".py").exists() or (
                    ROOT / package / name.replace(".", "/") / "__init__.py"
                ).exists():
                    found.add((home(package, module)[0], home(package, name)[0]))
    return {(a, b) for a, b in found if a != b}


def closure(pairs):
    reach = set(pairs)
    while True:
        more = {(a, d) for a, b in reach for c, d in reach if b == c} - reach
        if not more:
            return reach
        reach |= more


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_lives_in_exactly_one_room(package):
    lost = {module: home(package, module) for module, _ in files(package)}
    assert {m: rooms for m, rooms in lost.items() if len(rooms) != 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_that_the_page_names_exists(package):
    known = [module for module, _ in files(package)]
    named = [pattern for patterns in rooms(package).values() for pattern in patterns]
    assert [p for p in named if not any(fnmatch(m, p) for m in known)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_only_rooms_below_them_when_loaded(package):
    order = list(rooms(package))
    up = {(a, b) for a, b in edges(package, at_import=True) if order.index(b) < order.index(a)}
    assert up - UPWARD == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_of_the_picture_lead_where_the_imports_lead(package):
    drawn = set(re.findall(rf"<title>{package}: (.+?) > (.+?)</title>", PICTURE.read_text()
                           .replace("&gt;", ">")))  # fmt: skip
    assert drawn
    assert closure(drawn) == closure(edges(package))


def test_picture_is_what_its_script_draws(tmp_path):
    out = tmp_path / "architecture.svg"
    script = PICTURE.with_suffix(".py")
    subprocess.run([sys.executable, script, out], check=True)
    assert out.read_text() == PICTURE.read_text()


def test_page_keeps_to_two_printed_pages():
    assert len(PAGE.splitlines()) < 130


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(package):
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_none_of_its_rooms(package):
    code = f"import sys, {package}; print([m for m in sys.modules if m.startswith('{package}.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
