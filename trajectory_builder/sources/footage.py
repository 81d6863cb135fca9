"""Clips of the user's own footage: videos, folders of frames, photographs.

Finds the clips, names them, and records for each one how long it is, where no window may cross,
and where decoding can start. Only headers are read, and one frame per video.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trajectory_builder.errors import (
    LISTED_AT_MOST,
    DataError,
    ExitCode,
    ImageError,
    VideoError,
    printable,
    shorten,
)
from trajectory_builder.images import pictures
from trajectory_builder.images.formats import counted_by_ending
from trajectory_builder.images.video import reading as video
from trajectory_builder.images.video import times
from trajectory_builder.images.video.hdr import Handling
from trajectory_builder.sources import chapters, frames, remarks, search
from trajectory_builder.sources.search import Kind
from trajectory_builder.trajectory import Problem

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Part:
    """One file or folder of a clip.

    Attributes:
        path: absolute.
        root: label of the source that contains it, a key of `Found.roots`.
        name: path relative to that source, POSIX; `.` for the source itself.
        content: what was indexed; None for a photograph.
    """

    path: Path
    root: str
    name: str
    content: video.Video | frames.FrameFolder | None = None


@dataclass(frozen=True)
class Footage:
    """A clip of the user's own.

    Attributes:
        name: unique; also the name of its folder in the output.
        shot: equal for clips of one shot, which must stay in one split.
        kind: `video`, `frames` or `still`.
        parts: its files in order; several for joined chapters.
        length: number of frames, missing ones included.
        fps: frames per second; 0 where unknown.
        width, height: upright, in pixels.
        bits: 8 or 16 per channel, as stored.
        stops: rank of a frame -> why no window may contain it and the next one.
        missing: ranks of missing frames.
        starts: ranks, ascending from 0, at which decoding can start.
    """

    name: str
    shot: str
    kind: Kind
    parts: tuple[Part, ...]
    length: int
    fps: float
    width: int
    height: int
    bits: int
    stops: dict[int, str]
    missing: frozenset[int] = frozenset()
    starts: tuple[int, ...] = (0,)

    def label(self, rank: int) -> str:
        """The frame's file name, or its time in seconds, for the column `center_frame`."""
        first = self.parts[0]
        if isinstance(first.content, frames.FrameFolder):
            return first.content.names[rank] or ""
        if first.content is None:
            return first.path.name
        before = 0.0
        for part in self.parts:
            clip = part.content
            if not isinstance(clip, video.Video):
                continue
            if rank < len(clip):
                return f"{before + float(clip.time(rank)):.6f}"
            rank -= len(clip)
            before += float(clip.duration)
        raise IndexError(rank)


@dataclass(frozen=True)
class Found:
    """Clips in order of their names, what could not be used, and notes for the user."""

    clips: tuple[Footage, ...]
    roots: dict[str, Path]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def find(
    sources: Sequence[Path],
    *,
    fps: float | None = None,
    join_chapters: bool = False,
    stills: bool = False,
    hdr: Handling = "refuse",
) -> Found:
    """Find all clips in videos, folders of videos, folders of frames, or (`stills`) photographs.

    Args:
        sources: files and folders.
        fps: frames per second at which all of it was shot; None for each file's own.
        join_chapters: make one clip of the chapter files of a shot.
        stills: each picture is a photograph on its own, not a frame.
        hdr: whether HDR videos are refused or converted.

    Raises:
        DataError: a source that does not exist, or nothing usable in any of them.
        VideoError, ImageError: the only file cannot be used.
    """
    roots: dict[str, Path] = {}
    parts: list[tuple[Kind, Part]] = []
    for source in sources:
        if not (source.is_file() or source.is_dir()):
            why = "is not a regular file or a folder" if source.exists() else "does not exist"
            raise DataError(
                f"{printable(str(source))} {why}",
                where=printable(str(source.absolute())),
                cure="give a video, a folder of videos or a folder of frames",
                exit_code=ExitCode.WRONG_USE,
            )
        root = source.resolve()
        label = f"src{len(roots)}"
        roots[label] = root
        parts += [
            (kind, Part(path, label, path.relative_to(root).as_posix()))
            for kind, path in search.candidates(root, stills)
        ]
    problems = [_bad_name(part) for _, part in parts if not _is_utf8(part.path)]
    parts = [(kind, part) for kind, part in parts if _is_utf8(part.path)]
    clips, found_problems = _clips(parts, fps, hdr)
    unread = [path for root in roots.values() for path in search.unread(root)]
    problems += [*found_problems, *map(search.not_read, unread)]
    if not clips:
        raise _nothing(sources, problems, stills)
    clips, chapter_notes = _chaptered(clips, join_chapters)
    named = _named(clips, roots)
    notes = [*chapter_notes, *_notes(named), counted_by_ending(path.name for path in unread)]
    return Found(named, roots, tuple(problems), tuple(note for note in notes if note))


