"""Folders on the Hugging Face Hub, for both halves: named, fetched complete or not at all, pushed.

A name is OWNER/NAME, or OWNER/NAME@REVISION for a branch, a tag or a commit. Which server is asked
and where downloads are kept is huggingface_hub's setting: HF_ENDPOINT, HF_HOME.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trajectory_builder.errors import ExitCode, UserError, printable
from trajectory_builder.version import __version__

Kind = Literal["model", "dataset"]
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")
# Whose exceptions say that the hub or the way to it failed; its transport differs by release.
_TRANSPORTS = {"huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}


@dataclass(frozen=True)
class HubName:
    """A repository, and which revision of it; None is its main branch."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


def parse(text: str) -> HubName | None:
    """The hub name that a text is, or None."""
    found = _NAME.fullmatch(text)
    return HubName(found[1], found[2]) if found else None


def fetch(name: HubName, *, patterns: Sequence[str], kind: Kind = "model") -> Path:
    """The folder of a repository's files in the cache, fetched where it is not there yet.

    Args:
        name: the repository.
        patterns: globs of the files that are wanted; no others are fetched.
        kind: of the repository.

    Raises:
        UserError: there is no such repository or revision, or it cannot be fetched completely.
    """
    with _hub_errors(name, "fetched"):
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                name.repository,
                repo_type=kind,
                revision=name.revision,
                allow_patterns=list(patterns),
                library_name="fidediff",
                library_version=__version__,
            )
        )


def push(
    files: Mapping[str, Path | bytes],
    name: HubName,
    *,
    kind: Kind,
    private: bool,
    owned: Sequence[str] = (),
) -> str:
    """Commit files to a repository, which is made where there is none: all of them or none.

    Args:
        files: path in the repository -> file or content.
        name: the repository; its revision is the branch.
        kind: of the repository.
        private: whether a new repository is private; one that exists must be as private.
        owned: folders, such as `data/`, of which files that are not in `files` are removed.

    Returns:
        The address of the repository.

    Raises:
        UserError: not allowed, not reachable, or public where it should be private.
    """
    with _hub_errors(name, "pushed to"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi(library_name="fidediff", library_version=__version__)
        url = api.create_repo(name.repository, private=private, repo_type=kind, exist_ok=True)
        if private and not api.repo_info(name.repository, repo_type=kind).private:
            raise UserError(
                f"{name.repository} exists already and is public",
                where=str(url),
                cure="give --public to push to it all the same, or choose another name",
                exit_code=ExitCode.WRONG_USE,
            )
        present = api.list_repo_files(name.repository, repo_type=kind, revision=name.revision)
        stale = [path for path in present if path not in files and path.startswith(tuple(owned))]
        # One commit: whoever fetches meanwhile gets the old files or the new ones.
        api.create_commit(
            name.repository,
            [
                *(CommitOperationAdd(path, content) for path, content in sorted(files.items())),
                *(CommitOperationDelete(path) for path in stale),
            ],
            commit_message=f"Push by fidediff {__version__}",
            repo_type=kind,
            revision=name.revision,
        )
        return str(url)


@contextmanager
def _hub_errors(name: HubName, done: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise UserError(
            "huggingface_hub is not installed",
            where=f"{name} on the Hugging Face Hub",
            cure='pip install "fidediff[hub]"',
            exit_code=ExitCode.WRONG_USE,
        ) from error
    except Exception as error:
        failure = _as_user_error(error, name, done)
        if failure is None:
            raise
        raise failure from error


def _as_user_error(error: Exception, name: HubName, done: str) -> UserError | None:
    # An upload that fails is reported as a RuntimeError with the transport's error as its cause.
    chain = [error, error.__cause__]
    if not any(type(each).__module__.partition(".")[0] in _TRANSPORTS for each in chain):
        return None
    from huggingface_hub import errors

    said = printable(next(iter(str(error).strip().splitlines()), type(error).__name__))
    reaching = f"the Hugging Face Hub: {said}"
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f"{name.repository} has no revision {name.revision or 'main'}",
            where=reaching,
            cure="give a branch, a tag or a commit of it, or leave @REVISION out",
        )
    if isinstance(error, (errors.RepositoryNotFoundError, errors.GatedRepoError)) or (
        _status(error) in (401, 403)
    ):
        return UserError(
            f"the hub has no {name.repository} for you",
            where=reaching,
            cure="check the name; for a private one log in (hf auth login, or set HF_TOKEN)",
        )
    return UserError(
        f"{name} cannot be {done} completely" if done == "fetched" else f"{name} is not {done}",
        where=reaching,
        cure="check the network (and HF_HUB_OFFLINE) and run the same command again: what is"
        " complete is not sent twice",
    )


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
