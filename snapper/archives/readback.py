"""Verify an archive by reading it back."""

from __future__ import annotations

import os
from pathlib import Path

from snapper.archives.condapack import ArchiveJob, ArchiveSource
from snapper.archives.reader import ArchiveEntry, ReadData, iter_entries
from snapper.environment.conda_unpack import ADDED_FILES
from snapper.environment.tree import File
from snapper.errors import FileOperationFailed
from snapper.format.constraints import path_bytes
from snapper.process.progress import Progress

_CHUNK = 1024 * 1024


def check_archive(job: ArchiveJob, source: ArchiveSource, progress: Progress) -> None:
    """Raise FileOperationFailed unless the archive contains exactly the source's files, and conda-pack's scripts."""
    progress.start("Verifying", job.path.stat().st_size)
    missing = set(source.files)
    for entry, read in iter_entries(job.path, job.scratch, progress):
        if entry.path in source.files:
            missing.discard(entry.path)
            if not _is_same(source.tree, source.files[entry.path], entry, read):
                raise _mismatch(entry.path)
        elif entry.path not in ADDED_FILES:
            raise _mismatch(entry.path)
    if missing:
        raise _mismatch(min(missing, key=path_bytes))
    progress.done()


def _is_same(tree: Path, file: File, entry: ArchiveEntry, read: ReadData) -> bool:
    if entry.type == "hardlink":
        return file.type == "file" and os.path.samefile(tree / entry.path, tree / entry.target)
    if entry.type != file.type or entry.target != file.target:
        return False
    if entry.type == "symlink":
        return True
    if entry.mode != file.mode & 0o777:
        return False
    return entry.type == "directory" or _has_contents(tree / file.path, read)


def _has_contents(file: Path, read: ReadData) -> bool:
    with file.open("rb") as opened:
        while data := read(_CHUNK):
            if opened.read(len(data)) != data:
                return False
        return not opened.read(1)


def _mismatch(path: str) -> FileOperationFailed:
    return FileOperationFailed(
        path,
        "its content in the archive differs from what was written",
        "The disk or its file system may be failing. The archive was removed; try another format or location.",
    )