def _clips(
    parts: list[tuple[Kind, Part]], fps: float | None, hdr: Handling
) -> tuple[list[Footage], list[Problem]]:
    clips: list[Footage] = []
    problems: list[Problem] = []
    for kind, part in parts:
        try:
            if kind == "video":
                clips.append(_read_video(part, fps, hdr))
            elif kind == "still":
                clips.append(_read_still(part))
            else:
                folder, of_folder = frames.index(part.path)
                problems += of_folder
                if folder is not None:
                    clips.append(_frames_clip(part, folder, fps))
        except MemoryError:
            raise
        except Exception as error:
            # Whatever a library raises on a damaged file must not cost the other files.
            if len(parts) == 1:
                raise
            problems.append(problem_of(error, part.path))
    return clips, problems


def problem_of(error: Exception, path: Path) -> Problem:
    """A file's error as a row of problems.parquet; an unexpected one names its type."""
    if isinstance(error, VideoError | ImageError):
        return Problem(error.reason, error.what, error.cure, file=error.where)
    return Problem(
        "file-unreadable",
        f"reading the file failed: {type(error).__name__}: {printable(error)}",
        "check that it opens in other programs; copy it again from its source",
        file=printable(path),
    )


def _read_video(part: Part, fps: float | None, hdr: Handling) -> Footage:
    found = video.index(part.path, fps=fps, hdr=hdr)
    return Footage(
        name=part.path.stem,
        shot=part.path.as_posix(),
        kind="video",
        parts=(replace(part, content=found),),
        length=len(found),
        fps=found.fps,
        width=found.width,
        height=found.height,
        bits=8,
        stops=times.irregular(found.pts),
        starts=tuple(sorted({0, *(int(rank) for rank in found.keyframes)})),
    )


def _frames_clip(part: Part, folder: frames.FrameFolder, fps: float | None) -> Footage:
    return Footage(
        name=part.path.name,
        shot=part.path.as_posix(),
        kind="frames",
        parts=(replace(part, content=folder),),
        length=len(folder),
        fps=fps or 0.0,
        width=folder.width,
        height=folder.height,
        bits=folder.bits,
        stops={},
        missing=frozenset(rank for rank, name in enumerate(folder.names) if name is None),
    )


def _read_still(part: Part) -> Footage:
    width, height, bits = pictures.size_and_bits(part.path)
    return Footage(
        name=part.path.stem,
        shot=part.path.as_posix(),
        kind="still",
        parts=(part,),
        length=1,
        fps=0.0,
        width=width,
        height=height,
        bits=bits,
        stops={},
    )


def _chaptered(clips: list[Footage], join: bool) -> tuple[list[Footage], list[str]]:
    """Join the chapter files of a shot, or note them and give them one shot name."""
    by_path = {clip.parts[0].path: clip for clip in clips if clip.kind == "video"}
    others = [clip for clip in clips if clip.kind != "video"]
    result, notes = [], []
    for shot in chapters.shots(by_path):
        group = [by_path[path] for path in shot]
        names = ", ".join(path.name for path in shot)
        if len(group) > 1 and join:
            group = [_joined(group)]
        elif len(group) > 1:
            notes.append(
                f"{names} are chapters of one shot: no window crosses from one to the next,"
                " and all stay in one split; --join-chapters makes one clip of them"
            )
        result += [replace(clip, shot=shot[0].as_posix()) for clip in group]
    return [*result, *others], notes


