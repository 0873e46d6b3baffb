"""Restore named environments or all of a store, in the background once a time budget is used up.

A session is an iterator of events, which can be pickled: they also come from the background process. If the store is
offline and its cache lacks the current snapshot of an environment, `snapper.restoring.fallback` may choose another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from snapper import kernels
from snapper.commands.restore import RestoreFailure, RestoreResult, complete_interrupted_swaps, restore
from snapper.errors import SnapperError
from snapper.errors.redaction import redact_url
from snapper.format.layout import Layout
from snapper.kernels import RegisteredKernel
from snapper.kernels.restore_record import RestoreRecorder
from snapper.kernels.updates import update_others
from snapper.kernels.usage import recently_used
from snapper.process.background import run_in_background
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.refs import invalid_entry, list_refs
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.restoring.selection import NamePatterns, rank_names
from snapper.settings.keys import OnChange
from snapper.settings.log_file import open_log
from snapper.store import Store


@dataclass(frozen=True)
class RestoreOptions:
    """How to restore: see RestoreRequest. `first` are patterns of the names to restore first."""

    prefix: Path | None = None
    envs_dir: Path | None = None
    replace: bool = False
    on_change: OnChange = "refuse"
    first: tuple[str, ...] = ()
    jobs: int | None = None


class SessionStarted(NamedTuple):
    """The store, or its cache, has been read, and these snapshots are going to be restored.

    `stale_since` is when the store was last reached, as a Unix time, None if it is online. `removed_kernels` belonged
    to environments that are neither in the store nor on disk any more.
    """

    store: str
    specs: tuple[SnapshotSpec, ...]
    stale_since: float | None
    removed_kernels: tuple[RegisteredKernel, ...] = ()


class SessionEnded(NamedTuple):
    """The session has ended. The store may have gone offline during it."""

    stale_since: float | None


SessionEvent = SessionStarted | RestoreResult | RestoreFailure | SessionEnded


@dataclass(frozen=True)
class SessionReport:
    """What a session has done so far: see SessionStarted, and the results by now.

    If `process` is not None, it continues with the `remaining` specs, and writes its output to the file `log`.
    """

    store: str = ""
    results: tuple[RestoreResult | RestoreFailure, ...] = ()
    removed_kernels: tuple[RegisteredKernel, ...] = ()
    stale_since: float | None = None
    remaining: tuple[str, ...] = ()
    process: int | None = None
    log: str = ""


def restore_named(
    open_store: Callable[[], Store],
    specs: Sequence[SnapshotSpec],
    options: RestoreOptions,
    *,
    progress: Progress = NO_PROGRESS,
    log: str = "",
) -> Iterator[SessionEvent]:
    """Restore the named snapshots; `log` as for `restore`. Raise what opening the store does."""
    complete_interrupted_swaps()
    store = open_store()
    yield SessionStarted(store.url, tuple(specs), _stale_since(store, specs))
    requests = _requests(specs, options, keep_changed=False)
    yield from restore(store, requests, jobs=options.jobs, progress=progress, log=log)
    yield SessionEnded(_stale_since(store, specs))


def restore_all(
    open_store: Callable[[], Store],
    url: str,
    patterns: NamePatterns,
    options: RestoreOptions,
    *,
    progress: Progress = NO_PROGRESS,
    log: str = "",
) -> Iterator[SessionEvent]:
    """Restore all environments of a store that the patterns select, most recently used ones first.

    Kernels of environments that exist nowhere any more are removed. Those of all others on this machine are updated,
    also if nothing is restored. Environments with local changes are left as they are unless `options.replace` is set.
    If the store at `url` cannot be opened or read, or nothing is selected, kernels that wait for their environments
    learn why; then raise the error.
    """
    complete_interrupted_swaps()
    try:
        store = open_store()
        names, invalid = list_refs(store)
        is_complete = store.stale_since() is None and not invalid
        removed = kernels.remove_orphaned(names) if is_complete else ()
        specs = [SnapshotSpec(name) for name in patterns.select_from_store(names, store.url)]
    except SnapperError as error:
        _record_failure(url, error, log)
        update_others(())
        raise
    yield SessionStarted(store.url, tuple(specs), _stale_since(store, specs), removed)
    yield from (RestoreFailure(key, invalid_entry(store, key)) for key in invalid)
    requests = _requests(specs, options, keep_changed=not options.replace)
    restored = []
    for result in restore(store, requests, jobs=options.jobs, progress=progress, log=log, restores_all=True):
        if isinstance(result, RestoreResult):
            restored.append(result.environment)
        yield result
    update_others(restored)
    yield SessionEnded(_stale_since(store, specs))


def run_within(session: Callable[[], Iterator[SessionEvent]], deadline: float, log: Path) -> SessionReport:
    """Run a session in a separate process, which continues in the background after the deadline.

    The deadline is by the monotonic clock; the output of the process goes to the log. Raise what the session raises
    before the deadline.
    """

    def work(emit: Callable[[object], None]) -> None:
        for event in session():
            emit(event)

    report = run_in_background(work, deadline, partial(open_log, log))
    return replace(collect_report(report.events), process=report.pid, log=str(log))


def collect_report(events: Iterable[object]) -> SessionReport:
    """Return what the session with these events has done."""
    started: SessionStarted | None = None
    stale_since: float | None = None
    results: list[RestoreResult | RestoreFailure] = []
    for event in events:
        if isinstance(event, (RestoreResult, RestoreFailure)):
            results.append(event)
        elif isinstance(event, (SessionStarted, SessionEnded)):
            stale_since = event.stale_since
            started = event if isinstance(event, SessionStarted) else started
    if started is None:
        return SessionReport()
    ended = {result.environment for result in results}
    remaining = (spec for spec in started.specs if not {spec.environment, str(spec)} & ended)
    return SessionReport(
        started.store,
        tuple(results),
        started.removed_kernels,
        stale_since,
        tuple(map(str, remaining)),
    )


def _requests(
    specs: Sequence[SnapshotSpec], options: RestoreOptions, *, keep_changed: bool
) -> list[RestoreRequest]:
    names = [spec.environment for spec in specs]
    ranks = rank_names(names, options.first, recently_used(names))
    return [
        RestoreRequest(
            spec,
            prefix=options.prefix,
            envs_dir=options.envs_dir,
            replace=options.replace,
            keep_changed=keep_changed,
            on_change=options.on_change,
            rank=ranks[spec.environment],
        )
        for spec in specs
    ]


def _record_failure(url: str, error: SnapperError, log: str) -> None:
    """Record that nothing can be restored, for `snapper status` and for kernels whose environments are missing."""
    recorder = RestoreRecorder(redact_url(url), log=log, restores_all=True)
    for entry in kernels.registered_kernels():
        if not entry.ready:
            recorder.fail(entry.environment, error.message, error.hint)
    recorder.close(error.message)


def _stale_since(store: Store, specs: Sequence[SnapshotSpec]) -> float | None:
    return store.stale_since([Layout.ref(spec.environment) for spec in specs])
