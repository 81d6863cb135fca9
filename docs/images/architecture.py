"""Draw docs/images/architecture.svg from the tables of docs/architecture.md.

    python docs/images/architecture.py [OUT]

A package is a column, a folder a row; imports go down only. The dashed box marks the door: the
folders of the data half that the model half may import.
"""

import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

PAGE = Path(__file__).parents[1] / "architecture.md"
OUT = Path(__file__).with_suffix(".svg")
PACKAGES = ("trajectory_builder", "fidediff_model")
DOOR = ("images", "manifest", "disk", "trajectory.py, errors.py")
ROW, WIDTH, LEFT, TOP = 30, 450, 20, 60
BUILDER, MODEL, LINE, TEXT = "#0f766e", "#7c3aed", "#94a3b8", "#64748b"


def rooms(page: str, package: str) -> list[tuple[str, str]]:
    """(folder, what it owns) of a package, top to bottom."""
    section = page.partition(f"\n## {package}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (.+?) \|$", section, re.M)
    return [(name.replace("`", ""), owns.replace("`", "")) for name, owns in rows]


def column(package: str, x: int, colour: str, table: list[tuple[str, str]]) -> list[str]:
    """A heading, then a box per folder with what it owns."""
    parts = [f'<text x="{x}" y="40" font-size="16" fill="{colour}">{package}</text>']
    for row, (name, owns) in enumerate(table):
        y = TOP + row * ROW
        short = owns if len(owns) <= 44 else owns[:42].rsplit(" ", 1)[0] + " …"
        parts += [
            f'<rect x="{x}" y="{y}" width="150" height="{ROW - 6}" rx="4" fill="{colour}"/>',
            f'<text x="{x + 8}" y="{y + 16}" fill="#fff">{escape(name)}</text>',
            f'<text x="{x + 158}" y="{y + 16}" fill="{TEXT}">{escape(short)}</text>',
        ]
    return parts


def draw(page: str) -> str:
    """The picture as SVG text."""
    tables = [rooms(page, package) for package in PACKAGES]
    height = TOP + ROW * max(map(len, tables)) + 20
    names = [name for name, _ in tables[0]]
    door = [TOP + names.index(name) * ROW for name in DOOR]
    x = LEFT + WIDTH + 40
    parts = column(PACKAGES[0], LEFT, BUILDER, tables[0])
    parts += column(PACKAGES[1], x, MODEL, tables[1])
    parts += [
        f'<rect x="{LEFT - 6}" y="{door[0] - 4}" width="162" rx="6" fill="none" stroke="{MODEL}"'
        f' height="{door[-1] - door[0] + ROW + 2}" stroke-dasharray="5 4"/>',
        f'<path d="M {x + 75} {TOP + len(tables[1]) * ROW} V {door[2] - 3} H {LEFT + 160}"'
        f' fill="none" stroke="{MODEL}" stroke-dasharray="5 4" marker-end="url(#tip)"/>',
        f'<path d="M {LEFT + WIDTH + 15} {TOP} V {TOP + 120}" stroke="{LINE}"'
        ' marker-end="url(#tip)"/>',
        f'<text x="{LEFT + WIDTH + 15}" y="{TOP - 8}" fill="{TEXT}" text-anchor="middle">imports'
        "</text>",
    ]
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        f' markerHeight="7" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="{LINE}"/></marker>'
        "</defs>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH + 60} {height}"'
        ' font-family="system-ui, sans-serif" font-size="12">\n'
        + "\n".join([tip, *parts])
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else OUT).write_text(draw(PAGE.read_text()))
