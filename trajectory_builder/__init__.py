"""Blur trajectories from frames: expand GoPro, or make a blur set of your own footage.

The public API on one screen; each name is imported on first use, so that importing the package
costs nothing:

    expand_gopro(src, out, options)          all that `trajbuild expand` does
    ExpandOptions                            recipe, frames, how closely pixels are checked
    generate_footage(request, out, options)  all that `trajbuild generate` does
    plan_gopro(src, recipe) -> Plan          what a GoPro tree and a recipe give
    plan_footage(request) -> Plan            the same for videos, frames, photographs
    FootageRequest                           what to make of them
    load_recipe(name_or_file) -> Recipe      which windows become pairs
    build_plan(plan, out, options)           make what is missing of a plan
    BuildOptions                             workers, backend, links
    verify_folder(folder, level)             compare a data set with its manifest
    explain_pair(folder, sample_id)          where a pair comes from
    read_manifest(folder) -> Manifest        rows and files of a data set
    TrajectoryPairs(folder)                  its pairs or trajectories for PyTorch, cropped jointly
    TrajectorySampler(pairs)                 every trajectory once per epoch, one of its n each
    timestep(n_frames) -> int                t = (n - 1) x 20
    nested_means(frames, n_frames)           exact means of windows that share a centre
    write_report(folder, out)                one offline HTML page
    write_sample(out)                        a small GOPRO_Large and GOPRO_Large_all
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trajectory_builder.build.expand import ExpandOptions, expand_gopro
    from trajectory_builder.build.generate import generate_footage
    from trajectory_builder.build.run import BuildOptions, build_plan
    from trajectory_builder.export.torch_dataset import TrajectoryPairs, TrajectorySampler
    from trajectory_builder.manifest import read as read_manifest
    from trajectory_builder.pixels.averaging import nested_means
    from trajectory_builder.plan.footage import plan_footage
    from trajectory_builder.plan.footage_request import FootageRequest
    from trajectory_builder.plan.gopro import plan_gopro
    from trajectory_builder.plan.recipe import load_recipe
    from trajectory_builder.report import write_report
    from trajectory_builder.sample import write_sample
    from trajectory_builder.trajectory import timestep
    from trajectory_builder.verify import verify_folder
    from trajectory_builder.verify.explain import explain_pair

__all__ = [
    "BuildOptions",
    "ExpandOptions",
    "FootageRequest",
    "TrajectoryPairs",
    "TrajectorySampler",
    "build_plan",
    "expand_gopro",
    "explain_pair",
    "generate_footage",
    "load_recipe",
    "nested_means",
    "plan_footage",
    "plan_gopro",
    "read_manifest",
    "timestep",
    "verify_folder",
    "write_report",
    "write_sample",
]

_HOMES = {
    "BuildOptions": ("build.run", "BuildOptions"),
    "ExpandOptions": ("build.expand", "ExpandOptions"),
    "FootageRequest": ("plan.footage_request", "FootageRequest"),
    "TrajectoryPairs": ("export.torch_dataset", "TrajectoryPairs"),
    "TrajectorySampler": ("export.torch_dataset", "TrajectorySampler"),
    "build_plan": ("build.run", "build_plan"),
    "expand_gopro": ("build.expand", "expand_gopro"),
    "explain_pair": ("verify.explain", "explain_pair"),
    "generate_footage": ("build.generate", "generate_footage"),
    "load_recipe": ("plan.recipe", "load_recipe"),
    "nested_means": ("pixels.averaging", "nested_means"),
    "plan_footage": ("plan.footage", "plan_footage"),
    "plan_gopro": ("plan.gopro", "plan_gopro"),
    "read_manifest": ("manifest", "read"),
    "timestep": ("trajectory", "timestep"),
    "verify_folder": ("verify", "verify_folder"),
    "write_report": ("report", "write_report"),
    "write_sample": ("sample", "write_sample"),
}


def __getattr__(name: str) -> Any:
    """Import a public name's home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
