"""Import a conda-pack archive as a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from snapper.archives.importer import unpacked_archive
from snapper.commands.pack import PackOptions, pack
from snapper.commands.pack_result import PackResult
from snapper.format.compression import DEFAULT_LEVEL
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.store import Store


def import_archive(
    open_store: Callable[[], Store],
    file: Path,
    name: str,
    *,
    message: str = "",
    level: int = DEFAULT_LEVEL,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Pack the environment in a conda-pack archive as `name`.

    The store is opened once the archive is unpacked, so that an invalid archive creates no store. Nothing in the
    archive is executed. The message defaults to the file's name.

    Raise NotAnArchive, InvalidArchive, ProgramNotFound, and what `pack` raises.
    """
    with unpacked_archive(file, progress) as unpacked:
        options = PackOptions(
            message=message or f"from {file.name}",
            level=level,
            editables="ignore",
            foreign_prefix=unpacked.foreign_prefix,
        )
        return pack(open_store(), unpacked.prefix, name, options, jobs=jobs, progress=progress)
