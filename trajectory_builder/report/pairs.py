"""The table of all pairs, as compact JSON that the page's script searches, sorts and filters.

File names and ids follow from trajectory and n in what a build writes, so only others are listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trajectory_builder.manifest import Manifest
from trajectory_builder.report.links import Links
from trajectory_builder.report.measures import Look

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 200_000
"""Our choice: some 8 MB of page; `trajbuild select` searches larger sets."""


def pair_table(
    rows: Manifest, looks: Mapping[int, Look], blurs: Mapping[int, float], links: Links, soft: float
) -> str:
    """The rows of the manifest as the JSON text of one object of columns.

    Args:
        rows: the manifests.
        looks: row -> measures of its sharp image, where it was opened.
        blurs: row -> sharpness of its blur, where it was opened.
        links: from the page to the files.
        soft: sharpness below which a sharp image is marked.
    """
    frame = rows.to_pandas().head(MAX_ROWS)
    trajectories, names = frame["trajectory_id"].factorize()
    sharpness = np.full(len(names), np.nan)
    for row in (row for row in looks if row < len(frame)):
        sharpness[trajectories[row]] = looks[row].sharpness
    n = frame["n_frames"].astype("Int64")
    suffix = n.astype("string").str.zfill(2).fillna("00")
    names_of_rows = frame["trajectory_id"].astype("string")
    blur = [blurs.get(row) for row in range(len(frame))]
    table = {
        "trajectories": names.tolist(),
        "trajectory": trajectories.tolist(),
        "split": _coded(frame["split"]),
        "clip": _coded(frame["clip_id"]),
        "n": _numbers(frame["n_frames"], 0),
        "t": _numbers(frame["timestep"], 0),
        "motion": _numbers(frame["motion_px"], 2),
        "step": _numbers(frame["step_px"], 2),
        "sharpness": _rounded(sharpness[trajectories].tolist(), 1),
        "blur": _rounded(blur, 1),
        "size": _numbers(100 * frame["blur_bytes"] / frame["sharp_bytes"].clip(lower=1), 0),
        "ids": _exceptions(frame["sample_id"], names_of_rows + "/n" + suffix),
        "blurs": _exceptions(
            frame["blur_file_name"], "blur/" + names_of_rows + "_n" + suffix + ".png"
        ),
        "sharps": _exceptions(frame["sharp_file_name"], "sharp/" + names_of_rows + ".png"),
        "folders": [list(prefix) for prefix in links.prefixes],
        "soft": soft,
    }
    # "<" would let a name end the script element.
    return json.dumps(table, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _coded(values: pd.Series[str]) -> dict[str, list[object]]:
    codes, names = values.factorize()
    return {"names": names.tolist(), "codes": codes.tolist()}


def _numbers(values: pd.Series[float], digits: int) -> list[float | int | None]:
    return _rounded([None if v is None else float(v) for v in _plain(values)], digits)


def _plain(values: pd.Series[float]) -> list[float | None]:
    plain: list[float | None] = values.astype(object).where(values.notna(), None).tolist()
    return plain


def _rounded(values: list[float | None], digits: int) -> list[float | int | None]:
    return [
        None if v is None or not np.isfinite(v) else (round(v, digits) if digits else round(v))
        for v in values
    ]


def _exceptions(values: pd.Series[str], usual: pd.Series[str]) -> dict[int, str]:
    """Row -> value where it is not the usual one."""
    odd = values[(values.astype("string") != usual).fillna(True)]
    return {int(str(row)): value for row, value in odd.items()}
