"""The exports by name."""

from __future__ import annotations

from collections.abc import Callable

from trajectory_builder.export.folders import export_folders
from trajectory_builder.export.hf import export_hf
from trajectory_builder.export.lmdb import export_lmdb
from trajectory_builder.export.request import ExportReport, Request
from trajectory_builder.export.webdataset import export_webdataset

TARGETS: dict[str, Callable[[Request], ExportReport]] = {
    "hf": export_hf,
    "webdataset": export_webdataset,
    "lmdb": export_lmdb,
    "folders": export_folders,
}
