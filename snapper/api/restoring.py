"""Restore environments, and roll them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from snapper.api.arguments import optional_envs_dir, optional_prefix
from snapper.commands.restore import RestoreFailure, RestoreResult, complete_interrupted_swaps
from snapper.commands.restore import restore as restore_requests
from snapper.commands.restore_session import RestoreOptions
from snapper.commands.restore_session import restore_all as restore_matching
from snapper.commands.rollback import LocalRestore, Rollback
from snapper.commands.rollback import rollback as roll_back
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.restoring.selection import NamePatterns
from snapper.settings.keys import OnChange
from snapper.settings.resolution import load_settings
from snapper.store import Store


def restore(
    store: Store,
    spec: str,
    *,
    prefix: str | Path | None = None,
    envs_dir: str | Path | None = None,
    replace: bool = False,
    on_change: OnChange | None = None,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> RestoreResult:
    """Restore one snapshot and register its kernels; an environment that is already in place is left as it is.

    `prefix` or `envs_dir` name the target; by default it is chosen as the command line does. `replace` overwrites local
    changes; `on_change` says what to do with an environment with which changes would be lost (default: the setting).
    Raise NotInStore, TargetOccupied, PlatformMismatch, PrefixTooLong, InsufficientSpace, PermissionDenied,
    Corrupted, and what stores raise; what was at the target is then unchanged.
    """
    request = RestoreRequest(
        SnapshotSpec.parse(spec),
        prefix=optional_prefix(prefix),
        envs_dir=optional_envs_dir(envs_dir),
        replace=replace,
        on_change=on_change or load_settings().on_change,
    )
    complete_interrupted_swaps()
    (outcome,) = restore_requests(store, [request], jobs=jobs or load_settings().jobs, progress=progress)
    if isinstance(outcome, RestoreFailure):
        raise outcome.error
    return outcome


def restore_all(
    store: Store,
    *,
    only: Sequence[str] = (),
    except_: Sequence[str] = (),
    first: Sequence[str] = (),
    envs_dir: str | Path | None = None,
    replace: bool = False,
    on_change: OnChange | None = None,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Iterator[RestoreResult | RestoreFailure]:
    """Restore all environments of the store, or those whose names match the patterns; yield the outcome of each.

    A failure does not stop the others. Environments with local changes are left as they are unless `replace`, or
    treated as `on_change` says if there is another snapshot. Those
    that match `first` are restored first, then the most recently used.
    """
    settings = load_settings()
    options = RestoreOptions(
        envs_dir=optional_envs_dir(envs_dir),
        replace=replace,
        on_change=on_change or settings.on_change,
        first=tuple(first) or settings.first,
        jobs=jobs or settings.jobs,
    )
    patterns = NamePatterns(tuple(only) or settings.only, tuple(except_) or settings.except_)
    for event in restore_matching(lambda: store, store.url, patterns, options, progress=progress):
        if isinstance(event, (RestoreResult, RestoreFailure)):
            yield event


def rollback(
    store: Store,
    spec: str,
    *,
    message: str = "",
    store_only: bool = False,
    prefix: str | Path | None = None,
    envs_dir: str | Path | None = None,
    replace: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
    on_not_moved: Callable[[RestoreResult], None] | None = None,
) -> Rollback:
    """Make an earlier snapshot current again for everyone: the one that `spec` names, or the one before the current.

    It is first restored on this machine, unless `store_only`; the other options are those of `restore`. `on_not_moved`
    is called if it was restored, but the store could not be changed. Raise
    NoEarlierSnapshot, NotInStore, StoreUnreachable, ConcurrentUpdate, and what `restore` raises.
    """
    local = LocalRestore(
        prefix=optional_prefix(prefix),
        envs_dir=optional_envs_dir(envs_dir),
        replace=replace,
        jobs=jobs or load_settings().jobs,
    )
    return roll_back(
        store,
        SnapshotSpec.parse(spec),
        message=message,
        local=None if store_only else local,
        progress=progress,
        on_not_moved=on_not_moved,
    )
