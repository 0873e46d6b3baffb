"""Pack the environments in conda-pack archives."""

from __future__ import annotations

from pathlib import Path

from snapper.commands.import_archive import import_archive as pack_archive
from snapper.commands.pack_result import PackResult
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings
from snapper.store import Store


def import_archive(
    store: Store,
    file: str | Path,
    *,
    name: str | None = None,
    message: str = "",
    level: int | None = None,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Pack the environment in a conda-pack archive; nothing in the archive is executed.

    The name defaults to that of the file, which replaces no environment. Raise NotAnArchive, InvalidArchive,
    ProgramNotFound, EnvironmentExists, and what `pack` raises.
    """
    settings = load_settings()
    path = absolute_directory(file)
    level, jobs = level or settings.level, jobs or settings.jobs
    return pack_archive(lambda: store, path, name, message=message, level=level, jobs=jobs, progress=progress)
