"""Errors name options and commands that exist."""

import ast
import re
from pathlib import Path

import click
import pytest

from fidediff_model import config
from fidediff_model.cli import COMMANDS, fidediff
from fidediff_model.training.settings import STAGES, TrainSettings
from trajectory_builder.cli import trajbuild

ROOT = Path(__file__).parents[2]
OF_OTHERS = {"--no-deps", "--force-reinstall", "--nproc_per_node", "--logdir"}
"""Options of pip, torchrun and tensorboard."""


def strings(package):
    """(file, text) of every string of a package's code, docstrings included."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def options(command):
    """Every option of a command and of the commands below it."""
    found = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found |= options(command.get_command(context, name))
    return found | {"--help"}


def test_every_option_that_a_message_names_exists():
    known = options(fidediff) | options(trajbuild) | OF_OTHERS
    unknown = {
        (file, option)
        for file, text in strings("fidediff_model")
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9](?![\w-])", text)
        if option not in known
    }
    assert unknown == set()


def test_every_command_that_a_message_names_exists():
    named = {
        words
        for _, text in strings("fidediff_model")
        for words in re.findall(r"[`(]fidediff ([a-z]+(?: [a-z]+)?)", text)
    }
    assert named
    for words in named:
        verb, _, stage = words.partition(" ")
        assert verb in COMMANDS
        assert verb != "train" or stage in ("", *STAGES)


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for _, text in strings("fidediff_model")
        for name in re.findall(r"--set ((?:model|settings)\.[a-z_.]+)", text)
    ),
)
def test_every_value_that_a_message_sets_exists(name):
    group, _, rest = name.partition(".")
    known = config.leaves(config.ModelConfig() if group == "model" else TrainSettings())
    assert rest in known
