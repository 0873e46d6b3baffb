"""Map errors of the operating system to errors that snapper reports to users."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapper.errors import FileOperationFailed, InsufficientSpace, PermissionDenied, SnapperError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_ACCESS_DENIED = (errno.EACCES, errno.EPERM)


def is_disk_full(error: OSError) -> bool:
    """Return whether the error says that the file system or the user's quota is full."""
    return error.errno in _DISK_FULL


def is_access_denied(error: OSError) -> bool:
    """Return whether the error says that permissions do not allow the operation."""
    return error.errno in _ACCESS_DENIED


def map_os_error(error: OSError, path: str | Path, action: str, advice: str = "") -> SnapperError:
    """Return the error to report for an operation on `path`: InsufficientSpace, PermissionDenied, FileOperationFailed.

    `action` completes "permission denied to …", such as "read" or "write to". `advice` is the hint of
    FileOperationFailed, which names the file that the operating system named if that is an absolute path.
    """
    if is_disk_full(error):
        return InsufficientSpace(str(path))
    if is_access_denied(error):
        return PermissionDenied(str(path), action)
    named = error.filename if isinstance(error.filename, str) and os.path.isabs(error.filename) else path
    return FileOperationFailed(str(named), error.strerror or str(error), advice)


@contextmanager
def os_errors(path: str | Path, action: str, advice: str = "") -> Iterator[None]:
    """Raise what `map_os_error` returns in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise map_os_error(error, path, action, advice) from None


@contextmanager
def read_errors(advice: str = "") -> Iterator[None]:
    """Raise what `map_os_error` returns in place of an OSError, for the file that the operating system named."""
    try:
        yield
    except OSError as error:
        raise map_os_error(error, str(error.filename), "read", advice) from None
