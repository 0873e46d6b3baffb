"""Read and change files of an unpacked environment, and keep their modes, times and hard links.

What an archive contains is not trusted. Binaries are processed in pieces, so that none needs more memory than a piece;
other files are only read up to a limit. Files are only reached beneath the environment's directory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from snapper.environment.conda import FileFacts
from snapper.fs.beneath import FILE, open_beneath
from snapper.fs.directories import write_all
from snapper.fs.small_files import read_beneath

#: The largest file that is read as a whole, and the longest string in a binary, in bytes.
LARGEST = 64 << 20

_PIECE = 4 << 20

#: How many of the NULs after a string may be needed to pad it.
_PADDING = 64 << 10


def read(top: Path, path: str) -> bytes:
    """Return the contents of a file; raise OSError, with EFBIG if it is larger than LARGEST."""
    return read_beneath(top, path, LARGEST)


def read_head(top: Path, path: str, size: int) -> bytes:
    """Return the first bytes of a file; may raise OSError."""
    with _opened(top, path) as descriptor:
        return os.read(descriptor, size)


def read_facts(top: Path, path: str) -> FileFacts:
    """Return the checksum and size of a file of any size; may raise OSError."""
    digest, size = hashlib.sha256(), 0
    with _opened(top, path) as descriptor:
        while chunk := os.read(descriptor, _PIECE):
            digest.update(chunk)
            size += len(chunk)
    return FileFacts(digest.hexdigest(), size)


def read_strings(top: Path, path: str) -> Iterator[bytes]:
    """Yield the contents of a binary in pieces. No piece ends within a string or the NULs that pad it.

    May raise OSError, with EFBIG if a string is longer than LARGEST.
    """
    with _opened(top, path) as descriptor:
        pending = b""
        while chunk := os.read(descriptor, _PIECE):
            pending += chunk
            cut = _end_of_strings(pending)
            if cut:
                yield pending[:cut]
                pending = pending[cut:]
            elif len(pending) > LARGEST:
                reason = f"it has a string of more than {LARGEST:,} bytes"
                raise OSError(errno.EFBIG, reason, os.path.join(top, path))
        if pending:
            yield pending


def rewrite(top: Path, path: str, data: bytes) -> None:
    """Replace the contents of a file; may raise OSError."""
    with _opened_to_write(top, path) as descriptor:
        write_all(descriptor, data)
        os.ftruncate(descriptor, len(data))


def rewrite_strings(top: Path, path: str, change: Callable[[bytes], bytes]) -> None:
    """Replace what `change` changes in a binary; it gets the pieces of `read_strings`, whose sizes it must keep.

    May raise OSError.
    """
    offset = 0
    with _opened_to_write(top, path) as descriptor:
        for piece in read_strings(top, path):
            changed = change(piece)
            if changed != piece:
                os.lseek(descriptor, offset, os.SEEK_SET)
                write_all(descriptor, changed)
            offset += len(piece)


def _end_of_strings(data: bytes) -> int:
    """Return where the last string in the data, and the NULs after it, end for certain; 0 if nowhere."""
    strings = data.rstrip(b"\0")
    if len(data) - len(strings) > _PADDING:
        return len(strings) + _PADDING
    return strings.rfind(b"\0") + 1


@contextmanager
def _opened(top: Path, path: str) -> Iterator[int]:
    descriptor = open_beneath(top, path, FILE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.path.join(top, path))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened_to_write(top: Path, path: str) -> Iterator[int]:
    """Open a regular file, even a read-only one, for writing; restore its mode and time afterwards."""
    with _opened(top, path) as file:
        status = os.fstat(file)
        os.fchmod(file, stat.S_IMODE(status.st_mode) | stat.S_IWUSR)
        descriptor = open_beneath(top, path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
            os.fchmod(file, stat.S_IMODE(status.st_mode))
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
