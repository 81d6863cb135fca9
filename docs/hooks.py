"""Hooks of mkdocs: the decisions in the navigation, and a page per command with its help.

`python docs/hooks.py` writes the tables of docs/commands.md anew from the command lines.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "commands.md"
PROGRAMS = {"trajbuild": "trajectory_builder.cli", "fidediff": "fidediff_model.cli"}


def tables(page: str) -> str:
    """The commands page with its tables as the command lines have them now."""
    for program, module in PROGRAMS.items():
        lines = ["| command | does |", "|---|---|"]
        lines += [f"| `{program} {n}` | {what} |" for n, what in _commands(module).items()]
        heading = f"\n## {program}\n"
        before, _, rest = page.partition(heading)
        after = re.sub(r"\A\n*(\|.*\n)*\n*", "", rest)
        page = f"{before}{heading}\n" + "\n".join(lines) + f"\n\n{after}"
    return page


def _commands(module: str) -> dict[str, str]:
    found: dict[str, str] = import_module(module).COMMANDS
    return found


def command_pages() -> dict[str, str]:
    """Path in the site -> Markdown, a page per command: its help as a terminal shows it."""
    pages = {}
    for program, module in PROGRAMS.items():
        for name, what in _commands(module).items():
            command = import_module(f"{module}.{name}").command
            heading = f"# {program} {name}\n\n{what}\n"
            back = "\nAll commands, and what exit codes mean: [Commands](../commands.md)\n"
            text = "\n".join(_help(command, f"{program} {name}"))
            pages[f"commands/{program}-{name}.md"] = f"{heading}{text}\n{back}"
    return pages


def _help(command: click.Command, called: str) -> list[str]:
    context = click.Context(
        command,
        info_name=called,
        terminal_width=80,
        max_content_width=80,
        help_option_names=["-h", "--help"],
    )
    heading = [f"\n## {called}\n"] if called.count(" ") > 1 else []
    parts = [*heading, "```text", command.get_help(context), "```"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner:
                parts += _help(inner, f"{called} {name}")
    return parts


def on_config(config: Any) -> Any:
    """Put every decision in the navigation, in the order of its number, folded."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    reference = config.nav[-1]["Reference"]
    reference.append({"Decisions": [f"decisions/{page.name}" for page in pages]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the tables of the benchmarks, which pages link to, and the page of each command."""
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, content=path.read_bytes()))
    for uri, content in command_pages().items():
        files.append(File.generated(config, uri, content=content))
    return files


def _inside(markdown: str, source: str) -> str:
    """Links that leave docs/: to results as the site has them, to all else as bare words."""
    deep = "../" * source.count("/")
    markdown = markdown.replace(f"](../{deep}benchmarks/results/", f"]({deep}benchmarks/results/")
    return re.sub(rf"\[([^]\[]+)\]\(\.\./{deep}(?!\.\.)[^)]+\)", r"\1", markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Bring links home, and link the commands in their tables to their pages."""
    if not page.file.generated_by:
        markdown = _inside(markdown, page.file.src_uri)
    if page.file.src_uri == "commands.md":
        row = r"^\| `(\w+) (\w+)` \|"
        return re.sub(row, r"| [`\1 \2`](commands/\1-\2.md) |", markdown, flags=re.M)
    return markdown


if __name__ == "__main__":
    PAGE.write_text(tables(PAGE.read_text()))
