"""Requests to restore, and the prefix that each is restored to."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snapper.environment import state
from snapper.environment.locations import default_prefix
from snapper.errors import NoTargetDirectory, SnapperError
from snapper.format.model import Ref
from snapper.repository.refs import read_ref
from snapper.repository.specs import SnapshotSpec
from snapper.store import Store


@dataclass(frozen=True)
class RestoreRequest:
    """One environment to restore.

    `prefix` or `envs_dir` name the target, else it is chosen. `replace` allows local changes to be lost; `keep_changed`
    leaves a changed environment as it is. Requests of a lower `rank` are restored first.
    """

    spec: SnapshotSpec
    prefix: Path | None = None
    envs_dir: Path | None = None
    replace: bool = False
    keep_changed: bool = False
    rank: int = 0


class ResolvedRequest(NamedTuple):
    """A request and the ref of its environment."""

    request: RestoreRequest
    ref: Ref


class RefusedRequest(NamedTuple):
    """A request that cannot be fulfilled, and why."""

    request: RestoreRequest
    error: SnapperError


class Resolution(NamedTuple):
    """Requests by rank, those whose environments are in the store and the others."""

    resolved: list[ResolvedRequest]
    refused: list[RefusedRequest]


class LocatedRequest(NamedTuple):
    """A request with the prefix to restore to, or why there is none."""

    request: RestoreRequest
    ref: Ref
    prefix: Path | NoTargetDirectory


def resolve_requests(store: Store, requests: Sequence[RestoreRequest]) -> Resolution:
    """Read the refs of the requested environments, by rank."""
    resolution = Resolution([], [])
    for request in sorted(requests, key=lambda request: request.rank):
        try:
            ref = read_ref(store, request.spec.environment).ref
        except SnapperError as error:
            resolution.refused.append(RefusedRequest(request, error))
        else:
            resolution.resolved.append(ResolvedRequest(request, ref))
    return resolution


def choose_prefixes(resolved: Sequence[ResolvedRequest]) -> list[LocatedRequest]:
    """Choose a prefix for each request; an environment that contains others is placed before them."""

    def outer_first(number: int) -> tuple[int, bool]:
        ref = resolved[number].ref
        origin = Path(ref.latest.prefix)
        return len(origin.parts), origin.name != ref.name

    located: dict[int, LocatedRequest] = {}
    taken: list[Path] = []
    for number in sorted(range(len(resolved)), key=outer_first):
        request, ref = resolved[number]
        try:
            prefix = choose_prefix(ref, request, taken)
        except NoTargetDirectory as error:
            located[number] = LocatedRequest(request, ref, error)
        else:
            located[number] = LocatedRequest(request, ref, prefix)
            taken.append(prefix)
    return [located[number] for number in range(len(resolved))]


def choose_prefix(ref: Ref, request: RestoreRequest, taken: Collection[Path] = ()) -> Path:
    """Return the prefix to restore the environment to; `taken` are prefixes that other requests will have.

    Raise NoTargetDirectory if there is none.
    """
    origin = ref.latest.prefix
    if request.prefix:
        prefix = request.prefix
    elif request.envs_dir:
        prefix = request.envs_dir / ref.name
    elif _holds_environment(origin, ref.name):
        prefix = Path(origin)
    else:
        prefix = default_prefix(ref.name, origin, taken)
    return Path(os.path.abspath(prefix))


def _holds_environment(prefix: str, name: str) -> bool:
    """Return whether the environment of that name is at the prefix, whose directory may have another name."""
    current = state.read(Path(prefix)) if prefix.startswith("/") else None
    return current is not None and current.environment == name
