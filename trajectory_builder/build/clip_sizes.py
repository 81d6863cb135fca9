"""The image size of a GoPro clip, known before its shards are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from trajectory_builder.disk.regular import open_regular
from trajectory_builder.errors import ImageError
from trajectory_builder.images import png
from trajectory_builder.plan.table import PlanRow


class ClipSizes:
    """The size that most of a clip's first sharp images have; other sizes are refused."""

    def __init__(self, roots: dict[str, str]) -> None:
        self._roots = roots
        self._found: dict[tuple[str, str], tuple[int, int] | None] = {}

    def of_clip(self, rows: Sequence[PlanRow]) -> tuple[int, int] | None:
        """(width, height) by majority over the sharp images of the clip's first shard."""
        key = (rows[0]["split"], rows[0]["clip_id"])
        if key not in self._found:
            sizes: Counter[tuple[int, int]] = Counter()
            for source in {row["sharp_source"] for row in rows}:
                root, name = source.split(":", 1)
                try:
                    with open_regular(Path(self._roots[root], name)) as file:
                        header = png.png_header(file.read(33))  # signature and IHDR
                # The shard that copies this file reports what is wrong with it.
                except (OSError, ImageError):
                    continue
                sizes[header.width, header.height] += 1
            # On a tie the larger size wins: a set has another order in each run.
            self._found[key] = max(sizes, key=lambda s: (sizes[s], s)) if sizes else None
        return self._found[key]
