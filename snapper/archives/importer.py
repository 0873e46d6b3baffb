"""Unpack an archive that conda-pack made as an environment that can be packed.

The environment is not relocated to where it is unpacked: files with a placeholder from their package get the prefix
that all other files have, which is that of the archived environment.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapper.archives.extract import create_symlinks, extract_archive
from snapper.archives.normalize import UnpackedFiles, normalize
from snapper.archives.origin import archived_prefix, destination_prefix
from snapper.archives.reader import detect_format
from snapper.environment import conda
from snapper.environment.conda import PathEntry
from snapper.environment.conda_unpack import ADDED_FILES, PrefixRecord, read_prefix_records
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.prefixes import ForeignPrefix, is_prefix
from snapper.errors import FileOperationFailed, InvalidArchive, NotAnArchive, NotAnEnvironment
from snapper.format.constraints import STATE_DIRECTORY
from snapper.fs.removal import remove_tree
from snapper.fs.temporary import temporary_directory
from snapper.process.progress import Progress

_MAX_NESTING = 8
_SUFFIX = re.compile(r"\.(?:tar(?:\.\w+)?|tgz|tbz2|txz|tzst|zip|squashfs)\Z", re.I)


@dataclass(frozen=True)
class UnpackedArchive:
    """An archive's environment: its directory, and the prefix and placeholders that its files had."""

    prefix: Path
    foreign_prefix: ForeignPrefix


def archive_stem(file: Path) -> str:
    """Return the archive's name without the suffix of its format."""
    return _SUFFIX.sub("", file.name)


@contextmanager
def unpacked_archive(file: Path, progress: Progress) -> Iterator[UnpackedArchive]:
    """Unpack an archive's environment in a private temporary directory, which is removed at the end.

    Nothing in the archive is executed. Raise NotAnArchive, InvalidArchive, PermissionDenied, InsufficientSpace,
    ProgramNotFound.
    """
    detect_format(file)
    with temporary_directory() as directory:
        tree, scratch = directory / "tree", directory / "spool"
        tree.mkdir()
        tree.chmod(0o755)
        scratch.mkdir()
        progress.start(f"Unpacking {file.name}", os.path.getsize(file))
        symlinks = extract_archive(file, tree, scratch, progress)
        progress.done()
        remove_tree(scratch)
        yield _restore_environment(file, tree, symlinks)


def _restore_environment(file: Path, tree: Path, symlinks: dict[str, str]) -> UnpackedArchive:
    """Turn unpacked files into an environment like the archived one; `symlinks` do not exist yet."""
    top = _find_environment(file, tree)
    symlinks = _below(symlinks, "" if top == tree else f"{top.relative_to(tree)}/")
    if (top / STATE_DIRECTORY).is_dir():
        remove_tree(top / STATE_DIRECTORY)
    files = _read_files(file, top)
    try:
        records = read_prefix_records(top)
    except ValueError as error:
        raise InvalidArchive(str(file), str(error)) from None
    with _size_limits(file, top):
        prefix = _prefix_of(files, records)
        normalize(files, records, prefix)
    for path in ADDED_FILES:
        if path in files.paths and path not in files.entries:
            (top / path).unlink()
    create_symlinks(file, top, prefix, symlinks)
    placeholders = {
        record.path: record.placeholder
        for record in records or ()
        if record.placeholder != prefix and is_prefix(record.placeholder)
    }
    return UnpackedArchive(top, ForeignPrefix(prefix, placeholders))


def _find_environment(file: Path, tree: Path) -> Path:
    """Return the environment's directory: the top of what was unpacked, or the only directory there."""
    top = tree
    for _ in range(_MAX_NESTING):
        if conda.is_environment(top):
            return top
        children = list(top.iterdir())
        if len(children) != 1 or not children[0].is_dir():
            break
        top = children[0]
    raise NotAnArchive(str(file), "it has no conda-meta directory")


def _below(symlinks: dict[str, str], directory: str) -> dict[str, str]:
    """Return the links by their paths below `directory`, without those in snapper's own directory."""
    inside = {path.removeprefix(directory): target for path, target in symlinks.items()}
    return {path: target for path, target in inside.items() if path.split("/", 1)[0] != STATE_DIRECTORY}


def _read_files(file: Path, top: Path) -> UnpackedFiles:
    installed = InstalledEnvironment(top)
    try:
        records = installed.records
        paths = frozenset(item.path for item in installed.tree.files if item.type == "file")
    except FileOperationFailed as error:
        raise InvalidArchive(str(file), f"{os.path.relpath(error.path, top)}: {error.reason}") from None
    except NotAnEnvironment:
        raise NotAnArchive(str(file), "it has no conda-meta directory") from None
    entries: dict[str, PathEntry] = {}
    for record in records:
        for entry in record.entries:
            if entry.path in paths:
                entries.setdefault(entry.path, entry)
    return UnpackedFiles(top, paths, records, entries)


@contextmanager
def _size_limits(file: Path, top: Path) -> Iterator[None]:
    """Raise InvalidArchive for a file of the archive that is too large for what must be done with it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise InvalidArchive(str(file), f"{os.path.relpath(error.filename, top)}: {error.strerror}") from None


def _prefix_of(files: UnpackedFiles, records: tuple[PrefixRecord, ...] | None) -> str:
    if records is not None:
        return archived_prefix(records, files.entries)
    scripts = [path for path in files.paths if path.startswith("bin/")]
    return destination_prefix(files.top, files.entries, scripts)
