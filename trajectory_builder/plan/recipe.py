"""Which windows of a trajectory become pairs: data that a user can write, not code.

A recipe is a small YAML file. The built-in ones are in `recipes/`; `load_recipe` takes a name or a
file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.disk.strict_yaml import parse_yaml
from trajectory_builder.errors import UsageError, shorten
from trajectory_builder.trajectory import MAX_TIMESTEP, TIMESTEP_STEP

BUILT_IN = Path(__file__).parent / "recipes"
DEFAULT = "fidediff-7877"
MAX_BYTES = 1 << 18
ANY = "*"
KEYS = {
    "name": "what manifests call the recipe",
    "about": "one line for people, which `trajbuild recipes` lists",
    "windows": "native n: further n round the same sharp frame",
    "draws": "native n: {n: probability}; one n is drawn per trajectory",
    "keep_official": "whether the native window itself is a pair: true or false",
    "average": "domain of the averages: srgb or gamma2.2",
    "timestep": "{step: N}; t = (n - 1) x N",
    "seed": "of the draws",
    "counts": "GoPro training pairs that the recipe gives, for readers and tests",
}
"""The keys of a recipe file and what each contains."""
INNER_KEYS = {
    "timestep": {"step": "timesteps per averaged frame"},
    "counts": {
        "both": "with GOPRO_Large and GOPRO_Large_all",
        "frames_only": "with GOPRO_Large_all alone",
    },
}


def _unusable(what: str, *, where: str = "", cure: str = "") -> UsageError:
    """The error for a recipe that does not exist or asks for what cannot be done."""
    cure = cure or "see docs/recipes.md, or `trajbuild recipes --show fidediff-7877`"
    return UsageError(what, where=where, cure=cure)


@dataclass(frozen=True)
class Recipe:
    """Which windows become pairs.

    Attributes:
        name: written to manifests.
        windows: native n -> further n round the same sharp frame; None stands for every odd n
            from 3 up to the native one. The key `*` serves every n that has none of its own.
        draws: native n -> {n: probability}; one is drawn for each trajectory.
        keep_official: whether the native window itself is a pair.
        average: domain in which frames are averaged, `srgb` or `gamma2.2`.
        timestep_step: t = (n - 1) x timestep_step.
        seed: of the draws.
        counts: GoPro training pairs that the recipe must give, as facts for tests and readers.
        about: one line for people.
    """

    name: str
    windows: Mapping[int | str, tuple[int, ...] | None]
    draws: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    keep_official: bool = True
    average: str = "srgb"
    timestep_step: int = TIMESTEP_STEP
    seed: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    about: str = ""

    def n_frames(self, native: int, trajectory_id: str) -> tuple[int, ...]:
        """All n of one trajectory, ascending, the native one included if it is kept.

        Draws depend on the trajectory's name alone, so neither order nor worker count matters.

        Raises:
            UsageError: the recipe has no entry for this native n.
        """
        if native in self.windows:
            further = self.windows[native]
        elif ANY in self.windows:
            further = self.windows[ANY]
        else:
            raise _unusable(
                f"recipe {self.name} has no entry for clips of {native} frames per blur",
                where=f"{trajectory_id}; it knows {shorten([str(k) for k in self.windows])}",
                cure='add the number, or a line for "*", under `windows`',
            )
        chosen = set(range(3, native, 2)) if further is None else set(further)
        if native in self.draws:
            chosen.add(draw(self.draws[native], f"{self.seed}/{trajectory_id}"))
        if self.keep_official:
            chosen.add(native)
        return tuple(sorted(chosen))

    def only_official(self) -> bool:
        """Whether the recipe asks for the official windows only."""
        return not self.draws and all(w == () for w in self.windows.values())

    def as_data(self) -> dict[str, object]:
        """What decides the pairs, in plain values: part of a build's config."""
        return {
            "name": self.name,
            "windows": {
                str(k): "all" if w is None else list(w)
                for k, w in sorted(self.windows.items(), key=lambda item: str(item[0]))
            },
            "draws": {
                str(k): {str(n): p for n, p in sorted(d.items())}
                for k, d in sorted(self.draws.items())
            },
            "keep_official": self.keep_official,
            "average": self.average,
            "timestep_step": self.timestep_step,
            "seed": self.seed,
        }


def draw(choices: Mapping[int, float], identity: str) -> int:
    """One of `choices` with its probability, decided by `identity` alone."""
    number = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    reached = 0.0
    for n, probability in sorted(choices.items()):
        reached += probability
        if number < reached:
            return n
    return max(choices)


