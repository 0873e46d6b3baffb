"""Open what is beneath a directory, and never follow a link that leads out of it.

A path is resolved component by component with descriptors, so it does not matter what others rename at the same time.
Links are followed as long as they stay beneath the directory; absolute ones if they name it as its caller does, or by
its real path.
"""

from __future__ import annotations

import errno
import os
import sys

from snapper.fs.ownership import is_own, owner_name
from snapper.fs.pinned import PinnedDirectory, Top

#: Flags that open a file without waiting for a writer, should it be a pipe.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: Flags that open a directory to list it, or to make names in it durable.
LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Flags that open a directory to look up names in it. It need not be readable, and NFS need not ask the server.
LOOKUP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_MAX_LINKS = 40

#: What opening a link without following it fails with; the second if a directory is expected.
_IS_LINK = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)


def open_beneath(top: Top, path: str, flags: int = FILE, *, own_links: bool = False) -> int:
    """Open what is at `path` beneath `top` and return a descriptor; `top` itself may be a link.

    Raise OSError: ELOOP if the path leads outside, EINVAL if no file can have it, and with `own_links`, EPERM if it has
    a link that belongs neither to this user nor to root.
    """
    if not is_possible_path(path):
        raise OSError(errno.EINVAL, "no file can have this path", os.path.join(str(top), path))
    walk = _Walk(top, path, own_links=own_links)
    try:
        return walk.open(flags)
    finally:
        walk.close()


def open_own_path(path: str, flags: int = FILE) -> int:
    """Open what is at a path and return a descriptor; links on the way must belong to this user or root.

    Whoever owns links above this user's home controls the user anyway. Raise OSError, with EPERM for another's link.
    """
    path, home = os.path.abspath(path), os.path.expanduser("~").rstrip("/")
    if path.startswith(f"{home}/"):
        try:
            return open_beneath(f"{home}/", path.removeprefix(home), flags, own_links=True)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
    return open_beneath("/", path, flags, own_links=True)


def is_possible_path(path: str) -> bool:
    """Return whether the path can be given to the operating system: some text from JSON cannot."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


class _Walk:
    """One resolution: the open directories from the top down, and the components still to come, the next one last."""

    def __init__(self, top: Top, path: str, *, own_links: bool) -> None:
        self._top = str(top)
        self._name = os.path.join(self._top, path)
        self._own_links = own_links
        self._pending = path.split("/")[::-1]
        self._links = 0
        self._opened = [_open_top(top)]

    def open(self, flags: int) -> int:
        while self._pending:
            name = self._pending.pop()
            if name == "..":
                self._leave()
            elif name not in ("", "."):
                try:
                    descriptor = os.open(name, LOOKUP if self._pending else flags, dir_fd=self._opened[-1])
                except OSError as error:
                    if error.errno not in _IS_LINK:
                        raise self._failure(error.errno, error.strerror) from None
                    self._follow(name, error)
                    continue
                if not self._pending:
                    return descriptor
                self._opened.append(descriptor)
        return self._reopen(flags)

    def close(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)

    def _leave(self) -> None:
        """Go to the directory above; the root of the file system is above itself."""
        if len(self._opened) > 1:
            os.close(self._opened.pop())
        elif self._top != "/":
            raise self._leads_outside()

    def _follow(self, name: str, error: OSError) -> None:
        """Put the components of a link's target in front of those to come; raise `error` if it is no link."""
        try:
            status, target = _read_link(name, self._opened[-1])
        except OSError:
            raise self._failure(error.errno, error.strerror) from None
        self._links += 1
        if self._links > _MAX_LINKS:
            raise self._failure(errno.ELOOP, "it has too many symbolic links")
        if self._own_links and not is_own(status):
            raise self._failure(errno.EPERM, f"{name} is a link of the user {owner_name(status)}")
        if target.startswith("/"):
            target = self._beneath(target)
            while len(self._opened) > 1:
                os.close(self._opened.pop())
        self._pending += target.split("/")[::-1]

    def _beneath(self, target: str) -> str:
        """Return an absolute target relative to the top; raise OSError if it leads elsewhere."""
        for directory in (os.path.abspath(self._top), os.path.realpath(self._top)):
            top = directory.rstrip("/") + "/"
            if f"{target}/".startswith(top):
                return target[len(top) :]
        raise self._leads_outside()

    def _reopen(self, flags: int) -> int:
        """Open the directory that has been reached."""
        try:
            return os.open(".", flags, dir_fd=self._opened[-1])
        except OSError as error:
            raise self._failure(error.errno, error.strerror) from None

    def _leads_outside(self) -> OSError:
        return self._failure(errno.ELOOP, f"it leads out of {self._top}")

    def _failure(self, code: int | None, reason: str | None) -> OSError:
        return OSError(code, reason, self._name)


def _open_top(top: Top) -> int:
    return (
        os.dup(top.descriptor) if isinstance(top, PinnedDirectory) else os.open(top, LOOKUP & ~os.O_NOFOLLOW)
    )


def _read_link(name: str, directory: int) -> tuple[os.stat_result, str]:
    """Return the status of a link, and where it leads. Raise OSError if it is no link."""
    if sys.platform != "linux":
        return os.lstat(name, dir_fd=directory), os.readlink(name, dir_fd=directory)
    # Both are of the same link, even if the link is replaced between the two calls.
    link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.fstat(link), os.readlink("", dir_fd=link)
    finally:
        os.close(link)
