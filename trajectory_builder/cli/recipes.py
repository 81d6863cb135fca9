"""`trajbuild recipes`: the built-in recipes."""

from __future__ import annotations

import json

import click

from trajectory_builder.cli import options
from trajectory_builder.cli.app import say


@click.command(name="recipes", short_help="List or print the built-in recipes.")
@click.option("--show", metavar="NAME", help="Print this recipe's file.")
@options.as_json
def command(show: str | None, as_json: bool) -> None:
    """List the built-in recipes, or print one as a start for your own.

    \b
    Example:
      trajbuild recipes --show fidediff-7877 > mine.yaml
    """
    from trajectory_builder.plan import recipe

    if show is not None:
        chosen = recipe.load_recipe(show)
        path = recipe.built_in().get(show)
        if as_json or path is None:
            say(json.dumps(chosen.as_data()))
        else:
            say(*path.read_text().splitlines())
        return
    found = {name: recipe.load_recipe(name) for name in recipe.built_in()}
    if as_json:
        say(json.dumps({name: one.as_data() for name, one in found.items()}))
        return
    for name, one in found.items():
        mark = " (default)" if name == recipe.DEFAULT else ""
        say(f"{name}{mark}: {one.about}")
