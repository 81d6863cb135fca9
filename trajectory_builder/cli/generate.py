"""`trajbuild generate`: a blur data set of your own footage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajectory_builder.cli import options, paths
from trajectory_builder.cli.app import pack, say

if TYPE_CHECKING:
    from trajectory_builder.build.run import BuildOptions
    from trajectory_builder.plan.footage_request import FootageRequest


MOST_BLUR_PX = 200


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no list such as 5,7,9") from error


def _sides(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, float]:
    low, _, high = value.partition("..")
    try:
        sides = float(low), float(high or low)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no range such as 12..18") from error
    if not 1 <= sides[0] <= sides[1] <= MOST_BLUR_PX:
        raise click.BadParameter(f"{value!r} is no range of pixels from 1 to {MOST_BLUR_PX}")
    return sides


_WINDOWS = options.chain(
    click.option("--n-frames", callback=_numbers, metavar="N,N,...", help="Odd numbers of frames"
                 " that a blur averages. [default: 5,7,9,11,13]"),
    click.option("--recipe", metavar="NAME|FILE", help="Take them from a recipe instead."),
    click.option("--every", type=click.IntRange(1), help="Frames between the centres of"
                 " neighbouring trajectories. [default: the longest window]"),
    click.option("--max-per-clip", type=click.IntRange(1), help="At most this many trajectories per"
                 " clip, evenly spread. [default: all]"),
    click.option("--into", "split", default="train=1", show_default=True,
                 metavar="SPLIT=SHARE,...", help="Shares of train, validation, test, by clip; a"
                 " shot is never in two."),
    # The option's first name.
    click.option("--split", "first_split", hidden=True),
    click.option("--seed", type=int, default=0, show_default=True,
                 help="Seed of the split, camera paths and noise."),
    click.option("--timestep-map", type=click.Choice(["frames", "exposure"]), default="frames",
                 show_default=True, help="t by the number of frames, or by the time they span,"
                 " in frames of 240 fps."),
)  # fmt: skip

_FOOTAGE = options.chain(
    click.option("--fps", type=click.FloatRange(1, 100_000), help="Frames per second at which"
                 " it was shot. [default: the file's own]"),
    click.option("--join-chapters", is_flag=True, help="Join a shot's chapters into one clip."),
    click.option("--interpolate", type=click.IntRange(0, 63), default=0, show_default=True,
                 metavar="K", help="Draw K frames between neighbours by optical flow; n then"
                 " counts them too."),
    click.option("--motion-floor", type=click.FloatRange(0), default=0.5, show_default=True,
                 metavar="PX", help="Windows that move less, in pixels, make no pair."),
    click.option("--hdr", type=click.Choice(["refuse", "convert"]), default="refuse",
                 show_default=True, help="HLG and PQ video: refuse it, or convert it to ordinary"
                 " video (BT.709)."),
)  # fmt: skip

_LOOK = options.chain(
    click.option("--average", type=click.Choice(["srgb", "gamma2.2"]), help="Domain of the"
                 " averages. [default: srgb, or the recipe's]"),
    click.option("--camera", default="", metavar="KEY=VALUE,...", help="Blur as cameras make it:"
                 " response=srgb|gamma2.2|FILE, highlight, shot, read, jpeg; a value may"
                 " be a range, 80..95."),
    click.option("--bits", type=click.Choice([8, 16]), default=8, show_default=True,
                 help="Depth of the written files."),
    click.option("--white", type=click.IntRange(255, 65535), metavar="VALUE", help="White in 16-bit"
                 " pictures of a camera with fewer bits: 4095 for 12. [default: 65535]"),
)  # fmt: skip

_STILLS = options.chain(
    click.option("--stills", is_flag=True, help="Take pictures as photographs, and move a camera."),
    click.option("--paths-per-still", type=click.IntRange(1, 999), default=1, show_default=True,
                 help="Camera paths for each photograph."),
    click.option("--max-side", type=click.IntRange(0), default=1920, show_default=True,
                 metavar="PX", help="Reduce larger photographs; 0 leaves them."),
    click.option("--blur-px", callback=_sides, default="12..18", show_default=True,
                 metavar="LO..HI", help="Side of the longest blur's kernel, drawn per path."),
    click.option("--scenes", type=click.IntRange(1, 999_999), metavar="N",
                 help="First draw N scenes into the folder FOOTAGE, and take them as photographs."),
    click.option("--scene-size", type=click.IntRange(64, 4096), default=256, show_default=True,
                 metavar="PX", help="Side of the blurs of drawn scenes."),
)  # fmt: skip


@click.command(name="generate", short_help="Make a blur data set of your own footage.")
@paths.several("FOOTAGE...")
@click.option("--out", type=options.FOLDER, required=True, help="Output folder.")
@_WINDOWS
@_FOOTAGE
@_LOOK
@_STILLS
@options.workers
@click.option("--dry-run", is_flag=True, help="Print the plan, the bytes needed and free; stop.")
@options.as_json
@pack("request", "trajectory_builder.plan.footage_request:FootageRequest")
def command(
    request: FootageRequest,
    out: Path,
    build: BuildOptions,
    scenes: int | None,
    scene_size: int,
    first_split: str | None,
    dry_run: bool,
    as_json: bool,
) -> int | None:
    """Make a blur data set of FOOTAGE: videos, folders of videos or of
    frames, photographs.

    Every blur is the mean of n neighbouring frames, its sharp image the
    middle one. OUT then contains a folder per split with metadata.parquet,
    blur/ and sharp/, a card, build.json, and problems.parquet, which names each
    window that made no pair and why: a gap, a cut, nothing that moves.

    \b
    Examples:
      trajbuild generate holiday.mp4 --out holiday_trajectories
      trajbuild generate clips/*.mp4 --into train=0.9,test=0.1 --out set
      trajbuild generate photos --stills --out set
      trajbuild generate scenes --scenes 100 --out set
    Run the same command again to resume.
    """
    from trajectory_builder.build.generate import generate_footage
    from trajectory_builder.plan import footage

    request = replace(request, split=first_split or request.split)
    if scenes:
        _draw_scenes(request, scenes, scene_size)
        request = replace(request, stills=True)
    if dry_run:
        from trajectory_builder.build.price import seconds_to_draw

        plan = footage.plan_footage(request)
        seconds = seconds_to_draw(plan, build.jobs)
        options.print_plan(plan, out, as_json=as_json, drawing_seconds=seconds)
        return None
    report = generate_footage(request, out, build, on_plan=options.print_notes)
    if as_json:
        say(json.dumps(report.as_data()))
    else:
        options.print_report(report)
    return int(report.exit_code)


def _draw_scenes(request: FootageRequest, count: int, side: int) -> None:
    """Fill the folder FOOTAGE with drawn scenes, which are then taken as photographs."""
    from trajectory_builder.sample.drawn import write_scenes

    if len(request.sources) != 1:
        raise click.UsageError("--scenes draws into one folder: give one FOOTAGE")
    folder, seed = request.sources[0], request.seed
    write_scenes(folder, count, side=side, seed=seed, blur_px=request.blur_px)
