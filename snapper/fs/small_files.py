"""Read small files that someone else may have written: from environments, archives and shared directories.

Only regular files are read, never more than a limit, and never through a link that leaves the directory they belong
to. Opening does not block, so a pipe cannot make a command hang. What is refused is an OSError, like what cannot be
read, so callers treat both alike: ELOOP for a link that leads outside, EINVAL for a file of another type, EFBIG for one
that is too large, EPERM for one of another user.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from snapper.fs.beneath import FILE, LISTING, open_beneath, open_own_path
from snapper.fs.directories import closing_descriptor
from snapper.fs.moves import Entry
from snapper.fs.ownership import is_own, owner_name
from snapper.fs.pinned import Top

#: The largest file that is read by default, in bytes.
SMALL = 4 << 20

#: The most names that a directory of small files has.
MANY = 10_000

_CHUNK = 64 * 1024


def read_beneath(top: Top, path: str, limit: int = SMALL) -> bytes:
    """Return the contents of the regular file at `path` below `top`. May raise OSError.

    Links are followed as long as they stay below `top`; `top` itself may be a link.
    """
    return _read(open_beneath(top, path), os.path.join(str(top), path), limit)


def read_file(path: str | Path, limit: int = SMALL) -> bytes:
    """Return the contents of a regular file that the user has named, following links. May raise OSError."""
    return _read(os.open(path, FILE & ~os.O_NOFOLLOW), os.fspath(path), limit)


def read_head(path: str | Path, size: int) -> bytes:
    """Return the first bytes of a regular file that the user has named, following links. May raise OSError."""
    with closing_descriptor(os.open(path, FILE & ~os.O_NOFOLLOW)) as descriptor:
        _check(os.fstat(descriptor), os.fspath(path), own=False)
        return os.read(descriptor, size)


def read_own_path(path: str | Path, limit: int = SMALL) -> bytes:
    """Return the contents of a regular file that belongs to this user or root, as must links on the way to it.

    May raise OSError.
    """
    return _read(open_own_path(os.fspath(path)), os.fspath(path), limit, own=True)


def read_entry(entry: Entry, limit: int = SMALL) -> bytes:
    """Return the contents of a regular file in an open directory that is no link. May raise OSError."""
    return _read(os.open(entry.name, FILE, dir_fd=entry.directory), entry.name, limit)


def read_own_entry(entry: Entry, limit: int = SMALL) -> bytes:
    """Do what `read_entry` does for a file that belongs to this user or root. May raise OSError."""
    return _read(os.open(entry.name, FILE, dir_fd=entry.directory), entry.name, limit, own=True)


def read_own_line(entry: Entry, limit: int = SMALL) -> bytes:
    """Return the first line of a file that `read_own_entry` reads, of at most `limit` bytes. May raise OSError."""
    with closing_descriptor(os.open(entry.name, FILE, dir_fd=entry.directory)) as descriptor:
        _check(os.fstat(descriptor), entry.name, own=True)
        with open(descriptor, "rb", closefd=False) as file:
            line = file.readline(limit + 1)
    if len(line) > limit:
        raise _too_large(entry.name, limit)
    return line


def list_beneath(top: Top, path: str, limit: int = MANY) -> list[str]:
    """Return the sorted names in the directory at `path` below `top`, resolved as `read_beneath` does.

    Raise OSError: EFBIG if there are more than `limit`.
    """
    with closing_descriptor(open_beneath(top, path, LISTING)) as directory:
        return _list(directory, os.path.join(str(top), path), limit)


def read_all_beneath(
    top: Top, path: str, is_wanted: Callable[[str], bool], limit: int = SMALL
) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files in a directory with names that are wanted, sorted by name.

    This does what `list_beneath` and `read_beneath` do, for many files faster. May raise OSError.
    """
    with closing_descriptor(open_beneath(top, path, LISTING)) as directory:
        for name in _list(directory, os.path.join(str(top), path), MANY):
            if is_wanted(name):
                file = f"{path}/{name}"
                try:
                    descriptor = os.open(name, FILE, dir_fd=directory)
                except OSError:
                    descriptor = open_beneath(top, file)  # it may be a link
                yield name, _read(descriptor, os.path.join(str(top), file), limit)


def _list(directory: int, path: str, limit: int) -> list[str]:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in itertools.islice(entries, limit + 1)]
    if len(names) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} entries", path)
    return sorted(names)


def _read(descriptor: int, path: str, limit: int, *, own: bool = False) -> bytes:
    """Read and close the descriptor."""
    try:
        status = os.fstat(descriptor)
        _check(status, path, own=own)
        chunks: list[bytes] = []
        size = 0
        while size <= limit and status.st_size <= limit:
            chunk = os.read(descriptor, max(status.st_size - size, _CHUNK))
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
        raise _too_large(path, limit)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, path: str, *, own: bool) -> None:
    """Raise OSError unless this is the status of a regular file, and if `own`, of one of this user or root."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    if own and not is_own(status):
        raise OSError(errno.EPERM, f"it belongs to the user {owner_name(status)}", path)


def _too_large(path: str, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", path)
