"""The output folder on disk: its state, its lock, and the markers of its shards.

A marker is written after the files that it lists, so a shard with a marker is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from trajectory_builder.disk.atomic import TEMPORARY, fault_point, json_bytes, write_atomic
from trajectory_builder.disk.regular import read_regular_json, read_regular_text
from trajectory_builder.errors import OutputError, shorten
from trajectory_builder.trajectory import BUILD_FILE

STATE = ".trajbuild"
COMMAND = "command.json"
REJECTED = "rejected"
"""Folder of the state: REASON/SAMPLE_ID.jpg, frames of windows that make no pair, for people."""
MAX_COMMAND_BYTES = 1 << 20
SHARED_MEMORY = Path("/dev/shm")  # where Linux has named semaphores


class OutputFolder:
    """A folder that builds write: its state, lock and markers. It opens no image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE

    def prepare(self) -> None:
        """Create the folder, or accept it if it is one of ours or empty.

        Raises:
            OutputError: it is a file, cannot be written, or contains files of others.
        """
        try:
            if self.root.exists() and not self.root.is_dir():
                raise OutputError(
                    f"--out {self.root} is a file",
                    where=str(self.root),
                    cure="choose another --out",
                )
            if self.root.is_dir() and not self.is_ours():
                names = sorted(entry.name for entry in os.scandir(self.root))
                if names:
                    raise OutputError(
                        f"--out {self.root} contains something that trajbuild did not make",
                        where=shorten(names),
                        cure="choose a new or an empty folder",
                    )
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write to --out: {error.strerror}",
                where=str(error.filename or self.root),
                cure="choose an --out that you may write to",
            ) from error

    def is_ours(self) -> bool:
        """Whether a build has used this folder: its state or its record is in it."""
        return self.state.is_dir() or (self.root / BUILD_FILE).is_file()

    @contextmanager
    def lock(self, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Lock the folder against other builders; the kernel releases it if this process dies.

        Raises:
            OutputError: another process has the lock; the error names it.
        """
        import socket

        from filelock import FileLock, Timeout

        holder = self.state / "holder.json"
        lock = FileLock(str(self.state / "lock"), timeout=wait_seconds)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(
                "another builder is at work in this folder",
                where=f"{self.root}: {_holder(holder)}",
                cure="wait for it (--wait SECONDS), or choose another --out",
            ) from error
        try:
            _sweep_shared_memory(holder, socket.gethostname())
            # Only for people to read: the kernel's lock alone decides.
            me = {"pid": os.getpid(), "host": socket.gethostname()}
            write_atomic(holder, json.dumps(me).encode(), sync=False)
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def begin(self, command: Sequence[str]) -> None:
        """Note the command that builds here, for who finds the folder unfinished; under the lock.

        Args:
            command: the words after `trajbuild`; none for a build from Python.
        """
        note = {"command": list(command), "folder": os.getcwd()}
        write_atomic(self.state / COMMAND, json.dumps(note).encode(), sync=False)

    def end(self) -> None:
        """The build is complete: nothing is left to be resumed."""
        (self.state / COMMAND).unlink(missing_ok=True)

    def marker_path(self, shard: str) -> Path:
        """Path of a shard's marker."""
        return self.state / "markers" / f"{shard}.json"

    def write_marker(self, shard: str, content: Mapping[str, Any]) -> None:
        """Mark a shard as complete; the marker contains its own digest."""
        path = self.marker_path(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = json.dumps(content, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(body.encode()).hexdigest()
        fault_point("before-marker")
        write_atomic(path, f'{{"sha256":"{digest}","body":{body}}}'.encode())

    def read_marker(self, shard: str) -> dict[str, Any] | None:
        """A shard's marker, or None where it is absent, torn or altered."""
        try:
            text = read_regular_text(self.marker_path(shard))
            head, body = text[:76], text[84:-1]
            if head != f'{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"':
                return None
            content: dict[str, Any] = json.loads(body)
        except (OSError, ValueError):
            return None
        return content

    def begun_path(self, shard: str) -> Path:
        """Path of a worker's note that it has begun a shard, with the run's token."""
        return self.state / "begun" / shard

    def remove_temporaries(self) -> int:
        """Delete what killed writers left under temporary names; call it under the lock."""
        removed = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY):
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))
                        removed += 1
        return removed

    def write_sealed(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder with its own digest in it, under `sha256`."""
        write_atomic(self.root / name, json_bytes({**content, "sha256": _seal(content)}))

    def read_sealed(self, name: str) -> dict[str, Any] | None:
        """Read what `write_sealed` wrote, digest included; None if absent, torn or altered."""
        try:
            content = read_regular_json(self.root / name)
            intact = isinstance(content, dict) and content.get("sha256") == _seal(content)
        except (OSError, ValueError, RecursionError):
            return None
        return content if intact else None


def how_to_go_on(root: Path) -> str | None:
    """For a folder whose build is not complete, what completes it; None for any other folder.

    The words come from an untrusted file, so they are quoted for a shell.
    """
    state = root / STATE
    if not state.is_dir():
        return None
    try:
        note = read_regular_json(state / COMMAND, at_most=MAX_COMMAND_BYTES)
        words = shlex.join(["trajbuild", *map(str, note["command"])]) if note["command"] else ""
        folder = str(note["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        words = ""
    if not words:
        return "run the command that began it again; it resumes"
    return words if folder == os.getcwd() else f"cd {shlex.quote(folder)} && {words}"


def _seal(content: Mapping[str, Any]) -> str:
    """Digest of the content without its entry `sha256`."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json_bytes(rest)).hexdigest()


def _sweep_shared_memory(holder: Path, host: str) -> None:
    """Remove what a killed builder of this folder left in shared memory, by its note of itself.

    Its own tidying is killed with its group, and nothing else ever removes semaphores. Called under
    the lock: whoever the note names is dead, unless its number is another process's by now.
    """
    try:
        content = read_regular_json(holder)
        pid, wrote_on = int(content["pid"]), content["host"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # the last builder ended in order, and removed its note
    if wrote_on != host or pid == os.getpid() or Path(f"/proc/{pid}").exists():
        return
    # Names of loky's semaphores and of joblib's folders for large arrays.
    for folder, pattern in (
        (SHARED_MEMORY, f"sem.loky-{pid}-*"), (SHARED_MEMORY, f"joblib_memmapping_folder_{pid}_*"),
        (Path(gettempdir()), f"joblib_memmapping_folder_{pid}_*"),
    ):  # fmt: skip
        for left in folder.glob(pattern):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _holder(path: Path) -> str:
    try:
        content = read_regular_json(path)
        return f"process {content['pid']} on {content['host']}"
    except (OSError, ValueError, KeyError):
        return "its process did not say who it is"
