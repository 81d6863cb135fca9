"""An output folder belongs to one config and one source; another build in it is refused.

A source may grow during a build. It may not change: the pairs would no longer be of one recipe.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from trajectory_builder.build import record
from trajectory_builder.build.record import CONFIG
from trajectory_builder.disk import ownership as folder_ownership
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import ExitCode, OutputError, shorten
from trajectory_builder.plan.table import Plan
from trajectory_builder.trajectory import BUILD_FILE

_INPUTS = ["sample_id", "blur_source", "sharp_source", "frame_names"]


def claim(folder: OutputFolder, plan: Plan, link: str) -> str:
    """Store the plan and its config in the folder, or compare with what is there.

    Returns:
        The plan's digest.

    Raises:
        OutputError: it belongs to another config or source (exit 5).
    """
    stored = refuse_other_config(folder, plan, link, settled=True)
    digest = record.table_sha256(plan.table, plan.config_sha256 + link)
    known = stored.get("plan_sha256") == digest
    if not known:
        _refuse_other_source(folder, plan.table)
    record.write_sources(folder, plan.roots)
    if plan.alignment is not None:
        record.write_alignment(folder, plan.alignment)
    # A damaged config.json is written again, once build.json has shown the same plan.
    if not known or folder.read_sealed(CONFIG) is None:
        config = plan.config | {"link": link}
        record.write_plan(folder, plan.table, {"config": config, "plan_sha256": digest})
    return digest


def refuse_other_config(
    folder: OutputFolder, plan: Plan, link: str, *, settled: bool
) -> dict[str, Any]:
    """The stored claim of the folder; empty where there is none.

    Raises:
        OutputError: the folder was claimed with another config. Of a plan that is not settled, the
            offsets are not compared, since the pixels have not been read yet.
    """
    stored = _claimed_config(folder) or {}
    wanted, config = plan.config | {"link": link}, stored.get("config")
    if config is None:
        return stored
    if not settled and "offsets" in config:
        wanted["offsets"] = config["offsets"]
    stored_recipe = config.get("recipe")
    recipe = stored_recipe.get("name", "?") if isinstance(stored_recipe, dict) else "?"
    options = (
        "the options that it was made with"
        if recipe == "own"  # the name of a recipe that was made from options
        else f"--recipe {recipe} and the same options"
    )
    folder_ownership.refuse_other_config(
        folder.root,
        config,
        wanted,
        file=BUILD_FILE,
        contents="a build",
        cure=f"choose another --out, or give {options} to go on with that build",
    )
    return stored


def _claimed_config(folder: OutputFolder) -> dict[str, Any] | None:
    """`config` and `plan_sha256` of the build that the folder belongs to; None for a new folder.

    Raises:
        OutputError: the file is damaged, and no sound build.json can replace it.
    """
    stored = folder.read_sealed(CONFIG) or record.read_build(folder.root)
    if stored is None and (folder.root / CONFIG).exists():
        raise OutputError(
            "the note of which config this folder belongs to is damaged",
            where=f"{folder.root}/{CONFIG}",
            cure="delete that file and run the same command again: shards that were made with this"
            " command's config are kept, others are made again",
        )
    return stored


def _refuse_other_source(folder: OutputFolder, table: pa.Table) -> None:
    """Let a source grow, but not change under a build: old rows must still have the same inputs.

    Raises:
        OutputError: rows of the stored plan are gone or have other inputs (exit 5).
    """
    old = record.read_plan(folder)
    # A first build, or a stored plan that is damaged: nothing to compare with.
    if old is None:
        return
    now = _inputs(table)
    differing = [name for name, inputs in _inputs(old).items() if now.get(name) != inputs]
    if differing:
        raise OutputError(
            f"{folder.root} contains a build of another source, or the source has lost files:"
            f" {len(differing):,} pairs are gone or have other inputs",
            where=shorten(differing),
            cure="give the source that the build began with, or choose another --out",
            exit_code=ExitCode.OTHER_CONFIG,
        )


def _inputs(table: pa.Table) -> dict[str, tuple[Any, ...]]:
    """What decides each pair's bytes: a blur that is copied does not depend on its frames."""
    return {
        row["sample_id"]: (
            row["blur_source"],
            row["sharp_source"],
            None if row["blur_source"] else row["frame_names"],
        )
        for row in table.select(_INPUTS).to_pylist()
    }
