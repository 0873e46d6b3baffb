"""Set when a file was last accessed, and nothing else."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

#: In the place of nanoseconds: take the present time, or leave the time as it is (`sys/stat.h`).
_NOW, _OMIT = (-1, -2) if sys.platform == "darwin" else ((1 << 30) - 1, (1 << 30) - 2)
_AT_SYMLINK_NOFOLLOW = 0x20 if sys.platform == "darwin" else 0x100


def mark_as_accessed(name: str, dir_fd: int) -> None:
    """Set the time of the last access of a file or link in an open directory to now, if the system can.

    `os.utime` would set the mtime as well, to what it was when it was read: a program may have written to the file
    since, and this would hide it.
    """
    function, times = _utimensat()
    if function is not None:
        function(dir_fd, os.fsencode(name), times, _AT_SYMLINK_NOFOLLOW)


@cache
def _utimensat() -> tuple[ctypes._NamedFuncPointer | None, ctypes.Array[ctypes.c_long]]:
    """Return the function of the C library, if it has it, and its argument: two times in seconds and nanoseconds."""
    import ctypes  # noqa: PLC0415 - slow to import, and seldom needed

    times = (ctypes.c_long * 4)(0, _NOW, 0, _OMIT)
    return getattr(ctypes.CDLL(None), "utimensat", None), times
