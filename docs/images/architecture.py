"""Draw docs/images/architecture.svg: the rooms of docs/architecture.md and who imports whom.

python docs/images/architecture.py [OUT]

The rooms come from the page's tables, the arrows from the import statements of the packages. Where
a room is reached both straight and through another room, the straight arrow is left out: the
picture shows the shortest set of arrows that leads to the same places.
"""

from __future__ import annotations

import ast
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
OUT = Path(__file__).with_suffix(".svg")
PACKAGES = ("trajectory_builder", "fidediff_model")
DOOR = ("data", "manifest")
"""The one import from one package to the other."""

ROW = re.compile(r"^\| \*\*(?P<room>[\w ]+)\*\* \| (?P<modules>[^|]+) \| (?P<what>[^|]+) \|$", re.M)
BOX, GAP, STEP, TOP = (104, 34), 14, 72, 70


class Room(NamedTuple):
    """A row of the page: a name, patterns of module names, and the package they are in."""

    name: str
    patterns: tuple[str, ...]
    package: str


def rooms(page: str) -> list[Room]:
    """The rooms of the page in its order, top to bottom.

    Raises:
        SystemExit: a table is not there.
    """
    found = []
    for package in PACKAGES:
        _, _, text = page.partition(f"\n## {package}\n")
        section = text.partition("\n## ")[0]
        for row in ROW.finditer(section):
            patterns = tuple(re.findall(r"`([^`]+)`", row["modules"]))
            found.append(Room(row["room"], patterns, package))
        if not section:
            raise SystemExit(f"{PAGE} has no section {package}")
    return found


