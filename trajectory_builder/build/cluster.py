"""A cluster of the user's own, Dask or Ray: the errors where it does not answer or refuses."""

from __future__ import annotations

from dataclasses import dataclass

from trajectory_builder.errors import BuildError


@dataclass(frozen=True)
class Cluster:
    """Words for errors: its name and option, the commands that start it, how to show a key."""

    name: str
    option: str
    start: str
    join: str
    key: str


DASK = Cluster(
    "Dask scheduler", "--dask-scheduler", "dask scheduler", "dask worker ADDRESS",
    "give its tls:// address, and its certificates in DASK_DISTRIBUTED__COMM__TLS__...",
)  # fmt: skip
RAY = Cluster(
    "Ray head", "--ray-address", "ray start --head", "ray start --address ADDRESS",
    "set RAY_AUTH_MODE=token, and copy the head's ~/.ray/auth_token to this machine",
)  # fmt: skip
_WANTS_A_KEY = ("authenticat", "token", "ssl", "tls", "certificate", "encrypt")
"""Words of Dask's and Ray's errors where a key or certificate is missing or wrong."""


def no_answer(cluster: Cluster, address: str | None, error: Exception) -> BuildError:
    """The error for a cluster that cannot be joined; a refusal for want of a key is named so."""
    text = f"{type(error).__name__}: {error}"
    where = f"{cluster.option} {address}: {' '.join(text.split())[:300]}"
    if any(sign in text.lower() for sign in _WANTS_A_KEY):
        return BuildError(
            f"the {cluster.name} at {address} refuses this machine: authentication failed",
            where=where,
            cure=f"{cluster.key}; see docs/scaling.md, Whom a cluster trusts",
        )
    return BuildError(
        f"no {cluster.name} answers at {address}",
        where=where,
        cure=f"start one with `{cluster.start}`, or leave {cluster.option} out to use this machine"
        f" alone; if it asks for authentication: {cluster.key}",
    )


def none_left(cluster: Cluster, seconds: float) -> BuildError:
    """The error for a cluster that has had no worker for so many seconds."""
    return BuildError(
        f"no worker of the {cluster.name} is left",
        where=f"none came within {seconds:.0f} s; finished shards stay",
        cure=f"start some with `{cluster.join}` and run the same command again to resume",
    )
