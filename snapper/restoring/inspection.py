"""Inspect what a request would restore, and what is at its target: it may be present already."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snapper.errors import SnapperError
from snapper.restoring.fallback import available_snapshot
from snapper.restoring.requests import LocatedRequest, RestoreRequest
from snapper.restoring.target import RestoreTarget, inspect_target
from snapper.store import Store


@dataclass(frozen=True)
class InspectedRequest:
    """A request whose target has been inspected; its spec is that of an available snapshot."""

    request: RestoreRequest
    target: RestoreTarget


def inspect_request(store: Store, located: LocatedRequest) -> InspectedRequest:
    """Choose the snapshot and inspect the target; raise why there is none, and what `inspect_target` raises."""
    if isinstance(located.destination, SnapperError):
        raise located.destination
    request, ref, (prefix, unused) = located.request, located.ref, located.destination
    spec = available_snapshot(store, ref, request.spec, prefix)
    instead_of = "" if spec == request.spec else ref.current
    request = replace(request, spec=spec)
    target = inspect_target(store, request, ref, prefix)
    return InspectedRequest(request, replace(target, instead_of=instead_of, unused_location=unused))
