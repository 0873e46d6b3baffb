"""Verify, repair, and prune stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snapper.commands.prune import PruneResult
from snapper.commands.prune import prune as prune_store
from snapper.commands.retention import RetentionPolicy
from snapper.commands.verify import (
    LayerSample,
    RepairResult,
    VerifyResult,
    verify_and_repair,
    verify_store,
)
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.settings.resolution import load_settings
from snapper.store import Store


def verify(
    store: Store,
    sample: LayerSample | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> VerifyResult:
    """Check the objects of a store against their digests and each other; read the layers of the sample, if given."""
    return verify_store(store, sample, jobs=jobs or load_settings().jobs, progress=progress)


def repair(
    store: Store,
    sample: LayerSample | None = None,
    sources: Mapping[str, Store] | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> RepairResult:
    """Check a store as `verify` does, and replace corrupted objects with good copies.

    Copies come from the `sources`, by name, or by default from the environments on this machine.
    """
    settings = load_settings()
    return verify_and_repair(
        store, sample, sources, level=settings.level, jobs=jobs or settings.jobs, progress=progress
    )


def prune(
    store: Store,
    retention: RetentionPolicy | None = None,
    environments: Sequence[str] = (),
    *,
    apply: bool = False,
    grace: float = 24 * 3600,
    progress: Progress = NO_PROGRESS,
) -> PruneResult:
    """Delete what no environment needs any more; without `apply`, only return what would be deleted.

    The retention policy limits the history of the given environments, by default all; without one, histories stay as
    they are. Objects younger than `grace`, in seconds, are kept. Raise StoreLocked, Corrupted, LeaseExpired.
    """
    retention = retention or RetentionPolicy()
    return prune_store(store, retention, environments, dry=not apply, grace=grace, progress=progress)