def _joined(group: list[Footage]) -> Footage:
    first = group[0]
    odd = [c for c in group if (c.width, c.height) != (first.width, first.height)]
    if odd:
        raise DataError(
            "chapters of one shot differ in size and cannot be joined",
            where=shorten([str(clip.parts[0].path) for clip in group]),
            cure="leave out --join-chapters",
        )
    stops: dict[int, str] = {}
    starts: list[int] = []
    offset = 0
    for clip in group:
        stops |= {rank + offset: why for rank, why in clip.stops.items()}
        starts += [rank + offset for rank in clip.starts]
        offset += clip.length
    parts = tuple(part for clip in group for part in clip.parts)
    return replace(first, parts=parts, length=offset, stops=stops, starts=tuple(starts))


def _named(clips: list[Footage], roots: dict[str, Path]) -> tuple[Footage, ...]:
    """Name clips after their paths; equal names get the file's suffix, then a count.

    Names that differ only in case count as equal, since some file systems treat them so.
    """
    names = [_safe_name(clip, roots, with_suffix=False) for clip in clips]
    counts = Counter(name.casefold() for name in names)
    names = [
        _safe_name(clip, roots, with_suffix=True) if counts[name.casefold()] > 1 else name
        for clip, name in zip(clips, names, strict=True)
    ]
    taken: set[str] = set()
    result = []
    for clip, name in zip(clips, names, strict=True):
        unique, count = name, 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique.casefold())
        result.append(replace(clip, name=unique))
    # A shot is named after its first clip: with paths, splits would depend on the machine.
    first: dict[str, str] = {}
    for clip in result:
        first.setdefault(clip.shot, clip.name)
    result = [replace(clip, shot=first[clip.shot]) for clip in result]
    return tuple(sorted(result, key=lambda clip: frames.numeric_key(clip.name)))


def _safe_name(clip: Footage, roots: dict[str, Path], *, with_suffix: bool) -> str:
    part = clip.parts[0]
    path = Path(part.name) if part.name != "." else Path(roots[part.root].name)
    if clip.kind != "frames":
        path = path.with_name(path.name.replace(".", "_")) if with_suffix else path.with_suffix("")
    text = unicodedata.normalize("NFC", "-".join(path.parts))
    text = _UNSAFE.sub("_", text).strip(" .").lstrip("~-")
    return text[:_LONGEST_NAME] or "clip"


def _notes(clips: Sequence[Footage]) -> list[str]:
    """Each remark once, with the names of all clips it applies to."""
    names: dict[str, list[str]] = {}
    for clip in clips:
        for remark in remarks.of_content(clip.parts[0].content):
            names.setdefault(remark, []).append(clip.name)
    return [f"{shorten(of)}: {remark}" for remark, of in names.items()]


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _bad_name(part: Part) -> Problem:
    return Problem(
        "name-not-utf8",
        "a file name is not valid UTF-8, so no manifest can contain it",
        "rename it",
        file=printable(str(part.path)),
    )


def _nothing(sources: Sequence[Path], problems: list[Problem], stills: bool) -> DataError:
    wanted = "photographs" if stills else "videos or folders of frames"
    shown = [f"{problem.what} ({problem.file})" for problem in problems]
    if len(problems) == 1:
        (only,) = problems
        return DataError(only.what, where=only.file, cure=only.cure, exit_code=ExitCode.WRONG_USE)
    return DataError(
        f"no {wanted} that can be used" if problems else f"no {wanted} found",
        where=shorten([printable(str(source)) for source in sources])
        + (f": {shorten(shown)}" if shown else ""),
        cure="; ".join(dict.fromkeys(problem.cure for problem in problems[:LISTED_AT_MOST]))
        or "give a video, a folder of videos or of frames (PNG, JPEG, TIFF, WebP, AVIF, HEIC), or"
        " --stills and a folder of photographs",
        exit_code=ExitCode.WRONG_USE,
    )
