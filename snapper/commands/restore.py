"""Restore snapshots from a store as environments on disk, and register their kernels with Jupyter.

Start reading here: `restore_session` and `snapper.api` call `restore`, and `snapper.cli.restore` shows the results
(`snapper.cli.render.restore`). This module decides what to do and keeps the record that waiting kernels and
`snapper status` read (`snapper.kernels.restore_record`); `snapper.restoring` plans and writes files.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from snapper import kernels
from snapper.environment import state
from snapper.environment.conda_directories import find_roots, usual_roots
from snapper.environment.control import control_problem
from snapper.environment.kept import kept_beside
from snapper.environment.locations import register_with_conda
from snapper.environment.own_locations import remember_location
from snapper.environment.staging_lock import staging_path
from snapper.errors import SnapperError, TargetOccupied, TooManyFiles, UnexpectedError
from snapper.format.owners import NO_PATHS, OwnedPaths
from snapper.fs.errors import map_os_error
from snapper.kernels.restore_record import RestoreRecorder
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.refs import read_ref
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.destinations import UnusedLocation
from snapper.restoring.errors import pack_command
from snapper.restoring.inspection import InspectedRequest, inspect_request
from snapper.restoring.leftovers import remove_leftover_staging
from snapper.restoring.requests import LocatedRequest, RestoreRequest, choose_destinations, resolve_requests
from snapper.restoring.target import RestoreTarget
from snapper.settings.log_file import log_crash
from snapper.store import Store

if TYPE_CHECKING:
    from snapper.restoring.engine import Outcome
    from snapper.restoring.plan import RestorePlan

#: How much memory all snapshots may take that are restored together, in bytes. Most take a few million.
_MOST_MEMORY = 512 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestoreResult:
    """An environment that is on disk.

    It may have been `present` before; then `changed` is the number of files that differ from the snapshot, which are
    only looked for if directories that installing and removing packages modifies have been modified. `suggestion` is
    the command that adds a kernel if there is none. The first `own_unrelocated` of the `unrelocated` files are in no
    conda package; `harmless_unrelocated` are further ones, in which another prefix does no harm. `instead_of` is the
    current snapshot in the store if that was not available and an earlier one was restored. `unused_location` is where
    the environment was packed if it is elsewhere and nobody asked for that. `kept` are directories beside it with what
    would have been lost when it was replaced, then or earlier. Sizes in bytes.
    """

    environment: str
    snapshot_id: str
    prefix: str
    present: bool
    changed: int
    size: int
    kernels: tuple[kernels.KernelRegistration, ...]
    unrelocated: tuple[str, ...]
    own_unrelocated: int
    harmless_unrelocated: tuple[str, ...]
    seconds: float
    suggestion: str = ""
    instead_of: str = ""
    unused_location: UnusedLocation | None = None
    kept: tuple[str, ...] = ()

    @property
    def pack_command(self) -> str:
        """The command that packs the environment under its name."""
        return pack_command(Path(self.prefix), self.environment)


@dataclass(frozen=True)
class RestoreFailure:
    """An environment that could not be restored, and why; what was at its prefix is still there."""

    environment: str
    error: SnapperError


def restore(
    store: Store,
    requests: Sequence[RestoreRequest],
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
    log: str = "",
    restores_all: bool = False,
) -> Iterator[RestoreResult | RestoreFailure]:
    """Restore environments and yield the outcome of each; a failure does not stop the others.

    All snapshots are unpacked by one pool of workers, each into a staging directory that is swapped in as soon as it
    is complete. `log` is the file that progress and errors are written to, for kernels that wait. `restores_all`
    records this as the last restore of all environments.
    """
    recorder = RestoreRecorder(store.url, log=log, restores_all=restores_all)
    try:
        yield from _Restore(store, progress, recorder).run(requests, jobs)
    finally:
        recorder.close()


def complete_interrupted_swaps() -> None:
    """Complete or undo what killed processes left half done in conda's root prefixes.

    Environments in these, or a prefix itself, may be missing from their place until then. Commands that restore do this
    first, before they open the store.
    """
    for root in dict.fromkeys([*find_roots(), *usual_roots()]):
        if os.path.lexists(staging_path(root)) and not control_problem(root):
            remove_leftover_staging(root)


class _Restore:
    def __init__(self, store: Store, progress: Progress, recorder: RestoreRecorder) -> None:
        self._store = store
        self._progress = progress
        self._recorder = recorder
        self._failures = 0

    @cached_property
    def _registrar(self) -> kernels.Registrar:
        """Registers kernels until the first environment is written."""
        return kernels.Registrar()

    def run(
        self, requests: Sequence[RestoreRequest], jobs: int | None
    ) -> Iterator[RestoreResult | RestoreFailure]:
        """Resolve the requests, plan each, write all that are planned, register each that is written."""
        resolution = resolve_requests(self._store, requests)
        for refused in resolution.refused:
            yield self._fail(refused.request, refused.error)
        plans = []
        for located in choose_destinations(resolution.resolved):
            planned = self._plan(located)
            if isinstance(planned, (RestoreResult, RestoreFailure)):
                yield planned
            else:
                plans.append(planned)
                yield from self._limit_memory(plans)
        if plans:
            yield from self._write(plans, jobs)

    def _plan(self, located: LocatedRequest) -> RestorePlan | RestoreResult | RestoreFailure:
        """Check all that can be checked before anything is written; announce the kernels to come."""
        started = time.monotonic()
        try:
            inspected = inspect_request(self._store, located)
            conflict = inspected.target.conflict
            if conflict and located.request.on_change == "pack":
                inspected = self._pack_first(located, inspected, conflict)
            if inspected.target.present:
                state.remove_leftovers(inspected.target.prefix)
                return self._register(self._registrar, inspected.request, inspected.target, started)
            from snapper.restoring.plan import make_plan  # noqa: PLC0415 - slow to import, and often not needed

            plan = make_plan(self._store, inspected, started)
            logger.info(
                "restoring %s at %s to %s: %d layers, %d bytes",
                plan.name,
                plan.target.snapshot_id[:12],
                plan.target.prefix,
                len(plan.snapshot.layers),
                plan.snapshot.size,
            )
            self._announce(plan)
            return plan
        except Exception as error:  # whatever is wrong with one environment must not stop the others
            return self._fail(located.request, error)

    def _pack_first(
        self, located: LocatedRequest, inspected: InspectedRequest, conflict: TargetOccupied
    ) -> InspectedRequest:
        """Pack the environment at the target into its history, and inspect it again; raise TargetOccupied.

        What is restored is the same snapshot as before.
        """
        from snapper.commands.pack import PackOptions, pack  # noqa: PLC0415 - not needed if nothing has changed

        target = inspected.target
        assert target.directory is not None
        message = "changes found when another snapshot was restored"
        options = PackOptions(message=message, kept_in_history=True)
        try:
            packed = pack(self._store, target.directory, target.name, options)
        except SnapperError as error:
            reason = f"{conflict.reason}, and it cannot be packed: {error.message}"
            raise TargetOccupied(conflict.prefix, reason, error.hint) from None
        logger.warning(
            "%s: %s; it was packed as snapshot %s, which is in the history of %s",
            target.prefix,
            conflict.reason,
            packed.snapshot_id[:12],
            target.name,
        )
        spec = SnapshotSpec(target.name, target.snapshot_id)
        request = replace(located.request, spec=spec)
        ref = read_ref(self._store, target.name).ref
        again = inspect_request(self._store, located._replace(request=request, ref=ref))
        if again.target.conflict:  # with what no snapshot can have
            raise again.target.conflict
        return again

    def _limit_memory(self, plans: list[RestorePlan]) -> Iterator[RestoreFailure]:
        """Give up those with the largest snapshots while all take too much memory together."""
        while sum(plan.memory for plan in plans) > _MOST_MEMORY:
            plan = plans.pop(max(range(len(plans)), key=lambda number: plans[number].memory))
            what = "the snapshots that are restored together"
            error = TooManyFiles(f"the snapshot for {plan.target.prefix}", what, _MOST_MEMORY)
            yield self._fail(plan.request, error)

    def _announce(self, plan: RestorePlan) -> None:
        """Register kernels that wait for the environment."""
        snapshot, prefix = plan.snapshot, plan.target.prefix
        has_kernels = bool(snapshot.kernels)
        self._recorder.expect(plan.name, str(prefix), snapshot.size, has_kernels=has_kernels)
        self._registrar.register_pending(prefix, plan.name, snapshot.kernels)

    def _write(self, plans: list[RestorePlan], jobs: int | None) -> Iterator[RestoreResult | RestoreFailure]:
        # Not needed, and slow to import, if all environments are present.
        from snapper.process.pool import WorkerPool  # noqa: PLC0415
        from snapper.restoring.engine import run_plans  # noqa: PLC0415
        from snapper.restoring.plan import select_fitting  # noqa: PLC0415

        what = plans[0].name if len(plans) == 1 else f"{len(plans)} environments"
        self._progress.start(f"Restoring {what}", sum(plan.snapshot.size for plan in plans))
        with WorkerPool(self._store, jobs) as workers:
            while plans:
                fitting, put_off = select_fitting(plans)
                if not fitting:  # no more space will become free
                    yield from (self._fail(plan.request, error) for plan, error in put_off if error)
                    plans = [plan for plan, error in put_off if not error]
                    continue
                plans = [plan for plan, _ in put_off]
                with closing(run_plans(self._store, fitting, workers, self._advance)) as outcomes:
                    yield from map(self._settle, outcomes)
            if not self._failures:
                self._progress.done()

    def _settle(self, outcome: Outcome) -> RestoreResult | RestoreFailure:
        """Register what has been restored; report what has not."""
        plan = outcome.plan
        if outcome.error is not None:
            return self._fail(plan.request, outcome.error)
        if outcome.discarded:
            logger.warning("%s: discarded %s", plan.target.prefix, outcome.discarded)
        try:
            size = 0 if outcome.target.present else plan.snapshot.size
            registrar = kernels.Registrar()  # what has been written may have changed what Jupyter finds
            return self._register(
                registrar, plan.request, outcome.target, plan.started, size, outcome.unrelocated
            )
        except Exception as error:
            return self._fail(plan.request, error)

    def _advance(self, plan: RestorePlan, size: int) -> None:
        self._recorder.advance(plan.name, size)
        self._progress.advance(size)

    def _register(
        self,
        registrar: kernels.Registrar,
        request: RestoreRequest,
        target: RestoreTarget,
        started: float,
        size: int = 0,
        unrelocated: OwnedPaths = NO_PATHS,
    ) -> RestoreResult:
        """Register the environment at the target with Jupyter and conda; `size` is what was written, in bytes."""
        if request.prefix:
            remember_location(target.name, target.prefix)
        assert target.directory is not None
        registered = registrar.register(target.directory, target.name)
        logger.info(
            "%s %s: %s; %d kernels registered",
            target.name,
            "is present" if target.present else "restored",
            target.prefix,
            len(registered),
        )
        try:
            register_with_conda(target.prefix)
        except OSError as error:
            self._progress.note(
                f"{target.prefix} could not be added to ~/.conda/environments.txt: {error.strerror}"
            )
        self._recorder.complete(
            target.name,
            str(target.prefix),
            "present" if target.present else "restored",
            tuple(kernel.display_name for kernel in registered if not kernel.problem),
        )
        return RestoreResult(
            environment=target.name,
            snapshot_id=target.snapshot_id,
            prefix=str(target.prefix),
            present=target.present,
            changed=target.changed if target.present else 0,
            size=size,
            kernels=registered,
            unrelocated=unrelocated.paths,
            own_unrelocated=unrelocated.own,
            harmless_unrelocated=unrelocated.harmless,
            seconds=time.monotonic() - started,
            suggestion="" if kernels.has_kernels(target.directory) else kernels.install_hint(target.prefix),
            instead_of=target.instead_of,
            unused_location=target.unused_location,
            kept=kept_beside(target.prefix),
        )

    def _fail(self, request: RestoreRequest, error: Exception) -> RestoreFailure:
        self._failures += 1
        reported = _as_snapper_error(error)
        logger.info("could not restore %s: %s", request.spec, reported.message)
        logger.debug("traceback", exc_info=error)
        self._recorder.fail(request.spec.environment, reported.message, reported.hint)
        return RestoreFailure(str(request.spec), reported)


def _as_snapper_error(error: Exception) -> SnapperError:
    """Return the error to report for an exception."""
    if isinstance(error, SnapperError):
        return error
    if isinstance(error, OSError):
        return map_os_error(error, str(error.filename), "access")
    log = ""
    with suppress(OSError):
        log = str(log_crash(error))
    return UnexpectedError(type(error).__name__, " ".join(str(error).split()) or "no details", log)
