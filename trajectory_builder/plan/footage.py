"""The plan of a user's footage: clips to windows, timesteps, splits and shards.

The plan is complete before the build starts; frames are decoded once, shard by shard, by
`build.footage_shard`. Here only headers, frame times and, for `preview`, two frames at a few places
of each clip are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from trajectory_builder import manifest
from trajectory_builder.errors import UsageError, shorten
from trajectory_builder.pixels import camera
from trajectory_builder.plan import preview, recipe, windows
from trajectory_builder.plan.clips import ClipPlan, plan_clip
from trajectory_builder.plan.data_sets import refuse_data_sets
from trajectory_builder.plan.footage_request import FootageRequest
from trajectory_builder.plan.table import Plan
from trajectory_builder.plan.windows import WindowChoice
from trajectory_builder.sources import footage
from trajectory_builder.sources.footage import Footage
from trajectory_builder.trajectory import SPLITS, Problem

_BLUR_PX_BEFORE = (6.3, 18.0)
"""What sets of photographs were made with before their record said so."""


def plan_footage(request: FootageRequest) -> Plan:
    """Plan a data set of a user's footage.

    Raises:
        DataError: no footage that can be used.
        VideoError, ImageError: the only file given cannot be used.
        UsageError: windows, timesteps or splits that cannot be.
        UsageError: camera settings that cannot be used.
        UsageError: a source is a data set, or photographs without `stills`.
        ImageError: 16-bit frames whose values plainly end below their container, at 8 bits.
    """
    choice = _choice(request)
    if request.camera:
        camera.parse(request.camera)
    _check_bits(request, choice.recipe.average)
    shares = windows.parse_split(request.split)
    refuse_data_sets(request.sources)
    found = footage.find(
        request.sources,
        fps=request.fps,
        join_chapters=request.join_chapters,
        stills=request.stills,
        hdr=request.hdr,
    )
    _check_domain(choice.recipe.average, found.clips)
    splits = windows.split_shots([clip.shot for clip in found.clips], shares, request.seed)
    problems, notes = list(found.problems), [*found.notes, *_recipe_notes(request)]
    notes += _spacing_note(request, choice)
    clips: list[ClipPlan] = []
    for clip in sorted(found.clips, key=lambda c: SPLITS.index(splits[c.shot])):
        clips.append(plan_clip(clip, splits[clip.shot], choice, request))
        problems += clips[-1].problems
        if not request.stills:
            notes += preview.low_values(clip, request)
            preview.refuse_photographs(clip, request.white)
            notes += preview.warnings(clip, request)
    table = pa.concat_tables([planned.table for planned in clips])
    if table.num_rows == 0:
        raise _no_window(found.clips, problems, choice)
    return Plan(
        table=table,
        roots=found.roots,
        config=_config(request, choice),
        problems=tuple(problems),
        notes=tuple(notes),
        orders={name: order for planned in clips for name, order in planned.orders.items()},
    )


def _choice(request: FootageRequest) -> WindowChoice:
    chosen = request.chosen_recipe()
    return WindowChoice(
        recipe=chosen,
        native_n_frames=windows.native_of(chosen),
        every=request.every,
        max_per_clip=request.max_per_clip,
        timestep_map=request.timestep_map,
    )


def _recipe_notes(request: FootageRequest) -> list[str]:
    """What footage, which has no official pairs, makes of a recipe."""
    if request.recipe is None:
        return []
    chosen = request.chosen_recipe()
    native = windows.native_of(chosen)
    drawn = chosen.draws.get(native, {})
    sizes = replace(chosen, draws={}).n_frames(native, "")
    entries = {*chosen.windows, *chosen.draws} - {native, recipe.ANY}
    note = f"recipe {chosen.name}: footage has no official pairs; n = {native} takes their"
    note += f" place and gives n = {', '.join(map(str, sizes))}"
    if drawn:
        note += f" and one of {', '.join(map(str, sorted(drawn)))}"
    if entries:
        note += f"; the entries for n = {', '.join(map(str, sorted(entries)))} are not used"
    return [note]


def _spacing_note(request: FootageRequest, choice: WindowChoice) -> list[str]:
    """A note where interpolation makes many trajectories that are nearly alike."""
    longest, factor = windows.longest_n(choice, ""), request.interpolate + 1
    if factor == 1 or request.every is not None or request.stills:
        return []
    apart = -(-longest // factor)
    steps = "1 frame" if apart == 1 else f"{apart} frames"
    return [
        f"--interpolate {request.interpolate}: neighbouring trajectories are {steps} as shot"
        f" apart, so their pairs are nearly alike; --every {longest} keeps as many pairs as there"
        " are without interpolation"
    ]


def _check_bits(request: FootageRequest, average: str) -> None:
    if request.bits == 16 and (average != "srgb" or request.camera or request.interpolate):
        raise UsageError(
            "--bits 16 works with plain averages in srgb only",
            where="--bits 16 with --average, --camera or --interpolate",
            cure="leave out --bits 16",
        )


def _check_domain(average: str, clips: Sequence[Footage]) -> None:
    """Refuse gamma2.2, defined as GoPro's on 8-bit frames, for photographs and 16-bit frames."""
    if average == "srgb":
        return
    other = [clip.name for clip in clips if clip.kind == "still" or clip.bits == 16]
    if other:
        raise UsageError(
            "photographs and 16-bit frames are averaged in srgb only",
            where=f"--average {average}: {shorten(other)}",
            cure="use --camera response=gamma2.2, which averages light of any depth",
        )


