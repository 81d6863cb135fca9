"""How a command's process ends: what is registered for the end runs, nothing is taken apart."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, threading
from trajectory_builder.cli import exit as exits

class Witness:
    def __del__(self):
        os.write(1, b"taken apart\\n")

leave = exits.prepare()
import atexit  # as a library does, after the command has begun

kept = Witness()
atexit.register(print, "registered for the end")
threading.Timer(0.2, print, ["a thread that was waited for"]).start()
print("the result")
if sys.argv[1] == "leave":
    leave(4)
"""


def run(*arguments, program=PROGRAM, **options):
    return subprocess.run([sys.executable, "-c", program, *arguments], check=False, text=True,
                          stderr=subprocess.PIPE, **options)  # fmt: skip


def test_command_ends_with_its_code_when_all_that_was_registered_has_run():
    done = run("leave", stdout=subprocess.PIPE)
    assert done.returncode == 4
    assert done.stdout.splitlines() == [
        "the result", "a thread that was waited for", "registered for the end"
    ]  # fmt: skip
    assert done.stderr == ""


def test_process_that_was_not_told_to_leave_ends_as_python_does():
    done = run("stay", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "taken apart")


def test_result_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        done = run("leave", stdout=full)
    assert done.returncode not in (0, 4)
    assert "No space left on device" in done.stderr


COMMAND = """
import os
from trajectory_builder.cli import main

class Witness:
    def __del__(self):
        os.write(1, b"taken apart")

kept = Witness()
main()
"""


@pytest.mark.parametrize(("word", "code"), [("recipes", 0), ("no-such-command", 2)])
def test_trajbuild_ends_so(word, code):
    done = run(word, program=COMMAND, stdout=subprocess.PIPE)
    assert done.returncode == code
    assert "taken apart" not in done.stdout