def built_in() -> dict[str, Path]:
    """Names and files of the recipes that come with the package."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.yaml"))}


def file_of(name_or_file: str) -> Path:
    """Where the recipe of that name, or that file, is read from."""
    return built_in().get(name_or_file, Path(name_or_file))


def load_recipe(name_or_file: str) -> Recipe:
    """The built-in recipe of that name, or the one in that file.

    Raises:
        UsageError: no such recipe or file, or one with an unknown, doubled or impossible entry.
    """
    path = file_of(name_or_file)
    try:
        text = read_regular_text(path, at_most=MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        near = get_close_matches(name_or_file, built_in(), n=1)
        raise _unusable(
            f"no recipe {name_or_file}: neither a built-in name nor a readable file",
            where=f"built in: {', '.join(built_in())}",
            cure=f"did you mean {near[0]}?" if near else "give one of these names, or a YAML file",
        ) from error
    return parse(text, where=str(path))


def parse(text: str, *, where: str) -> Recipe:
    """A recipe from YAML text; `where` names it in errors."""
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise _unusable(f"the recipe is not sound YAML: {error}", where=where) from error
    if not isinstance(data, dict):
        raise _unusable("the recipe is not a table of keys and values", where=where)
    _refuse_unknown(data, KEYS, where=where)
    for name, known in INNER_KEYS.items():
        if isinstance(inner := data.get(name), dict):
            _refuse_unknown(inner, known, where=f"{where}, {name}")
    try:
        recipe = _recipe(data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _unusable(f"the recipe cannot be used: {error}", where=where) from error
    _check(recipe, where)
    return recipe


def _refuse_unknown(data: Mapping[Any, Any], known: Mapping[str, str], *, where: str) -> None:
    """Refuse keys that nothing reads, each with the nearest known one."""
    unknown = [str(key) for key in data if key not in known]
    if not unknown:
        return
    near = {key: get_close_matches(key, known, n=1, cutoff=0.5) for key in unknown}
    meant = [f"{found[0]} for {key}" for key, found in near.items() if found]
    raise _unusable(
        f"the recipe has unknown keys: {shorten(unknown, at_most=len(KEYS))}",
        where=where,
        cure=(f"did you mean {shorten(meant, at_most=len(KEYS))}? " if meant else "")
        + f"known are {', '.join(known)}",
    )


def from_data(data: Mapping[str, Any]) -> Recipe:
    """The recipe from what `Recipe.as_data` gave, e.g. in a build.json."""
    windows = {int(k) if k.isdecimal() else k: w for k, w in data["windows"].items()}
    draws = {
        int(k): {int(n): probability for n, probability in choices.items()}
        for k, choices in data["draws"].items()
    }
    step = {"step": data["timestep_step"]}
    return _recipe({**data, "windows": windows, "draws": draws, "timestep": step})


def _recipe(data: dict[str, Any]) -> Recipe:
    if not data.get("name") or "windows" not in data:
        raise ValueError("`name` and `windows` must be there")
    windows = {
        key if key == ANY else _whole(key): _further(key, value)
        for key, value in _table(data, "windows").items()
    }
    draws = {
        _whole(key): {_whole(n): float(p) for n, p in _table(data["draws"], key).items()}
        for key in _table(data, "draws")
    }
    return Recipe(
        name=str(data["name"]),
        windows=windows,
        draws=draws,
        keep_official=_switch(data.get("keep_official", True)),
        average=str(data.get("average", "srgb")),
        timestep_step=_whole(_table(data, "timestep").get("step", TIMESTEP_STEP)),
        seed=_whole(data.get("seed", 0)),
        counts=_table(data, "counts"),
        about=str(data.get("about", "")),
    )


def _table(data: Mapping[Any, Any], key: object) -> dict[Any, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        raise TypeError(f"`{key}` must be a table such as {{11: ...}}, not {value!r}")
    return value


def _further(native: object, value: object) -> tuple[int, ...] | None:
    if value == "all":
        return None
    if not isinstance(value, list):
        raise TypeError(f"`windows: {native}` must be all, or a list such as [9, 7, 5]")
    return tuple(_whole(n) for n in value)


def _whole(value: object) -> int:
    """A number as YAML gave it; `int` would cut 5.5 to 5 and take true for 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _check(recipe: Recipe, where: str) -> None:
    if recipe.average not in ("srgb", "gamma2.2"):
        raise _unusable(f"average must be srgb or gamma2.2, not {recipe.average}", where=where)
    if recipe.timestep_step < 1:
        raise _unusable(
            f"timestep: step must be at least 1, not {recipe.timestep_step}", where=where
        )
    numbers = [n for n in recipe.windows if isinstance(n, int)]
    numbers += [n for further in recipe.windows.values() for n in further or ()]
    numbers += [n for choices in recipe.draws.values() for n in choices]
    for n in numbers:
        if n < 3 or n % 2 == 0:
            raise _unusable(f"a window must have an odd number of frames from 3, not {n}",
                              where=where)  # fmt: skip
        if (n - 1) * recipe.timestep_step > MAX_TIMESTEP:
            largest = MAX_TIMESTEP // recipe.timestep_step + 1
            largest -= 1 - largest % 2
            raise _unusable(
                f"a window of {n} frames has t = {(n - 1) * recipe.timestep_step}, above 999",
                where=where,
                cure=f"use at most {largest} frames",
            )
    for native, choices in recipe.draws.items():
        # Written so that .nan fails too.
        if not abs(sum(choices.values()) - 1) <= 1e-9 or min(choices.values()) < 0:
            raise _unusable(f"the draws of {native} do not sum to 1", where=where)
