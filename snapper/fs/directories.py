"""Access below one directory by descriptors, component by component, without following links."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from snapper.fs.beneath import LISTING, LOOKUP, open_own_path
from snapper.fs.descriptors import most_descriptors
from snapper.fs.moves import NO_HARD_LINKS, Entry
from snapper.fs.ownership import is_own, others_can_write, owner_name
from snapper.fs.pinned import PinnedDirectory

#: How many directories a tree keeps open at most, and a quarter of all descriptors, as there can be several trees.
_MAX_DESCRIPTORS = 128

_COPIED_AT_ONCE = 1024 * 1024

#: What fsync of a directory fails with on file systems that cannot do that.
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)

#: The mode of directories that a tree creates.
_NEW_DIRECTORY = 0o755


T = TypeVar("T", bound=Hashable)


class DirectoryTree:
    """Open descriptors of the directories below `top`, by relative path; `""` is the top itself.

    Missing directories are created when they are asked for, with mode 0755, unless `make` is false. If `own`, all of
    them must be directories that `open_own_directory` opens. Raises OSError, such as ELOOP or ENOTDIR where a component
    is a link or a file. `made` is how many it has created.
    """

    def __init__(self, top: str | PinnedDirectory, *, make: bool = True, own: bool = False) -> None:
        self._make = make
        self._most_open = min(_MAX_DESCRIPTORS, most_descriptors() // 4)
        self.made = 0
        self._open_directory = open_own_directory if own else _open_directory
        opened = (
            self._open_directory(".", top.descriptor)
            if isinstance(top, PinnedDirectory)
            else self._open_directory(top)
        )
        self._open = {"": opened}

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def __getitem__(self, path: str) -> int:
        opened = self._open.get(path)
        if opened is not None:
            return opened
        above = [path]
        while above[-1] not in self._open:
            above.append(above[-1].rpartition("/")[0])
        parent = above.pop()
        while above:
            self._enter(parent, above[-1])
            parent = above.pop()
        return self._open[path]

    def _enter(self, parent: str, path: str) -> None:
        """Open a directory in one that is open, and keep it open."""
        name, parent_fd = path.rpartition("/")[2], self._open[parent]
        try:
            descriptor = self._open_directory(name, parent_fd)
        except FileNotFoundError:
            if not self._make:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, _NEW_DIRECTORY, dir_fd=parent_fd)
                self.made += 1
            descriptor = self._open_directory(name, parent_fd)
            set_mode(descriptor, _NEW_DIRECTORY)
        if len(self._open) > self._most_open:
            self._close_except(parent)
        self._open[path] = descriptor

    def _close_except(self, needed: str) -> None:
        """Close all descriptors but those of `needed`, of the directories above it, and of the top."""
        for path in list(self._open):
            if path and path != needed and not needed.startswith(path + "/"):
                os.close(self._open.pop(path))


class RecentTrees(Generic[T]):
    """The last two trees that a process has worked on, by their top; `opened` opens one."""

    def __init__(self, opened: Callable[[T], DirectoryTree]) -> None:
        self._opened = opened
        self._trees: dict[T, DirectoryTree] = {}

    def __getitem__(self, top: T) -> DirectoryTree:
        tree = self._trees.get(top)
        if tree is None:
            tree = self._opened(top)
            for stale in list(self._trees)[:-1]:
                self._trees.pop(stale).close()
            self._trees[top] = tree
        return tree

    def close(self) -> None:
        for tree in self._trees.values():
            tree.close()
        self._trees.clear()


def pin_directory(path: Path | PinnedDirectory) -> PinnedDirectory:
    """Open a directory, unless it is open, for everything that is to happen in it.

    Links on the way must belong to this user or root. May raise OSError.
    """
    if isinstance(path, PinnedDirectory):
        return path
    return PinnedDirectory(path, open_own_path(str(path), LISTING))


def _open_directory(path: str | Path, dir_fd: int | None = None) -> int:
    return os.open(path, LISTING, dir_fd=dir_fd)


@contextmanager
def opened_directory(path: str | Path) -> Iterator[int]:
    """Open a directory, or what a link to one leads to, to list it; yield a descriptor. May raise OSError."""
    descriptor = os.open(path, LISTING & ~os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_below(
    top: int, path: str, flags: int = LOOKUP, *, mode: int | None = None, durable: bool = True
) -> int:
    """Open the directory at `path` below the open directory `top`, and return a descriptor. No link is followed.

    With a `mode`, missing directories are created with it, less the umask; if `durable`, each is on the disk before
    anything is created in it. Raise OSError, with ELOOP and the path of the component that is a link.
    """
    current = os.dup(top)
    try:
        parents = path.split("/") if path else ["."]
        for depth, name in enumerate(parents, 1):
            beginning = "/".join(parents[:depth])
            if mode is not None:
                _make_component(current, name, beginning, mode, durable=durable)
            below = _open_component(current, name, flags if depth == len(parents) else LOOKUP, beginning)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def open_if_directory(name: str, dir_fd: int) -> int | None:
    """Open a directory to list it; return None if it does not exist or is something else, such as a link.

    May raise OSError.
    """
    try:
        return os.open(name, LISTING, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def open_own_directory(path: str | Path, dir_fd: int | None = None) -> int:
    """Open a directory that belongs to this user or root and that nobody else may write to.

    The last component must not be a link. Raise OSError, with EPERM if another user controls the directory.
    """
    descriptor = os.open(path, LISTING, dir_fd=dir_fd)
    status = os.fstat(descriptor)
    if is_own(status) and not others_can_write(status, descriptor):
        return descriptor
    os.close(descriptor)
    reason = "it is writable by other users" if is_own(status) else f"it belongs to {owner_name(status)}"
    raise OSError(errno.EPERM, reason, os.fspath(path))


def sync_directory(path: str | Path, dir_fd: int | None = None) -> None:
    """Make the names in a directory durable. May raise OSError."""
    descriptor = os.open(path, LISTING & ~os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        sync_names(descriptor)
    finally:
        os.close(descriptor)


def sync_names(directory: int) -> None:
    """Make the names in an open directory durable, where the file system can. May raise OSError."""
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
        os.fstat(directory)  # fails if the descriptor is not open, which is EBADF as well


@contextmanager
def closing_descriptor(descriptor: int) -> Iterator[int]:
    """Yield an open descriptor, and close it at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def current_umask() -> int:
    """Return the umask."""
    umask = os.umask(stat.S_IRWXG | stat.S_IRWXO)
    os.umask(umask)
    return umask


