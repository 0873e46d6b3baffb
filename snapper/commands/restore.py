"""Restore: from snapshots in a store to environments on disk, with their kernels in the user's menu.

All snapshots that are to be restored are unpacked at once by one pool of workers, each into a staging directory
of its own, and each is swapped into its place as soon as its own layers are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snapper import kernels
from snapper.environment import clock, state
from snapper.environment.index import IndexHeader
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import register_with_conda
from snapper.errors import InsufficientSpace, NoTargetDirectory, SnapperError
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import FORMAT, Ref, Snapshot
from snapper.kernels import runs
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.refs import read_ref
from snapper.repository.snapshots import decode_snapshot, read_encoded_snapshot
from snapper.restoring.errors import unpack_errors
from snapper.restoring.offline import offline_snapshot
from snapper.restoring.schedule import SnapshotLoad, schedule_layers
from snapper.restoring.space import Space
from snapper.restoring.staging import Staging, staging_directory
from snapper.restoring.target import (
    RestoreRequest,
    RestoreTarget,
    check_target,
    choose_prefixes,
    existing_parent,
    inspect_target,
    is_present,
)
from snapper.store import Store

if TYPE_CHECKING:
    from snapper.process.pool import WorkerPool
    from snapper.restoring.extract import ExtractedLayer
    from snapper.restoring.unpack import SnapshotUnpacker


@dataclass(frozen=True)
class RestoreResult:
    """What became of one environment; `present` if it was there already, then with so many files `changed` since,
    which are looked for only where directories that installing and removing packages changes are not as they were.
    `suggestion` is the command that would add a kernel where there is none. `instead_of` is the store's current
    snapshot, where that could not be had and this is another one. Sizes in bytes.
    """

    environment: str
    snapshot_id: str
    prefix: str
    present: bool
    changed: int
    size: int
    kernels: tuple[kernels.RegisteredKernel, ...]
    unrelocated: tuple[str, ...]
    seconds: float
    suggestion: str = ""
    instead_of: str = ""


@dataclass(frozen=True)
class RestoreFailure:
    """An environment that could not be restored, and why."""

    environment: str
    error: SnapperError


@dataclass
class _Work:
    """One environment on its way; what `stack` holds is let go of when it has come to its end, whichever."""

    wanted: RestoreRequest
    target: RestoreTarget
    manifest: EncodedSnapshot
    snapshot: Snapshot
    stack: ExitStack
    began: float
    error: SnapperError | None = None


class _Staged(NamedTuple):
    """One environment whose place is ours, with what is unpacked for it there."""

    work: _Work
    staging: Staging
    unpacking: SnapshotUnpacker


def restore(
    store: Store,
    wanted: Sequence[RestoreRequest],
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
    log: str = "",
    listed: bool = False,
) -> Iterator[RestoreResult | RestoreFailure]:
    """Restores the environments, and tells of each when it has come to its end; one that fails does not stop the
    others. `log` is the file that progress and errors go to, if any; if `listed`, `runs.last` is this restore.

    Whatever fails, what stood at an environment's place is as it was.
    """
    record = runs.RunRecorder(store.url, log=log, listed=listed)
    try:
        yield from _Restoring(store, jobs, progress, record).run(wanted)
    finally:
        record.close()


def record_failure(store: str, error: SnapperError, log: str = "") -> None:
    """Has it on record that nothing can be restored, and kernels say so whose environments are not there."""
    record = runs.RunRecorder(store, log=log, listed=True)
    for entry in kernels.registered_kernels():
        if not entry.ready:
            record.fail(entry.environment, error.message, error.hint)
    record.close(error.message)


class _Restoring:
    def __init__(self, store: Store, jobs: int | None, progress: Progress, record: runs.RunRecorder) -> None:
        self._store = store
        self._jobs = jobs
        self._progress = progress
        self._record = record
        self._space = Space()
        self._staged: list[_Staged] = []
        self._failures = 0

    def run(self, wanted: Sequence[RestoreRequest]) -> Iterator[RestoreResult | RestoreFailure]:
        pending: list[_Work] = []
        chosen: list[tuple[RestoreRequest, Ref]] = []
        for each in sorted(wanted, key=lambda each: each.rank):
            try:
                chosen.append((each, read_ref(self._store, each.reference.environment).ref))
            except SnapperError as error:
                yield self._failed(each, error)
        for (each, entry), place in zip(chosen, choose_prefixes(chosen), strict=True):
            try:
                found = self._look(each, entry, place)
            except SnapperError as error:
                yield self._failed(each, error)
                continue
            if isinstance(found, RestoreResult):
                yield found
            else:
                pending.append(found)
        if pending:
            from snapper.process.pool import WorkerPool  # noqa: PLC0415 - what is not needed where all are there already

            with ExitStack() as stack:
                self._progress.start(_task(pending), sum(work.snapshot.size for work in pending))
                workers = stack.enter_context(WorkerPool(None, self._jobs))
                for wave in _waves(pending):
                    for work in wave:
                        stack.push(work.stack)
                    yield from self._unpack(wave, workers)
                if not self._failures:
                    self._progress.done()

    def _look(
        self, wanted: RestoreRequest, entry: Ref, place: Path | NoTargetDirectory
    ) -> RestoreResult | _Work:
        """What is there already, or what is to be done, after all checks that can be made before."""
        began = time.monotonic()
        if isinstance(place, NoTargetDirectory):
            raise place
        reference = offline_snapshot(self._store, entry, wanted.reference, place)
        instead_of = "" if reference == wanted.reference else entry.current
        wanted = replace(wanted, reference=reference)
        found = replace(inspect_target(self._store, wanted, entry, place), instead_of=instead_of)
        if found.present:
            state.remove_leftovers(found.prefix)
            return self._ended(found, began)
        described = read_encoded_snapshot(self._store, found.snapshot_id)
        snapshot = decode_snapshot(self._store, described)
        check_target(found, snapshot)
        has_kernels = bool(snapshot.kernels)
        self._record.expect(found.name, str(found.prefix), snapshot.size, has_kernels=has_kernels)
        kernels.register_pending(found.prefix, found.name, snapshot.kernels)
        self._reserve(found, snapshot)
        return _Work(wanted, found, described, snapshot, ExitStack(), began)

    def _reserve(self, place: RestoreTarget, snapshot: Snapshot) -> None:
        """Promises room for what is to be written; raises InsufficientSpace. What the environment at the place has
        already is
        likely to be linked, and where it is not, writing ends with InsufficientSpace too.
        """
        try:
            self._space.reserve(existing_parent(place), snapshot.layers)
        except InsufficientSpace:
            previous = state.read_previous(place.prefix)
            if previous is None:
                raise
            there = {layer.digest for layer in previous.snapshot.layers}
            missing = [layer for layer in snapshot.layers if layer.digest not in there]
            self._space.reserve(existing_parent(place), missing)

    def _unpack(
        self, works: list[_Work], workers: WorkerPool[None]
    ) -> Iterator[RestoreResult | RestoreFailure]:
        """Has all layers written by the workers, and puts each environment in its place when it is whole."""
        self._staged = staged_works = []
        for work in works:
            try:
                begun = self._stage(work, workers)
            except SnapperError as error:
                yield self._given_up(work, error)
                continue
            if isinstance(begun, RestoreResult):
                yield begun
            else:
                staged_works.append(begun)
        loads = [SnapshotLoad(each.work.wanted.rank, each.work.snapshot.layers) for each in staged_works]
        turns = [
            turn for turn in schedule_layers(loads) if turn.order in staged_works[turn.load].unpacking.missing
        ]
        owners = {
            staged_works[turn.load].unpacking.submit(workers, turn.order, len(turns) - count): turn.load
            for count, turn in enumerate(turns)
        }
        yield from (
            self._finish(each, workers) for each in staged_works if each.unpacking.complete
        )  # without layers
        with closing(workers.outcomes()) as outcomes:
            for number, outcome in outcomes:
                yield from self._take(staged_works[owners[number]], workers, number, outcome)

    def _stage(self, work: _Work, workers: WorkerPool[None]) -> _Staged | RestoreResult:
        """Begins an environment, unless it has come to be there: from here on nobody else works on its place."""
        staging = work.stack.enter_context(staging_directory(work.target.prefix))
        entry = work.target.entry
        if self._store.stale_since() is None:
            entry = read_ref(self._store, entry.name).ref
        found = inspect_target(self._store, work.wanted, entry, work.target.prefix, again=True)
        if found.present:
            work.stack.close()
            return self._ended(found, work.began)
        from snapper.restoring.unpack import SnapshotUnpacker  # noqa: PLC0415

        snapshot, prefix = work.snapshot, str(work.target.prefix)
        unpacking = SnapshotUnpacker(
            self._store, snapshot.layers, str(staging.tree), prefix, snapshot.altered_paths
        )
        with unpack_errors(f"snapshot {found.snapshot_id[:12]}", str(found.prefix)):
            self._advance(found.name, unpacking.inherit(found.prefix, workers))
        return _Staged(work, staging, unpacking)

    def _advance(self, name: str, size: int) -> None:
        self._record.advance(name, size)
        self._progress.advance(size)

    def _take(
        self, each: _Staged, workers: WorkerPool[None], number: int, outcome: ExtractedLayer | SnapperError
    ) -> Iterator[RestoreResult | RestoreFailure]:
        """Takes what became of one layer in; gives the environment's end if that was it."""
        work, unpacking = each.work, each.unpacking
        if isinstance(outcome, SnapperError) or work.error:
            work.error = work.error or (outcome if isinstance(outcome, SnapperError) else None)
            unpacking.give_up(workers, number)
            if work.error and not unpacking.at_work:
                yield self._given_up(work, work.error)
            return
        self._advance(work.target.name, unpacking.take(number, outcome))
        if unpacking.complete:
            yield self._finish(each, workers)

    def _finish(self, each: _Staged, workers: WorkerPool[None]) -> RestoreResult | RestoreFailure:
        """Puts an environment whose layers are all written in its place."""
        work, place, staging = each.work, each.work.target, each.staging
        try:
            with work.stack:
                done = each.unpacking.finish()
                found = state.EnvironmentState(FORMAT, place.name, place.snapshot_id, str(place.prefix))
                with unpack_errors(f"snapshot {place.snapshot_id[:12]}", str(place.prefix)):
                    taken = 0 if done.inherited else clock.next_tick(staging.tree)
                    moment = IndexHeader(place.snapshot_id, str(place.prefix), taken)
                    state.write(staging.tree, found, work.manifest, moment, done.index)
                    staging.tree.chmod(work.snapshot.mode & 0o777)
                is_present(self._store, place.prefix, place.entry, place.snapshot_id, work.wanted)
                staging.swap()
                if done.inherited and not any(other.unpacking.at_work for other in self._staged):
                    staging.clear(workers)
            if done.inherited:  # removing the tree that was replaced has touched what both had
                with suppress(OSError):
                    moment = replace(moment, taken=clock.next_tick(place.prefix))
                    state.write_index(place.prefix, moment, done.index)
            return self._ended(place, work.began, work.snapshot.size, done.unrelocated)
        except SnapperError as error:
            return self._given_up(work, error)

    def _given_up(self, work: _Work, error: SnapperError) -> RestoreFailure:
        with suppress(SnapperError):
            work.stack.close()
        return self._failed(work.wanted, error)

    def _failed(self, wanted: RestoreRequest, error: SnapperError) -> RestoreFailure:
        self._failures += 1
        self._record.fail(wanted.reference.environment, error.message, error.hint)
        return RestoreFailure(str(wanted.reference), error)

    def _ended(
        self, place: RestoreTarget, began: float, size: int = 0, unrelocated: tuple[str, ...] = ()
    ) -> RestoreResult:
        """Makes kernels and conda know the environment that is in its place."""
        registered = kernels.register(place.prefix, place.name)
        try:
            register_with_conda(place.prefix)
        except OSError as error:
            self._progress.note(
                f"{place.prefix} could not be added to ~/.conda/environments.txt: {error.strerror}"
            )
        self._record.settle(
            place.name,
            str(place.prefix),
            "present" if place.present else "restored",
            tuple(each.display_name for each in registered if not each.problem),
        )
        return RestoreResult(
            environment=place.name,
            snapshot_id=place.snapshot_id,
            prefix=str(place.prefix),
            present=place.present,
            changed=_changes(place.prefix) if place.present else 0,
            size=size,
            kernels=registered,
            unrelocated=unrelocated,
            seconds=time.monotonic() - began,
            suggestion="" if registered else kernels.install_hint(place.prefix),
            instead_of=place.instead_of,
        )


def _waves(works: list[_Work]) -> Iterator[list[_Work]]:
    """The environments that can be restored at once. One that is to stand inside of another comes after it, and
    one that goes to the same place after the one that was named before.
    """
    prefixes = [work.target.prefix for work in works]
    turns = [
        sum(other in prefix.parents for other in prefixes) + prefixes[:number].count(prefix)
        for number, prefix in enumerate(prefixes)
    ]
    for turn in sorted(set(turns)):
        yield [work for work, found in zip(works, turns, strict=True) if found == turn]


def _task(works: list[_Work]) -> str:
    return f"Restoring {works[0].target.name if len(works) == 1 else f'{len(works)} environments'}"


def _changes(prefix: Path) -> int:
    installed = InstalledEnvironment(prefix)
    drift = installed.drift() if installed.is_touched() else None
    return len(drift.paths) if drift else 0
