"""Import a conda-pack archive as a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from snapper.archives.importer import archive_stem, unpacked_archive
from snapper.commands.pack import PackOptions, pack
from snapper.commands.pack_result import PackResult
from snapper.format.compression import DEFAULT_LEVEL
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.specs import check_new_name
from snapper.store import Store

_ADVICE = "Give its name in the store with --name."


def import_archive(
    open_store: Callable[[], Store],
    file: Path,
    name: str | None = None,
    *,
    message: str = "",
    level: int = DEFAULT_LEVEL,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Pack the environment in a conda-pack archive as `name`, or as an environment with the name of the file.

    Whoever has made the archive may have chosen the file's name, so that does not replace an environment.
    The store is opened once the archive is unpacked, so that an invalid archive creates no store. Nothing in the
    archive is executed. The message defaults to the file's name.

    Raise NotAnArchive, InvalidArchive, ProgramNotFound, EnvironmentExists, and what `pack` raises.
    """
    new_name = check_new_name(archive_stem(file) if name is None else name, _ADVICE)
    with unpacked_archive(file, progress) as unpacked:
        options = PackOptions(
            message=message or f"from {file.name}",
            level=level,
            editables="ignore",
            foreign_prefix=unpacked.foreign_prefix,
            only_new=name is None,
        )
        return pack(open_store(), unpacked.prefix, new_name, options, jobs=jobs, progress=progress)