@contextmanager
def without_umask() -> Iterator[None]:
    """Create files and directories with exactly the modes that are asked for."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def set_mode(descriptor: int, mode: int) -> os.stat_result:
    """Give an open file or directory that mode if the file system can; return its status.

    The mode with which it was created may be another one: access lists of directories apply to what is created in them.
    """
    status = os.fstat(descriptor)
    if stat.S_IMODE(status.st_mode) == mode:
        return status
    with suppress(OSError):
        os.fchmod(descriptor, mode)
    return os.fstat(descriptor)


def link_or_copy(source: Entry, target: Entry) -> None:
    """Give a regular file another name, or copy it where the file system has no hard links. May raise OSError."""
    directories = {"src_dir_fd": source.directory, "dst_dir_fd": target.directory}
    try:
        os.link(source.name, target.name, **directories, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _copy(source, target)


def _copy(source: Entry, target: Entry) -> None:
    """Copy a regular file with its mode and times. May raise OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    reading = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing_descriptor(os.open(source.name, reading, dir_fd=source.directory)) as original:
        status = os.fstat(original)
        with closing_descriptor(os.open(target.name, flags, 0o600, dir_fd=target.directory)) as copy:
            while data := os.read(original, _COPIED_AT_ONCE):
                write_all(copy, data)
            set_mode(copy, stat.S_IMODE(status.st_mode))
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Write all of the data."""
    written = os.write(descriptor, data) if data else 0
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _make_component(directory: int, name: str, path: str, mode: int, *, durable: bool) -> None:
    """Create a directory in an open directory, unless there is something of that name; `path` names it in errors."""
    try:
        if not Entry(directory, name).exists():
            with suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=directory)
                if durable:
                    sync_directory(".", directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _open_component(directory: int, name: str, flags: int, path: str) -> int:
    """Open a directory in an open directory; `path` names it in errors."""
    if name in ("", ".."):
        raise OSError(errno.EINVAL, f"it has a component {name!r}", path)
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        number, reason = error.errno, error.strerror
        if number in (errno.ENOTDIR, errno.ELOOP) and _is_link(name, directory):
            number, reason = errno.ELOOP, "it is a symbolic link"
        raise OSError(number, reason, path) from None


def _is_link(name: str, directory: int) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=directory).st_mode)
    except OSError:
        return False
