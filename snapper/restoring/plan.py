"""Plan the restore of one environment: which snapshot, from which layers, and whether it can work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snapper.environment import state
from snapper.environment.platforms import this_platform
from snapper.errors import (
    FileOperationFailed,
    InsufficientSpace,
    PermissionDenied,
    PlatformMismatch,
    TargetOccupied,
)
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import Snapshot
from snapper.repository.snapshots import decode_snapshot, read_encoded_snapshot
from snapper.restoring.inspection import InspectedRequest
from snapper.restoring.place import is_writable, staging_parent
from snapper.restoring.requests import RestoreRequest
from snapper.restoring.space import SpaceReservations
from snapper.restoring.target import ELSEWHERE, RestoreTarget
from snapper.store import Store


@dataclass(frozen=True)
class RestorePlan:
    """A snapshot to write to a target.

    `memory` is what the snapshot takes, in bytes, `started` when the work on it began, by the monotonic clock.
    """

    request: RestoreRequest
    target: RestoreTarget
    encoded: EncodedSnapshot
    snapshot: Snapshot
    memory: int
    started: float

    @property
    def name(self) -> str:
        return self.target.name


def make_plan(store: Store, inspected: InspectedRequest, started: float) -> RestorePlan:
    """Read the snapshot and check the target; raise Corrupted, and what `_check_target` raises."""
    target = inspected.target
    encoded = read_encoded_snapshot(store, target.snapshot_id)
    snapshot = decode_snapshot(store, encoded)
    _check_target(target, snapshot)
    return RestorePlan(inspected.request, target, encoded, snapshot, encoded.memory, started)


def _check_target(target: RestoreTarget, snapshot: Snapshot) -> None:
    """Raise what would make the restore fail later, except for a lack of space.

    These are PlatformMismatch, PrefixTooLong, TargetOccupied, PermissionDenied, FileOperationFailed.
    """
    from snapper.restoring.unpacker import check_prefix_length  # noqa: PLC0415 - slow to import, and often not needed

    platform = this_platform()
    if snapshot.platform != platform:
        raise PlatformMismatch(target.name, snapshot.platform, platform)
    check_prefix_length(str(target.prefix), snapshot.layers)
    parent = staging_parent(target.prefix)
    if not os.path.isdir(parent):
        raise TargetOccupied(str(parent), "it is not a directory", ELSEWHERE)
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        raise FileOperationFailed(str(parent), "it is on a read-only file system", ELSEWHERE)
    if not is_writable(parent):
        raise PermissionDenied(str(parent), "write to")


class FittingPlans(NamedTuple):
    """The plans to carry out together, and those put off, with the reason if that is a lack of space.

    Both are in their original order.
    """

    fitting: list[RestorePlan]
    put_off: list[tuple[RestorePlan, Exception | None]]


def select_fitting(plans: Sequence[RestorePlan]) -> FittingPlans:
    """Select plans that there is space for at the same time, the smallest first.

    The sizes are what publishers have stated. One that states more than it writes, or that cannot be restored at all,
    must not keep smaller ones from being restored, nor larger ones once it has ended. What is put off takes with it
    what has to come after it.
    """
    reservations = SpaceReservations()
    predecessors = _predecessors(plans)
    put_off: dict[int, Exception | None] = {}
    for number in sorted(
        range(len(plans)), key=lambda number: (len(predecessors[number]), plans[number].snapshot.size)
    ):
        if predecessors[number] & put_off.keys():
            put_off[number] = None
            continue
        try:
            _reserve_space(reservations, plans[number])
        except Exception as error:
            put_off[number] = error
    return FittingPlans(
        [plan for number, plan in enumerate(plans) if number not in put_off],
        [(plan, put_off[number]) for number, plan in enumerate(plans) if number in put_off],
    )


def _reserve_space(reservations: SpaceReservations, plan: RestorePlan) -> None:
    """Reserve space for what the plan writes; raise InsufficientSpace.

    Layers that the environment at the target has already will probably be linked; if not, writing them raises
    InsufficientSpace.
    """
    parent, prefix = staging_parent(plan.target.prefix), str(plan.target.prefix)
    try:
        reservations.reserve(parent, plan.snapshot.layers, prefix)
    except InsufficientSpace:
        previous = state.read_previous(plan.target.prefix)
        if previous is None:
            raise
        linkable = {layer.digest for layer in previous.snapshot.layers}
        missing = [layer for layer in plan.snapshot.layers if layer.digest not in linkable]
        reservations.reserve(parent, missing, prefix)


def split_into_waves(plans: Sequence[RestorePlan]) -> Iterator[list[RestorePlan]]:
    """Yield plans that can be carried out together, each after all of its predecessors."""
    waves = [len(before) for before in _predecessors(plans)]
    for number in sorted(set(waves)):
        yield [plan for plan, wave in zip(plans, waves, strict=True) if wave == number]


def _predecessors(plans: Sequence[RestorePlan]) -> list[frozenset[int]]:
    """Return, for each plan, the numbers of those that it has to come after.

    An environment inside of another one comes after it, and of those with the same prefix each comes after the one
    that was requested before it.
    """
    numbers: dict[Path, list[int]] = {}
    for number, plan in enumerate(plans):
        numbers.setdefault(plan.target.prefix, []).append(number)
    return [
        frozenset(
            other
            for prefix in (plan.target.prefix, *plan.target.prefix.parents)
            for other in numbers.get(prefix, ())
            if other < number or prefix != plan.target.prefix
        )
        for number, plan in enumerate(plans)
    ]
