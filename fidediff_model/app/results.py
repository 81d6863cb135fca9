"""What the page keeps while it is shown: one folder of pictures per visitor, and for how long.

An upload is deleted as soon as it is read. An answer's files live until the second answer after it,
the end of the visit, or `KEPT_SECONDS`, whichever comes first.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trajectory_builder.errors import UsageError

KEPT_SECONDS = 15 * 60
"""How long the files of an answer are kept at most (ours)."""


class Cancelled(Exception):  # no error: the visitor asked for it
    """The visitor cancelled the restoration, or left."""


class Answer:
    """One answer to a visitor: the folder of its files, and whether it is to end early."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cancelled = threading.Event()

    def stop_if_cancelled(self) -> None:
        """Raise `Cancelled` where the visitor cancelled this answer."""
        if self.cancelled.is_set():
            raise Cancelled


class Results:
    """The files of all answers, below one temporary folder.

    Args:
        root: an empty folder of ours; uploads come into it too.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploads = root / "uploads"
        self.answers = root / "answers"
        self.uploads.mkdir(parents=True)
        self.answers.mkdir()
        self._latest: dict[str, Answer] = {}
        self._former: dict[str, Answer] = {}
        self._one = threading.Lock()

    @contextmanager
    def running(self, visitor: str) -> Iterator[Answer]:
        """One restoration at a time; drops the visitor's last answer but one, and what is too old.

        Not the last one: the page shows it until this one arrives, and may still load its pictures.
        """
        # Nobody can guess the name of another visitor's folder.
        answer = Answer(self.answers / secrets.token_urlsafe(16))
        oldest = self._former.pop(visitor, None)
        if visitor in self._latest:
            self._former[visitor] = self._latest[visitor]
        self._latest[visitor] = answer
        with self._one:
            self.sweep()
            answer.folder.mkdir()
            try:
                yield answer
            finally:
                if oldest is not None:
                    _remove(oldest.folder)

    def cancel(self, visitor: str) -> None:
        """End what runs for a visitor at its next tile."""
        if visitor in self._latest:
            self._latest[visitor].cancelled.set()

    def leave(self, visitor: str) -> None:
        """Forget a visitor and delete the files."""
        for answers in (self._latest, self._former):
            answer = answers.pop(visitor, None)
            if answer is not None:
                answer.cancelled.set()
                _remove(answer.folder)

    def sweep(self, *, older_than: float = KEPT_SECONDS) -> None:
        """Delete the answers and the unread uploads that are too old."""
        limit = time.time() - older_than
        for path in (*self.answers.iterdir(), *self.uploads.iterdir()):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    _remove(path)

    def take(self, upload: str) -> Path:
        """An upload moved out of reach of other requests; the caller deletes its folder.

        Raises:
            UsageError: the path is not of an upload, or another request took the same photo.
        """
        source = Path(upload).resolve()
        taken = self.root / secrets.token_urlsafe(16)
        # The path comes from the browser: files elsewhere on this machine are none of its business.
        if source.parent.parent == self.uploads.resolve():
            taken.mkdir()
            target = taken / source.name
            with suppress(FileNotFoundError):
                source.rename(target)
                # Gradio names the folder after the content: equal photos share it.
                with suppress(OSError):
                    source.parent.rmdir()
                return target
            taken.rmdir()
        raise UsageError("the photo did not arrive", where="upload", cure="press Restore again")


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
