"""Attempts at a shard, and what follows when the process that made it dies.

A worker notes on disk that it has begun a shard and removes the note when the shard has ended. A
note that outlives its worker names the shard that the worker died over, on every backend and
whatever the scheduler does next: nobody tries that shard again beside others. The builder then
gives it a fresh process of its own; if that dies too, its pairs become problems.
"""

from __future__ import annotations

import os
import pickle
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from trajectory_builder.build.shard import Shard, ShardResult, make_shard, write_marker
from trajectory_builder.build.writer import pair_problem
from trajectory_builder.disk.atomic import write_atomic
from trajectory_builder.disk.regular import read_regular_text
from trajectory_builder.disk.store import OutputFolder
from trajectory_builder.errors import BuildError, UserError
from trajectory_builder.version import __version__

# `die_with_parent` comes first: the builder may be killed while its child still imports.
_CHILD = """
import sys
from trajectory_builder.build.workers import die_with_parent
die_with_parent(int(sys.argv[1]))
from trajectory_builder.build.retry import child
child()
"""


def begin_run(folder: OutputFolder, shards: Iterable[Shard]) -> str:
    """Start a run of a builder: a token by which its workers know the folder and their notes.

    Markers that `shards` still have are removed (they list problems that may have been fixed
    meanwhile), so that any marker found later is of this run.
    """
    for shard in shards:
        folder.marker_path(shard.name).unlink(missing_ok=True)
    token = f"{secrets.token_hex(8)} {__version__}"
    # Not flushed: after a power cut no worker is left that could read it.
    write_atomic(folder.state / "run", token.encode(), sync=False)
    return token


def end_run(folder: OutputFolder) -> None:
    """Remove the token and the notes: all shards have ended."""
    shutil.rmtree(folder.state / "begun", ignore_errors=True)
    (folder.state / "run").unlink(missing_ok=True)


def attempt(shard: Shard, token: str) -> ShardResult | UserError:
    """Make a shard in this worker, unless one died over it in this run.

    Returns:
        What was made; with `died` where it was left alone. An error that the user can act on
        is returned as a value, since Dask and Ray wrap what is raised in types of their own.
    """
    folder = OutputFolder(Path(shard.out))
    note = folder.begun_path(shard.name)
    try:
        _refuse_other_place(folder, shard, token)
        if is_begun(shard, token):
            return ShardResult(shard.name, 0, 0, died=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        # Before the first frame is read: whatever kills this process from here on leaves the note.
        note.write_text(token)
        made = make_shard(shard)
    except MemoryError:
        # What the kernel's OOM killer does, but gently: the note stays, the shard is retried alone.
        return ShardResult(shard.name, 0, 0, died=True)
    except UserError as error:
        note.unlink(missing_ok=True)
        return error
    except OSError as error:
        return BuildError(
            f"cannot write to the output: {error.strerror or error}",
            where=f"{error.filename or shard.out} on {socket.gethostname()}",
            cure="fix it and run the same command again to resume",
        )
    note.unlink(missing_ok=True)
    return made


def _refuse_other_place(folder: OutputFolder, shard: Shard, token: str) -> None:
    """A worker on another machine must see the same folders and run the same version.

    Raises:
        BuildError: it does not; without this a missing mount would look like missing frames.
    """
    host = socket.gethostname()
    try:
        seen = read_regular_text(folder.state / "run")
    except OSError:
        seen = ""
    if seen != token:
        raise BuildError(
            "a worker does not see the output folder of this build",
            where=f"{shard.out} on {host}",
            cure="put --out on storage that all workers mount under the same path",
        )
    # Another version may make other bytes under the same digest.
    if token.split()[-1] != __version__:
        raise BuildError(
            f"a worker runs fidediff {__version__}, the builder {token.split()[-1]}",
            where=host,
            cure="install the same version everywhere",
        )
    # Folders alone: files are checked when they are read.
    for root in shard.roots.values():
        if not os.path.exists(root):
            raise BuildError(
                "a worker does not see the source",
                where=f"{root} on {host}",
                cure="put the source on storage that all workers mount under the same path",
            )


def is_begun(shard: Shard, token: str | None = None) -> bool:
    """Whether a worker's note on this shard is there: of the run `token`, or of any if None."""
    try:
        noted = read_regular_text(OutputFolder(Path(shard.out)).begun_path(shard.name))
    except OSError:
        return False
    return token is None or noted == token


def finished_result(shard: Shard) -> ShardResult | None:
    """Result from the shard's marker, if it finished but the worker died before reporting."""
    marker = OutputFolder(Path(shard.out)).read_marker(shard.name)
    if marker is None or marker["digest"] != shard.digest or is_begun(shard):
        return None
    return ShardResult(shard.name, len(marker["pairs"]), len(marker["problems"]))


def alone(shard: Shard) -> ShardResult:
    """Make a shard in a fresh process of its own; its pairs become problems if that dies too.

    Raises:
        UserError: what `make_shard` raises.
    """
    result = subprocess.run(
        # A new interpreter: a fork would inherit locks that other threads hold.
        [sys.executable, "-c", _CHILD, str(os.getpid())],
        # On stdin, since the rows of a shard may exceed what a command line allows.
        input=pickle.dumps(shard),
        stdout=subprocess.PIPE,  # the result; stderr is shared, so that a traceback is seen
        check=False,
    )
    folder = OutputFolder(Path(shard.out))
    if result.returncode == 0:
        folder.begun_path(shard.name).unlink(missing_ok=True)
        made: ShardResult | UserError = pickle.loads(result.stdout)
        if isinstance(made, UserError):
            raise made
        if not made.died:
            return made
    return _give_up(folder, shard, _how_it_ended(result.returncode))


def child() -> None:
    """Entry of the process that `alone` starts: a shard comes in, what was made goes out."""
    shard: Shard = pickle.load(sys.stdin.buffer)
    made: ShardResult | UserError
    try:
        made = make_shard(shard)
    except MemoryError:
        made = ShardResult(shard.name, 0, 0, died=True)
    except UserError as error:
        made = error
    sys.stdout.buffer.write(pickle.dumps(made))


def _how_it_ended(code: int) -> str:
    # subprocess gives -N for a process that signal N ended; signal(7) lists them.
    if code == 0:
        return "had too little memory"
    if code > 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _give_up(folder: OutputFolder, shard: Shard, how: str) -> ShardResult:
    """Write a marker that gives the reason for every pair of the shard."""
    problems = [
        pair_problem(
            row,
            "worker-died",
            f"the worker that made its shard died, and so did a fresh one, which {how}",
            "often memory ran out: run the same command again with fewer --jobs",
            file=row["frame_names"][0] if row["frame_names"] else row["blur_source"],
        )
        for row in shard.rows
    ]
    # The marker first: a kill between the two leaves a note, and the shard is only tried again.
    write_marker(shard, [], problems, {})
    with suppress(OSError):
        folder.begun_path(shard.name).unlink()
    return ShardResult(shard.name, 0, len(problems))


def left_begun(shards: Iterable[Shard]) -> list[Shard]:
    """Shards with a note of an earlier run: their builder died while it made them."""
    return [shard for shard in shards if is_begun(shard)]
