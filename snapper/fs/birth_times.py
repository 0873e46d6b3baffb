"""When files were created. Python does not return that on Linux, and changes of modes and owners set the ctime."""

from __future__ import annotations

import os
import struct
from functools import cache
from typing import Any

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME = -100, 0x100, 0x800

#: The parts of `struct statx` that are read: which fields it has, and the time of birth.
_MASK, _BIRTH = struct.Struct("=I"), struct.Struct("=qI")
_SIZE = 256
_BIRTH_OFFSET = 80


def birth_time_ns(path: str) -> int:
    """Return when the file or link was created, in nanoseconds; its ctime if that is unknown. May raise OSError."""
    birth = _statx(path)
    return os.lstat(path).st_ctime_ns if birth is None else birth


def _statx(path: str) -> int | None:
    """Call statx(2); return None where that, or the time, is not supported."""
    function, buffer = _load_statx()
    flags = _AT_SYMLINK_NOFOLLOW
    if function is None or function(_AT_FDCWD, os.fsencode(path), flags, _STATX_BTIME, buffer) != 0:
        return None
    (mask,) = _MASK.unpack_from(buffer)
    seconds, nanoseconds = _BIRTH.unpack_from(buffer, _BIRTH_OFFSET)
    return seconds * 10**9 + nanoseconds if mask & _STATX_BTIME else None


@cache
def _load_statx() -> tuple[Any, Any]:
    """Return the function of the C library, None if it has none, and a buffer for its result."""
    import ctypes  # noqa: PLC0415 - slow to import, and not needed by most commands

    buffer = ctypes.create_string_buffer(_SIZE)
    try:
        return ctypes.CDLL(None).statx, buffer
    except (AttributeError, OSError):
        return None, buffer
