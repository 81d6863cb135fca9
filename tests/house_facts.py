"""House facts, to be read and not enforced: sizes, types, documentation, tests beside source.

The tests' closing report prints them; so does `python tests/house_facts.py`. Code lines are neither
blank, comment nor docstring; methods and inner functions count as functions; a public name has no
leading underscore.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PACKAGES = ("trajectory_builder", "fidediff_model")
MODULE_CEILING, FUNCTION_CEILING = 400, 60
COMMENTED = ("build", "model")
"""Rooms whose comments are counted apart: where the tricks and the equations are."""
_COMMENT = re.compile(r"(?:^\s*|\s\s)#(?!!)")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file, read once."""

    path: Path
    lines: int
    code: tuple[int, ...]
    comments: int
    nodes: tuple[ast.AST, ...]

    @classmethod
    def read(cls, path: Path) -> Source:
        """Parse a file and tell code lines from comments and docstrings."""
        lines = path.read_text().splitlines()
        code = {n for n, line in enumerate(lines, 1) if line.strip() and not _COMMENT.match(line)}
        nodes = tuple(ast.walk(ast.parse(path.read_bytes())))
        for node in nodes:
            # A string that stands alone is documentation, of a module, function or constant.
            if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
                code -= set(range(node.lineno, node.end_lineno + 1))
        comments = sum(bool(_COMMENT.search(line)) for line in lines)
        return cls(path, len(lines), tuple(sorted(code)), comments, nodes)

    def functions(self) -> Iterator[tuple[Function, int]]:
        """Every function with its code lines, decorators left out."""
        for node in self.nodes:
            if isinstance(node, Function):
                yield (
                    node,
                    bisect_right(self.code, node.end_lineno) - bisect_left(self.code, node.lineno),
                )

    def public(self) -> Iterator[Function | ast.ClassDef]:
        """Functions, methods and classes without an underscore, none of them inside a function."""
        bodies = [self.nodes[0].body]
        while bodies:
            for node in bodies.pop():
                if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                    yield node
                if isinstance(node, ast.ClassDef | ast.If):
                    bodies.append(node.body)


@cache
def sources(folder: str) -> list[Source]:
    """Every Python file below a folder of the checkout."""
    return [Source.read(path) for path in sorted((ROOT / folder).rglob("*.py"))]


def _is_typed(function: Function) -> bool:
    arguments = [
        *function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs,
        *filter(None, (function.args.vararg, function.args.kwarg)),
    ]  # fmt: skip
    named = [a for a in arguments if a.arg not in ("self", "cls")]
    return function.returns is not None and all(a.annotation is not None for a in named)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"


def _longest(named: list[tuple[int, str]], ceiling: int) -> str:
    over = sorted((item for item in named if item[0] > ceiling), reverse=True)
    told = ", ".join(f"{name} {size}" for size, name in over[:5])
    return f"{len(over)} over {ceiling}" + (f" ({told})" if told else "")


def of_package(package: str) -> list[str]:
    """The facts of one package, a line each."""
    files = sources(package)
    modules = [(s.lines, s.path.relative_to(ROOT / package).as_posix()) for s in files]
    functions = [
        (size, f"{s.path.stem}.{node.name}") for s in files for node, size in s.functions()
    ]
    public = [node for s in files for node in s.public()]
    typed = [_is_typed(node) for node in public if isinstance(node, Function)]
    documented = [ast.get_docstring(node) is not None for node in public]
    code = sum(len(s.code) for s in files)
    sizes = [size for size, _ in modules]
    within = _share(sum(size <= 250 for size in sizes), len(sizes))
    return [
        f"{package}: {len(files)} modules, {sum(sizes):,} lines, {code:,} of code",
        f"  modules: median {median(sizes):.0f} lines, {within} within 250, "
        + _longest(modules, MODULE_CEILING),
        f"  functions: {len(functions)}, median {median(size for size, _ in functions):.0f} "
        f"code lines, {_longest(functions, FUNCTION_CEILING)}",
        f"  public: {_share(sum(typed), len(typed))} of {len(typed)} functions typed, "
        f"{_share(sum(documented), len(documented))} of {len(documented)} names documented",
        f"  comments per 100 lines of code: {_comments(files):.0f}"
        + "".join(
            f", {room}/ {_comments(sources(f'{package}/{room}')):.0f}"
            for room in COMMENTED
            if (ROOT / package / room).is_dir()
        ),
        f"  top of the package: {_entries(ROOT / package)} entries; `dict[str, Any]`: "
        f"{sum(s.path.read_text().count('dict[str, Any]') for s in files)}; error classes: "
        f"{sum(_is_error(node) for s in files for node in s.nodes)}",
    ]


def _comments(files: list[Source]) -> float:
    return 100 * sum(s.comments for s in files) / max(1, sum(len(s.code) for s in files))


def _entries(folder: Path) -> int:
    """Modules and folders of a package, `py.typed` and caches left out."""
    return sum(
        path.suffix == ".py" or (path / "__init__.py").is_file() for path in folder.iterdir()
    )


def _is_error(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and node.name.endswith("Error")


def of_tests() -> list[str]:
    """The facts of the tests."""
    files = sources("tests")
    tests = [
        (size, node.name)
        for s in files
        for node, size in s.functions()
        if node.name.startswith("test_")
    ]
    lines = sum(s.lines for s in files)
    source = sum(s.lines for package in PACKAGES for s in sources(package))
    sentences = sum(name.count("_") >= 4 for _, name in tests)
    return [
        f"tests: {lines:,} lines, {lines / source:.2f} of the source's; {len(tests)} functions, "
        f"median {median(size for size, _ in tests):.0f} code lines, "
        f"{_share(sentences, len(tests))} named in four words or more"
    ]


def report() -> list[str]:
    """All facts, a line each."""
    return [*(line for package in PACKAGES for line in of_package(package)), *of_tests()]


if __name__ == "__main__":
    print("\n".join(report()))