def modules(package: str) -> dict[str, Path]:
    """Modules by dotted name within the package; a package's own __init__ is `__init__`."""
    base = ROOT / package
    named = {}
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        named[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return named


def room_of(module: str, table: list[Room]) -> str | None:
    """The room that holds a module: an exact name wins over a pattern."""
    for test in (lambda m, p: m == p, fnmatch):
        for room in table:
            if any(test(module, pattern) for pattern in room.patterns):
                return room.name
    return None


def imported(path: Path, package: str, known: dict[str, Path]) -> set[str]:
    """Modules of `package` that a file imports anywhere, types left out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    within = {name.removeprefix(f"{package}.") for name in found if name.startswith(f"{package}.")}
    return within & set(known)


def arrows(package: str, table: list[Room]) -> dict[str, set[str]]:
    """For each room the rooms that it imports."""
    known = modules(package)
    edges: dict[str, set[str]] = {room.name: set() for room in table}
    for name, path in known.items():
        home = room_of(name, table)
        if home is None or name == "__init__":  # its names are imported on first use
            continue
        for other in imported(path, package, known):
            target = room_of(other, table)
            if target and target != home:
                edges[home].add(target)
    return edges


def shortest(edges: dict[str, set[str]], order: list[str]) -> dict[str, set[str]]:
    """The edges that point down the page, without those that other edges imply."""
    rank = {name: place for place, name in enumerate(order)}
    down = {a: {b for b in others if rank[b] > rank[a]} for a, others in edges.items()}
    below: dict[str, set[str]] = {}
    for name in reversed(order):
        below[name] = down[name].union(*(below[b] for b in down[name]))
    return {
        a: {b for b in others if not any(b in below[c] for c in others - {b})}
        for a, others in down.items()
    }


def upward(package: str, table: list[Room]) -> list[tuple[str, str]]:
    """Arrows that point up the page: rooms imported on first use, inside a function."""
    rank = {room.name: place for place, room in enumerate(table)}
    edges = arrows(package, table)
    return [(a, b) for a in rank for b in sorted(edges[a]) if rank[b] < rank[a]]


def places(order: list[str], edges: dict[str, set[str]]) -> dict[str, tuple[int, int]]:
    """Level and place within the level of each room; a room stands above all that it imports."""
    level: dict[str, int] = {}
    for name in reversed(order):
        level[name] = 1 + max((level[b] for b in edges[name]), default=-1)
    rows: dict[int, list[str]] = {}
    for name in order:
        rows.setdefault(level[name], []).append(name)
    return {name: (lvl, at) for lvl, row in rows.items() for at, name in enumerate(row)}


def draw(page: str) -> str:
    """The whole picture as SVG."""
    table = rooms(page)
    body, spots, left, height = [], {}, GAP, 0
    for package in PACKAGES:
        mine = [room for room in table if room.package == package]
        order = [room.name for room in mine]
        edges = shortest(arrows(package, mine), order)
        where = places(order, edges)
        levels = 1 + max(lvl for lvl, _ in where.values())
        widest = max(sum(1 for lvl, _ in where.values() if lvl == k) for k in range(levels))
        width = widest * (BOX[0] + GAP)
        for name, (lvl, at) in where.items():
            count = sum(1 for other, _ in where.values() if other == lvl)
            x = left + (width - count * (BOX[0] + GAP)) / 2 + at * (BOX[0] + GAP) + GAP / 2
            spots[package, name] = (x, TOP + (levels - 1 - lvl) * STEP)
        body.append(_text(left + width / 2, 34, package, "title"))
        body += [_arrow(package, a, b, spots) for a in order for b in sorted(edges[a])]
        body += [_arrow(package, a, b, spots, "up") for a, b in upward(package, mine)]
        body += [_box(name, *spots[package, name]) for name in order]
        left += width + 3 * GAP
        height = max(height, TOP + levels * STEP)
    body.append(_door(spots))
    return _page(left - 2 * GAP, height, body)


def _arrow(
    package: str,
    a: str,
    b: str,
    spots: dict[tuple[str, str], tuple[float, float]],
    kind: str = "down",
) -> str:
    (x0, y0), (x1, y1) = spots[package, a], spots[package, b]
    start, end = (y0 + BOX[1], y1 - 4) if kind == "down" else (y0, y1 + BOX[1] + 4)
    shift = BOX[0] / 2 if kind == "down" else BOX[0] * 0.8
    bend = max(-40.0, min(40.0, (end - start) / 2))
    path = f"M{x0 + shift:.0f},{start} C{x0 + shift:.0f},{start + bend:.0f}"
    path += f" {x1 + shift:.0f},{end - bend:.0f} {x1 + shift:.0f},{end}"
    return f'<path class="arrow {kind}" d="{path}"><title>{package}: {a} > {b}</title></path>'


def _door(spots: dict[tuple[str, str], tuple[float, float]]) -> str:
    (x0, y0), (x1, y1) = spots[PACKAGES[1], DOOR[0]], spots[PACKAGES[0], DOOR[1]]
    start, end = (x0 + 4, y0 + BOX[1] / 2), (x1 + BOX[0] + 6, y1 + BOX[1] / 2)
    path = f"M{start[0]:.0f},{start[1]:.0f} C{start[0] - 60:.0f},{start[1]:.0f}"
    path += f" {end[0] + 60:.0f},{end[1]:.0f} {end[0]:.0f},{end[1]:.0f}"
    return f'<path class="arrow door" d="{path}"><title>the one door</title></path>'


def _box(name: str, x: float, y: float) -> str:
    width, height = BOX
    box = f'<rect class="room" x="{x:.0f}" y="{y}" width="{width}" height="{height}" rx="5"/>'
    return box + _text(x + width / 2, y + 22, name, "name")


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y}" text-anchor="middle">{words}</text>'


def _page(width: float, height: float, body: list[str]) -> str:
    style = """\
text { font: 14px sans-serif; fill: #222 } .title { font-weight: bold; font-size: 16px }
.room { fill: #e4f1ef; stroke: #2a7f76 } .arrow { fill: none; stroke: #8a9a98; marker-end: url(#a) }
.up { stroke-dasharray: 2 4 }
.door { stroke: #c0562a; stroke-width: 2.5; stroke-dasharray: 6 3 }"""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">'
    tip = (
        '<defs><marker id="a" markerWidth="7" markerHeight="7" refX="5" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z" fill="#667"/></marker></defs>'
    )
    ground = f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>'
    return "\n".join([head, f"<style>{style}</style>", tip, ground, *body, "</svg>", ""])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    target.write_text(draw(PAGE.read_text()))
