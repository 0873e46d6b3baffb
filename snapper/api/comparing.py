"""Compare environments on this machine with snapshots, and snapshots with each other."""

from __future__ import annotations

from pathlib import Path

from snapper.api.arguments import find_prefix
from snapper.commands.diff import SnapshotDiff, diff_installed, diff_snapshots
from snapper.commands.status import EnvironmentStatus, all_statuses, environment_status, statuses_by_name
from snapper.commands.verify import (
    EnvironmentCheck,
)
from snapper.commands.verify import verify_environment as compare_environment
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.specs import SnapshotSpec
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings
from snapper.store import Store


def status(store: Store | None, environment: str | Path | None = None) -> tuple[EnvironmentStatus, ...]:
    """Return how environments on this machine compare with the store: one by name or directory (a Path), or all.

    Without a store, only what is known on this machine is returned. Raise EnvironmentNotFound, NotAnEnvironment, and
    what stores raise.
    """
    if isinstance(environment, Path):
        return (environment_status(store, absolute_directory(environment)),)
    if environment is not None:
        return statuses_by_name(store, environment)
    report = all_statuses(store)
    if report.store_error is not None:
        raise report.store_error
    return report.environments


def diff(
    store: Store,
    before: str,
    after: str | Path | None = None,
    *,
    files: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> SnapshotDiff:
    """Return what differs from the snapshot `before` to the snapshot `after`, or to an environment on this machine.

    The environment is given by its directory (a Path); by default it is the one that `before` names. With `files`, list
    every file that differs, not only packages.
    """
    jobs = jobs or load_settings().jobs
    first = SnapshotSpec.parse(before)
    if isinstance(after, str):
        second = SnapshotSpec.parse(after)
        return diff_snapshots(store, first, second, files=files, jobs=jobs, progress=progress)
    prefix = find_prefix(after or first.environment)
    return diff_installed(store, first, prefix, files=files, jobs=jobs, progress=progress)


def verify_environment(
    store: Store,
    environment: str | Path,
    spec: str | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> EnvironmentCheck:
    """Compare every byte of an environment with a snapshot, by default the one last packed or restored."""
    prefix = find_prefix(environment)
    parsed = SnapshotSpec.parse(spec) if spec is not None else None
    return compare_environment(store, prefix, parsed, jobs=jobs or load_settings().jobs, progress=progress)
