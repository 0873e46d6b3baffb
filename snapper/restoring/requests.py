"""Requests to restore, and the destination of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snapper.environment.names import can_be_in_envs_dir, is_reserved
from snapper.errors import NoTargetDirectory, ReservedName, SnapperError
from snapper.format.model import Ref
from snapper.repository.refs import read_ref
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.destinations import Destination, Destinations
from snapper.settings.keys import OnChange
from snapper.store import Store


@dataclass(frozen=True)
class RestoreRequest:
    """One environment to restore.

    `prefix` or `envs_dir` name the target, else it is chosen. `replace` allows local changes to be lost; `keep_changed`
    leaves a changed environment as it is. `on_change` says what to do if something else would be lost with one.
    Requests of a lower `rank` are restored first.
    """

    spec: SnapshotSpec
    prefix: Path | None = None
    envs_dir: Path | None = None
    replace: bool = False
    keep_changed: bool = False
    on_change: OnChange = "refuse"
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
    """A request with its destination, or why there is none."""

    request: RestoreRequest
    ref: Ref
    destination: Destination | NoTargetDirectory | ReservedName


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


def choose_destinations(resolved: Sequence[ResolvedRequest]) -> list[LocatedRequest]:
    """Choose a destination for each request; an environment that contains others is placed before them."""

    def outer_first(number: int) -> tuple[int, bool]:
        ref = resolved[number].ref
        origin = Path(ref.latest.prefix)
        return len(origin.parts), origin.name != ref.name

    located: dict[int, LocatedRequest] = {}
    destinations = Destinations()
    for number in sorted(range(len(resolved)), key=outer_first):
        request, ref = resolved[number]
        try:
            located[number] = LocatedRequest(request, ref, _choose(ref, request, destinations))
        except (NoTargetDirectory, ReservedName) as error:
            located[number] = LocatedRequest(request, ref, error)
    return [located[number] for number in range(len(resolved))]


def choose_prefix(ref: Ref, request: RestoreRequest) -> Path:
    """Return the prefix to restore the environment to if it is the only one; raise what `_choose` raises."""
    return _choose(ref, request, Destinations()).prefix


def _choose(ref: Ref, request: RestoreRequest, destinations: Destinations) -> Destination:
    """Return the destination of a request; raise NoTargetDirectory, and ReservedName if the user has to give it."""
    if request.prefix:
        return Destination(Path(os.path.abspath(request.prefix)))
    if is_reserved(ref.name) or (request.envs_dir and not can_be_in_envs_dir(ref.name)):
        raise ReservedName(ref.name)
    if request.envs_dir:
        return Destination(Path(os.path.abspath(request.envs_dir / ref.name)))
    return destinations.choose(ref.name, ref.latest.prefix)
