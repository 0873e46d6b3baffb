"""Carry out planned restores: stage each, write all their layers with one pool of workers, swap each in when whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from snapper.environment import clock, conda, state
from snapper.environment.index import IndexHeader
from snapper.environment.tree import Tree
from snapper.errors import Corrupted, TooManyFiles
from snapper.format.constraints import directory_mode
from snapper.format.model import FORMAT
from snapper.format.owners import NO_PATHS, OwnedPaths
from snapper.fs.descriptors import free_descriptors
from snapper.fs.directories import set_mode
from snapper.fs.pinned import PinnedDirectory
from snapper.process.pool import WorkerPool
from snapper.repository.checked_layers import CheckedLayers, unattested_keys
from snapper.repository.refs import read_ref
from snapper.restoring.errors import unpack_errors
from snapper.restoring.layer_writer import ExtractedLayer
from snapper.restoring.limits import check_file_system
from snapper.restoring.plan import RestorePlan, split_into_waves
from snapper.restoring.replaced import Kept
from snapper.restoring.schedule import SnapshotLoad, schedule_layers
from snapper.restoring.swap import Staged, stage
from snapper.restoring.target import RestoreTarget, check_replaced, inspect_target
from snapper.restoring.unpacker import SnapshotUnpacker, UnpackResult
from snapper.store import Store

#: How many descriptors a staged restore takes. Half of those that are free must be enough for all that are staged.
_DESCRIPTORS = 6

#: How much memory the results of all layers may take until their snapshots are whole, in bytes: more than those of any
#: single snapshot.
_MOST_MEMORY = 384 << 20

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of a plan.

    Without an `error`, the environment is at the target, which is `present` if another process restored it after it
    had been planned; with one, the target is as it was. `unrelocated` are paths that still hold a placeholder.
    `discarded` describes what was at the target and in no snapshot.
    """

    plan: RestorePlan
    target: RestoreTarget
    unrelocated: OwnedPaths = NO_PATHS
    discarded: str = ""
    error: Exception | None = None


#: Called with the bytes of a plan that have been written or linked.
Advance = Callable[[RestorePlan, int], None]