def _config(request: FootageRequest, choice: WindowChoice) -> dict[str, Any]:
    """All that decides the pairs; where the sources are does not."""
    parts = asdict(request)
    for name in ("sources", "recipe", "n_frames", "average"):
        del parts[name]
    if parts["white"] is None:  # so that builds made before there was a white can be resumed
        del parts["white"]
    parts["blur_px"] = list(request.blur_px)  # as JSON gives it back
    if not request.stills:
        del parts["blur_px"]
    plain_recipe = choice.recipe.as_data()
    if request.camera:
        plain_recipe["average"] = "camera"
        settings = camera.parse(request.camera)
        parts["camera"] = settings.as_text()
        if settings.response not in camera.BUILT_IN:
            parts["response_sha256"] = camera.curve_sha256(settings.response)
    return parts | {
        "source": "footage",
        "recipe": plain_recipe,
        "format_version": manifest.FORMAT_VERSION,
    }


def request_of(config: Mapping[str, Any], sources: Sequence[Path]) -> FootageRequest:
    """The request that a build's config records, for footage that may have moved."""
    plain_recipe = dict(config["recipe"])
    if plain_recipe["average"] == "camera":
        plain_recipe["average"] = "srgb"
    names = {field.name for field in fields(FootageRequest)}
    kept = {name: value for name, value in config.items() if name in names}
    kept["blur_px"] = tuple(kept.get("blur_px", _BLUR_PX_BEFORE))
    return FootageRequest(
        **kept | {"sources": tuple(sources), "recipe": recipe.from_data(plain_recipe)}
    )


def _no_window(
    clips: Sequence[Footage], problems: Sequence[Problem], choice: WindowChoice
) -> UsageError:
    reasons = sorted({problem.reason for problem in problems})
    examples = [problem.what for problem in problems[:3]]
    fitting = windows.fitting_n(choice, max(clip.length for clip in clips)) or "3"
    cures = sorted({problem.cure for problem in problems if problem.reason != "clip-too-short"})
    if "clip-too-short" in reasons or not reasons:
        cures.append(f"film longer, or ask for shorter windows: --n-frames {fitting}")
    return UsageError(
        f"no window of {windows.longest_n(choice, '')} frames can be made"
        f" ({', '.join(reasons) or 'no clip is long enough'})",
        where=shorten(examples) or shorten([clip.name for clip in clips]),
        cure="; ".join(cures),
    )
