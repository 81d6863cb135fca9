"""The card of a derived data set: its contents, its sources, and their cards' terms."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from trajectory_builder import manifest
from trajectory_builder.build.card import size_category
from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.disk.strict_yaml import parse_yaml

_CODE = re.compile(r"^```.*?^```\n*", re.MULTILINE | re.DOTALL)
KEPT_KEYS = ("license", "license_name", "license_link", "language", "tags", "task_categories")
"""What of a source's card is still true of a part of it; counts and names are not."""
MAX_BYTES = 1 << 20
"""Larger cards are left out."""


def text(
    folder: Path,
    command: str,
    options: Mapping[str, Any],
    sources: Sequence[Mapping[str, Any]],
    source_cards: Sequence[str],
) -> str:
    """The card of the data set in `folder`, whose manifests exist; it names no time or host.

    Args:
        folder: the new data set.
        command: select, split or merge.
        options: its options.
        sources: set, manifest, sha256 and rows of each manifest that it came from.
        source_cards: the sources' cards, which are appended.
    """
    parts = [split_front(one) for one in source_cards]
    asked = json.dumps({k: v for k, v in options.items() if v not in (None, "", [])})
    lines = [
        *front_lines(_common_front([front for front, _ in parts]) | _own_front(folder)),
        "",
        f"# Blur trajectories, made by `trajbuild {command}`",
        "",
        f"Asked for: `{asked}`. Each row of `metadata.parquet` is a pair of a blur and its sharp"
        " image; the columns are those of the data sets below.",
        "",
        *counts(folder),
        "",
        "## Derived from",
        "",
        "| data set | manifest | rows | SHA-256 |",
        "|---|---|---|---|",
        *(
            f"| {_cell(s['set'])} | {_cell(s['manifest'])} | {s['rows']:,} | `{s['sha256']}` |"
            for s in sources
        ),
    ]
    for _, body in parts:
        lines += ["", "## The card of what it was derived from", ""]
        lines += ["Its counts are not those of this data set.", "", demoted(body)]
    return "\n".join([*lines, ""])


def front_lines(front: Mapping[str, Any]) -> list[str]:
    """A card's YAML head."""
    if not front:
        return []
    return ["---", *yaml.safe_dump(dict(front), sort_keys=True).splitlines(), "---"]


def read_card(folder: Path) -> str:
    """The README.md of a data set; empty where there is none that can be read."""
    try:
        return read_regular_text(folder / "README.md", at_most=MAX_BYTES, errors="replace")
    except OSError:
        return ""


def split_front(card: str) -> tuple[dict[str, Any], str]:
    """A card's YAML head, empty where there is none that can be read, and the text below it."""
    if card.startswith("---\n") and "\n---\n" in card[3:]:
        head, body = card[4:].split("\n---\n", 1)
        try:
            front = parse_yaml(head)
        except ValueError:
            return {}, body
        return (front if isinstance(front, dict) else {}), body
    return {}, card


def counts(folder: Path) -> list[str]:
    """A Markdown table of pairs per split and n, from the manifests in `folder`."""
    lines = ["| split | n | t | pairs | trajectories |", "|---|---|---|---|---|"]
    keys = ["n_frames", "timestep"]
    for path in manifest.files(folder):
        with pq.ParquetFile(path) as file:
            table = file.read(columns=[*keys, "trajectory_id"], use_threads=False)
        groups = table.group_by(keys).aggregate(
            [([], "count_all"), ("trajectory_id", "count_distinct")]
        )
        for row in groups.sort_by([("n_frames", "ascending")]).to_pylist():
            n, t = ("unknown" if row[key] is None else str(row[key]) for key in keys)
            pairs, trajectories = row["count_all"], row["trajectory_id_count_distinct"]
            lines.append(f"| {path.parent.name} | {n} | {t} | {pairs:,} | {trajectories:,} |")
    return lines


def _common_front(fronts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Terms that all sources share; a licence that they do not share is called `other`."""
    if not fronts:
        return {}
    common = {
        key: fronts[0][key]
        for key in KEPT_KEYS
        if key in fronts[0] and all(front.get(key) == fronts[0][key] for front in fronts)
    }
    if "license" not in common and any("license" in front for front in fronts):
        common["license"] = "other"
    return common


def _own_front(folder: Path) -> dict[str, Any]:
    rows = sum(pq.read_metadata(path).num_rows for path in manifest.files(folder))
    return {"size_categories": [size_category(rows)]}


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def without_loading(body: str) -> str:
    """A card's text without the code that loads its data set: it would not load what is here."""
    return _CODE.sub(lambda block: "" if "load_dataset(" in block[0] else block[0], body)


def demoted(body: str) -> str:
    """Headings one level down; lines of code that begin with # are left alone."""
    lines, code = [], False
    for line in body.strip().splitlines():
        code ^= line.startswith("```")
        lines.append(f"#{line}" if line.startswith("#") and not code else line)
    return "\n".join(lines)
