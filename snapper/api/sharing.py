"""Copy snapshots to other stores, and export them as archives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from snapper.commands.copy import CopyFailure, CopyResult, copy_environments, select_snapshots
from snapper.commands.export import ExportRequest, ExportResult, export_snapshot
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.specs import SnapshotSpec
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings
from snapper.store import Store


def copy(
    source: Store, target: Store, *specs: str, force: bool = False, progress: Progress = NO_PROGRESS
) -> Iterator[CopyResult | CopyFailure]:
    """Copy snapshots, all current ones by default, to another store and make them current there; yield each outcome.

    An environment whose history has diverged in the target is only replaced with `force`.
    """
    selected = select_snapshots(source, map(SnapshotSpec.parse, specs))
    return copy_environments(source, target, selected, force=force, progress=progress)


def export(
    store: Store,
    spec: str,
    output: str | Path,
    *,
    format: str = "",
    dest_prefix: str = "",
    level: int | None = None,
    threads: int | None = None,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> ExportResult:
    """Write a snapshot as a conda-pack archive; the format defaults to that of the output's extension.

    The archive is relocatable with conda-unpack, or made for `dest_prefix`. An existing file is only replaced with
    `force`. Raise NotInStore, TargetOccupied, PrefixTooLong, ProgramNotFound, InsufficientSpace, UsageError.
    """
    request = ExportRequest(
        SnapshotSpec.parse(spec),
        absolute_directory(output),
        format=format,
        dest_prefix=dest_prefix,
        level=level,
        threads=threads,
        force=force,
    )
    return export_snapshot(store, request, jobs=jobs or load_settings().jobs, progress=progress)