def run_plans(
    store: Store, plans: Sequence[RestorePlan], workers: WorkerPool[Store], advance: Advance
) -> Generator[Outcome, None, None]:
    """Carry out the plans and yield the outcome of each as soon as it is known; a failure does not stop the others."""
    with ExitStack() as resources:
        for wave in split_into_waves(plans):
            waiting = sorted(wave, key=lambda plan: (plan.request.rank, plan.snapshot.size))
            while waiting:
                most = max(1, free_descriptors() // 2 // _DESCRIPTORS)
                yield from _Wave(store, workers, advance, resources).run(waiting[:most])
                del waiting[:most]


@dataclass
class _StagedRestore:
    """A plan whose target is locked for it; `resources` are released when it ends, with or without success.

    `checked` are the keys of layers that will be read, to remember that they are intact.
    """

    plan: RestorePlan
    staging: Staged
    unpacker: SnapshotUnpacker
    resources: ExitStack
    checked: list[bytes]
    error: Exception | None = None


class _Wave:
    """Restores that do not depend on each other."""

    def __init__(
        self, store: Store, workers: WorkerPool[Store], advance: Advance, resources: ExitStack
    ) -> None:
        self._store = store
        self._workers = workers
        self._advance = advance
        self._resources = resources
        self._staged: list[_StagedRestore] = []

    def run(self, plans: Sequence[RestorePlan]) -> Iterator[Outcome]:
        for plan in plans:
            staged = self._stage(plan)
            if isinstance(staged, _StagedRestore):
                self._staged.append(staged)
            else:
                yield staged
        owners = self._submit_layers()
        for staged in self._staged:
            if staged.unpacker.all_written:  # nothing was left to write
                yield self._swap_in(staged)
        with closing(self._workers.outcomes()) as outcomes:
            for job, outcome in outcomes:
                yield from self._take(owners[job], job, outcome)

    def _stage(self, plan: RestorePlan) -> _StagedRestore | Outcome:
        """Lock the target, look at it again, and link what its environment has already."""
        resources = self._resources.enter_context(ExitStack())
        try:
            staging = resources.enter_context(stage(plan.target.prefix))
            target = self._inspect_again(plan)
            if target.present:
                resources.close()
                return Outcome(plan, target)
            with _plan_errors(plan):
                check_file_system(staging.directory, plan.target.prefix)
            return self._link_unchanged(plan, staging, resources)
        except Exception as error:  # whatever is wrong with one environment must not stop the others
            return _fail(plan, resources, error)

    def _inspect_again(self, plan: RestorePlan) -> RestoreTarget:
        """Inspect the target now that no other process can change it."""
        ref = plan.target.ref
        if self._store.stale_since() is None:
            ref = read_ref(self._store, ref.name).ref
        target = inspect_target(self._store, plan.request, ref, plan.target.prefix, again=True)
        return replace(target, unused_location=plan.target.unused_location)

    def _link_unchanged(self, plan: RestorePlan, staging: Staged, resources: ExitStack) -> _StagedRestore:
        prefix, snapshot = plan.target.prefix, plan.snapshot
        unpacker = SnapshotUnpacker(snapshot.layers, staging.handle, str(prefix), snapshot.altered_paths)
        # What is kept must not share files with the new environment.
        if staging.can_link and plan.target.conflict is None:
            with _plan_errors(plan):
                self._advance(plan, unpacker.link_unchanged(prefix, self._workers))
        read = {snapshot.layers[number].digest for number in unpacker.missing}
        return _StagedRestore(plan, staging, unpacker, resources, unattested_keys(self._store, read))

    def _submit_layers(self) -> dict[int, _StagedRestore]:
        """Queue all layers that are still to be written; return whose each job is."""
        loads = [
            SnapshotLoad(staged.plan.request.rank, staged.plan.snapshot.layers) for staged in self._staged
        ]
        missing = [staged.unpacker.missing for staged in self._staged]
        scheduled = [item for item in schedule_layers(loads) if item.layer in missing[item.load]]
        owners: dict[int, _StagedRestore] = {}
        for count, item in enumerate(scheduled):
            staged = self._staged[item.load]
            job = staged.unpacker.submit(self._workers, item.layer, len(scheduled) - count)
            owners[job] = staged
        return owners

    def _take(
        self, staged: _StagedRestore, job: int, outcome: ExtractedLayer | Exception
    ) -> Iterator[Outcome]:
        """Note what became of one layer; yield the outcome of its restore if that was the last one."""
        error = staged.error or self._keep(staged, job, outcome)
        if error is not None:
            staged.unpacker.drop(job)
            yield from self._give_up(staged, error)
        elif staged.unpacker.all_written:
            yield self._swap_in(staged)
        yield from self._limit_memory()

    def _give_up(self, staged: _StagedRestore, error: Exception) -> Iterator[Outcome]:
        """Write nothing more of a restore that fails; yield its outcome when none of its jobs is running."""
        staged.error = error
        staged.unpacker.give_up(self._workers)
        if not staged.unpacker.busy:
            yield _fail(staged.plan, staged.resources, error)

    def _limit_memory(self) -> Iterator[Outcome]:
        """Give up the restore that needs the most memory if all together need too much."""
        if sum(staged.unpacker.memory for staged in self._staged) > _MOST_MEMORY:
            largest = max(self._staged, key=lambda staged: staged.unpacker.memory)
            name = f"the snapshot for {largest.plan.target.prefix}"
            yield from self._give_up(
                largest, TooManyFiles(name, "what is restored at the same time", _MOST_MEMORY)
            )

    def _keep(
        self, staged: _StagedRestore, job: int, outcome: ExtractedLayer | Exception
    ) -> Exception | None:
        """Keep what became of one layer; return why its restore fails, None if it does not."""
        if isinstance(outcome, Exception):
            return outcome
        try:
            self._advance(staged.plan, staged.unpacker.take(job, outcome))
        except Exception as error:
            return error
        return None

    def _swap_in(self, staged: _StagedRestore) -> Outcome:
        """Complete the staged tree, swap it in, and check what it has replaced."""
        plan, staging = staged.plan, staged.staging
        try:
            tree = staging.pin()
            with staged.resources:
                unpacked = staged.unpacker.complete()
                if not conda.is_environment(tree):
                    raise Corrupted(
                        f"the snapshot for {plan.target.prefix}", f"it has no directory {conda.META}"
                    )
                header = _write_state(plan, tree, unpacked)
                # The swap leaves the replaced tree in the staging directory. Closing `staged.resources` removes it, in
                # this process; if the workers are idle, they remove most of it before.
                discarded: list[str] = []
                environment = staging.swap(
                    lambda replaced: self._check_replaced(plan, replaced, tree, unpacked.linked, discarded),
                    unpacked.linked,
                )
                if unpacked.linked and not any(other.unpacker.busy for other in self._staged):
                    staging.remove_replaced(self._workers)
            if unpacked.linked or staging.moves_entries:
                _renew_index(environment, header, unpacked)
            if staged.checked:
                CheckedLayers().remember(staged.checked)
        except Exception as error:
            return _fail(plan, staged.resources, error)
        return Outcome(
            plan, replace(plan.target, directory=environment), unpacked.unrelocated, "".join(discarded)
        )

    def _check_replaced(
        self,
        plan: RestorePlan,
        replaced: int,
        restored: PinnedDirectory,
        linked: frozenset[int],
        discarded: list[str],
    ) -> Tree | Kept:
        """Raise TargetOccupied if something is lost with the open directory that was at the target.

        Return what is in it, or that all of it is to be kept; `discarded` gets a description of what is lost because
        the request says so.
        """
        directory = PinnedDirectory(plan.target.prefix, os.dup(replaced))
        checked = check_replaced(self._store, directory, plan.target, plan.request, restored, linked)
        discarded.append(checked.discarded)
        return Kept(checked.conflict.reason) if checked.conflict else checked.tree


def _plan_errors(plan: RestorePlan) -> AbstractContextManager[None]:
    return unpack_errors(f"snapshot {plan.target.snapshot_id[:12]}", str(plan.target.prefix))


def _write_state(plan: RestorePlan, tree: PinnedDirectory, unpacked: UnpackResult) -> IndexHeader:
    """Write the state of the environment into the staged tree, which is open; return the header of its index."""
    target = plan.target
    environment_state = state.EnvironmentState(FORMAT, target.name, target.snapshot_id, str(target.prefix))
    with _plan_errors(plan):
        taken = 0 if unpacked.linked else clock.next_tick(tree)
        prefix = str(target.prefix)
        header = IndexHeader(target.snapshot_id, prefix, taken, prefixes=(prefix,))
        state.write(tree, environment_state, plan.encoded, header, unpacked.index)
        set_mode(tree.descriptor, directory_mode("", plan.snapshot.mode))
    return header


def _renew_index(environment: PinnedDirectory, header: IndexHeader, unpacked: UnpackResult) -> None:
    """Write the index after the swap, as if it had been taken then.

    Removing the replaced tree changed the ctime of files that both trees link, and moving what is in a tree that of
    directories.
    """
    with suppress(OSError):
        state.write_index(environment, replace(header, taken=clock.next_tick(environment)), unpacked.index)


def _fail(plan: RestorePlan, resources: ExitStack, error: Exception) -> Outcome:
    """Release the resources; what cannot be removed now is a leftover that the next command removes."""
    try:
        resources.close()
    except Exception:
        logger.debug("could not clean up after restoring %s", plan.name, exc_info=True)
    return Outcome(plan, plan.target, error=error)
