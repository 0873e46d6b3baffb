"""Extract untrusted archives into a directory, and nowhere else.

As in `snapper.restoring.layer_writer`, directories are opened component by component without following links, and
symbolic links are created last, so that no path leads outside while files are written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.archives.links import LeadsOutside, Links
from snapper.archives.reader import ArchiveEntry, ReadData, iter_entries
from snapper.environment.conda_unpack import ACTIVATION_SCRIPTS
from snapper.errors import InsufficientSpace, InvalidArchive
from snapper.format.constraints import path_bytes
from snapper.format.member import MOST_KEPT, kept_size
from snapper.fs.directories import DirectoryTree, link_or_copy, set_mode, without_umask
from snapper.fs.errors import is_disk_full
from snapper.fs.moves import Entry
from snapper.fs.space import free_space
from snapper.process.progress import Progress

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1024 * 1024

#: How many directories there may be besides two for each member; in environments, there are fewer than files.
_FEW_DIRECTORIES = 1000


def extract_archive(file: Path, directory: Path, scratch: Path, progress: Progress) -> dict[str, str]:
    """Write files, hard links and directories into `directory`, which is empty.

    Return the targets of symbolic links by path; `create_symlinks` creates these. Of several members with one path the
    last one counts, as with tar, but scripts that conda-pack adds do not replace those of the environment. `scratch` is
    an empty directory for temporary files. Raise NotAnArchive, InvalidArchive, PermissionDenied, InsufficientSpace.
    """
    symlinks: dict[str, str] = {}
    modes: dict[str, int] = {}
    kept, free = 0, free_space(directory).size
    directories = DirectoryTree(str(directory))
    try:
        with _writing(file, directory), without_umask():
            for number, (entry, read) in enumerate(iter_entries(file, scratch, progress)):
                if directories.made > 2 * number + _FEW_DIRECTORIES:
                    raise InvalidArchive(str(file), "its paths have more directories than members")
                kept += kept_size(entry.path, entry.target) if entry.type != "file" else 0
                if kept > MOST_KEPT:
                    raise InvalidArchive(str(file), "it has more links and directories than any environment")
                if entry.type == "directory":
                    directories[entry.path]
                    modes[entry.path] = entry.mode | 0o500
                elif entry.path not in ACTIVATION_SCRIPTS or not _exists(directories, entry.path):
                    free -= _write_member(directories, entry, read, symlinks)
                    if free < 0:  # members that replace each other may fit nevertheless, but never end
                        raise InsufficientSpace(str(directory.parent))
            for path in sorted(modes, key=path_bytes, reverse=True):
                if path:
                    set_mode(directories[path], modes[path])
    finally:
        directories.close()
    return symlinks


def create_symlinks(file: Path, directory: Path, prefix: str, symlinks: dict[str, str]) -> None:
    """Create the symbolic links below `directory`; raise InvalidArchive if one leads outside.

    `prefix` is that of the archived environment: absolute targets below it are inside.
    """
    links = Links(symlinks, prefix)
    for path, target in symlinks.items():
        try:
            links.follow(path)
        except LeadsOutside:
            reason = f"the link {path!r} points outside the environment, to {target!r}"
            raise InvalidArchive(str(file), reason) from None
    directories = DirectoryTree(str(directory))
    try:
        with _writing(file, directory):
            for path, target in symlinks.items():
                parent, _, name = path.rpartition("/")
                os.symlink(target, name, dir_fd=directories[parent])
    finally:
        directories.close()


def _exists(directories: DirectoryTree, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    try:
        os.stat(name, dir_fd=directories[parent], follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_member(
    directories: DirectoryTree, entry: ArchiveEntry, read: ReadData, symlinks: dict[str, str]
) -> int:
    """Write a file or hard link, replacing an earlier member of that path, or remember a symbolic link.

    Return how many bytes have been written.
    """
    parent, _, name = entry.path.rpartition("/")
    directory = directories[parent]
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    symlinks.pop(entry.path, None)
    if entry.type == "symlink":
        symlinks[entry.path] = entry.target
    elif entry.type == "file":
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        with open(descriptor, "wb") as file:
            while data := read(_CHUNK):
                file.write(data)
            file.flush()
            set_mode(descriptor, entry.mode | 0o400)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
            return file.tell()
    elif entry.target in symlinks:
        symlinks[entry.path] = symlinks[entry.target]
    else:
        source_parent, _, target = entry.target.rpartition("/")
        source = os.dup(directories[source_parent])
        try:
            link_or_copy(Entry(source, target), Entry(directories[parent], name))
        finally:
            os.close(source)
    return 0


@contextmanager
def _writing(file: Path, directory: Path) -> Iterator[None]:
    """Raise errors for the user in place of OSError."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise InsufficientSpace(str(directory.parent)) from None
        raise InvalidArchive(
            str(file), f"its members contradict each other ({error.strerror}: {error.filename!r})"
        ) from None
