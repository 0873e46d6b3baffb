"""Writes the members of an archive into a directory, and nowhere else.

As in `snapper.restoring.extract`, directories are walked from the top's descriptor without following links, and
symbolic links are made last, so that no name leads outside while files are written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.archives.archive import ACTIVATION, Entry, Read, entries
from snapper.errors import InsufficientSpace, InvalidArchive
from snapper.format.model import path_bytes
from snapper.fs.directories import DirectoryTree, without_umask
from snapper.fs.errors import is_disk_full
from snapper.process.progress import Progress

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1024 * 1024

#: The system follows 40 at most; what goes on longer leads nowhere.
_MOST_LINKS = 64


def unarchive(file: Path, directory: Path, scratch: Path, progress: Progress) -> dict[str, str]:
    """Writes files, hard links and directories below `directory`, which is empty; the targets of symbolic links, which
    are not made yet, by path.

    A path that comes twice is what it is at last, as with tar; but where conda-pack adds a script that the environment
    has of its own, that is kept. Raises NotAnArchive, InvalidArchive, PermissionDenied, InsufficientSpace.
    """
    links: dict[str, str] = {}
    modes: dict[str, int] = {}
    directories = DirectoryTree(str(directory))
    try:
        with _writing(file, directory), without_umask():
            for entry, read in entries(file, scratch, progress):
                if entry.type == "directory":
                    directories[entry.path]
                    modes[entry.path] = entry.mode | 0o500
                elif entry.path not in ACTIVATION or not _exists(directories, entry.path):
                    _write(directories, entry, read, links)
            for path in sorted(modes, key=path_bytes, reverse=True):
                if path:
                    os.fchmod(directories[path], modes[path])
    finally:
        directories.close()
    return links


def make_links(file: Path, directory: Path, prefix: str, links: dict[str, str]) -> None:
    """Makes symbolic links below `directory`; raises InvalidArchive if one leads out of it.

    Absolute targets below `prefix` are those of an environment that stood there.
    """
    for path, target in links.items():
        if not _stays(path, links, prefix):
            raise InvalidArchive(
                str(file), f"the link {path!r} points outside the environment, to {target!r}"
            )
    directories = DirectoryTree(str(directory))
    try:
        with _writing(file, directory):
            for path, target in links.items():
                above, _, name = path.rpartition("/")
                os.symlink(target, name, dir_fd=directories[above])
    finally:
        directories.close()


def _stays(path: str, links: dict[str, str], prefix: str) -> bool:
    """Whether following the path, with no other links than these, never leaves the environment."""
    done: list[str] = []
    ahead = path.split("/")
    followed = 0
    while ahead and followed <= _MOST_LINKS:
        part = ahead.pop(0)
        if part == ".." and not done:
            return False
        if part == "..":
            done.pop()
        elif part not in ("", "."):
            done.append(part)
            target = links.get("/".join(done))
            if target is not None and target.startswith("/"):
                if not (target + "/").startswith(prefix + "/"):
                    return False
                done, ahead = [], target[len(prefix) :].split("/") + ahead
                followed += 1
            elif target is not None:
                done.pop()
                ahead = target.split("/") + ahead
                followed += 1
    return True


def _exists(directories: DirectoryTree, path: str) -> bool:
    above, _, name = path.rpartition("/")
    try:
        os.stat(name, dir_fd=directories[above], follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write(directories: DirectoryTree, entry: Entry, read: Read, links: dict[str, str]) -> None:
    """Writes a file or hard link in the place of whatever had its path, or notes a symbolic link."""
    above, _, name = entry.path.rpartition("/")
    directory = directories[above]
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    links.pop(entry.path, None)
    if entry.type == "symlink":
        links[entry.path] = entry.target
    elif entry.type == "file":
        descriptor = os.open(name, _NEW, 0o600, dir_fd=directory)
        with open(descriptor, "wb") as file:
            while data := read(_CHUNK):
                file.write(data)
            file.flush()
            os.fchmod(descriptor, entry.mode | 0o400)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
    elif entry.target in links:
        links[entry.path] = links[entry.target]
    else:
        beside, _, target = entry.target.rpartition("/")
        source = os.dup(directories[beside])
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=directories[above], follow_symlinks=False)
        finally:
            os.close(source)


@contextmanager
def _writing(file: Path, directory: Path) -> Iterator[None]:
    """Turns what writing members can raise into errors for the user."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise InsufficientSpace(str(directory.parent)) from None
        raise InvalidArchive(
            str(file), f"its members contradict each other ({error.strerror}: {error.filename!r})"
        ) from None
