"""Who may import whom: a folder imports only folders below it, and one door joins the halves."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text()
ROOMS = {
    "trajectory_builder": (
        "cli", "doctor", "sample", "report", "export", "curate", "verify", "build",
        "plan", "pixels", "sources", "images", "manifest", "disk", "trajectory", "errors",
        "version",
    ),
    "fidediff_model": (
        "cli", "doctor", "app", "demo", "evaluate", "training", "restore", "scores",
        "model", "weights", "data", "config", "errors",
    ),
}  # fmt: skip
DOOR = ("manifest", "images", "disk", "errors", "trajectory", "cli")


def imports(path):
    """Absolute names of what a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def crossings(package):
    """(file, room of the file, package imported from, room imported) of every import of ours."""
    for path in sorted((ROOT / package).rglob("*.py")):
        here = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        for name in imports(path):
            other, room, *_ = [*name.split("."), ""]
            if other in ROOMS and here not in ("__init__", "__main__"):
                yield str(path.relative_to(ROOT)), here, other, room


@pytest.mark.parametrize("package", ROOMS)
def test_a_folder_imports_only_folders_below_it(package):
    order = ROOMS[package]
    up = {
        (file, room)
        for file, here, other, room in crossings(package)
        if other == package and room != here and order.index(room) < order.index(here)
    }
    assert up == set()


def test_the_model_reaches_the_builder_through_the_door_alone():
    past = {(file, room) for file, _, other, room in crossings("fidediff_model")
            if other == "trajectory_builder" and room not in DOOR}  # fmt: skip
    assert past == set()
    assert [file for file, *_, other, _ in crossings("trajectory_builder")
            if other == "fidediff_model"] == []  # fmt: skip


@pytest.mark.parametrize("package", ROOMS)
def test_the_page_describes_every_folder(package):
    folders = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
    text = PAGE.split(f"\n## {package}\n")[1].split("\n## ")[0]
    assert folders <= set(re.findall(r"^\| `([a-z_]+)/?` ", text, re.M))


def test_the_picture_is_what_its_script_draws(tmp_path):
    script = ROOT / "docs/images/architecture.py"
    subprocess.run([sys.executable, script, tmp_path / "drawn.svg"], check=True)
    assert (tmp_path / "drawn.svg").read_text() == script.with_suffix(".svg").read_text()


@pytest.mark.parametrize("package", ROOMS)
def test_every_public_name_can_be_imported(package):
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize("package", ROOMS)
def test_importing_a_package_loads_none_of_its_rooms(package):
    code = f"import sys, {package}; print([m for m in sys.modules if m.startswith('{package}.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
