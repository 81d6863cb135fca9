"""The rules of the house: what may import what, who writes, what every command and error has."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gopro_tree import PACKAGE, trajbuild

from trajectory_builder.cli import COMMANDS

ROOT = PACKAGE.parent
MODEL = ROOT / "fidediff_model"
HEAVY = ("torch", "pandas", "cv2", "skimage", "pyarrow", "numpy", "joblib", "tqdm", "yaml")
# Writers of folders that are no build's output, or of notes beside it; atomic.py writes the rest.
WRITERS = {
    "disk/atomic.py": "gives every file of an output folder its name",
    "disk/batch.py": "gives the files of a shard theirs, all together",
    "build/retry.py": "a note in the state folder that only tells whether a worker died",
    "curate/derive.py": "a new data set's card, in a folder that it fills under a temporary name",
    "doctor.py": "a frame in a temporary folder, to measure speed",
    "export/webdataset.py": "a tar under a temporary name of store's",
    "images/video/writing.py": "a video under the temporary name that its caller chose",
    "sample/video.py": "a video in memory, which store then writes",
}  # fmt: skip


def modules(package=PACKAGE):
    return sorted(path for path in package.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, *, top_level=False):
    """Absolute names of the modules that a file imports; with `top_level`, at import only."""
    tree = ast.parse(path.read_text())
    nodes = _at_import(tree.body) if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _at_import(body):
    """Statements that run when the module is imported: no functions, no TYPE_CHECKING blocks."""
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.dump(node.test):
                yield from _at_import([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _at_import([*node.body, *node.orelse, *node.finalbody])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def loaded_by(statement):
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {line.split(".")[0] for line in done.stdout.splitlines()}


def test_command_line_loads_nothing_heavy():
    assert loaded_by("import trajectory_builder.cli") & set(HEAVY) == set()


def test_package_alone_loads_nothing_heavy():
    assert loaded_by("import trajectory_builder") & set(HEAVY) == set()


def test_no_command_module_loads_anything_heavy():
    names = [name_of(path) for path in modules(PACKAGE / "cli")]
    assert loaded_by(f"import {', '.join(names)}") & set(HEAVY) == set()


def test_whole_builder_never_loads_torch():
    names = [name_of(path) for path in modules() if path.name != "__main__.py"]
    assert "torch" not in loaded_by(f"import {', '.join(names)}")


def test_builder_imports_torch_for_its_torch_dataset_alone():
    named = {
        f"{name_of(path)}: {name}"
        for path in modules()
        for name in imports(path)
        if name.split(".")[0] in ("torch", "diffusers", "fidediff_model")
    }
    assert named == {"trajectory_builder.export.torch_dataset: torch"}


@pytest.mark.parametrize("package", [PACKAGE, MODEL], ids=lambda path: path.name)
def test_imports_run_in_no_circle(package):
    known = {name_of(path): path for path in modules(package)}
    edges = {
        name: {other for other in imports(path, top_level=True) if other in known and other != name}
        for name, path in known.items()
    }
    # A package's __init__ runs before its own modules by nature; those edges are no circle.
    edges = {name: {o for o in others if not name.startswith(f"{o}.")}
             for name, others in edges.items()}  # fmt: skip
    while True:
        leaves = {name for name, others in edges.items() if not others}
        if not leaves:
            break
        edges = {n: o - leaves for n, o in edges.items() if n not in leaves}
    assert edges == {}


@pytest.mark.parametrize("package", [PACKAGE, MODEL], ids=lambda path: path.name)
def test_nothing_but_commands_imports_the_command_line(package):
    cli = f"{package.name}.cli"
    named = {
        name_of(path)
        for path in modules(package)
        if package / "cli" not in path.parents and path.name not in ("__main__.py", "cli.py")
        and any(name == cli or name.startswith(f"{cli}.") for name in imports(path))
    }  # fmt: skip
    assert named == set()


def writes(path):
    """Whether a module opens anything for writing: open(..., "w"), write_bytes, write_text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(
            node.func, "id", ""
        )  # fmt: skip
        if called in ("write_bytes", "write_text", "imwrite", "touch"):
            return True
        modes = [*node.args[:2], *(k.value for k in node.keywords if k.arg == "mode")]
        if called == "open" and any(
            isinstance(mode, ast.Constant) and isinstance(mode.value, str)
            and len(mode.value) <= 3 and set(mode.value) & set("wax+")
            and set(mode.value) <= set("wax+bt")
            for mode in modes
        ):  # fmt: skip
            return True
    return False


def test_only_the_store_writes_files_but_for_named_exceptions():
    found = {path.relative_to(PACKAGE).as_posix() for path in modules() if writes(path)}
    assert found <= set(WRITERS)


def test_no_module_prints_past_the_command_line():
    calls = {
        name_of(path)
        for package in (PACKAGE, MODEL)
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert calls == set()


def test_every_module_opens_with_what_it_owns():
    bare = [name_of(p) for p in modules() if not ast.get_docstring(ast.parse(p.read_text()))]
    assert bare == []


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_with_an_example(name):
    done = trajbuild(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"trajbuild {name}" in done.stdout.split("Example")[-1]
    assert "Example" in done.stdout


def errors_raised():
    """Every place that makes an error of ours: file, line, and the call."""
    kinds = {"UserError"}
    trees = {path: ast.parse(path.read_text()) for path in modules()}
    for _ in range(3):  # subclasses of subclasses
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and any(
                    getattr(base, "id", getattr(base, "attr", "")) in kinds for base in node.bases
                ):
                    kinds.add(node.name)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            name = getattr(getattr(node, "func", None), "id", None) or getattr(
                getattr(node, "func", None), "attr", None
            )
            if (
                isinstance(node, ast.Call)
                and name in kinds
                and not ast.unparse(node).startswith("click.")
            ):
                yield path.relative_to(ROOT), node, name


def test_every_error_is_made_with_all_three_parts():
    lacking = []
    for path, node, name in errors_raised():
        given = {keyword.arg for keyword in node.keywords}
        if None in given:
            continue
        needed = {"where", "cure"}
        if not needed <= given:
            lacking.append(f"{path}:{node.lineno} {name} lacks {', '.join(sorted(needed - given))}")
    assert lacking == []


def test_house_is_looked_at_whole():
    assert len(modules()) > 30
    assert Path(os.fspath(MODEL / "__init__.py")) in modules(MODEL)
