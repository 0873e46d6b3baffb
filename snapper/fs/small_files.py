"""Read small files that someone else may have written: from environments, archives and shared directories.

Only regular files are read, never more than a limit, and never through a link that leaves the directory they belong
to. Opening does not block, so a pipe cannot make a command hang. What is refused is an OSError, like what cannot be
read, so callers treat both alike: ELOOP for a link that leads outside, EINVAL for a file of another type, EFBIG for one
that is too large, EPERM for one of another user.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from snapper.fs.ownership import is_own, owner_name

#: The largest file that is read by default, in bytes.
SMALL = 4 << 20

_MAX_LINKS = 40
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_beneath(top: str | Path, path: str, limit: int = SMALL) -> bytes:
    """Return the contents of the regular file at `path` below `top`. May raise OSError.

    Links are followed as long as they stay below `top`; `top` itself may be a link.
    """
    return _read(open_beneath(top, path), os.path.join(top, path), limit)


def read_own_beneath(top: str | Path, path: str, limit: int = SMALL) -> bytes:
    """Do what `read_beneath` does for a file that belongs to this user or root. May raise OSError."""
    return _read(open_beneath(top, path), os.path.join(top, path), limit, own=True)


def read_file(path: str | Path, limit: int = SMALL) -> bytes:
    """Return the contents of a regular file that the user has named, following links. May raise OSError."""
    return _read(os.open(path, _FILE & ~os.O_NOFOLLOW), os.fspath(path), limit)


def read_own_file(path: str | Path, limit: int = SMALL) -> bytes:
    """Return the contents of a regular file that belongs to this user or root and is no link. May raise OSError."""
    return _read(os.open(path, _FILE), os.fspath(path), limit, own=True)


def open_beneath(top: str | Path, path: str) -> int:
    """Open the regular file at `path` below `top` and return a descriptor; the path is resolved as `read_beneath` does.

    May raise OSError.
    """
    opened = [os.open(top, _DIRECTORY & ~os.O_NOFOLLOW)]
    pending = path.split("/")[::-1]
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(opened) == 1:
                    raise _leads_outside(top, path)
                os.close(opened.pop())
                continue
            try:
                opened.append(os.open(name, _DIRECTORY if pending else _FILE, dir_fd=opened[-1]))
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
                    raise OSError(error.errno, error.strerror, os.path.join(top, path)) from None
                links += 1
                target = _link_target(name, opened[-1])
                if target is None or links > _MAX_LINKS:
                    raise OSError(error.errno, error.strerror, os.path.join(top, path)) from None
                if target.startswith("/"):
                    below = _below(target, top)
                    if below is None:
                        raise _leads_outside(top, path) from None
                    target = below
                    while len(opened) > 1:
                        os.close(opened.pop())
                pending += target.split("/")[::-1]
        descriptor = opened.pop()
    finally:
        for other in opened:
            os.close(other)
    return _checked(descriptor, os.path.join(top, path))


def _read(descriptor: int, path: str, limit: int, *, own: bool = False) -> bytes:
    """Read and close the descriptor."""
    with open(_checked(descriptor, path), "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if own and not is_own(status):
            raise OSError(errno.EPERM, f"it belongs to the user {owner_name(status)}", path)
        if status.st_size > limit:
            raise _too_large(path, limit)
        data = bytearray()
        while chunk := file.read(limit + 1 - len(data)):
            data += chunk
            if len(data) > limit:
                raise _too_large(path, limit)
        return bytes(data)


def _checked(descriptor: int, path: str) -> int:
    """Return the descriptor if it is of a regular file, else close it and raise OSError."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file", path)


def _link_target(name: str, directory: int) -> str | None:
    """Return where the link leads, or None if it is no link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _below(target: str, top: str | Path) -> str | None:
    """Return an absolute link target as a path below `top`, or None if it is not below it."""
    for directory in (os.path.abspath(top), os.path.realpath(top)):
        if target.startswith(directory.rstrip("/") + "/"):
            return target[len(directory.rstrip("/")) + 1 :]
    return None


def _leads_outside(top: str | Path, path: str) -> OSError:
    return OSError(errno.ELOOP, f"it leads out of {top}", os.path.join(top, path))


def _too_large(path: str, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", path)
