"""Paths on the command line: `~`, globs, and data sets as arguments or as --src."""

from __future__ import annotations

import functools
import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

F = TypeVar("F", bound=Callable[..., Any])


class UserPath(click.Path):
    """A path with `~` expanded, which a shell leaves as it is in quotes and after `=`."""

    def __init__(self) -> None:
        # "readable" is not left to click: its error has neither where nor cure.
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path that the user means."""
        path: Any = super().convert(value, param, ctx)
        try:
            return Path(path).expanduser()
        except RuntimeError:  # no such user
            return path


PATH = UserPath()


def one(metavar: str = "DATASET", *, optional: bool = False) -> Callable[[F], F]:
    """Give a command its data set as `source`: the argument, or --src; None where optional."""
    return _with_paths(metavar, several=False, optional=optional)


def several(metavar: str = "DATASET...") -> Callable[[F], F]:
    """Give a command its data sets as `sources`: arguments, --src, or both; globs are expanded."""
    return _with_paths(metavar, several=True, optional=False)


def _with_paths(metavar: str, *, several: bool, optional: bool) -> Callable[[F], F]:
    name = metavar.removesuffix("...")

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def command(**options: Any) -> Any:
            paths = matched([*options.pop("arguments"), *options.pop("src")])
            if not paths and not optional:
                raise click.UsageError(f"Missing argument '{metavar}'.")
            if several:
                return function(sources=tuple(paths), **options)
            if len(paths) > 1:
                listed = ", ".join(map(str, paths[:5]))
                raise click.UsageError(f"Give one {name}, not {len(paths)}: {listed}")
            return function(source=paths[0] if paths else None, **options)

        option = click.option(
            "--src", multiple=True, type=PATH, metavar=name, help=f"{name} as an option."
        )
        shown = f"[{metavar}]" if optional else metavar
        argument = click.argument("arguments", metavar=shown, nargs=-1, type=PATH)
        decorated: Any = argument(option(command))
        return cast("F", decorated)

    return decorate


def matched(paths: Sequence[Path]) -> list[Path]:
    """The paths, those with `*`, `?` or `[` replaced by what they match, if anything."""
    found: list[Path] = []
    for path in paths:
        matches = [] if path.exists() else sorted(glob.glob(str(path)))
        found += [Path(match) for match in matches] or [path]
    return found
